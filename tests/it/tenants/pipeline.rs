//! Tenants on the whole pipeline: real workers and endpoint, the local Machines server, guests
//! that it plays.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cofferdam::run::id::Attempt;
use cofferdam::store::tenants::Change;
use cofferdam::token::Grant;
use serde_json::{Value, json};

use super::tenant;
use crate::support::parts;
use crate::support::stack::{Plan, Stack};
use crate::support::until::until_within;

const BOUND: Duration = Duration::from_secs(300);

/// Appends many requests at once: `<tenant>-<n>` from `first` on.
async fn submit_many(stack: &Stack, tenant: &str, first: usize, count: usize) -> Vec<String> {
    let ids: Vec<String> = (first..first + count)
        .map(|n| format!("{tenant}-{n}"))
        .collect();
    let requests: Vec<String> = ids
        .iter()
        .map(|id| json!({"id": id, "tenant": tenant, "cmd": ["true"]}).to_string())
        .collect();
    stack.core.store.submit(&requests).await.unwrap();
    ids
}

/// Waits until `count` results satisfy `which`, and answers all results so far, in their order.
async fn results(stack: &Stack, count: usize, which: impl Fn(&Value) -> bool) -> Vec<Value> {
    until_within(BOUND, &format!("{count} results"), || async {
        let results = stack.results().await;
        let found = results.iter().filter(|result| which(result)).count();
        if found >= count {
            Ok(results)
        } else {
            Err(format!("{found} of {} results", results.len()))
        }
    })
    .await
}

fn is_of(tenant: &'static str) -> impl Fn(&Value) -> bool + Copy {
    move |result| result["tenant"] == tenant
}

/// Waits until this many runs of a tenant wait.
async fn backlog(stack: &Stack, name: &str, least: u64) {
    until_within(BOUND, "the backlog", || async {
        let now = stack.core.clock.now_ms();
        let view = stack.core.store.tenant(&tenant(name), now).await.unwrap();
        if view.waiting >= least {
            Ok(())
        } else {
            Err(format!("{view:?}"))
        }
    })
    .await;
}

/// The issue's own story. Time is counted in runs that ended, so that a busy computer fails no
/// test: an empty system with ten slots does ten runs in the time of ten ends, so twice that time
/// is that of twenty.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_runs_of_one_do_not_keep_ten_of_another_waiting() {
    let stack = Plan::simulated(Duration::from_secs(1))
        .runs(|runs| runs.max_in_flight = 10.try_into().unwrap())
        .start()
        .await;
    stack.core.store.pause(None, true, None).await.unwrap();
    submit_many(&stack, "a", 0, 50_000).await;
    backlog(&stack, "a", 50_000).await;
    stack.core.store.pause(None, false, None).await.unwrap();
    // The house is full, and has been for a while.
    results(&stack, 20, |_| true).await;
    for id in submit_many(&stack, "b", 0, 10).await {
        stack.reaches(&id, "queued").await;
    }
    // From here on b's runs are known; what went before they were read is nobody's turn taken.
    let known_at = stack.core.clock.now_ms();
    let all = results(&stack, 10, is_of("b")).await;
    let last = all.iter().rposition(is_of("b")).unwrap();
    let after = |result: &&Value| result["settled_at_ms"].as_u64().unwrap() > known_at;
    let ended = all[..=last].iter().filter(after).count();
    assert!(ended <= 20 + 6, "b's tenth was the {ended}th to end");
    let mut boots: Vec<(u64, &str)> = all
        .iter()
        .map(|result| {
            let at = result["booting_at_ms"].as_u64().unwrap();
            (at, result["tenant"].as_str().unwrap())
        })
        .collect();
    boots.sort_unstable();
    let first_b = boots.iter().position(|(_, tenant)| *tenant == "b").unwrap();
    let between = boots[..first_b].iter().filter(|(at, _)| *at > known_at);
    assert_eq!(between.count(), 0, "b's first boots at the next free slot");
    stack.core.store.pause(None, true, None).await.unwrap();
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_share_out_completions() {
    let stack = Plan::simulated(Duration::from_millis(20))
        .runs(|runs| runs.max_in_flight = 10.try_into().unwrap())
        .start()
        .await;
    stack
        .core
        .store
        .configure(&tenant("a"), &[Change::Weight(Some(3.0))])
        .await
        .unwrap();
    stack.core.store.pause(None, true, None).await.unwrap();
    submit_many(&stack, "a", 0, 1500).await;
    submit_many(&stack, "b", 0, 1500).await;
    backlog(&stack, "a", 1500).await;
    backlog(&stack, "b", 1500).await;
    stack.core.store.pause(None, false, None).await.unwrap();
    let all = results(&stack, 1000, |_| true).await;
    let a = all[..1000]
        .iter()
        .filter(|result| is_of("a")(result))
        .count();
    // 3 : 1 within 5 %.
    assert!((741..=759).contains(&a), "{a} of 1000");
    stack.core.store.pause(None, true, None).await.unwrap();
    stack.end().await;
}

/// Runs of three tenants while workers are killed again and again. The provider itself refuses
/// one machine more than the fleet may have, and says so in its answers; what each tenant has is
/// looked at all the time.
async fn caps_hold(count: usize) {
    const FLEET: u32 = 12;
    const TENANT: usize = 5;
    let mut stack = Plan::simulated(Duration::from_millis(5))
        .workers(3)
        .machines(FLEET as usize)
        .runs(|runs| {
            runs.max_in_flight = FLEET.try_into().unwrap();
            runs.tenant_max_in_flight = Some(TENANT as u32);
            runs.lease = Duration::from_secs(1);
        })
        .start()
        .await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.extend(submit_many(&stack, name, 0, count / 3).await);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let look = look_at_machines(&stack, is_over.clone());
    let mut looks = tokio::task::JoinSet::new();
    looks.spawn(look);
    let mut kills = 0;
    let deadline = tokio::time::Instant::now() + BOUND * 4;
    while stack.raw.length("results").await < ids.len() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the runs take too long"
        );
        // A worker dies, wherever it stands.
        stack.workers.remove(0).kill().await;
        stack.add_worker();
        kills += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stack.settles(&ids, BOUND).await;
    is_over.store(true, Ordering::SeqCst);
    let (looked, most) = looks.join_next().await.unwrap().unwrap();
    assert!(looked > 10 && kills > 2, "{looked} looks, {kills} kills");
    for (name, most) in &most {
        assert!(*most <= TENANT, "{name} had {most} machines");
    }
    assert_eq!(most.len(), 3);
    // The provider refused none: nobody was ever told that there is no room.
    for id in &ids {
        let view = stack.view(id).await.unwrap();
        assert_eq!((view.deferred, view.refusals), (0, 0), "{id} was refused");
    }
    stack.end().await;
}

/// Looks at the provider's list until told to stop: the most machines that each tenant had.
fn look_at_machines(
    stack: &Stack,
    is_over: Arc<AtomicBool>,
) -> impl Future<Output = (usize, HashMap<String, usize>)> + use<> {
    let machines = stack.machines.clone();
    async move {
        let (mut looked, mut most) = (0, HashMap::new());
        while !is_over.load(Ordering::SeqCst) {
            let listed = machines
                .list(crate::support::stack::APP, &Default::default())
                .await
                .unwrap();
            let mut now: HashMap<String, usize> = HashMap::new();
            for machine in listed.iter().filter(|machine| !machine.state.is_gone()) {
                let name = machine.name.strip_prefix("sandbox-").unwrap();
                let (tenant, _) = name.split_once('-').unwrap();
                *now.entry(tenant.to_owned()).or_default() += 1;
            }
            for (tenant, count) in now {
                let known = most.entry(tenant).or_default();
                *known = count.max(*known);
            }
            looked += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (looked, most)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_exactly_while_workers_are_killed() {
    caps_hold(900).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes some minutes"]
async fn caps_hold_exactly_over_20_000_runs_while_workers_are_killed() {
    caps_hold(20_001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_start_at_their_time_even_among_workers_that_did_not_take_them_in() {
    let stack = Plan::simulated(Duration::from_millis(5))
        .workers(3)
        .start()
        .await;
    let at = stack.core.clock.now_ms() + 2_000;
    let mut ids = Vec::new();
    for _ in 0..9 {
        ids.push(
            stack
                .submit(json!({"cmd": ["true"], "not_before_ms": at}))
                .await,
        );
    }
    stack.settles(&ids, BOUND).await;
    let mut late: Vec<u64> = Vec::new();
    for id in &ids {
        let began = stack.view(id).await.unwrap().booting_at_ms.unwrap();
        assert!(began >= at, "{id} started {} ms early", at - began);
        late.push(began - at);
    }
    late.sort_unstable();
    // The middle one: a computer may be busy elsewhere for a moment.
    assert!(late[4] < 250, "late by {late:?} ms");
    stack.end().await;
}

/// What a guest of the run would hear now.
async fn post(stack: &Stack, id: &str) -> u16 {
    let view = stack.view(id).await.unwrap();
    let grant = Grant {
        run: id.parse().unwrap(),
        attempt: Attempt(view.attempt.max(1)),
        expires_s: stack.core.clock.now_ms() / 1000 + 60,
        nonce: view.nonce,
    };
    let url = stack.endpoint.join("results").unwrap();
    let token = parts::ring().sign(&grant);
    let post = parts::http().post(url).bearer_auth(token).body("42");
    post.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_loses_its_machine_at_once_and_its_token_opens_nothing() {
    let stack = Plan::simulated(Duration::from_secs(600))
        .workers(2)
        .start()
        .await;
    let running = stack.submit(json!({"cmd": ["true"]})).await;
    stack.reaches(&running, "running").await;
    let at = stack.core.clock.now_ms() + 600_000;
    let delayed = stack
        .submit(json!({"cmd": ["true"], "not_before_ms": at}))
        .await;
    for id in [&running, &delayed] {
        let order = stack.raw.add("control", &[("cancel", id)]).await;
        let asked_at: u64 = order.split('-').next().unwrap().parse().unwrap();
        let result = stack.result(id).await;
        assert_eq!(result["outcome"], "cancelled");
        assert_eq!(post(&stack, id).await, 401);
        let view = stack.reaches(id, "closed").await;
        let took = view.closed_at_ms.unwrap().saturating_sub(asked_at);
        assert!(took < 2_000, "the machine was gone after {took} ms");
    }
    // Once more changes nothing.
    stack.raw.add("control", &[("cancel", &running)]).await;
    stack.settles(&[running, delayed], BOUND).await;
    until_within(BOUND, "the orders to be gone", || async {
        match stack.raw.length("control").await {
            0 => Ok(()),
            left => Err(left.to_string()),
        }
    })
    .await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_while_it_boots_leaves_no_machine() {
    let stack = Plan::simulated(Duration::from_secs(600))
        .faults(&["create: delay ms=700"])
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    stack.reaches(&id, "booting").await;
    stack.raw.add("control", &[("cancel", &id)]).await;
    assert_eq!(stack.result(&id).await["outcome"], "cancelled");
    assert_eq!(post(&stack, &id).await, 401);
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_right_behind_its_request_is_not_lost() {
    let stack = Plan::simulated(Duration::from_secs(600))
        .workers(2)
        .start()
        .await;
    let mut ids = Vec::new();
    for n in 0..40 {
        let id = format!("quick-{n}");
        let request = json!({"id": id, "cmd": ["true"]});
        stack.submit(request).await;
        stack.raw.add("control", &[("cancel", &id)]).await;
        ids.push(id);
    }
    stack.settles(&ids, BOUND).await;
    let results = stack.results().await;
    assert!(
        results
            .iter()
            .all(|result| result["outcome"] == "cancelled")
    );
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_runs_are_cancelled_while_workers_boot_them() {
    let stack = Plan::simulated(Duration::from_millis(300))
        .workers(2)
        .start()
        .await;
    let mut ids = submit_many(&stack, "a", 0, 400).await;
    ids.extend(submit_many(&stack, "b", 0, 5).await);
    results(&stack, 20, |_| true).await;
    stack.raw.add("control", &[("cancel_tenant", "a")]).await;
    stack.settles(&ids, BOUND).await;
    let all = stack.results().await;
    let cancelled = all.iter().filter(|result| result["outcome"] == "cancelled");
    assert!(cancelled.clone().count() >= 200, "{}", cancelled.count());
    assert!(cancelled.clone().all(is_of("a")));
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_is_told_in_the_result() {
    let stack = Plan::simulated(Duration::from_millis(50))
        .runs(|runs| {
            runs.max_in_flight = 1.try_into().unwrap();
            runs.tenant_backlog_max = Some(5);
        })
        .start()
        .await;
    let ids = submit_many(&stack, "a", 0, 30).await;
    stack.settles(&ids, BOUND).await;
    let all = stack.results().await;
    let rejected: Vec<_> = all
        .iter()
        .filter(|result| result["outcome"] == "rejected")
        .collect();
    assert!((20..=25).contains(&rejected.len()), "{}", rejected.len());
    assert!(
        rejected
            .iter()
            .all(|result| result["reason"]["code"] == "queue_full")
    );
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_is_counted_on_the_way() {
    let stack = Plan::simulated(Duration::from_millis(200)).start().await;
    let ids = submit_many(&stack, "a", 0, 10).await;
    stack.settles(&ids, BOUND).await;
    let day = cofferdam::run::day::Day::of(stack.core.clock.now_ms());
    let all = stack
        .core
        .store
        .usage_of_all("2000-01-01".parse().unwrap(), day)
        .await
        .unwrap();
    let seconds: f64 = all.iter().map(|used| used.machine_s).sum();
    let completed: u64 = all.iter().map(|used| used.runs["completed"]).sum();
    assert_eq!(completed, 10);
    // Each run is counted in whole milliseconds, from one clock reading to another.
    assert!(seconds >= 1.9, "{all:?}");
    stack.end().await;
}
