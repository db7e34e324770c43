//! A create call whose answer is lost, and a guest that is quicker than the look for its machine.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::stack::Plan;

const BOUND: Duration = Duration::from_secs(60);

/// Every way in which an answer is lost after the provider has acted.
const WAYS: [&str; 4] = ["lose", "cut", "lose status=504", "lose status=408"];

/// Runs one request whose create call meets the first of the rules; its result, after the promises
/// and that nobody made another machine.
#[track_caller]
fn run_once(rules: &[String], request: Value) -> impl Future<Output = Value> {
    let caller = std::panic::Location::caller();
    async move {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let plan = Plan::simulated(Duration::from_millis(20)).faults(&rules);
        let stack = plan.start().await;
        let id = stack.submit(request).await;
        let result = stack.result(&id).await;
        stack.settles(&[id], BOUND).await;
        let creates = stack.faults().await["rules"][0]["seen"].clone();
        assert_eq!(creates, 1, "{caller}: create calls with {rules:?}");
        assert_eq!(result["attempts"], 1, "{caller}: {result} with {rules:?}");
        stack.end().await;
        result
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_posted_before_its_machine_was_looked_for_runs_once() {
    for way in WAYS {
        let rules = [format!("create: {way}")];
        let result = run_once(&rules, json!({"cmd": ["true"]})).await;
        assert_eq!(result["outcome"], "completed", "{result} with {way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ended_before_its_machine_was_looked_for_runs_once() {
    for way in WAYS {
        let rules = [format!("create: {way}")];
        let request = json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "exits"}});
        let result = run_once(&rules, request).await;
        let code = &result["reason"]["code"];
        assert_eq!(code, "exited_without_result", "{result} with {way}");
    }
}

/// The sweep would see it after seven seconds on average.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_guest_of_the_local_server_is_known_at_once_whatever_the_sweep() {
    let plan = Plan::simulated(Duration::from_millis(20));
    let stack = plan
        .runs(|runs| runs.sweep = Duration::from_secs(15))
        .start()
        .await;
    let request = || json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "exits"}});
    // The server is known to be the local one after the first pass.
    let mut ids = vec![stack.submit(request()).await];
    stack.result(&ids[0]).await;
    for _ in 0..8 {
        let id = stack.submit(request()).await;
        let result = stack.result(&id).await;
        let at = |field: &str| result[field].as_u64().unwrap();
        let took = at("settled_at_ms") - at("running_at_ms");
        assert!(took < 3000, "{took} ms: {result}");
        ids.push(id);
    }
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

/// The provider no longer lists the machine, or not yet; the run tells that there was one.
#[tokio::test(flavor = "multi_thread")]
async fn no_create_call_is_repeated_for_a_run_that_has_ended() {
    for way in WAYS {
        let rules = [
            format!("create: {way}"),
            "list: refuse status=200 body=\"[]\"".to_owned(),
        ];
        let result = run_once(&rules, json!({"cmd": ["true"]})).await;
        assert_eq!(result["outcome"], "completed", "{result} with {way}");
    }
}
