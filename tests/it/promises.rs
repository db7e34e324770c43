//! The contract's promises, a test each, bearing its number. What each one means in detail is in
//! the suites beside this; here it is held on the whole stack.

use std::collections::HashMap;
use std::time::Duration;

use cofferdam::run::id::Attempt;
use cofferdam::store::requests::Requests;
use cofferdam::token::Grant;
use serde_json::{Value, json};

use crate::support::parts;
use crate::support::stack::{APP, Plan};
use crate::support::until::until;

const BOUND: Duration = Duration::from_secs(60);

fn outcomes(results: &[Value]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for result in results {
        *counts
            .entry(result["outcome"].as_str().unwrap().to_owned())
            .or_insert(0) += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_every_accepted_request_ends_in_exactly_one_result() {
    let rules = ["create every=7: lose", "delete every=5: refuse status=503"];
    let plan = Plan::simulated(Duration::from_millis(30))
        .faults(&rules)
        .workers(2);
    let mut stack = plan.start().await;
    let mut ids = Vec::new();
    let mut faulty = Vec::new();
    for n in 0..60 {
        ids.push(stack.submit(json!({"cmd": ["true"]})).await);
        // The same request again, and again after the run may have ended.
        stack
            .submit(json!({"id": ids[n / 2], "cmd": ["true"]}))
            .await;
        if n % 10 == 0 {
            faulty.push(stack.submit(json!({"cmd": []})).await);
            stack.workers.remove(0).kill().await;
            stack.add_worker();
        }
    }
    ids.extend(faulty);
    stack.settles(&ids, BOUND).await;
    let counts = outcomes(&stack.results().await);
    assert_eq!(counts["completed"], 60, "{counts:?}");
    assert_eq!(counts["rejected"], 6, "{counts:?}");
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_no_machine_outlives_its_run() {
    // The guests never post, and every worker dies while their machines run.
    let plan = Plan::simulated(Duration::from_secs(600)).runs(|runs| {
        runs.run_timeout = Duration::from_secs(3);
    });
    let mut stack = plan.start().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(stack.submit(json!({"cmd": ["true"]})).await);
    }
    for id in &ids {
        stack.reaches(id, "running").await;
    }
    stack.workers.remove(0).kill().await;
    assert_eq!(stack.live_machines().await.len(), 10);
    let late = stack.view(&ids[9]).await.unwrap().deadline_ms.unwrap();
    until("the last deadline to pass", || async {
        let now = stack.core.clock.now_ms();
        if now > late {
            Ok(())
        } else {
            Err(format!("{} ms to go", late - now))
        }
    })
    .await;
    assert_eq!(
        stack.live_machines().await.len(),
        10,
        "nobody is there to remove them"
    );
    stack.add_worker();
    stack.settles(&ids, BOUND).await;
    assert_eq!(outcomes(&stack.results().await)["timed_out"], 10);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_what_a_dead_worker_had_is_taken_over() {
    let mut stack = Plan::simulated(Duration::from_millis(20))
        .workers(0)
        .start()
        .await;
    stack.core.store.ensure_group().await.unwrap();
    let read = stack.submit(json!({"cmd": ["true"]})).await;
    // Read and not admitted: it stays pending, under a name that no one will use again.
    let mut dead = Requests::new(stack.core.store.clone(), "worker-dead");
    assert_eq!(
        dead.next(10, Duration::from_millis(50))
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(stack.raw.pending("runs").await, 1);
    // Claimed and not booted: it is leased, and no more than that.
    let claimed = stack.submit(json!({"cmd": ["true"]})).await;
    let entries = dead.next(10, Duration::from_millis(50)).await.unwrap();
    cofferdam::stage::intake::intake(&stack.core, &entries)
        .await
        .unwrap();
    let room = cofferdam::store::acts::FleetLimits {
        apps: vec![APP.to_owned()],
        max_in_flight: 10,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    };
    let (now, lease) = (stack.core.clock.now_ms(), stack.core.runs.lease);
    assert_eq!(
        stack
            .core
            .store
            .claim(&room, 10, now, lease)
            .await
            .unwrap()
            .runs
            .len(),
        1
    );
    stack.add_worker();
    stack.settles(&[read, claimed], BOUND).await;
    assert_eq!(stack.raw.pending("runs").await, 0);
    assert_eq!(outcomes(&stack.results().await)["completed"], 2);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_4_a_token_opens_one_attempt_of_one_run_once() {
    let stack = Plan::simulated(Duration::from_secs(600)).start().await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    stack.reaches(&id, "running").await;
    let nonce = stack.raw.nonce(&id).await;
    let token = |run: &str, attempt: u32| {
        parts::ring().sign(&Grant {
            run: run.parse().unwrap(),
            attempt: Attempt(attempt),
            expires_s: stack.core.clock.now_ms() / 1000 + 60,
            nonce: nonce.clone(),
        })
    };
    let post = async |token: String, body: &str| {
        let request = parts::http().post(stack.endpoint.join("/results").unwrap());
        let request = request.bearer_auth(token).body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post(token(&id, 2), "1").await, 401, "another attempt");
    assert_eq!(post(token("another", 1), "1").await, 401, "another run");
    assert_eq!(post(token(&id, 1), "1").await, 201);
    assert_eq!(
        post(token(&id, 1), "1").await,
        200,
        "the identical body again"
    );
    assert_eq!(post(token(&id, 1), "2").await, 401, "spent");
    stack.settles(std::slice::from_ref(&id), BOUND).await;
    assert_eq!(
        post(token(&id, 1), "1").await,
        200,
        "and still, when the run is closed"
    );
    assert_eq!(stack.result(&id).await["payload"], 1);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_what_cannot_be_done_is_said() {
    let rules = ["create name=sandbox-quota-*: refuse status=400 error=\"invalid_argument: no\""];
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&rules)
        .start()
        .await;
    let cases = [
        (
            json!({"id": "bad", "bogus": 1}),
            "rejected",
            "invalid_request",
        ),
        (
            json!({"id": "quota", "cmd": ["true"]}),
            "failed",
            "boot_failed",
        ),
        (
            json!({"id": "image", "image": "none:1"}),
            "failed",
            "image_rejected",
        ),
    ];
    let mut ids = Vec::new();
    for (request, outcome, code) in cases {
        let id = stack.submit(request).await;
        let result = stack.result(&id).await;
        assert_eq!(result["outcome"], outcome, "{result}");
        assert_eq!(result["reason"]["code"], code, "{result}");
        let message = result["reason"]["message"].as_str().unwrap();
        assert!(!message.is_empty(), "{result}");
        ids.push(id);
    }
    stack.raw.add("runs", &[("run", "nonsense")]).await;
    until("the unreadable request to be set aside", || async {
        let dead = stack.core.store.newest_dead(10).await.unwrap();
        if dead.len() == 1 {
            Ok(())
        } else {
            Err(format!("{dead:?}"))
        }
    })
    .await;
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}
