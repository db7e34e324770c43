//! What an operator sees of leaks and of what is stuck: each gauge is made to show something.

use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::store::Store;
use serde_json::json;

use crate::support::fleet::{Fleet, ring};
use crate::support::parts;
use crate::support::redis;
use crate::support::until::until_within;

/// The value of a metric without labels, if it is told.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

/// What a worker's metrics tell of this one now.
async fn told(admin: &str, name: &str) -> Option<f64> {
    let url = format!("http://{admin}/metrics");
    let answer = parts::http().get(url).send().await.unwrap();
    value(&answer.text().await.unwrap(), name)
}

/// Waits until a worker's metrics have this one at this value, or not at all.
async fn becomes(admin: &str, name: &str, value: Option<f64>) {
    until_within(Duration::from_secs(60), name, async || {
        match told(admin, name).await {
            found if found == value => Ok(()),
            other => Err(format!("{other:?}, not {value:?}")),
        }
    })
    .await;
}

/// Waits until a worker's metrics have this one above nothing. They are counted every five
/// seconds.
async fn shows(admin: &str, name: &str) {
    until_within(Duration::from_secs(60), name, async || {
        match told(admin, name).await {
            Some(number) if number > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Results that are not read, of each group, and entries that were set aside: nobody saw them before
/// a consumer complained.
#[tokio::test]
async fn what_consumers_have_before_them_can_be_seen() {
    let fleet = Fleet::start(&["--simulate", "20"], &[]).await;
    let (worker, admin) = fleet.worker().await;
    let raw = fleet.raw().await;
    for group in ["reads", "sleeps"] {
        raw.make_group("results", group).await;
    }
    for id in ["one", "two"] {
        fleet.tool(&["submit", "--id", id, "--", "true"]).done();
        fleet.until_state(id, "closed").await;
    }
    // A fleet at rest would be counted once a minute.
    let stays = r#"{"id":"stays","cmd":["true"],"env":{"SIMULATED_GUEST":"hangs"}}"#;
    raw.add("runs", &[("run", stays)]).await;
    raw.read_group("results", "reads", 10).await;
    raw.add("runs", &[("nothing", "here")]).await;
    for (series, number) in [
        ("cofferdam_results_length", 2.0),
        ("cofferdam_dead_letters", 1.0),
        ("cofferdam_results_unread{group=\"sleeps\"}", 2.0),
        ("cofferdam_results_unread{group=\"reads\"}", 0.0),
        ("cofferdam_results_unacknowledged{group=\"sleeps\"}", 0.0),
        ("cofferdam_results_unacknowledged{group=\"reads\"}", 2.0),
    ] {
        becomes(&admin, series, Some(number)).await;
    }
    let said = fleet.tool(&["doctor"]).stdout;
    for words in [
        "the consumer group sleeps has 2 before it and 0 not acknowledged",
        "the consumer group reads has 0 before it and 2 not acknowledged",
        "1 entries are set aside",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    raw.destroy_group("results", "sleeps").await;
    becomes(&admin, "cofferdam_results_unread{group=\"sleeps\"}", None).await;
    let unread = "cofferdam_results_unread{group=\"reads\"}";
    becomes(&admin, unread, Some(0.0)).await;
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn leaks_and_what_waits_can_be_seen() {
    let stays = [
        "--simulate",
        "600000",
        "--fault",
        "delete name=sandbox-kept-*: refuse status=500",
    ];
    let settings = [("COFFERDAM_SWEEP_S", "1"), ("COFFERDAM_MAX_IN_FLIGHT", "1")];
    let fleet = Fleet::start(&stays, &settings).await;
    let (worker, admin) = fleet.worker().await;

    // A run that has ended and whose machine cannot be deleted, and so one that waits for room.
    fleet.tool(&["submit", "--id", "kept", "--", "true"]).done();
    fleet.until_state("kept", "running").await;
    fleet
        .tool(&["submit", "--id", "waits", "--", "true"])
        .done();
    fleet.until_state("waits", "queued").await;
    fleet.tool(&["cancel", "kept"]).done();
    shows(&admin, "cofferdam_teardowns_pending").await;
    shows(&admin, "cofferdam_oldest_queued_age_seconds").await;
    shows(&admin, "cofferdam_runs_queued").await;
    shows(&admin, "cofferdam_machines_in_flight").await;

    // A machine of our kind that no run has.
    fleet.make_machine(&parts::orphan("nobody", &ring())).await;
    // One that is named so, and that nothing shows to be ours.
    let body =
        json!({"name": "sandbox-db", "config": {"image": "host", "init": {"exec": ["/bin/true"]}}});
    fleet.make_machine(&body).await;
    shows(&admin, "cofferdam_orphan_machines").await;
    shows(
        &admin,
        "cofferdam_machines_api_responses_total{call=\"delete\",class=\"server_error\"}",
    )
    .await;
    shows(&admin, "cofferdam_foreign_machines").await;
    // And it is removed, once it has been one for long enough.
    shows(&admin, "cofferdam_orphan_machines_deleted_total").await;
    drop(worker);
    fleet.finish().await;
}

/// Every worker asked Redis for the gauges of the whole fleet, and all showed them.
#[tokio::test]
async fn only_the_worker_that_sweeps_counts_the_fleet() {
    let fleet = Fleet::start(&["--simulate", "100"], &[]).await;
    let raw = fleet.raw().await;
    raw.add("control", &[("pause", "*")]).await;
    let (first, admin) = fleet.worker().await;
    // The loop that takes requests does not wait for the one that takes orders.
    let paused = async || match raw.say::<i64>("HEXISTS", "settings", &["paused"]).await {
        1 => Ok(()),
        other => Err(other.to_string()),
    };
    until_within(Duration::from_secs(60), "the pause", paused).await;
    fleet
        .tool(&["submit", "--id", "waits", "--", "true"])
        .done();
    shows(&admin, "cofferdam_runs_queued").await;
    let settings = [("COFFERDAM_MAX_IN_FLIGHT", "7")];
    let (second, others) = fleet.worker_with(&settings).await;
    until_within(
        Duration::from_secs(60),
        "the second to count",
        async || match raw.say::<String>("HGET", "fleet", &["max_in_flight"]).await {
            most if most == "7" => Ok(()),
            most => Err(most),
        },
    )
    .await;
    // Which of the two sweeps can change where a beat comes late.
    until_within(Duration::from_secs(60), "one to show it", async || {
        let shown = [
            told(&admin, "cofferdam_runs_queued").await,
            told(&others, "cofferdam_runs_queued").await,
        ];
        match shown {
            [Some(1.0), Some(0.0)] | [Some(0.0), Some(1.0)] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    fleet.tool(&["cancel", "waits"]).done();
    drop((first, second));
}

#[tokio::test]
async fn an_app_is_forgotten_when_no_run_is_in_it() {
    let settings = redis::settings();
    let store = Store::connect(&settings).await.unwrap();
    let raw = crate::support::raw::Raw::new(&settings).await;
    let _: i64 = raw.say("SADD", "apps", &["busy", "renamed"]).await;
    let _: i64 = raw.say("HSET", "inflight:busy", &["run", "1 t"]).await;
    assert!(!store.forget_app("busy").await.unwrap());
    assert!(store.forget_app("renamed").await.unwrap());
    assert!(!store.forget_app("renamed").await.unwrap());
    assert_eq!(store.apps().await.unwrap(), ["busy"]);
}

#[tokio::test]
async fn what_nobody_has_looked_at_or_taken_in_is_counted() {
    let settings = redis::settings();
    let store = Store::connect(&settings).await.unwrap();
    let raw = crate::support::raw::Raw::new(&settings).await;
    let now = Clock::system().now_ms();
    let before = |ms: u64| (now - ms).to_string();
    for (run, due) in [
        ("stuck", before(10_000)),
        ("late", before(1_000)),
        ("early", before(0)),
    ] {
        raw.say::<i64>("ZADD", "due", &[&due, run]).await;
    }
    raw.add("runs", &[("run", "{}")]).await;
    let census = store.census(now).await.unwrap();
    assert_eq!(
        census.overdue, 1,
        "only what nobody looked at for five seconds"
    );
    assert_eq!(census.unread, 1);
    assert_eq!(census.oldest_queued_ms, None);
}
