//! Several installations in one provider app, and one whose Redis was emptied: none has to do with
//! another's machines.

use std::time::Duration;

use cofferdam::machines::wire::Machine;
use cofferdam::run::id::{Attempt, Nonce};
use cofferdam::stage::Deps;
use cofferdam::store::codec::RunRecord;
use cofferdam::token::Grant;
use serde_json::{Value, json};

use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::settings;
use crate::support::stack::{APP, Plan, Stack, TOKEN};
use crate::support::until::{until, until_within};

/// Another installation, whose worker makes its machines in the app of a stack.
struct Other {
    deps: Deps,
    raw: Raw,
}

impl Other {
    async fn beside(stack: &mut Stack) -> Self {
        let redis = settings();
        let runs = (*stack.core.runs).clone();
        let deps = Deps {
            core: parts::core(&redis, runs).await,
            ..stack.deps()
        };
        stack.add_worker_of(deps.clone());
        let raw = Raw::new(&redis).await;
        Self { deps, raw }
    }

    async fn submit(&self, request: &Value) {
        self.raw.add("runs", &[("run", &request.to_string())]).await;
    }

    async fn reaches(&self, id: &str, state: &str) -> RunRecord {
        until(&format!("the other's {id} to be {state}"), async || {
            let view = self.deps.core.store.record(&id.parse().unwrap()).await;
            match view.unwrap() {
                Some(view) if view.state == state => Ok(view),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }
}

fn hangs(id: &str) -> Value {
    json!({"id": id, "cmd": ["true"], "env": {"SIMULATED_GUEST": "hangs"}})
}

async fn post(stack: &Stack, id: &str, nonce: Option<Nonce>) -> u16 {
    let token = parts::ring().sign(&Grant {
        run: id.parse().unwrap(),
        attempt: Attempt(1),
        expires_s: stack.core.clock.now_ms() / 1000 + 60,
        nonce,
    });
    let url = stack.endpoint.join("results").unwrap();
    let post = parts::http().post(url).bearer_auth(token).body("17");
    post.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_in_two_installations_is_two_machines_and_a_cancel_ends_one() {
    let mut stack = Plan::simulated(Duration::ZERO).start().await;
    let other = Other::beside(&mut stack).await;
    let request = hangs("pr-18");
    stack.submit(request.clone()).await;
    other.submit(&request).await;
    let ours = stack.reaches("pr-18", "running").await;
    let theirs = other.reaches("pr-18", "running").await;
    assert_ne!(ours.machine_id, theirs.machine_id);
    assert_ne!(
        ours.nonce.unwrap().installation(),
        theirs.nonce.unwrap().installation()
    );
    other.raw.add("control", &[("cancel", "pr-18")]).await;
    other.reaches("pr-18", "closed").await;
    let id = ours.machine_id.unwrap();
    let machine = stack.machines.get(APP, &id).await.unwrap();
    assert!(!machine.state.is_over(), "{machine:?}");
    assert_eq!(stack.reaches("pr-18", "running").await.state, "running");
    stack.raw.add("control", &[("cancel", "pr-18")]).await;
    stack
        .settles(&["pr-18".to_owned()], Duration::from_secs(30))
        .await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_was_emptied_an_id_that_comes_again_has_nothing_of_the_old_machine() {
    let stack = Plan::simulated(Duration::ZERO).start().await;
    let mut short = hangs("reuse");
    short["timeout_s"] = json!(5);
    stack.submit(short).await;
    let old = stack.reaches("reuse", "running").await;
    for key in stack.raw.dump().await.keys() {
        stack.raw.delete(key).await;
    }
    stack.submit(hangs("reuse")).await;
    let new = stack.reaches("reuse", "running").await;
    assert_ne!(old.machine_id, new.machine_id);
    assert_eq!(new.attempt, old.attempt);
    assert_eq!(post(&stack, "reuse", old.nonce).await, 401, "the old guest");
    assert_eq!(post(&stack, "reuse", None).await, 401, "one without nonce");
    assert_eq!(post(&stack, "reuse", new.nonce).await, 201);
    assert_eq!(stack.result("reuse").await["payload"], 17);
    // Nobody knows the old machine any more: it goes by the deadline that was signed for it.
    stack
        .settles(&["reuse".to_owned()], Duration::from_secs(30))
        .await;
    stack.end().await;
}

/// A run that a version without nonces has booted, and its token.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_flight_at_an_upgrade_keeps_its_token_and_later_ones_have_new_ones() {
    let stack = Plan::simulated(Duration::ZERO).start().await;
    stack.submit(hangs("before")).await;
    stack.reaches("before", "running").await;
    stack.raw.say::<i64>("HDEL", "run:before", &["nonce"]).await;
    let inflight = format!("inflight:{APP}");
    let flight = ["before", "1 default"];
    stack.raw.say::<i64>("HSET", &inflight, &flight).await;
    assert_eq!(post(&stack, "before", None).await, 201);
    stack.reaches("before", "closed").await;
    stack.submit(hangs("after")).await;
    let after = stack.reaches("after", "running").await;
    assert_eq!(post(&stack, "after", None).await, 401);
    assert_eq!(post(&stack, "after", after.nonce).await, 201);
    let ids = ["before", "after"].map(str::to_owned);
    stack.settles(&ids, Duration::from_secs(30)).await;
    stack.end().await;
}

async fn machine(stack: &Stack, view: &RunRecord) -> Machine {
    let id = view.machine_id.as_deref().unwrap();
    stack.machines.get(APP, id).await.unwrap()
}

/// Two that know nothing of each other, and one whose Redis is a copy of the other's: neither has a
/// run of the machine that it sees.
#[tokio::test(flavor = "multi_thread")]
async fn the_machines_of_another_installation_are_told_and_left_alone() {
    let mut stack = Plan::simulated(Duration::ZERO).start().await;
    let other = Other::beside(&mut stack).await;
    let copy = Other::beside(&mut stack).await;
    stack.submit(hangs("ours")).await;
    let ours = stack.reaches("ours", "running").await;
    let id = ours.nonce.as_ref().unwrap().installation();
    copy.raw.say::<()>("SET", "installation", &[id]).await;
    other.submit(&hangs("theirs")).await;
    let theirs = other.reaches("theirs", "running").await;
    copy.submit(&hangs("copied")).await;
    let copied = copy.reaches("copied", "running").await;
    assert_eq!(copied.nonce.as_ref().unwrap().installation(), id);
    for core in [&stack.core, &other.deps.core, &copy.deps.core] {
        let gauge = &core.metrics.foreign_machines;
        until_within(Duration::from_secs(40), "both to be told", async || {
            let told = gauge.get();
            if told == 2 {
                Ok(())
            } else {
                Err(told.to_string())
            }
        })
        .await;
        assert_eq!(core.metrics.orphan_machines_deleted.get(), 0);
    }
    for view in [&ours, &theirs, &copied] {
        let machine = machine(&stack, view).await;
        assert!(!machine.state.is_over(), "{machine:?}");
    }
    other.raw.add("control", &[("cancel", "theirs")]).await;
    copy.raw.add("control", &[("cancel", "copied")]).await;
    stack.raw.add("control", &[("cancel", "ours")]).await;
    stack
        .settles(&["ours".to_owned()], Duration::from_secs(30))
        .await;
    stack.end().await;
}

/// What a guest writes into its machine's metadata changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_guest_rewrote_its_metadata_is_judged_by_its_run() {
    let stack = Plan::simulated(Duration::ZERO).start().await;
    stack.submit(hangs("rewrites")).await;
    let view = stack.reaches("rewrites", "running").await;
    let id = view.machine_id.as_deref().unwrap();
    for key in ["owner", "installation", "run", "attempt", "deadline"] {
        let url = format!(
            "{}/v1/apps/{APP}/machines/{id}/metadata/cofferdam_{key}",
            stack.api
        );
        let call = parts::http().post(url).bearer_auth(TOKEN);
        let answer = call
            .json(&json!({"value": "9999999999"}))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
    // The run goes on without it, as when a boot was overtaken.
    let raw = &stack.raw;
    raw.say::<i64>(
        "HSET",
        "run:rewrites",
        &["state", "closed", "outcome", "failed"],
    )
    .await;
    raw.say::<i64>("HDEL", &format!("inflight:{APP}"), &["rewrites"])
        .await;
    raw.say::<i64>("ZREM", "due", &["rewrites"]).await;
    stack.no_machine().await;
    assert_eq!(stack.core.metrics.orphan_machines_deleted.get(), 1);
    stack.end().await;
}

/// Its name has no tag, and its token no nonce.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_a_version_without_nonces_is_removed_when_no_run_has_it() {
    let stack = Plan::simulated(Duration::ZERO).start().await;
    let token = parts::ring().sign(&Grant {
        run: "before".parse().unwrap(),
        attempt: Attempt(1),
        expires_s: 1_700_000_000,
        nonce: None,
    });
    let mut create = parts::orphan("before", &parts::ring());
    create["name"] = json!("sandbox-before-1");
    create["config"]["env"]["SANDBOX_RUN_TOKEN"] = json!(token);
    let create = serde_json::from_value(create).unwrap();
    stack.machines.create(APP, &create).await.unwrap();
    stack.no_machine().await;
    until("it to be counted", async || {
        match stack.core.metrics.orphan_machines_deleted.get() {
            1 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    stack.end().await;
}

#[tokio::test]
async fn doctor_tells_of_machines_that_are_not_ours_and_only_of_these() {
    let fleet = Fleet::start(&["--simulate", "60000"], &[]).await;
    let (worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--id", "ours", "--", "true"]).done();
    fleet.until_state("ours", "running").await;
    let doctor = || fleet.tool(&["doctor"]).stdout;
    assert!(!doctor().contains("foreign machines"), "{}", doctor());
    for (name, metadata) in [
        ("sandbox-db", json!({})),
        (
            "sandbox-ours-1-0123456789ab",
            json!({"cofferdam_owner": fleet.redis.namespace, "cofferdam_installation": "0123456789abcdef"}),
        ),
        ("db", json!({})),
    ] {
        let config = json!({"image": "host", "metadata": metadata, "init": {"cmd": ["true"]}});
        let body = json!({"name": name, "config": config});
        fleet.make_machine(&body).await;
    }
    let said = doctor();
    assert!(said.contains("foreign machines"), "{said}");
    assert!(said.contains(": 2 named like ours and not ours"), "{said}");
    assert!(said.contains("fly machine destroy"), "{said}");
    drop(worker);
    fleet.finish().await;
}
