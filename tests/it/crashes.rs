//! Workers that die, and a provider that misbehaves: every run still ends once, and no machine is
//! left. The guests are played by the local server, which is the only part that is not real here.

use std::time::Duration;

use serde_json::json;

use crate::support::parts;
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
    let create = serde_json::from_value(parts::orphan("orphan", &parts::ring()));
    let app = crate::support::stack::APP;
    stack.machines.create(app, &create.unwrap()).await.unwrap();
    stack.no_machine().await;
    assert_eq!(stack.core.metrics.orphan_machines_deleted.get(), 1);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_not_shown_to_be_ours_is_left_alone_and_told() {
    let stack = Plan::simulated(Duration::from_secs(600)).runs(|runs| {
        runs.lease = Duration::from_millis(300);
    });
    let stack = stack.start().await;
    let create = serde_json::from_value(json!({
        "name": "sandbox-theirs-1",
        "config": {
            "image": "host",
            "init": {"cmd": ["true"]},
            // Not even what says that it is ours shows it, nor the token of one of ours, as in a
            // copy of it that somebody made.
            "env": parts::orphan("original", &parts::ring())["config"]["env"],
            "metadata": {"cofferdam_owner": stack.core.store.keys().namespace()},
        },
    }));
    let app = crate::support::stack::APP;
    let theirs = stack.machines.create(app, &create.unwrap()).await.unwrap();
    let ids = submit_many(&stack, 1).await;
    stack.reaches(&ids[0], "running").await;
    // As old as an orphan becomes.
    let foreign = &stack.core.metrics.foreign_machines;
    stack.gauge("it to be told", foreign, true).await;
    assert_eq!(foreign.get(), 1);
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

/// Runs under rules by which the provider misbehaves: each still completes, once.
async fn complete_under(rules: &[&str]) -> Stack {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(rules)
        .workers(2)
        .start()
        .await;
    let ids = submit_many(&stack, 30).await;
    all_complete(&stack, &ids).await;
    stack
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_create_call_makes_no_second_machine() {
    // The deadliest kind: the machine is made, and the caller does not know.
    for rule in ["create every=3: lose", "create every=3: cut"] {
        let stack = complete_under(&[rule]).await;
        let results = stack.results().await;
        assert!(
            results.iter().all(|result| result["attempts"] == 1),
            "{rule}: {results:#?}"
        );
        stack.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_refusals_of_every_kind_are_waited_out() {
    let rules = [
        "create times=20: refuse status=503 error=\"try again\"",
        "create times=20: refuse status=500",
        "create times=20: refuse status=408",
        "create times=20: refuse status=429 error=\"rate limit exceeded\"",
        "create times=5: refuse status=401 error=\"Authenticate: token validation error\"",
        "create times=20: no-capacity kind=region",
        "create times=20: no-capacity kind=memory",
        "create times=20: drop",
    ];
    let stacks = rules.map(async |rule| complete_under(&[rule]).await.end().await);
    futures_util::future::join_all(stacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tear_down_outlasts_whatever_goes_wrong_with_it() {
    let rules = [
        "get every=4 times=20: refuse status=500",
        "wait every=3 times=20: drop",
        "delete every=2 times=20: refuse status=412 error=\"failed_precondition: machine still active, refusing to destroy\"",
        "delete every=3 times=20: refuse status=503",
        "delete every=5 times=20: lose",
    ];
    let stack = complete_under(&rules).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newborn_that_cannot_be_seen_is_not_taken_for_lost() {
    let stack = complete_under(&["create every=2: hide ms=1500", "create every=5: lose"]).await;
    let results = stack.results().await;
    assert!(
        results.iter().all(|result| result["attempts"] == 1),
        "{results:#?}"
    );
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_the_provider_forgets_gives_way_to_another() {
    // The first machine would post only after minutes; it vanishes before.
    let plan = Plan::simulated(Duration::from_secs(600)).faults(&["get nth=1: forget"]);
    let stack = plan
        .runs(|runs| runs.run_timeout = Duration::from_secs(20))
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let view = stack.reaches(&id, "running").await;
    let machine = view.machine_id.unwrap();
    // The rule acts on this look.
    let _ = stack
        .machines
        .get(crate::support::stack::APP, &machine)
        .await;
    crate::support::until::until("another attempt", || async {
        match stack.view(&id).await {
            Some(view) if view.attempt >= 2 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "deadline", "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}
