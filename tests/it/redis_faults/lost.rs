//! Answers that are lost after a script ran, connections that break at any moment, scripts that
//! Redis forgot.

use std::time::Duration;

use cofferdam::config::Secret;
use cofferdam::endpoint;
use cofferdam::run::id::Attempt;
use cofferdam::shutdown::Shutdown;
use cofferdam::stage::Core;
use cofferdam::stage::ready::Readiness;
use cofferdam::store::Store;
use cofferdam::token::Grant;
use serde_json::json;
use tokio::net::TcpListener;

use crate::redis_faults::scene::{Scene, settings};
use crate::support::cutter::Cutter;
use crate::support::parts;
use crate::support::redis::Server;
use crate::support::stack::Plan;

/// Runs of each story.
const RUNS: usize = 40;
const DELAY: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_lose_and_double_nothing_from_the_start_on() {
    let server = Server::start();
    let settings = settings(&server);
    let address = server.tcp_url().replace("redis://", "");
    let cutter = Cutter::start(address, 3).await;
    let mut scene = Scene::start(settings, &cutter.url(), DELAY).await;
    scene
        .fleet
        .put_faults(&["create every=9: refuse status=422 error=\"insufficient capacity\""])
        .await;
    scene.submit_many(RUNS).await;
    scene.settles().await;
    let lost = cutter.lost();
    let scripts = lost
        .iter()
        .filter(|(kind, count)| kind.starts_with("EVALSHA") && **count == 3);
    // Those of a run's life (admit, claim, advance, requeue, settle, close), and the sweep's.
    assert!(scripts.count() >= 7, "{lost:?}");
    for kind in ["XREADGROUP", "BLMPOP"] {
        assert_eq!(lost.get(kind), Some(&3), "{lost:?}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_accepted_post_was_not_confirmed_repeats_it_and_changes_nothing() {
    let server = Server::start();
    let plan = Plan {
        redis: settings(&server),
        ..Plan::simulated(DELAY)
    };
    let redis = plan.redis.clone();
    let stack = plan.start().await;
    let id = stack
        .submit(json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "hangs"}}))
        .await;
    stack.reaches(&id, "running").await;
    // The script is known to Redis, so that the answer that is lost is that of its run.
    let other = stack.submit(json!({"cmd": ["true"]})).await;
    stack.result(&other).await;

    let cutter = Cutter::start(server.tcp_url().replace("redis://", ""), 1).await;
    let far = cofferdam::config::Redis {
        url: Secret::new(cutter.url().parse().unwrap()),
        namespace: redis.namespace.clone(),
        ..cofferdam::config::Redis::nearby()
    };
    // Its connection is made and checked, at the cost of an answer to each kind of command.
    let store = loop {
        if let Ok(store) = Store::connect(&far).await {
            break store;
        }
    };
    let core = Core {
        store,
        ..stack.core.with(parts::results(&stack.core.runs))
    };
    let shutdown = Shutdown::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/results", listener.local_addr().unwrap());
    let ring = parts::ring();
    let grant = Grant {
        run: id.parse().unwrap(),
        attempt: Attempt(1),
        expires_s: stack.core.clock.now_ms() / 1000 + 60,
        nonce: stack.raw.nonce(&id).await,
    };
    let token = ring.sign(&grant);
    shutdown.spawn(endpoint::serve(
        listener,
        endpoint::Deps {
            readiness: Readiness::new(core.store.clone(), None),
            core,
            ring,
            artifacts: None,
        },
        shutdown.clone(),
    ));
    let post = async || {
        let post = parts::http().post(&base).bearer_auth(&token).body("42");
        post.send().await.unwrap()
    };
    let first = post().await;
    assert_eq!(first.status(), 503, "{:?}", cutter.lost());
    assert_eq!(first.headers()["retry-after"], "1");
    // It was accepted all the same.
    assert_eq!(stack.result(&id).await["payload"], 42);
    let second = post().await;
    assert_eq!(second.status(), 200, "{:?}", cutter.lost());
    let body: serde_json::Value = second.json().await.unwrap();
    assert_eq!(body, json!({"status": "OK", "repeated": true}));
    assert!(shutdown.finish(Duration::from_secs(20)).await);
    stack.settles(&[id, other], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_killed_and_scripts_that_are_forgotten_lose_and_double_nothing() {
    let server = Server::start();
    let mut scene = Scene::start(settings(&server), &server.tcp_url(), DELAY).await;
    let raw = scene.fleet.raw().await;
    scene.submit_many(RUNS).await;
    for _ in 0..60 {
        raw.kill_connections().await;
        raw.flush_scripts().await;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    scene.settles().await;
    scene.end().await;
}
