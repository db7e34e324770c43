//! Deadlines at every stage, clocks that are wrong, and versions of the program that overlap.

use std::collections::HashSet;
use std::time::Duration;

use cofferdam::assembly;
use cofferdam::clock::Clock;
use cofferdam::run::id::Attempt;
use cofferdam::run::outcome::ReasonCode;
use cofferdam::stage::boot::{Begin, Booted, boot};
use cofferdam::stage::intake::intake;
use cofferdam::stage::lease::LeaseGuard;
use cofferdam::stage::{Core, Deps};
use cofferdam::store::acts::{Claimed, FleetLimits};
use cofferdam::store::requests::Requests;
use cofferdam::token::Grant;
use cofferdam::worker;
use serde_json::json;

use crate::support::stack::{APP, Plan, Stack};
use crate::support::{parts, redis};

const BOUND: Duration = Duration::from_secs(60);

/// Takes in what was submitted and claims one run, as a worker does that comes no further.
async fn claimed(stack: &Stack) -> Claimed {
    let store = &stack.core.store;
    store.ensure_group().await.unwrap();
    let mut requests = Requests::new(store.clone(), &worker::unique_name());
    let entries = requests.next(10, Duration::from_millis(50)).await.unwrap();
    intake(&stack.core, &entries).await.unwrap();
    let room = FleetLimits {
        apps: vec![APP.to_owned()],
        max_in_flight: 10,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    };
    let (now, lease) = (stack.core.clock.now_ms(), stack.core.runs.lease);
    store
        .claim(&room, 1, now, lease)
        .await
        .unwrap()
        .runs
        .remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_deadline_has_passed_is_not_created() {
    let mut stack = Plan::simulated(Duration::ZERO).workers(0).start().await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let mut run = claimed(&stack).await;
    run.deadline_ms = stack.core.clock.now_ms();
    let hold = LeaseGuard::until(u64::MAX);
    for begin in [Begin::Create, Begin::LookUp] {
        let booted = boot(&stack.deps(), &run, &hold, begin).await.unwrap();
        assert!(
            matches!(booted, Booted::Settled(ReasonCode::Deadline) | Booted::Over),
            "{booted:?}"
        );
        assert!(stack.live_machines().await.is_empty(), "{begin:?}");
    }
    assert_eq!(stack.result(&id).await["reason"]["code"], "deadline");
    stack.add_worker();
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lease_has_ended_is_not_created() {
    let mut stack = Plan::simulated(Duration::ZERO).workers(0).start().await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let run = claimed(&stack).await;
    let hold = LeaseGuard::until(stack.core.clock.now_ms());
    let booted = boot(&stack.deps(), &run, &hold, Begin::Create)
        .await
        .unwrap();
    assert_eq!(booted, Booted::HandedOver);
    assert!(stack.live_machines().await.is_empty());
    stack.add_worker();
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_while_the_machine_boots() {
    // The first answer comes after the deadline; the others never come to anything.
    let rules = [
        "create name=sandbox-slow-*: delay ms=4000",
        "create name=sandbox-refused-*: refuse status=503 error=\"try again\"",
        "create name=sandbox-lost-*: drop",
    ];
    let stack = Plan::simulated(Duration::from_secs(600))
        .faults(&rules)
        .start()
        .await;
    let mut ids = Vec::new();
    for id in ["slow", "refused", "lost"] {
        ids.push(stack.submit(json!({"id": format!("{id}-1"), "cmd": ["true"], "timeout_s": 2, "queue_ttl_s": 4})).await);
    }
    for id in &ids {
        let result = stack.result(id).await;
        assert_eq!(result["outcome"], "timed_out", "{result}");
    }
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_the_tear_down_changes_no_result() {
    let rules = [
        "delete times=6: refuse status=503",
        "get times=4: refuse status=500",
    ];
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&rules)
        .start()
        .await;
    let request = json!({"cmd": ["true"], "timeout_s": 2, "env": {"SIMULATED_GUEST": "stays"}});
    let id = stack.submit(request).await;
    stack.settles(std::slice::from_ref(&id), BOUND).await;
    assert_eq!(stack.result(&id).await["outcome"], "completed");
    let view = stack.view(&id).await.unwrap();
    assert!(view.closed_at_ms > view.deadline_ms, "{view:?}");
    stack.end().await;
}

/// The parts of a worker whose clock is wrong, as it starts.
async fn wrong(stack: &Stack, skew_ms: i64) -> Deps {
    let deps = stack.deps();
    let core = Core {
        clock: Clock::skewed(skew_ms),
        ..deps.core
    };
    assembly::sync_clock(&core).await.unwrap();
    Deps { core, ..deps }
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_half_a_minute_apart_shorten_and_lengthen_nothing() {
    let mut plan = Plan::simulated(Duration::from_millis(200)).workers(0);
    plan.clock = Clock::skewed(30_000);
    let clock = plan.clock.clone();
    let mut stack = plan.start().await;
    let front = Core {
        clock,
        ..stack.core.clone()
    };
    assembly::sync_clock(&front).await.unwrap();
    for skew_ms in [-30_000, 30_000, 0] {
        let deps = wrong(&stack, skew_ms).await;
        stack.add_worker_of(deps);
    }
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(
            stack
                .submit(json!({"cmd": ["true"], "timeout_s": 20, "queue_ttl_s": 20}))
                .await,
        );
    }
    let hung = json!({"cmd": ["true"], "timeout_s": 3, "env": {"SIMULATED_GUEST": "hangs"}});
    let hung = stack.submit(hung).await;
    for id in &ids {
        let result = stack.result(id).await;
        assert_eq!(result["outcome"], "completed", "{result}");
        assert_eq!(result["attempts"], 1, "{result}");
    }
    let result = stack.result(&hung).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    let at = |field: &str| result[field].as_u64().unwrap();
    let lasted = at("settled_at_ms") - at("booting_at_ms");
    assert!((2900..20_000).contains(&lasted), "{result}");
    ids.push(hung);
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_another_version_are_let_be_and_those_it_lacks_are_not_missed() {
    let mut stack = Plan::simulated(Duration::from_secs(600))
        .workers(0)
        .start()
        .await;
    let waiting = stack
        .submit(json!({"id": "waiting", "cmd": ["true"], "env": {"SIMULATED_GUEST": "exits"}}))
        .await;
    claimed(&stack).await;
    let optional = [
        "boot_until_ms",
        "booting_at_ms",
        "queue_until_ms",
        "submitted_at_ms",
    ];
    let change = async |stack: &Stack, id: &str, lacking: &[&str]| {
        let key = format!("run:{id}");
        let news = ["a_later_field", "1", "another", "{}"];
        stack.raw.say::<i64>("HSET", &key, &news).await;
        stack.raw.say::<i64>("HDEL", &key, lacking).await;
    };
    change(&stack, &waiting, &optional).await;
    stack.add_worker();
    let flying = stack.submit(json!({"id": "flying", "cmd": ["true"]})).await;
    stack.reaches(&flying, "running").await;
    stack.workers.remove(0).kill().await;
    let more = ["instance_id", "region", "running_at_ms", "timeout_ms"];
    change(&stack, &flying, &[&optional[..], &more[..]].concat()).await;
    let token = parts::ring().sign(&Grant {
        run: flying.parse().unwrap(),
        attempt: Attempt(1),
        expires_s: stack.core.clock.now_ms() / 1000 + 60,
        nonce: stack.raw.nonce(&flying).await,
    });
    let url = stack.endpoint.join("/results").unwrap();
    let post = parts::http().post(url).bearer_auth(token).body("17");
    assert_eq!(post.send().await.unwrap().status().as_u16(), 201);
    stack.add_worker();
    let result = stack.result(&flying).await;
    assert_eq!(
        (&result["payload"], &result["booting_at_ms"]),
        (&json!(17), &json!(null))
    );
    stack.raw.add("control", &[("cancel", &waiting)]).await;
    stack
        .settles(&[waiting.clone(), flying.clone()], BOUND)
        .await;
    for id in [waiting, flying] {
        let kept: String = stack
            .raw
            .say("HGET", &format!("run:{id}"), &["another"])
            .await;
        assert_eq!(kept, "{}", "{id}");
    }
    stack.end().await;
}

#[test]
fn no_two_consumers_have_one_name() {
    let names = || {
        (0..10_000)
            .map(|_| worker::unique_name())
            .collect::<Vec<_>>()
    };
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(names)).collect();
    let names: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let once: HashSet<&String> = names.iter().collect();
    assert_eq!(once.len(), names.len());
}

#[tokio::test]
async fn a_jump_of_the_clock_of_redis_ended_every_run() {
    let mut core = parts::core(&redis::settings(), parts::runs()).await;
    core.clock = Clock::skewed(0);
    assembly::sync_clock(&core).await.unwrap();
    // For a process that goes by an even clock it is the same as if that of Redis had jumped ahead.
    core.clock.shift(-3_600_000);
    core.store.ensure_group().await.unwrap();
    parts::admit(&core, &[json!({"id": "one"}).to_string()]).await;
    let room = FleetLimits {
        apps: vec![APP.to_owned()],
        max_in_flight: 10,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    };
    let lease = core.runs.lease;
    let claim = core.store.claim(&room, 1, core.clock.now_ms(), lease).await;
    assert_eq!(claim.unwrap().runs.len(), 1);
    let late = async || {
        let views = core.store.overdue_unleased(core.clock.now_ms(), 10).await;
        views.unwrap().len()
    };
    for tries in 1..3 {
        assembly::sync_clock(&core).await.unwrap();
        assert_eq!(late().await, 0, "after {tries} tries");
        assert_eq!(core.metrics.clock_jumps.get(), tries);
    }
    // It stays so, and counts.
    assembly::sync_clock(&core).await.unwrap();
    assert_eq!(late().await, 1);
}
