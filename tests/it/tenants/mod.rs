//! Tenants: who goes when, what holds whom, what is counted, and orders from outside.

mod cancel;
mod command;
mod mend;
mod order;
mod pipeline;
mod results;
mod settings;
mod shares;
mod usage;
mod waiting;

use std::time::Duration;

use cofferdam::clock::{Clock, UnixMs};
use cofferdam::config::{self, Runs};
use cofferdam::run::id::{RunId, Tenant};
use cofferdam::run::outcome::{Ending, ReasonCode};
use cofferdam::run::phase::MachineRef;
use cofferdam::stage::Core;
use cofferdam::stage::intake::{IntakeCounts, intake};
use cofferdam::stage::settle::settle;
use cofferdam::store::acts::{Claim, Claimed, Entered, FleetLimits, Transition};
use cofferdam::store::requests::Requests;
use serde_json::{Value, json};

use crate::support::raw::Raw;
use crate::support::{parts, redis};

const BLOCK: Duration = Duration::from_millis(20);

/// A namespace of its own, with a clock that the test moves.
struct Lab {
    core: Core,
    raw: Raw,
    room: FleetLimits,
}

impl Lab {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Runs)) -> Self {
        Self::on(&redis::settings(), change).await
    }

    async fn on(settings: &config::Redis, change: impl FnOnce(&mut Runs)) -> Self {
        let mut runs = parts::runs();
        change(&mut runs);
        let mut core = parts::core(settings, runs).await;
        core.clock = Clock::skewed(0);
        core.store.ensure_group().await.unwrap();
        let room = FleetLimits {
            apps: vec!["app".into()],
            max_in_flight: 1000,
            app_max_in_flight: None,
            tenant_max_in_flight: None,
            boot_rate: 0.0,
            boot_burst: 1,
        };
        Self {
            core,
            raw: Raw::new(settings).await,
            room,
        }
    }

    fn now(&self) -> UnixMs {
        self.core.clock.now_ms()
    }

    /// Appends requests as a producer does, and takes them in.
    async fn submit(&self, requests: &[Value]) -> IntakeCounts {
        for request in requests {
            self.raw.add("runs", &[("run", &request.to_string())]).await;
        }
        let mut reader = Requests::new(self.core.store.clone(), "worker");
        let mut taken = IntakeCounts::default();
        loop {
            let entries = reader.next(1000, BLOCK).await.unwrap();
            if entries.is_empty() {
                return taken;
            }
            let more = intake(&self.core, &entries).await.unwrap();
            taken.queued += more.queued;
            taken.rejected += more.rejected;
            taken.known += more.known;
            taken.dead += more.dead;
        }
    }

    /// `count` runs of a tenant, named after it.
    async fn submit_many(&self, tenant: &str, count: usize) {
        let requests: Vec<Value> = (0..count).map(|n| request(tenant, n)).collect();
        assert_eq!(self.submit(&requests).await.queued, count);
    }

    async fn ask(&self, want: usize) -> Claim {
        let lease = self.core.runs.lease;
        let claim = self
            .core
            .store
            .claim(&self.room, want, self.now(), lease)
            .await;
        claim.unwrap()
    }

    async fn claim(&self, want: usize) -> Vec<Claimed> {
        self.ask(want).await.runs
    }

    /// Claims one by one, so that every turn is looked at.
    async fn turns(&self, count: usize) -> Vec<String> {
        let mut turns = Vec::with_capacity(count);
        for _ in 0..count {
            turns.extend(self.claim(1).await.into_iter().map(|run| run.tenant));
        }
        turns
    }

    async fn advance(&self, run: &Claimed) {
        let machine = MachineRef {
            app: run.app.clone(),
            id: format!("m-{}", run.id),
            instance_id: None,
            region: None,
        };
        let act = self
            .core
            .store
            .advance(&run.id, run.boot(), &machine, self.now())
            .await;
        assert_eq!(act.unwrap(), Transition::Done(Entered::Running));
    }

    async fn end(&self, id: &RunId, reason: ReasonCode) -> Transition {
        let ending = Ending::without(reason, "test");
        settle(&self.core, id, None, &ending).await.unwrap()
    }

    async fn close(&self, run: &Claimed) {
        let (now, keep) = (self.now(), self.core.runs.retention);
        let close = self.core.store.close(&run.id, run.boot(), now, keep).await;
        assert_eq!(
            close.unwrap().0,
            Transition::Done(Entered::Closed),
            "{}",
            run.id
        );
    }

    /// Ends and closes a claimed run.
    async fn finish(&self, run: &Claimed) {
        self.end(&run.id, ReasonCode::Deadline).await;
        self.close(run).await;
    }

    async fn results(&self) -> Vec<Value> {
        let results = self.core.store.newest_results(100_000).await.unwrap();
        let read = |json: &str| serde_json::from_str(json).unwrap();
        results.iter().map(|result| read(&result.result)).collect()
    }
}

fn request(tenant: &str, n: usize) -> Value {
    json!({"id": format!("{tenant}-{n}"), "tenant": tenant})
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

fn ids(runs: &[Claimed]) -> Vec<&str> {
    runs.iter().map(|run| run.id.as_str()).collect()
}

fn of(turns: &[String], tenant: &str) -> usize {
    turns.iter().filter(|turn| *turn == tenant).count()
}
