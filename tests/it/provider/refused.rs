//! No room, too many calls, names that are taken, images that are none.

use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::stage::{Core, Deps};
use serde_json::{Value, json};

use crate::support::stack::{APP, Plan, Stack};
use crate::support::until::{until, until_within};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_room_gives_way_to_the_next() {
    for kind in ["region", "volume", "memory"] {
        let rule = format!("create app=full: no-capacity kind={kind}");
        // The full one is asked first, and has the fewest machines for ever.
        let stack = Plan::simulated(Duration::from_millis(20))
            .apps(&["full", "roomy"])
            .faults(&[&rule])
            .start()
            .await;
        let mut ids = Vec::new();
        for _ in 0..4 {
            let id = stack.submit(json!({"cmd": ["true"]})).await;
            let result = stack.result(&id).await;
            assert_eq!(result["outcome"], "completed", "{kind}: {result}");
            assert_eq!(result["machine"]["app"], "roomy", "{kind}: {result}");
            ids.push(id);
        }
        stack.settles(&ids, BOUND).await;
        stack.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_without_room_gives_way_to_the_next_one_asked_for() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .regions(&["ams", "fra"])
        .faults(&["create region=ams: no-capacity"])
        .start()
        .await;
    let request = json!({"cmd": ["true"], "region": "ams,fra"});
    let id = stack.submit(request).await;
    let result = stack.result(&id).await;
    assert_eq!(result["machine"]["region"], "fra", "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

/// A worker whose clock the test can move.
fn movable(stack: &Stack) -> (Deps, Clock) {
    let clock = Clock::skewed(0);
    let deps = stack.deps();
    let core = Core {
        clock: clock.clone(),
        ..deps.core
    };
    (Deps { core, ..deps }, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_never_comes_ends_as_no_capacity_after_a_quarter_of_an_hour() {
    let kinds = ["region", "volume", "memory", "ips"];
    let rules = kinds.map(|kind| format!("create name=sandbox-{kind}-*: no-capacity kind={kind}"));
    let mut stack = Plan::simulated(Duration::from_millis(20))
        .workers(0)
        .faults(&rules.each_ref().map(String::as_str))
        // Longer than the clock is moved: a boot under way then does not end by its deadline.
        .runs(|runs| runs.run_timeout = Duration::from_secs(3600))
        .start()
        .await;
    let (deps, clock) = movable(&stack);
    stack.add_worker_of(deps);
    let mut ids = Vec::new();
    for kind in kinds {
        let request = json!({"id": kind, "cmd": ["true"]});
        ids.push(stack.submit(request).await);
    }
    for id in &ids {
        until(&format!("{id} to be refused again"), || async {
            let view = stack.view(id).await;
            match &view {
                Some(view) if view.refusals >= 2 => Ok(()),
                _ => Err(format!("{view:?}")),
            }
        })
        .await;
    }
    assert!(stack.results().await.is_empty(), "it was given up too soon");
    clock.shift(16 * 60 * 1000);
    for id in &ids {
        let result = stack.result(id).await;
        assert_eq!(result["outcome"], "failed", "{result}");
        assert_eq!(result["reason"]["code"], "no_capacity", "{result}");
        assert!(result["machine"]["id"].is_null(), "{result}");
    }
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_region_is_asked_less_and_less() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create: no-capacity"])
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let mut gaps: Vec<u64> = Vec::new();
    let mut before = stack.core.clock.now_ms();
    for refusals in 1..=5 {
        until("another refusal", || async {
            let view = stack.view(&id).await;
            match &view {
                Some(view) if view.refusals >= refusals => Ok(()),
                _ => Err(format!("{view:?}")),
            }
        })
        .await;
        let now = stack.core.clock.now_ms();
        gaps.push(now - before);
        before = now;
    }
    // Each pause is a random part of a second, then two, four, eight: all short is unlikely.
    assert!(gaps.iter().sum::<u64>() > 500, "{gaps:?}");
    let creates = stack.faults().await["rules"][0]["seen"].as_u64().unwrap();
    assert!(creates <= 6, "{creates} calls for {gaps:?}");
    stack.mend_faults().await;
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_wait_that_the_service_names_holds_back_every_worker() {
    let rule = "create times=1: refuse status=429 error=\"rate limit exceeded\" retry_after_s=4";
    let stack = Plan::simulated(Duration::from_millis(20))
        .workers(2)
        .faults(&[rule])
        .start()
        .await;
    let began = stack.core.clock.now_ms();
    let mut ids = vec![stack.submit(json!({"cmd": ["true"]})).await];
    let bucket = format!("bucket:{APP}");
    let held_until = until("the hold", || async {
        let until: Option<u64> = stack.raw.say("HGET", &bucket, &["hold_until_ms"]).await;
        until.ok_or_else(|| "none".to_owned())
    })
    .await;
    assert!(held_until >= began + 4000, "{held_until} {began}");
    for _ in 0..20 {
        ids.push(stack.submit(json!({"cmd": ["true"]})).await);
    }
    stack.settles(&ids, BOUND).await;
    for result in stack.results().await {
        assert_eq!(result["outcome"], "completed", "{result}");
        let booting = result["booting_at_ms"].as_u64().unwrap();
        assert!(booting >= held_until, "{held_until}: {result}");
    }
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_asked_for_once() {
    let text = "failed to get manifest registry.fly.io/a:b: unauthorized";
    let rule = format!("create: refuse status=400 error=\"{text}\"");
    let stack = Plan::simulated(Duration::from_millis(20))
        .workers(2)
        .faults(&[&rule])
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "image_rejected", "{result}");
    assert_eq!(result["reason"]["message"], text, "{result}");
    stack.settles(&[id], BOUND).await;
    let counts = stack.faults().await;
    assert_eq!(counts["rules"][0]["seen"], 1, "{counts}");
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_another_name_is_not_adopted_whatever_the_refusal_says() {
    let stack = Plan::simulated(Duration::from_secs(600)).start().await;
    let theirs = json!({
        "name": "sandbox-theirs-1",
        "config": {
            "image": "host",
            "init": {"cmd": ["true"]},
            "metadata": {"cofferdam_owner": "another"},
        },
    });
    let theirs = serde_json::from_value(theirs).unwrap();
    let theirs = stack.machines.create(APP, &theirs).await.unwrap().id;
    let rule = format!(
        "create times=2: refuse status=409 error=\"already_exists: unique machine name \
         violation, machine ID {theirs} already exists with name \\\"sandbox-mine-1\\\"\""
    );
    stack.put_faults(&[&rule]).await;
    let id = stack.submit(json!({"id": "mine", "cmd": ["true"]})).await;
    let view = stack.reaches(&id, "running").await;
    assert_ne!(view.machine_id.as_deref(), Some(theirs.as_str()));
    stack.raw.add("control", &[("cancel", &id)]).await;
    stack.reaches(&id, "closed").await;
    assert_eq!(stack.live_machines().await, ["sandbox-theirs-1"]);
    let force = cofferdam::machines::Force::Yes;
    stack.machines.delete(APP, &theirs, force).await.unwrap();
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

/// Names of the machines that there really are, whatever lists and reads show.
async fn machines(stack: &Stack) -> Value {
    stack.faults().await["machines"]["names"].take()
}

/// The guest has posted before its machine can be seen, and never exits.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_be_seen_yet_is_deleted_all_the_same() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&["create: hide ms=20000"])
        .start()
        .await;
    let request = json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "stays"}});
    let id = stack.submit(request).await;
    assert_eq!(stack.result(&id).await["outcome"], "completed");
    stack.reaches(&id, "closed").await;
    // The run's own tear-down did it, and not the sweep after it could be seen.
    until_within(Duration::from_secs(5), "it to be gone", || async {
        match machines(&stack).await {
            names if names == json!([]) => Ok(()),
            names => Err(names.to_string()),
        }
    })
    .await;
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

/// The service gives up waits before their time, as it does when a host is slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_service_gives_up_does_not_cut_a_guests_grace_short() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "deadline_exceeded: machine failed to reach desired state, stopped, currently started";
    let rule = format!("wait times=3: refuse status=408 error=\"{text}\"");
    let stack = Plan::sandboxed(folder.path())
        .faults(&[&rule])
        .runs(|runs| runs.grace = Duration::from_secs(20))
        .start()
        .await;
    let program = "import os, time, urllib.request as u\n\
        u.urlopen(u.Request(os.environ['SANDBOX_RESULT_URL'], data=b'1',\n\
        \x20 headers={'Authorization': 'Bearer ' + os.environ['SANDBOX_RUN_TOKEN']}))\n\
        time.sleep(2); os._exit(7)\n";
    let id = stack
        .submit(json!({"image": "host", "cmd": ["python3", "-c", program]}))
        .await;
    let view = stack.reaches(&id, "closed").await;
    let machine = view.machine_id.unwrap();
    let machine = stack.machines.get(APP, &machine).await.unwrap();
    let exit = machine.last_exit().map(|exit| exit.code());
    assert_eq!(exit, Some(7), "{machine:?}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}
