//! Workers that die, and a provider that misbehaves: every run still ends once, and no machine is
//! left. The guests are played by the local server, which is the only part that is not real here.

use std::time::Duration;

use serde_json::json;

use crate::support::stack::{Plan, Stack};

const BOUND: Duration = Duration::from_secs(60);

async fn submit_many(stack: &Stack, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    for n in 0..count {
        ids.push(
            stack
                .submit(json!({"cmd": ["true"], "tenant": format!("tenant-{}", n % 3)}))
                .await,
        );
    }
    ids
}

/// Every run ends, each once, and none of them because of what went wrong around it.
async fn all_complete(stack: &Stack, ids: &[String]) {
    stack.settles(ids, BOUND).await;
    let results = stack.results().await;
    let other: Vec<_> = results
        .iter()
        .filter(|result| result["outcome"] != "completed")
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_again_and_again_loses_doubles_and_leaves_nothing() {
    let mut stack = Plan::simulated(Duration::from_millis(20))
        .workers(2)
        .start()
        .await;
    let ids = submit_many(&stack, 100).await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        stack.workers.remove(0).kill().await;
        stack.add_worker();
    }
    all_complete(&stack, &ids).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_replaced_one_by_one_lose_nothing() {
    let mut stack = Plan::simulated(Duration::from_millis(20))
        .workers(2)
        .start()
        .await;
    let ids = submit_many(&stack, 200).await;
    for _ in 0..6 {
        stack.add_worker();
        let oldest = stack.workers.remove(0);
        assert!(
            oldest.drain(Duration::from_secs(20)).await,
            "what is in hand is done in time"
        );
    }
    all_complete(&stack, &ids).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_no_run_has_is_removed() {
    let stack = Plan::simulated(Duration::from_secs(600)).start().await;
    let create = serde_json::from_value(json!({
        "name": "sandbox-orphan-1",
        "config": {"image": "host", "init": {"cmd": ["true"]}, "auto_destroy": true, "restart": {"policy": "no"}},
    }));
    let app = crate::support::stack::APP;
    stack.machines.create(app, &create.unwrap()).await.unwrap();
    stack.no_machine().await;
    assert_eq!(stack.core.metrics.machines_without_run.get(), 1);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_another_fleet_is_left_alone() {
    let stack = Plan::simulated(Duration::from_secs(600)).runs(|runs| {
        runs.lease = Duration::from_millis(300);
    });
    let stack = stack.start().await;
    let create = serde_json::from_value(json!({
        "name": "sandbox-theirs-1",
        "config": {
            "image": "host",
            "init": {"cmd": ["true"]},
            "metadata": {"cofferdam_owner": "another"},
        },
    }));
    let app = crate::support::stack::APP;
    let theirs = stack.machines.create(app, &create.unwrap()).await.unwrap();
    let ids = submit_many(&stack, 1).await;
    stack.reaches(&ids[0], "running").await;
    // Longer than an orphan lives.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(
        stack
            .live_machines()
            .await
            .contains(&"sandbox-theirs-1".to_owned())
    );
    stack
        .machines
        .delete(app, &theirs.id, cofferdam::machines::Force::Yes)
        .await
        .unwrap();
    stack.end().await;
}
