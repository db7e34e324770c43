//! The rate of create calls, repeats included.

use std::time::Duration;

use serde_json::json;

use crate::support::stack::Plan;
use crate::support::until::until_within;

const BOUND: Duration = Duration::from_secs(60);
const NO_ROOM: &str =
    "create: refuse status=409 error=\"insufficient memory available to fulfill request\"";

/// Waits until that many create calls have come, and says when the first and the last were seen.
async fn creates(stack: &crate::support::stack::Stack, count: u64) -> Duration {
    let mut first = None;
    for wanted in [1, count] {
        until_within(BOUND, &format!("{wanted} create calls"), async || {
            let seen = stack.faults().await["rules"][0]["seen"].as_u64().unwrap();
            (seen >= wanted)
                .then_some(())
                .ok_or_else(|| seen.to_string())
        })
        .await;
        first.get_or_insert_with(tokio::time::Instant::now);
    }
    first.unwrap().elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn create_calls_that_are_repeated_within_a_boot_keep_to_the_boot_rate() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&[NO_ROOM])
        .runs(|runs| {
            runs.boot_rate = 1.0;
            runs.boot_burst = 1.try_into().unwrap();
        })
        .start()
        .await;
    let mut ids = vec![stack.submit(json!({"cmd": ["true"]})).await];
    ids.push(stack.submit(json!({"cmd": ["true"]})).await);
    let took = creates(&stack, 6).await;
    assert!(took > Duration::from_millis(4_800), "6 calls in {took:?}");
    stack.mend_faults().await;
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

/// Where no leave comes soon the run waits in the queue, and its refusals count all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_run_that_waits_for_the_boot_rate_ends_when_it_was_refused_for_long_enough() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&[NO_ROOM])
        .runs(|runs| {
            runs.boot_rate = 0.4;
            runs.boot_burst = 1.try_into().unwrap();
            runs.refused_max = Duration::from_secs(4);
        })
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "no_capacity", "{result}");
    let calls = stack.faults().await["rules"][0]["seen"].as_u64().unwrap();
    assert!(calls >= 2, "{calls} calls");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_are_not_known_end_a_run_that_waits_for_the_boot_rate_after_a_few_calls() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create: refuse status=422 error=\"the moon is full\""])
        .runs(|runs| {
            runs.boot_rate = 0.4;
            runs.boot_burst = 1.try_into().unwrap();
        })
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "boot_failed", "{result}");
    let calls = stack.faults().await["rules"][0]["seen"].as_u64().unwrap();
    assert_eq!(calls, 3, "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}
