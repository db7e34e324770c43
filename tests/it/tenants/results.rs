//! Bytes of results that are kept, of a tenant and of all.

use std::time::Duration;

use cofferdam::run::outcome::Ending;
use cofferdam::store::acts::{Claimed, Entered, Post, ResultsBudget, Settlement, Transition};
use cofferdam::store::tenants::Change;
use serde_json::Value;

use super::Lab;
use super::shares::set;

const RETENTION: Duration = Duration::from_secs(16);
const KEPT: Transition = Transition::Done(Entered::Settled);

/// Posts a result of so many bytes, as JSON.
async fn post(lab: &Lab, run: &Claimed, bytes: usize, budget: (u64, u64)) -> Transition {
    let ending = Ending::Completed {
        payload: format!("\"{}\"", "x".repeat(bytes - 2)),
    };
    let digest = format!("{}-{bytes}", run.id);
    let settlement = Settlement {
        ending: &ending,
        post: Some(Post {
            digest: &digest,
            begun_ms: None,
            keeps_request: false,
            budget: ResultsBudget {
                bytes: budget.0,
                tenant_bytes: budget.1,
                retention: RETENTION,
            },
        }),
        retention: lab.core.runs.retention,
        lease: lab.core.runs.lease,
    };
    let boot = Some(run.boot());
    let settled = lab.core.store.settle(&run.id, boot, &settlement, lab.now());
    settled.await.unwrap()
}

async fn runs_of(lab: &Lab, tenant: &str, count: usize) -> Vec<Claimed> {
    lab.submit_many(tenant, count).await;
    let runs = lab.claim(count).await;
    assert_eq!(runs.len(), count);
    runs
}

#[tokio::test]
async fn a_result_over_its_tenants_budget_ends_the_run_without_it() {
    let lab = Lab::new().await;
    let budget = (0, 10_000);
    let of_a = runs_of(&lab, "a", 3).await;
    assert_eq!(post(&lab, &of_a[0], 6_000, budget).await, KEPT);
    let over = post(&lab, &of_a[1], 6_000, budget).await;
    assert_eq!(over, Transition::OverBudget);
    let again = post(&lab, &of_a[1], 6_000, budget).await;
    assert_eq!(again, Transition::OverBudget, "the same body again");
    let other = post(&lab, &of_a[1], 100, budget).await;
    assert_eq!(other, Transition::Over, "another body");
    // What fits is kept, and another tenant has a budget of its own.
    assert_eq!(post(&lab, &of_a[2], 100, budget).await, KEPT);
    let of_b = runs_of(&lab, "b", 1).await;
    assert_eq!(post(&lab, &of_b[0], 6_000, budget).await, KEPT);

    let results = lab.results().await;
    assert_eq!(results.len(), 4, "one for each run");
    let dropped = results.iter().find(|result| result["run_id"] == "a-1");
    let dropped = dropped.unwrap();
    assert_eq!(dropped["outcome"], "failed");
    assert_eq!(dropped["reason"]["code"], "result_budget");
    assert_eq!(dropped["payload"], Value::Null);
    // Its machine is torn down as any other's.
    let view = lab.core.store.record(&of_a[1].id).await.unwrap().unwrap();
    assert_eq!(view.state, "settled");
    lab.close(&of_a[1]).await;
}

#[tokio::test]
async fn the_budget_of_all_bounds_what_tenants_have_together() {
    let lab = Lab::new().await;
    let budget = (10_000, 8_000);
    for (tenant, expected) in [("a", KEPT), ("b", Transition::OverBudget)] {
        let runs = runs_of(&lab, tenant, 1).await;
        assert_eq!(
            post(&lab, &runs[0], 6_000, budget).await,
            expected,
            "{tenant}"
        );
    }
    // A limit of its own does not lift that of all.
    set(&lab, "c", &[Change::ResultsBytes(Some(0))]).await;
    let runs = runs_of(&lab, "c", 2).await;
    let over = post(&lab, &runs[0], 6_000, budget).await;
    assert_eq!(over, Transition::OverBudget);
    assert_eq!(post(&lab, &runs[1], 6_000, (0, 0)).await, KEPT, "no limit");
}

#[tokio::test]
async fn what_is_trimmed_is_given_back() {
    let lab = Lab::new().await;
    let budget = (10_000, 10_000);
    let runs = runs_of(&lab, "a", 4).await;
    assert_eq!(post(&lab, &runs[0], 6_000, budget).await, KEPT);
    lab.core.clock.shift(8_000);
    let trimmed = lab
        .core
        .store
        .trim_results(lab.now(), RETENTION, None)
        .await;
    assert_eq!(trimmed.unwrap().removed, 0);
    let over = post(&lab, &runs[1], 6_000, budget).await;
    assert_eq!(over, Transition::OverBudget, "it is there still");
    lab.core.clock.shift(60_000);
    let over = post(&lab, &runs[2], 6_000, budget).await;
    assert_eq!(over, Transition::OverBudget, "old, and not trimmed");
    let trimmed = lab
        .core
        .store
        .trim_results(lab.now(), RETENTION, None)
        .await;
    assert_eq!(trimmed.unwrap().removed, 3);
    lab.core.clock.shift(2_000);
    assert_eq!(post(&lab, &runs[3], 6_000, budget).await, KEPT);
    let left: i64 = lab.raw.say("PTTL", "kept:a", &[]).await;
    assert!(left > 0, "a tenant's count has no time to live: {left}");
}

#[tokio::test]
async fn a_tenants_own_budget_comes_before_the_usual_one() {
    let lab = Lab::new().await;
    set(&lab, "a", &[Change::ResultsBytes(Some(1_000))]).await;
    let runs = runs_of(&lab, "a", 1).await;
    let over = post(&lab, &runs[0], 6_000, (0, 0)).await;
    assert_eq!(over, Transition::OverBudget);
}
