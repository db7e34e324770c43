//! A Redis that lost all it had, and one whose data were put back from an older copy. What was
//! forgotten stays so: its guests' posts open nothing and its machines go at their deadlines. What
//! Redis has afterwards ends as if nothing had been.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use cofferdam::config;
use cofferdam::run::id::{Attempt, Nonce};
use cofferdam::token::Grant;
use serde_json::{Value, json};

use crate::redis_faults::scene::settings;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::stack::{Plan, Stack};
use crate::support::until::until_within;

/// From a machine's boot to its deadline.
const TIMEOUT_S: u64 = 6;
const BOUND: Duration = Duration::from_secs(90);

fn request(id: &str, guest: &str) -> Value {
    json!({"id": id, "cmd": ["true"], "timeout_s": TIMEOUT_S, "env": {"SIMULATED_GUEST": guest}})
}

/// A stack on a Redis of its own, with room for one machine.
async fn stack(server: &Server) -> Stack {
    let plan = Plan {
        redis: settings(server),
        ..Plan::simulated(Duration::from_millis(50))
    };
    let one = |runs: &mut config::Runs| {
        runs.max_in_flight = NonZeroU32::MIN;
        // Redis stands still while it is started again.
        runs.lease = Duration::from_secs(2);
    };
    plan.runs(one).workers(2).start().await
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

/// Results by run. Fails if one has two.
async fn results(stack: &Stack) -> HashMap<String, Value> {
    let mut of_runs = HashMap::new();
    for result in stack.results().await {
        let run = result["run_id"].as_str().unwrap().to_owned();
        let twice = of_runs.insert(run, result);
        assert_eq!(twice, None, "a second result");
    }
    of_runs
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_forgot_everything_what_comes_then_ends_and_nothing_else_does() {
    let server = Server::start();
    let stack = stack(&server).await;
    stack.submit(request("old", "hangs")).await;
    stack.submit(request("waits", "posts")).await;
    let old = stack.reaches("old", "running").await;
    stack.raw.order(&["FLUSHALL"]).await;
    for n in 0..5 {
        stack.submit(request(&format!("new-{n}"), "posts")).await;
    }
    // The same id again is another run.
    stack.submit(request("old", "posts")).await;
    until_within(BOUND, "what came later to end", async || {
        let results = results(&stack).await;
        (results.len() == 6)
            .then_some(())
            .ok_or_else(|| format!("{results:?}"))
    })
    .await;
    assert_eq!(post(&stack, "old", old.nonce).await, 401, "the old guest");
    stack.no_machine().await;
    let results = results(&stack).await;
    assert!(
        results
            .values()
            .all(|result| result["outcome"] == "completed"),
        "{results:?}"
    );
    assert_ne!(results["old"]["machine"]["id"], json!(old.machine_id));
    assert!(!results.contains_key("waits"), "nobody knows of it");
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_older_copy_was_put_back_what_is_in_it_ends_once_and_nothing_else_does() {
    let mut server = Server::start();
    let mut stack = stack(&server).await;
    // In the copy: one that runs and one that waits.
    stack.submit(request("runs", "hangs")).await;
    stack.reaches("runs", "running").await;
    stack.submit(request("waits", "hangs")).await;
    stack.reaches("waits", "queued").await;
    let copy = server.copy();

    // What happens then is forgotten: the first ends, the second runs, a third is asked for.
    let of_runs = stack.view("runs").await.unwrap();
    assert_eq!(post(&stack, "runs", of_runs.nonce).await, 201);
    stack.reaches("runs", "closed").await;
    let of_waits = stack.reaches("waits", "running").await;
    stack.submit(request("later", "hangs")).await;
    stack.reaches("later", "queued").await;
    server.restore(&copy);
    stack.raw = Raw::new(&config::Redis {
        namespace: stack.core.store.keys().namespace().to_owned(),
        ..server.settings()
    })
    .await;

    until_within(BOUND, "what was in the copy to end", async || {
        let Ok(published) = stack.core.store.newest_results(100).await else {
            return Err("redis does not answer".to_owned());
        };
        (published.len() >= 2)
            .then_some(())
            .ok_or_else(|| format!("{} results", published.len()))
    })
    .await;
    assert_eq!(
        post(&stack, "waits", of_waits.nonce).await,
        401,
        "the forgotten guest"
    );
    let ids = ["runs", "waits"].map(str::to_owned);
    stack.settles(&ids, BOUND).await;
    let results = results(&stack).await;
    assert_ne!(
        results["waits"]["machine"]["id"],
        json!(of_waits.machine_id)
    );
    assert!(!results.contains_key("later"), "nobody knows of it");
    stack.end().await;
}
