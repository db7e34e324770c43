//! Machines that stay where they are, hosts that do not answer, and deletes that are refused.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use cofferdam::machines::wire::{MachineState, StopRequest};
use serde_json::{Value, json};

use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::stack::{APP, Plan, Stack, TOKEN};
use crate::support::until::until;

const BOUND: Duration = Duration::from_secs(60);

/// A request whose guest neither posts nor exits.
fn hangs(id: &str, timeout_s: u64) -> Value {
    json!({"id": id, "cmd": ["true"], "timeout_s": timeout_s, "env": {"SIMULATED_GUEST": "hangs"}})
}

async fn is_in(stack: &Stack, machine: &str, state: &MachineState) {
    until(&format!("the machine to be {state}"), || async {
        let seen = stack.machines.get(APP, machine).await.unwrap().state;
        (seen == *state)
            .then_some(())
            .ok_or_else(|| seen.to_string())
    })
    .await;
}

/// Waits until the tear-downs of these runs were given up and taken up again, and what is owed is
/// told.
async fn are_owed(stack: &Stack, ids: &[String]) {
    for id in ids {
        let times = Mutex::new(HashSet::new());
        until(&format!("{id} to be torn down again"), || async {
            // Each who takes it up moves the time at which it is due.
            let due: Option<f64> = stack.raw.say("ZSCORE", "due", &[id]).await;
            let view = stack.view(id).await.unwrap();
            let mut times = times.lock().unwrap();
            times.extend(due.map(f64::to_bits));
            if times.len() >= 3 && view.state == "settled" {
                Ok(())
            } else {
                Err(format!("{times:?} {view:?}"))
            }
        })
        .await;
    }
    let owed = &stack.core.metrics.teardowns_pending;
    stack.gauge("a tear-down to be owed", owed, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_stuck_before_its_start_gives_way_to_another_and_is_removed() {
    for state in ["created", "starting"] {
        let rule = format!("create nth=1: stick state={state}");
        let stack = Plan::simulated(Duration::from_millis(20))
            .faults(&[&rule])
            .runs(|runs| {
                runs.image_pull_timeout = Duration::from_secs(2);
                runs.boot_timeout = Duration::from_secs(2);
            })
            .start()
            .await;
        let id = stack.submit(json!({"cmd": ["true"]})).await;
        let result = stack.result(&id).await;
        assert_eq!(result["outcome"], "completed", "{state}: {result}");
        assert_eq!(result["attempts"], 2, "{state}: {result}");
        stack.settles(&[id], BOUND).await;
        stack.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_stuck_before_its_start_at_every_attempt_ends_its_run() {
    for state in ["created", "starting"] {
        let rule = format!("create: stick state={state}");
        let stack = Plan::simulated(Duration::from_millis(20))
            .faults(&[&rule])
            .runs(|runs| {
                runs.image_pull_timeout = Duration::from_secs(1);
                runs.boot_timeout = Duration::from_secs(1);
                runs.max_attempts = 2.try_into().unwrap();
            })
            .start()
            .await;
        let id = stack.submit(json!({"cmd": ["true"]})).await;
        let result = stack.result(&id).await;
        assert_eq!(result["outcome"], "failed", "{state}: {result}");
        assert_eq!(result["reason"]["code"], "boot_failed", "{state}: {result}");
        assert_eq!(result["attempts"], 2, "{state}: {result}");
        stack.settles(&[id], BOUND).await;
        stack.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_somebody_stopped_and_that_does_not_stop_is_gone_at_its_deadline() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create: stick state=stopping"])
        .start()
        .await;
    let id = stack.submit(hangs("stops", 5)).await;
    let machine = stack.reaches(&id, "running").await.machine_id.unwrap();
    is_in(&stack, &machine, &MachineState::Started).await;
    let stop = StopRequest::default();
    stack.machines.stop(APP, &machine, &stop).await.unwrap();
    is_in(&stack, &machine, &MachineState::Stopping).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    assert_eq!(result["attempts"], 1, "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_somebody_replaced_and_that_stays_so_is_gone_at_its_deadline() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create: stick state=replacing"])
        .start()
        .await;
    let id = stack.submit(hangs("replaced", 5)).await;
    let machine = stack.reaches(&id, "running").await.machine_id.unwrap();
    is_in(&stack, &machine, &MachineState::Started).await;
    let url = format!("{}/v1/apps/{APP}/machines/{machine}", stack.api);
    let config = stack.machines.get(APP, &machine).await.unwrap().config;
    let update = parts::http().post(url).bearer_auth(TOKEN);
    let answer = update.json(&json!({"config": config})).send().await;
    let answer = answer.unwrap();
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
    is_in(&stack, &machine, &MachineState::Replacing).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_stuck_on_its_way_out_is_told_until_it_is_gone() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create: stick state=destroying"])
        .start()
        .await;
    let request = json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "stays"}});
    let id = stack.submit(request).await;
    assert_eq!(stack.result(&id).await["outcome"], "completed");
    stack.reaches(&id, "closed").await;
    assert_eq!(stack.live_machines().await.len(), 1);
    let metrics = &stack.core.metrics;
    let unowned = &metrics.orphan_machines;
    stack.gauge("it to be told", unowned, true).await;
    // Longer than it takes to be asked to go once more, and nothing new to tell.
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(
        metrics.orphan_machines_deleted.get(),
        0,
        "it is not removed"
    );
    stack.put_faults(&["delete: forget"]).await;
    stack.gauge("it to be gone", unowned, false).await;
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_keeps_its_machines_tear_down_owed_and_no_result() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create name=sandbox-far-*: unreachable"])
        .start()
        .await;
    // One whose guest posts all the same, one of which nothing is heard any more.
    let posts = json!({"id": "far-posts", "cmd": ["true"], "env": {"SIMULATED_GUEST": "stays"}});
    let mut ids = vec![stack.submit(posts).await];
    ids.push(stack.submit(hangs("far-hangs", 3)).await);
    assert_eq!(stack.result(&ids[0]).await["outcome"], "completed");
    let result = stack.result(&ids[1]).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    assert_eq!(result["attempts"], 1, "{result}");
    are_owed(&stack, &ids).await;
    // Others go on meanwhile.
    for _ in 0..5 {
        let id = stack.submit(json!({"cmd": ["true"]})).await;
        assert_eq!(stack.result(&id).await["outcome"], "completed");
        ids.push(id);
    }
    for id in &ids[..2] {
        assert_eq!(stack.view(id).await.unwrap().state, "settled", "{id}");
    }
    // The host is given up, and its machines with it.
    stack
        .put_faults(&["delete name=sandbox-far-*: forget"])
        .await;
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_the_provider_does_not_delete_stays_owed_until_it_does() {
    let lease = "machine ID x lease currently held by someone@tokens.fly.io, expires at 2026";
    let rules = [
        format!("delete name=sandbox-leased-*: refuse status=409 error=\"{lease}\""),
        "delete name=sandbox-active-*: refuse status=412".to_owned(),
        "delete name=sandbox-failing-*: refuse status=500".to_owned(),
        "delete name=sandbox-slow-*: refuse status=408".to_owned(),
    ];
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&rules.each_ref().map(String::as_str))
        .start()
        .await;
    let mut ids = Vec::new();
    for id in ["leased", "active", "failing", "slow"] {
        let request = json!({"id": id, "cmd": ["true"], "env": {"SIMULATED_GUEST": "stays"}});
        ids.push(stack.submit(request).await);
    }
    for id in &ids {
        // The result does not wait for the tear-down.
        assert_eq!(stack.result(id).await["outcome"], "completed");
    }
    are_owed(&stack, &ids).await;
    assert_eq!(stack.live_machines().await.len(), ids.len());
    for id in &ids {
        assert_eq!(stack.view(id).await.unwrap().state, "settled", "{id}");
    }
    stack.mend_faults().await;
    stack.settles(&ids, BOUND).await;
    let owed = &stack.core.metrics.teardowns_pending;
    stack.gauge("nothing to be owed", owed, false).await;
    stack.end().await;
}

/// The time for a boot begins when the image is there; until then it is another, and can be seen.
#[tokio::test]
async fn an_image_that_takes_longer_to_come_than_a_boot_may_is_waited_for_and_shown() {
    let slow = ["--simulate", "20", "--fault", "create: slow-pull ms=7000"];
    let settings = [
        ("COFFERDAM_SWEEP_S", "1"),
        ("COFFERDAM_BOOT_TIMEOUT_S", "2"),
        ("COFFERDAM_IMAGE_PULL_TIMEOUT_S", "120"),
    ];
    let fleet = Fleet::start(&slow, &settings).await;
    let (worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--id", "cold", "--", "true"]).done();
    until("show to tell of it", async || {
        let shown = fleet.tool(&["show", "cold"]);
        let text = shown.stdout + &shown.stderr;
        let waits = text.lines().find(|line| line.contains("fetches its image"));
        let left = waits.is_some_and(|line| line.contains("given up in 1 min"));
        left.then_some(()).ok_or(text)
    })
    .await;
    let shown = fleet.until_state("cold", "closed").await;
    assert_eq!(shown["outcome"], "completed", "{shown}");
    assert_eq!(shown["attempt"], 1, "{shown}");
    let text = fleet.tool(&["show", "cold"]).done();
    assert!(!text.contains("fetches its image"), "{text}");
    worker.finish().await;
    fleet.finish().await;
}
