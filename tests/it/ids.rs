//! Ids are one space for all tenants, and no run ends in silence: not one whose id another has, and
//! not one of which Redis has nothing any more.

use std::time::Duration;

use cofferdam::run::outcome::{Ending, ReasonCode};
use cofferdam::stage::Core;
use cofferdam::stage::intake::{IntakeCounts, intake};
use cofferdam::stage::settle::{settle, settle_missing};
use cofferdam::store::acts::{Entered, FleetLimits, Transition};
use cofferdam::store::requests::{Entry, Requests};
use serde_json::{Value, json};

use crate::support::raw::Raw;
use crate::support::stack::Plan;
use crate::support::{parts, redis};

struct Lab {
    core: Core,
    raw: Raw,
}

impl Lab {
    async fn new() -> Self {
        let settings = redis::settings();
        let core = parts::core(&settings, parts::runs()).await;
        core.store.ensure_group().await.unwrap();
        let raw = Raw::new(&settings).await;
        Self { core, raw }
    }

    async fn read(&self, request: &Value) -> Vec<Entry> {
        self.raw.add("runs", &[("run", &request.to_string())]).await;
        let mut requests = Requests::new(self.core.store.clone(), "worker");
        let block = Duration::from_millis(50);
        requests.next(10, block).await.unwrap()
    }

    async fn submit(&self, request: Value) -> IntakeCounts {
        let entries = self.read(&request).await;
        intake(&self.core, &entries).await.unwrap()
    }

    /// The newest dead entry: its request and the reason.
    async fn dead(&self) -> (Value, String) {
        let dead = self.core.store.newest_dead(1).await.unwrap().remove(0);
        let field = |name: &[u8]| {
            let found = dead.fields.iter().find(|(known, _)| known == name);
            String::from_utf8(found.unwrap().1.clone()).unwrap()
        };
        let request = serde_json::from_str(&field(b"run")).unwrap();
        (request, field(b"reason"))
    }

    async fn claim(&self) {
        let room = FleetLimits {
            apps: vec!["app".into()],
            max_in_flight: 9,
            app_max_in_flight: None,
            tenant_max_in_flight: None,
            boot_rate: 0.0,
            boot_burst: 1,
        };
        let (now, lease) = (self.core.clock.now_ms(), self.core.runs.lease);
        let claim = self.core.store.claim(&room, 9, now, lease).await.unwrap();
        assert!(!claim.runs.is_empty());
    }

    async fn results(&self) -> Vec<Value> {
        let results = self.core.store.newest_results(10).await.unwrap();
        let results = results.iter();
        results
            .map(|result| serde_json::from_str(&result.result).unwrap())
            .collect()
    }

    /// What the sweep does about runs that vanished, long after.
    async fn sweep(&self) -> Vec<Transition> {
        let now = self.core.clock.now_ms() + 40 * 24 * 3_600_000;
        let lease = Duration::ZERO;
        let overdue = self.core.store.overdue(now, lease, 10).await.unwrap();
        let mut acts = Vec::new();
        for id in overdue.lost {
            acts.push(settle_missing(&self.core, &id).await.unwrap());
        }
        acts
    }
}

const KNOWN: IntakeCounts = IntakeCounts {
    queued: 0,
    rejected: 0,
    known: 1,
    conflicts: 0,
    dead: 0,
};

#[tokio::test]
async fn a_request_with_the_id_of_anothers_run_was_never_heard_of() {
    let lab = Lab::new().await;
    let first = json!({"id": "one", "tenant": "acme"});
    assert_eq!(lab.submit(first.clone()).await.queued, 1);
    assert_eq!(lab.submit(first.clone()).await, KNOWN, "a repeat");
    assert_eq!(lab.raw.length("dead").await, 0);
    for other in [
        json!({"id": "one", "tenant": "globex"}),
        json!({"id": "one", "tenant": "acme", "input": 2}),
        json!({"id": "one", "tenant": "acme", "bogus": 2}),
    ] {
        assert_eq!(lab.submit(other.clone()).await.conflicts, 1, "{other}");
        let (request, reason) = lab.dead().await;
        assert_eq!(request, other);
        assert!(reason.starts_with("id_taken: the id one "), "{reason}");
        let tenant = other["tenant"].as_str().unwrap();
        assert!(reason.contains("of tenant acme"), "{reason}");
        assert!(reason.ends_with(&format!("of tenant {tenant}")), "{reason}");
    }
    assert_eq!(lab.core.metrics.id_conflicts.get(), 3);
    assert_eq!(lab.raw.length("runs").await, 0);
    assert_eq!(lab.raw.pending("runs").await, 0);
    let view = lab
        .core
        .store
        .record(&"one".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(view.unwrap().tenant, "acme");
    // Nor is it forgotten when the run is over.
    let ending = Ending::without(ReasonCode::Cancelled, "test");
    let id = "one".parse().unwrap();
    settle(&lab.core, &id, None, &ending).await.unwrap();
    assert_eq!(lab.submit(first).await, KNOWN);
    let other = lab.submit(json!({"id": "one", "tenant": "globex"})).await;
    assert_eq!((other.conflicts, lab.raw.length("dead").await), (1, 4));
}

#[tokio::test]
async fn a_run_of_an_older_version_is_told_apart_by_its_tenant_alone() {
    let lab = Lab::new().await;
    lab.submit(json!({"id": "one", "tenant": "acme"})).await;
    let _: i64 = lab.raw.say("HDEL", "run:one", &["request_digest"]).await;
    let other = json!({"id": "one", "tenant": "acme", "input": 2});
    assert_eq!(lab.submit(other).await, KNOWN);
    let other = json!({"id": "one", "tenant": "globex"});
    assert_eq!(lab.submit(other).await.conflicts, 1);
}

/// A worker that stood still for so long that the run has been forgotten meanwhile.
#[tokio::test]
async fn what_was_admitted_long_ago_is_not_admitted_again() {
    let lab = Lab::new().await;
    let entries = lab.read(&json!({"id": "one"})).await;
    assert_eq!(intake(&lab.core, &entries).await.unwrap().queued, 1);
    for key in ["run:one", "request:one", "due"] {
        lab.raw.delete(key).await;
    }
    assert_eq!(intake(&lab.core, &entries).await.unwrap(), KNOWN);
    assert!(!lab.raw.exists("run:one").await);
}

#[tokio::test]
async fn a_run_whose_hash_is_gone_ended_in_silence() {
    let lab = Lab::new().await;
    let told = json!({"id": "boots", "tenant": "acme", "metadata": {"k": 1}});
    lab.submit(told).await;
    lab.claim().await;
    lab.submit(json!({"id": "waits", "tenant": "acme"})).await;
    lab.submit(json!({"id": "bare", "tenant": "globex"})).await;
    for key in ["run:boots", "run:waits", "run:bare", "request:bare"] {
        lab.raw.delete(key).await;
    }
    let now = lab.core.clock.now_ms();
    assert_eq!(lab.core.store.mend(0, 100, now).await.unwrap().0, 3);
    assert_eq!(lab.sweep().await, [Transition::Done(Entered::Closed); 3]);
    assert!(lab.sweep().await.is_empty(), "once");
    let mut results = lab.results().await;
    results.sort_by_key(|result| result["run_id"].to_string());
    for (result, (id, tenant, attempts)) in results.iter().zip([
        ("bare", json!(null), json!(null)),
        ("boots", json!("acme"), json!(1)),
        ("waits", json!("acme"), json!(null)),
    ]) {
        assert_eq!(result["run_id"], id, "{result}");
        assert_eq!(result["outcome"], "failed");
        assert_eq!(result["reason"]["code"], "machine_lost");
        assert_eq!(
            (&result["tenant"], &result["attempts"]),
            (&tenant, &attempts)
        );
    }
    assert_eq!(results[1]["metadata"], json!({"k": 1}));
    assert_eq!(lab.core.metrics.runs_missing.get(), 3);
    for key in [
        "due",
        "inflight:app",
        "busy:acme",
        "queue:acme",
        "request:boots",
    ] {
        assert!(!lab.raw.exists(key).await, "{key}");
    }
    lab.raw.check_times_to_live("vanished").await;
    // The ids are known: what comes again is not run again.
    assert_eq!(
        lab.submit(json!({"id": "waits", "tenant": "acme"})).await,
        KNOWN
    );
}

/// It has its result: a second one would be one too many.
#[tokio::test]
async fn an_ended_run_whose_hash_is_gone_gets_no_second_result() {
    let lab = Lab::new().await;
    lab.submit(json!({"id": "one"})).await;
    lab.claim().await;
    let ending = Ending::without(ReasonCode::Cancelled, "test");
    let id = "one".parse().unwrap();
    settle(&lab.core, &id, None, &ending).await.unwrap();
    lab.raw.delete("run:one").await;
    let now = lab.core.clock.now_ms();
    lab.core.store.mend(0, 100, now).await.unwrap();
    assert_eq!(lab.sweep().await, [Transition::Over]);
    assert_eq!(lab.results().await.len(), 1);
    for key in ["due", "owed", "inflight:app", "busy:default"] {
        assert!(!lab.raw.exists(key).await, "{key}");
    }
}

/// The whole of it, with a machine: it goes with the run.
#[tokio::test(flavor = "multi_thread")]
async fn the_machine_of_a_run_that_vanished_goes_too() {
    let stack = Plan::simulated(Duration::from_secs(600)).start().await;
    let id = stack
        .submit(json!({"id": "one", "timeout_s": 5, "cmd": ["true"]}))
        .await;
    stack.reaches(&id, "running").await;
    stack.raw.delete("run:one").await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "machine_lost", "{result}");
    stack.no_machine().await;
    stack.end().await;
}
