//! Machines that somebody else ends, and machines that the provider does not show.

use std::time::Duration;

use cofferdam::machines::Force;
use cofferdam::machines::wire::StopRequest;
use cofferdam::store::codec::RunRecord;
use serde_json::{Value, json};

use crate::support::stack::{APP, Plan, Stack};
use crate::support::until::{until, until_within};

const BOUND: Duration = Duration::from_secs(60);

/// A guest that neither posts nor exits.
fn hangs() -> Value {
    json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "hangs"}})
}

/// Waits until the run has the machine of this attempt, and its guest runs.
async fn runs_at(stack: &Stack, id: &str, attempt: u32) -> RunRecord {
    until_within(BOUND, &format!("attempt {attempt} of {id}"), async || {
        let view = stack.view(id).await.ok_or("not a run yet")?;
        let machine = view.machine_id.clone().ok_or("no machine yet")?;
        let known = stack.machines.get(APP, &machine).await;
        let is_up = known.is_ok_and(|machine| machine.started_at_ms().is_some());
        if view.attempt == attempt && view.state == "running" && is_up {
            Ok(view)
        } else {
            Err(format!("{view:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_somebody_stopped_or_deleted_is_the_platforms_loss_and_not_the_guests() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .runs(|runs| runs.max_attempts = 2.try_into().unwrap())
        .start()
        .await;
    let id = stack.submit(hangs()).await;
    let first = runs_at(&stack, &id, 1).await.machine_id.unwrap();
    let stop = StopRequest::default();
    stack.machines.stop(APP, &first, &stop).await.unwrap();
    let second = runs_at(&stack, &id, 2).await.machine_id.unwrap();
    let (app, force) = (APP, Force::Yes);
    stack.machines.delete(app, &second, force).await.unwrap();
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "machine_lost", "{result}");
    assert_eq!(result["attempts"], 2, "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

/// A run whose machine is old enough for nobody to take it for one that is not shown yet.
async fn settled_in(stack: &Stack) -> String {
    let id = stack.submit(hangs()).await;
    let since = runs_at(stack, &id, 1).await.running_at_ms.unwrap();
    until("the machine to be old enough", || async {
        let age = stack.core.clock.now_ms().saturating_sub(since);
        if age > 10_500 {
            Ok(())
        } else {
            Err(age.to_string())
        }
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn one_moment_in_which_the_provider_does_not_show_a_machine_kills_no_guest() {
    let stack = Plan::simulated(Duration::from_millis(20)).start().await;
    let id = settled_in(&stack).await;
    stack
        .put_faults(&[
            "list times=1: refuse status=200 body=\"[]\"",
            "get times=1: refuse status=404 error=\"machine not found\"",
        ])
        .await;
    until_within(BOUND, "the sweep to look, and to look again", || async {
        let rules = stack.faults().await["rules"].clone();
        let (listed, looked) = (rules[0]["seen"].as_u64(), rules[1]["fired"].as_u64());
        match (listed, looked) {
            (Some(4..), Some(1)) => Ok(()),
            _ => Err(rules.to_string()),
        }
    })
    .await;
    let view = stack.view(&id).await.unwrap();
    assert_eq!((view.attempt, view.state), (1, "running"), "{view:?}");
    assert_eq!(stack.live_machines().await.len(), 1);
    stack.abandon().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_the_provider_has_lost_is_noticed_within_a_few_sweeps() {
    let stack = Plan::simulated(Duration::from_millis(20)).start().await;
    let id = settled_in(&stack).await;
    let machine = stack.view(&id).await.unwrap().machine_id.unwrap();
    stack.put_faults(&["get times=1: forget"]).await;
    assert!(stack.machines.get(APP, &machine).await.is_err());
    let began = stack.core.clock.now_ms();
    let view = runs_at(&stack, &id, 2).await;
    // Two looks ten seconds apart, sweeps of a second, and a boot.
    let took = view.booting_at_ms.unwrap().saturating_sub(began);
    assert!(took < 25_000, "{took} ms");
    stack.abandon().await;
}
