//! Guests that behave badly, all of them together or each by itself: every run has one result.
//!
//! What one guest can do to one endpoint is in `endpoint`, what becomes of its machine in
//! `pipeline`; here is what takes both, or many.

use std::collections::HashSet;
use std::time::Duration;

use cofferdam::run::id::{Attempt, Nonce};
use cofferdam::store::acts::{Claimed, FleetLimits};
use cofferdam::token::Grant;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::support::parts;
use crate::support::stack::{APP, Plan, Stack};

const BOUND: Duration = Duration::from_secs(60);
/// Runs whose guests post at once.
const MANY: usize = 10_000;
/// Connections over which they do.
const CONNECTIONS: usize = 256;

fn token(stack: &Stack, run: &str, attempt: Attempt, nonce: Option<Nonce>) -> String {
    parts::ring().sign(&Grant {
        run: run.parse().unwrap(),
        attempt,
        expires_s: stack.core.clock.now_ms() / 1000 + 600,
        nonce,
    })
}

/// Admits that many runs, and claims them as a worker does.
async fn claimed(stack: &Stack, count: usize) -> Vec<Claimed> {
    let store = &stack.core.store;
    let requests: Vec<String> = (0..count)
        .map(|n| json!({"id": format!("g-{n}")}).to_string())
        .collect();
    parts::admit(&stack.core, &requests).await;
    let room = FleetLimits {
        apps: vec![APP.to_owned()],
        max_in_flight: u32::MAX,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    };
    let mut runs = Vec::with_capacity(count);
    while runs.len() < count {
        let now = stack.core.clock.now_ms();
        let claim = store.claim(&room, 100, now, BOUND).await.unwrap();
        assert!(!claim.runs.is_empty(), "{claim:?}");
        runs.extend(claim.runs);
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_guests_that_post_at_once_are_each_accepted_once() {
    let stack = Plan::simulated(Duration::ZERO).workers(0).start().await;
    let runs = claimed(&stack, MANY).await;
    let (http, url) = (parts::http(), stack.endpoint.join("/results").unwrap());
    let answers = stream::iter(&runs)
        .map(async |run| {
            let token = token(&stack, run.id.as_str(), run.attempt, run.nonce.clone());
            let body = json!({"from": run.id.as_str()}).to_string();
            let post = http.post(url.clone()).bearer_auth(token).body(body);
            post.send().await.unwrap().status().as_u16()
        })
        .buffer_unordered(CONNECTIONS)
        .collect::<Vec<_>>()
        .await;
    assert_eq!(answers.len(), MANY);
    assert!(answers.iter().all(|status| *status == 201));
    let results = stack.results().await;
    assert_eq!(results.len(), MANY);
    let told: HashSet<&str> = results
        .iter()
        .map(|result| {
            assert_eq!(result["payload"]["from"], result["run_id"]);
            result["run_id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(told.len(), MANY, "a run has two results");
    stack.end().await;
}

/// A real guest that runs this Python program.
fn python(program: &str) -> Value {
    json!({"image": "host", "cmd": ["python3", "-c", program], "timeout_s": 4})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_posts_half_a_body_and_hangs_is_gone_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Plan::sandboxed(folder.path()).start().await;
    let id = stack
        .submit(python(
            "import os, socket, time, urllib.parse as p\n\
             u = p.urlparse(os.environ['SANDBOX_RESULT_URL'])\n\
             s = socket.create_connection((u.hostname, u.port))\n\
             t = os.environ['SANDBOX_RUN_TOKEN']\n\
             s.sendall(f'POST {u.path} HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer {t}\\r\\n'\n\
             f'content-length: 9\\r\\n\\r\\n{{\"a\"'.encode())\n\
             time.sleep(600)\n",
        ))
        .await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_posts_again_and_again_has_one_result() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Plan::sandboxed(folder.path()).start().await;
    let id = stack
        .submit(python(
            "import os, threading, urllib.request as u\n\
             def post(n):\n\
             \x20 try: u.urlopen(u.Request(os.environ['SANDBOX_RESULT_URL'], data=str(n).encode(),\n\
             \x20   headers={'Authorization': 'Bearer ' + os.environ['SANDBOX_RUN_TOKEN']}), timeout=3)\n\
             \x20 except OSError: pass\n\
             ts = [threading.Thread(target=post, args=(n,)) for n in range(8)]\n\
             [t.start() for t in ts]; [t.join() for t in ts]; post(1); post(9)\n",
        ))
        .await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    assert!(result["payload"].as_u64().unwrap() < 9, "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_posts_after_its_runs_end_changes_nothing() {
    let plan = Plan::simulated(Duration::from_secs(600));
    let stack = plan.start().await;
    let late = stack.submit(json!({"cmd": ["true"], "timeout_s": 1})).await;
    let cancelled = stack.submit(json!({"cmd": ["true"]})).await;
    stack.reaches(&cancelled, "running").await;
    stack.raw.add("control", &[("cancel", &cancelled)]).await;
    let url = stack.endpoint.join("/results").unwrap();
    for (id, outcome) in [(&late, "timed_out"), (&cancelled, "cancelled")] {
        assert_eq!(stack.result(id).await["outcome"], outcome);
        // The token would live longer: it is the run that is over.
        let token = token(&stack, id, Attempt(1), stack.raw.nonce(id).await);
        let post = parts::http().post(url.clone()).bearer_auth(token).body("1");
        assert_eq!(
            post.send().await.unwrap().status().as_u16(),
            401,
            "{outcome}"
        );
        assert_eq!(stack.result(id).await["outcome"], outcome);
    }
    stack.settles(&[late, cancelled], BOUND).await;
    stack.end().await;
}

/// A guest that got hold of another's token cannot use it: the relay knows which machine sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refused_from_another_machine_than_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Plan::sandboxed(folder.path()).start().await;
    let mut victim = python("import time; time.sleep(600)");
    victim["timeout_s"] = json!(12);
    let victim = stack.submit(victim).await;
    let running = stack.reaches(&victim, "running").await;
    let id = running.machine_id.unwrap();
    let machine = stack.machines.get(APP, &id).await.unwrap();
    let stolen = &machine.config.unwrap().env.0["SANDBOX_RUN_TOKEN"];
    let mut thief = python(
        "import json, os, urllib.error, urllib.request as u\n\
         def post(token, body):\n\
         \x20   headers = {'Authorization': 'Bearer ' + token}\n\
         \x20   r = u.Request(os.environ['SANDBOX_RESULT_URL'], json.dumps(body).encode(), headers)\n\
         \x20   try: return u.urlopen(r).status\n\
         \x20   except urllib.error.HTTPError as e: return e.code\n\
         stolen = post(os.environ['STOLEN'], 'forged')\n\
         post(os.environ['SANDBOX_RUN_TOKEN'], {'stolen': stolen})\n",
    );
    thief["env"] = json!({"STOLEN": stolen});
    let thief = stack.submit(thief).await;
    let result = stack.result(&thief).await;
    assert_eq!(result["payload"], json!({"stolen": 401}), "{result}");
    let result = stack.result(&victim).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    stack.settles(&[victim, thief], BOUND).await;
    stack.end().await;
}
