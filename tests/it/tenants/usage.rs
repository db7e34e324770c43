//! What is counted: machine time by size and day, runs by outcome; and budgets.

use cofferdam::run::day::Day;
use cofferdam::run::outcome::ReasonCode;
use cofferdam::store::acts::{Requeue, Stop};
use cofferdam::store::tenants::Change;
use cofferdam::store::usage::Usage;
use serde_json::json;

use super::{Lab, id, tenant};

async fn today(lab: &Lab, name: &str) -> Usage {
    let day = Day::of(lab.now());
    let usage = lab.core.store.usage(&tenant(name), day, day).await.unwrap();
    usage.into_iter().next().expect("something was used")
}

/// Moves the clock on so that a quarter of an hour from then on lies within one day.
fn away_from_midnight(lab: &Lab) {
    let now = lab.now();
    let left = Day::of(now).end_ms() - now;
    if left < 900_000 {
        lab.core.clock.shift(i64::try_from(left).unwrap() + 1000);
    }
}

#[tokio::test]
async fn machine_time_is_counted_by_size_and_runs_by_outcome() {
    let lab = Lab::new().await;
    away_from_midnight(&lab);
    let big = json!({"cpu_kind": "performance", "cpus": 1, "memory_mb": 2048});
    lab.submit(&[
        json!({"id": "small", "tenant": "a"}),
        json!({"id": "big", "tenant": "a", "guest": big}),
        json!({"id": "never", "tenant": "a", "queue_ttl_s": 1}),
    ])
    .await;
    let flying = lab.claim(2).await;
    for run in &flying {
        lab.advance(run).await;
    }
    lab.core.clock.shift(10_000);
    lab.end(&id("small"), ReasonCode::Deadline).await;
    lab.core.clock.shift(1_000);
    lab.close(&flying[0]).await;
    lab.core.clock.shift(9_000);
    lab.finish(&flying[1]).await;
    lab.end(&id("never"), ReasonCode::ExpiredInQueue).await;
    let usage = today(&lab, "a").await;
    let (small, big) = (
        usage.machine_s_by_size["shared:1:512"],
        usage.machine_s_by_size["performance:1:2048"],
    );
    // The clock of the test runs on by itself as well.
    assert!((11.0..15.0).contains(&small), "{usage:?}");
    assert!((20.0..24.0).contains(&big), "{usage:?}");
    assert!((usage.machine_s - small - big).abs() < 0.01);
    assert_eq!(usage.runs.len(), 1);
    assert_eq!(usage.runs["timed_out"], 3);
}

#[tokio::test]
async fn a_run_that_never_had_a_machine_costs_no_machine_time() {
    let lab = Lab::new().await;
    lab.submit_many("a", 1).await;
    let run = lab.claim(1).await.remove(0);
    lab.core.clock.shift(5_000);
    lab.end(&run.id, ReasonCode::BootFailed).await;
    lab.close(&run).await;
    let usage = today(&lab, "a").await;
    assert_eq!((usage.machine_s, usage.runs["failed"]), (0.0, 1));
}

#[tokio::test]
async fn a_machine_that_failed_is_counted_too() {
    let lab = Lab::new().await;
    away_from_midnight(&lab);
    lab.submit_many("a", 1).await;
    let run = lab.claim(1).await.remove(0);
    lab.advance(&run).await;
    lab.core.clock.shift(7_000);
    let view = lab.core.store.record(&run.id).await.unwrap().unwrap();
    let (store, now) = (&lab.core.store, lab.now());
    let requeued = store.requeue(&view, run.boot(), Requeue::Failed, None, now);
    requeued.await.unwrap();
    let usage = today(&lab, "a").await;
    assert!((7.0..11.0).contains(&usage.machine_s), "{usage:?}");
    assert!(usage.runs.is_empty());
}

#[tokio::test]
async fn a_rejected_run_is_counted() {
    let lab = Lab::with(|runs| runs.tenant_backlog_max = Some(1)).await;
    lab.submit(&[super::request("a", 0), super::request("a", 1)])
        .await;
    assert_eq!(today(&lab, "a").await.runs["rejected"], 1);
}

#[tokio::test]
async fn use_is_told_by_day_and_tenant_and_does_not_stay_for_ever() {
    let lab = Lab::new().await;
    let first = Day::of(lab.now());
    lab.submit(&[
        json!({"id": "a-first", "tenant": "a"}),
        json!({"id": "b-first", "tenant": "b:eu"}),
    ])
    .await;
    for run in ["a-first", "b-first"] {
        lab.end(&id(run), ReasonCode::Cancelled).await;
    }
    lab.core.clock.shift(86_400_000);
    lab.submit(&[json!({"id": "a-later", "tenant": "a"})]).await;
    lab.end(&id("a-later"), ReasonCode::Cancelled).await;
    let last = Day::of(lab.now());
    let store = &lab.core.store;
    let of_a = store.usage(&tenant("a"), first, last).await.unwrap();
    let days: Vec<Day> = of_a.iter().map(|usage| usage.day).collect();
    assert_eq!(days, [first, last]);
    let all = store.usage_of_all(first, last).await.unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|usage| (usage.tenant.as_str(), usage.day, usage.runs["cancelled"]))
        .collect();
    assert_eq!(told, [("a", first, 1), ("a", last, 1), ("b:eu", first, 1)]);
    assert!(
        store
            .usage(&tenant("a"), last, first)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.usage_of_all(last, last).await.unwrap().len(), 1);
    let left: i64 = lab.raw.say("PTTL", &format!("usage:{first}:a"), &[]).await;
    assert!(left > 399 * 86_400_000, "{left}");
}

#[tokio::test]
async fn a_tenant_out_of_budget_waits_until_it_is_raised_or_the_day_ends() {
    let lab = Lab::new().await;
    away_from_midnight(&lab);
    let (store, a) = (&lab.core.store, tenant("a"));
    store
        .configure(&a, &[Change::Budget(Some(5))])
        .await
        .unwrap();
    lab.submit_many("a", 5).await;
    let flying = lab.claim(2).await;
    for run in &flying {
        lab.advance(run).await;
    }
    lab.core.clock.shift(6_000);
    lab.finish(&flying[0]).await;
    // Spent: nothing goes, and what runs goes on.
    assert_eq!(lab.ask(9).await.stop, Stop::Empty);
    lab.finish(&flying[1]).await;
    assert!(lab.claim(9).await.is_empty());
    // Raised: one goes, and spends that too.
    store
        .configure(&a, &[Change::Budget(Some(30))])
        .await
        .unwrap();
    let run = lab.claim(1).await.remove(0);
    lab.advance(&run).await;
    lab.core.clock.shift(30_000);
    lab.finish(&run).await;
    assert!(lab.claim(9).await.is_empty());
    // A new day.
    let left = Day::of(lab.now()).end_ms() - lab.now();
    lab.core.clock.shift(i64::try_from(left).unwrap());
    assert_eq!(lab.claim(9).await.len(), 2);
}
