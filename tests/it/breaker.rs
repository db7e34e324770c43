//! An app that stops answering: the others go on, and it is used again when it answers.

use std::time::Duration;

use serde_json::json;

use crate::support::stack::{Plan, Stack};
use crate::support::until::until_within;

const BOUND: Duration = Duration::from_secs(60);
const RUNS: usize = 200;
const PERMITS: u32 = 8;

async fn submit_all(stack: &Stack) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..RUNS {
        ids.push(stack.submit(json!({"cmd": ["true"]})).await);
    }
    ids
}

async fn all_complete(stack: &Stack, ids: &[String]) {
    stack.settles(ids, BOUND).await;
    let results = stack.results().await;
    assert!(
        results
            .iter()
            .all(|result| result["outcome"] == "completed"),
        "{results:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_stops_answering_takes_a_few_boots_and_the_other_app_goes_on() {
    let stack = Plan::simulated(Duration::from_millis(300))
        .apps(&["alive", "silent"])
        .faults(&["* app=silent: hang"])
        .call_timeout(Duration::from_secs(1))
        .runs(|runs| {
            runs.concurrency = PERMITS.try_into().unwrap();
            // Longer than the test: nothing ends by its deadline.
            runs.run_timeout = Duration::from_secs(600);
        })
        .start()
        .await;
    let ids = submit_all(&stack).await;
    // What the silent app got before it was found out, and a trial now and then.
    let most_stuck = 3 * PERMITS as usize;
    until_within(BOUND, "the other app to do nearly all", || async {
        let results = stack.results().await.len();
        if results >= RUNS - most_stuck {
            Ok(())
        } else {
            Err(format!("{results} results"))
        }
    })
    .await;
    let closed = &stack.core.metrics.circuits_open;
    stack.gauge("the way to be closed", closed, true).await;

    stack.mend_faults().await;
    all_complete(&stack, &ids).await;
    assert_eq!(stack.core.metrics.circuits_open.get(), 0);
    stack.end().await;
}

/// Calls last longer than the test: what the silent app has, it keeps.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_goes_silent_takes_half_of_the_permits_and_no_more() {
    let stack = Plan::simulated(Duration::from_millis(300))
        .apps(&["silent", "alive"])
        .faults(&["* app=silent: hang"])
        .call_timeout(Duration::from_secs(300))
        .runs(|runs| {
            runs.concurrency = PERMITS.try_into().unwrap();
            runs.run_timeout = Duration::from_secs(600);
        })
        .start()
        .await;
    let ids = submit_all(&stack).await;
    let stuck = PERMITS as usize / 2;
    until_within(BOUND, "the other app to do all the rest", || async {
        let results = stack.results().await.len();
        if results == RUNS - stuck {
            Ok(())
        } else {
            Err(format!("{results} results"))
        }
    })
    .await;
    let results = stack.results().await;
    assert!(
        results
            .iter()
            .all(|result| result["machine"]["app"] == "alive"),
        "{results:#?}"
    );
    assert_eq!(ids.len(), RUNS);
    stack.abandon().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_answer_the_survey_keeps_no_other_from_its_own() {
    let stack = Plan::simulated(Duration::from_millis(100))
        .apps(&["silent", "alive"])
        .faults(&["list app=silent: hang"])
        .call_timeout(Duration::from_secs(300))
        .start()
        .await;
    let request = json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "exits"}});
    let mut seen = 0;
    // Found by a survey only, and more than one of them.
    for _ in 0..20 {
        let id = stack.submit(request.clone()).await;
        let view = stack.reaches(&id, "running").await;
        if view.app.as_deref() == Some("silent") {
            continue;
        }
        let result = stack.result(&id).await;
        assert_eq!(
            result["reason"]["code"], "exited_without_result",
            "{result}"
        );
        seen += 1;
        if seen == 3 {
            break;
        }
    }
    assert_eq!(seen, 3);
    stack.abandon().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_refuses_with_errors_holds_up_its_own_runs_only() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .regions(&["ams", "fra"])
        .faults(&["create region=ams: refuse status=503"])
        .runs(|runs| runs.run_timeout = Duration::from_secs(600))
        .start()
        .await;
    let mut ids = Vec::new();
    for n in 0..40 {
        let region = if n % 4 == 0 { "ams" } else { "fra" };
        let request = json!({"cmd": ["true"], "region": region});
        ids.push(stack.submit(request).await);
    }
    until_within(BOUND, "the runs of the other region to end", || async {
        let results = stack.results().await.len();
        if results == 30 {
            Ok(())
        } else {
            Err(format!("{results} results"))
        }
    })
    .await;
    until_within(BOUND, "the region to be left alone", || async {
        let closed = stack.core.metrics.circuits_open.get();
        (closed >= 1)
            .then_some(())
            .ok_or_else(|| "it is used".to_owned())
    })
    .await;
    stack.mend_faults().await;
    all_complete(&stack, &ids).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_does_not_exist_ends_its_run_at_once_and_is_named() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .regions(&["ams"])
        .start()
        .await;
    let request = json!({"cmd": ["true"], "region": "xyz"});
    let id = stack.submit(request).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "failed", "{result}");
    let message = result["reason"]["message"].as_str().unwrap();
    assert!(message.contains("xyz"), "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}
