//! A Redis that is there and does not serve, or is away for a while.

use std::time::Duration;

use cofferdam::run::id::Attempt;
use cofferdam::token::Grant;
use serde_json::json;
use tokio::time::Instant;

use crate::redis_faults::scene::{Scene, settings};
use crate::support::fleet::ring;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::until::until;

/// How long a trouble lasts.
const LASTS: Duration = Duration::from_secs(3);
/// More of one processor than a process uses that waits, and less than one uses that spins.
const SHARE_MAX: f64 = 0.25;
/// More lines than who waits writes, and fewer than who tells of each try.
const LINES_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It became a replica whose primary is away.
    ReadOnly,
    /// It takes no more connections, and those that were are gone.
    NoConnections,
    /// It stands still, connections open.
    Hangs,
    /// It was killed.
    Down,
}

impl Trouble {
    async fn begins(self, server: &mut Server, raw: &Raw) {
        match self {
            Self::ReadOnly => raw.order(&["REPLICAOF", "127.0.0.1", "1"]).await,
            Self::NoConnections => {
                raw.order(&["CONFIG", "SET", "maxclients", "1"]).await;
                raw.kill_connections().await;
            }
            Self::Hangs => server.freeze(),
            Self::Down => server.stop(),
        }
    }

    async fn ends(self, server: &mut Server, raw: &Raw) {
        match self {
            Self::ReadOnly => raw.order(&["REPLICAOF", "NO", "ONE"]).await,
            Self::NoConnections => raw.order(&["CONFIG", "SET", "maxclients", "1000"]).await,
            Self::Hangs => server.thaw(),
            Self::Down => server.resume(),
        }
    }
}

async fn check(trouble: Trouble) {
    let mut server = Server::start();
    let url = server.tcp_url();
    let mut scene = Scene::start(settings(&server), &url, Duration::from_millis(300)).await;
    let hangs = json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": "hangs"}});
    scene.submit([hangs]).await;
    let core = scene.core().await;
    let first = "run-0".parse().unwrap();
    until("the first run to be running", async || {
        let view = core.store.record(&first).await.unwrap();
        match view {
            Some(view) if view.state == "running" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let token = ring().sign(&Grant {
        run: first,
        attempt: Attempt(1),
        expires_s: core.clock.now_ms() / 1000 + 120,
        nonce: scene.fleet.raw().await.nonce("run-0").await,
    });
    let http = parts::http();
    let results = format!("http://{}/results", scene.fleet.endpoint);
    let post = async || {
        let post = http.post(&results).bearer_auth(&token).body("42");
        post.send().await.unwrap()
    };
    scene.submit_many(20).await;
    let raw = scene.fleet.raw().await;
    drop(core);

    trouble.begins(&mut server, &raw).await;
    let lines = |scene: &Scene| scene.worker.said().lines().count();
    let (began, lines_before) = (Instant::now(), lines(&scene));
    let used = |scene: &Scene| [scene.worker.processor_s(), scene.fleet.serve.processor_s()];
    let used_before = used(&scene);
    while began.elapsed() < LASTS {
        let answer = post().await;
        assert_eq!(answer.status(), 503, "{trouble:?}");
        assert_eq!(answer.headers()["retry-after"], "1", "{trouble:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = began.elapsed().as_secs_f64();
    for (before, after) in used_before.into_iter().zip(used(&scene)) {
        let share = (after - before) / took;
        assert!(share < SHARE_MAX, "{trouble:?}: {share:.2} of a processor");
    }
    let told = lines(&scene) - lines_before;
    assert!(told < LINES_MAX, "{trouble:?}: {told} lines");
    trouble.ends(&mut server, &raw).await;

    until("the post to be taken", async || {
        match post().await.status().as_u16() {
            // It may have been taken before, and only the answer was lost.
            200 | 201 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    scene.settles().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_became_read_only_is_waited_for() {
    check(Trouble::ReadOnly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_connections_is_waited_for() {
    check(Trouble::NoConnections).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_waited_for() {
    check(Trouble::Hangs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_killed_comes_back_with_its_file_and_nothing_is_lost() {
    check(Trouble::Down).await;
}
