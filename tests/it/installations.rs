//! Several installations in one provider app, and one whose Redis was emptied: none has to do with
//! another's machines.

use std::time::Duration;

use cofferdam::machines::Force;
use cofferdam::run::id::{Attempt, Nonce};
use cofferdam::stage::Deps;
use cofferdam::store::codec::View;
use cofferdam::token::Grant;
use serde_json::{Value, json};

use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::settings;
use crate::support::stack::{APP, Plan, Stack};
use crate::support::until::until;

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

    async fn reaches(&self, id: &str, state: &str) -> View {
        until(&format!("the other's {id} to be {state}"), async || {
            let view = self.deps.core.store.view(&id.parse().unwrap()).await;
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
    stack.submit(hangs("reuse")).await;
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
    let id = old.machine_id.unwrap();
    // Nobody knows it any more.
    let _ = stack.machines.delete(APP, &id, Force::Yes).await;
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
