//! Which run of a tenant goes first, and when.

use cofferdam::store::acts::{Requeue, Stop};
use serde_json::{Value, json};

use super::{Lab, id, ids, request};

fn urgent(name: &str, priority: u8) -> Value {
    json!({"id": name, "priority": priority})
}

fn later(name: &str, at: u64) -> Value {
    json!({"id": name, "not_before_ms": at})
}

#[tokio::test]
async fn priority_comes_first_and_then_the_order_of_coming() {
    let lab = Lab::new().await;
    let requests = [
        urgent("low", 9),
        json!({"id": "usual-1"}),
        urgent("usual-2", 5),
        urgent("high-1", 0),
        urgent("high-2", 0),
        urgent("low-2", 9),
    ];
    lab.submit(&requests).await;
    let order = ["high-1", "high-2", "usual-1", "usual-2", "low", "low-2"];
    assert_eq!(ids(&lab.claim(10).await), order);
}

#[tokio::test]
async fn priority_counts_within_a_tenant_only() {
    let lab = Lab::new().await;
    lab.submit_many("a", 4).await;
    let urgent: Vec<Value> = (0..4)
        .map(|n| json!({"id": format!("b-{n}"), "tenant": "b", "priority": 0}))
        .collect();
    lab.submit(&urgent).await;
    let turns = lab.turns(4).await;
    assert_eq!(super::of(&turns, "a"), 2, "{turns:?}");
}

#[tokio::test]
async fn a_run_goes_at_its_time_and_not_before() {
    let lab = Lab::new().await;
    let at = lab.now() + 60_000;
    lab.submit(&[later("late", at), later("past", 5), json!({"id": "now"})])
        .await;
    assert_eq!(ids(&lab.claim(10).await), ["past", "now"]);
    let claim = lab.ask(10).await;
    assert_eq!((claim.stop, claim.wake_at_ms), (Stop::Empty, Some(at)));
    lab.core.clock.shift(59_000);
    assert!(lab.claim(10).await.is_empty());
    lab.core.clock.shift(1_000);
    assert_eq!(ids(&lab.claim(10).await), ["late"]);
    assert_eq!(lab.ask(10).await.wake_at_ms, None);
}

#[tokio::test]
async fn the_earliest_time_of_all_tenants_is_the_one_to_wake_at() {
    let lab = Lab::new().await;
    let t0 = lab.now();
    let at = |name: &str, tenant: &str, ms: u64| json!({"id": name, "tenant": tenant, "not_before_ms": t0 + ms});
    lab.submit(&[at("a1", "a", 50_000), at("a2", "a", 30_000)])
        .await;
    lab.submit(&[at("b1", "b", 40_000), at("a3", "a", 70_000)])
        .await;
    assert_eq!(lab.ask(1).await.wake_at_ms, Some(t0 + 30_000));
    lab.end(&id("a2"), cofferdam::run::outcome::ReasonCode::Cancelled)
        .await;
    assert_eq!(lab.ask(1).await.wake_at_ms, Some(t0 + 40_000));
    lab.core.clock.shift(40_500);
    assert_eq!(ids(&lab.claim(9).await), ["b1"]);
    assert_eq!(lab.ask(1).await.wake_at_ms, Some(t0 + 50_000));
}

#[tokio::test]
async fn more_runs_than_one_claim_takes_up_become_ready_at_once() {
    let lab = Lab::new().await;
    let at = lab.now() + 1_000;
    let requests: Vec<Value> = (0..200).map(|n| later(&format!("r{n}"), at)).collect();
    lab.submit(&requests).await;
    lab.core.clock.shift(1_100);
    let mut claimed = 0;
    for _ in 0..4 {
        claimed += lab.claim(100).await.len();
    }
    assert_eq!(claimed, 200);
    for key in ["delayed", "delayed:default", "tenants", "queue:default"] {
        assert!(!lab.raw.exists(key).await, "{key} is still there");
    }
}

#[tokio::test]
async fn the_time_in_the_queue_counts_from_when_a_run_may_start() {
    let lab = Lab::new().await;
    let at = lab.now() + 600_000;
    lab.submit(&[json!({"id": "a", "not_before_ms": at, "queue_ttl_s": 10})])
        .await;
    let view = lab.core.store.record(&id("a")).await.unwrap().unwrap();
    assert_eq!(view.queue_until_ms, Some(at + 10_000));
    lab.raw.check_times_to_live("delayed").await;
}

#[tokio::test]
async fn a_start_too_far_ahead_is_refused_by_name() {
    let lab = Lab::new().await;
    let micros = lab.now() * 1000;
    assert_eq!(lab.submit(&[later("a", micros)]).await.rejected, 1);
    let results = lab.results().await;
    let message = results[0]["reason"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("not_before_ms: is more than"),
        "{message}"
    );
}

#[tokio::test]
async fn a_refused_run_comes_back_before_those_that_came_after_it() {
    let lab = Lab::new().await;
    lab.submit(&[request("a", 0), request("a", 1), request("a", 2)])
        .await;
    let first = lab.claim(1).await.remove(0);
    let (store, now) = (&lab.core.store, lab.now());
    let view = store.record(&first.id).await.unwrap().unwrap();
    let requeued = store.requeue(&view, first.boot(), Requeue::Refused, Some(now + 500), now);
    requeued.await.unwrap();
    lab.core.clock.shift(600);
    assert_eq!(ids(&lab.claim(9).await), ["a-0", "a-1", "a-2"]);
}

#[tokio::test]
async fn two_workers_that_race_for_one_id_make_one_run() {
    let lab = Lab::new().await;
    for round in 0..20 {
        let json = json!({"id": format!("same-{round}")}).to_string();
        for _ in 0..8 {
            lab.raw.add("runs", &[("run", &json)]).await;
        }
        let mut batches = Vec::new();
        for worker in ["one", "two", "three", "four"] {
            let mut reader =
                cofferdam::store::requests::Requests::new(lab.core.store.clone(), worker);
            batches.push(reader.next(2, super::BLOCK).await.unwrap());
        }
        let takes = batches
            .iter()
            .map(|entries| cofferdam::stage::intake::intake(&lab.core, entries));
        let taken = futures_util::future::try_join_all(takes).await.unwrap();
        let queued: usize = taken.iter().map(|taken| taken.queued).sum();
        let known: usize = taken.iter().map(|taken| taken.known).sum();
        assert_eq!((queued, known), (1, 7), "round {round}");
    }
    assert_eq!(lab.claim(100).await.len(), 20);
    assert_eq!(lab.raw.length("runs").await, 0);
}
