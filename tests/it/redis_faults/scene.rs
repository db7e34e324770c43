//! The services as processes on a Redis of the test's own, and a look at it past everything.

use std::collections::HashSet;
use std::time::Duration;

use cofferdam::config::{self, Secret};
use cofferdam::stage::Core;
use cofferdam::store::Store;
use serde_json::{Value, json};

use crate::support::command::Daemon;
use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::redis::{Server, namespace};
use crate::support::until::until_within;

/// How long everything may take to come to its end. A connection that nobody gives up lives longer.
const BOUND: Duration = Duration::from_secs(45);

/// A worker, an endpoint and a Machines server that plays the guests.
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) worker: Daemon,
    ids: Vec<String>,
}

/// Fresh keys on a server, over TCP, as settings.
pub(crate) fn settings(server: &Server) -> config::Redis {
    config::Redis {
        url: Secret::new(server.tcp_url().parse().unwrap()),
        namespace: namespace(),
        ..config::Redis::nearby()
    }
}

impl Scene {
    /// On the Redis of `settings`, which the processes reach at `url`. Guests post after `delay`.
    pub(crate) async fn start(settings: config::Redis, url: &str, delay: Duration) -> Self {
        Self::start_with(settings, &[("REDIS_URL", url)], delay).await
    }

    /// The same, with settings by which the processes reach it.
    pub(crate) async fn start_with(
        settings: config::Redis,
        env: &[(&'static str, &str)],
        delay: Duration,
    ) -> Self {
        let delay_ms = delay.as_millis().to_string();
        let usual = [
            ("COFFERDAM_LEASE_S", "3"),
            ("COFFERDAM_SWEEP_S", "1"),
            ("COFFERDAM_GRACE_S", "1"),
        ];
        let env: Vec<_> = usual.iter().chain(env).copied().collect();
        let fleet = Fleet::start_on(
            settings,
            &["--simulate", &delay_ms, "--fault-control"],
            &env,
        )
        .await;
        let (worker, _) = fleet.worker().await;
        Self {
            fleet,
            worker,
            ids: Vec::new(),
        }
    }

    /// Asks for runs, past whatever the processes meet.
    pub(crate) async fn submit(&mut self, requests: impl IntoIterator<Item = Value>) {
        let raw = self.fleet.raw().await;
        for mut request in requests {
            let id = format!("run-{}", self.ids.len());
            request["id"] = json!(id);
            raw.add("runs", &[("run", &request.to_string())]).await;
            self.ids.push(id);
        }
    }

    pub(crate) async fn submit_many(&mut self, count: usize) {
        self.submit((0..count).map(|_| json!({"cmd": ["true"]})))
            .await;
    }

    /// Asks for runs as `submit` does, wherever the keys are now.
    pub(crate) async fn submit_by_store(&mut self, count: usize) {
        let store = self.core().await.store;
        let first = self.ids.len();
        let ids = (first..first + count).map(|n| format!("run-{n}"));
        let ids: Vec<String> = ids.collect();
        let requests: Vec<String> = ids
            .iter()
            .map(|id| json!({"id": id, "cmd": ["true"]}).to_string())
            .collect();
        store.submit(&requests).await.unwrap();
        self.ids.extend(ids);
    }

    /// Waits until this many results are there.
    pub(crate) async fn has_results(&self, count: usize) -> usize {
        // It may be away now.
        let store = Store::new(&self.fleet.redis).unwrap();
        until_within(BOUND, "some results", async || {
            let results = store.newest_results(10_000).await;
            match results {
                Ok(results) if results.len() >= count => Ok(results.len()),
                other => {
                    let said = self.worker.said();
                    let last: Vec<&str> = said.lines().rev().take(5).collect();
                    let results = other.map(|results| results.len());
                    Err(format!("{results:?}, {last:?}"))
                }
            }
        })
        .await
    }

    /// Redis as the services would see it if all were well.
    pub(crate) async fn core(&self) -> Core {
        parts::core(&self.fleet.redis, parts::runs()).await
    }

    /// Waits until every run has ended and its machine is gone, and holds the promises against
    /// what there is, on the Redis of `settings`.
    pub(crate) async fn settles_on(&self, settings: &config::Redis) {
        let core = parts::core(settings, parts::runs()).await;
        until_within(BOUND, "every run to be closed", async || {
            let census = core.store.census(core.clock.now_ms()).await;
            let results = core.store.newest_results(10_000).await;
            let (Ok(census), Ok(results)) = (census, results) else {
                return Err("redis does not answer".to_owned());
            };
            let open = census.queued + census.in_flight + census.unread;
            if open == 0 && results.len() >= self.ids.len() {
                return Ok(());
            }
            let said = self.worker.said();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            Err(format!("{census:?}, {} results, {last:?}", results.len()))
        })
        .await;
        let results = core.store.newest_results(10_000).await.unwrap();
        let told: Vec<String> = results
            .iter()
            .map(|result| {
                let result: Value = serde_json::from_str(&result.result).unwrap();
                // Guests do not ask again for ever.
                let gave_up = result["reason"]["code"] == "exited_without_result";
                assert!(result["outcome"] == "completed" || gave_up, "{result}");
                result["run_id"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(told.len(), self.ids.len(), "a run has two results");
        assert_eq!(
            told.iter().collect::<HashSet<_>>(),
            self.ids.iter().collect()
        );
        assert_eq!(
            self.fleet.machines_named().await,
            json!([]),
            "machines are left"
        );
    }

    pub(crate) async fn settles(&self) {
        self.settles_on(&self.fleet.redis).await;
    }

    pub(crate) async fn end(self) {
        self.worker.finish().await;
        self.fleet.finish().await;
    }
}
