//! A Redis over TCP, one with users and a database of its own, one at a socket, and Valkey: each is
//! killed under the runs and comes back.

use std::process::Command;

use crate::redis_deployments::{DELAY, Env, RUNS, borrowed, redis};
use crate::redis_faults::scene::Scene;
use crate::support::parts::skipped;
use crate::support::redis::Server;

async fn runs_end_once(mut server: Server, env: Env) {
    let mut scene = Scene::start_with(redis(&env), &borrowed(&env), DELAY).await;
    scene.submit_by_store(RUNS).await;
    scene.has_results(RUNS / 10).await;
    server.stop();
    tokio::time::sleep(DELAY).await;
    server.resume();
    scene.settles().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_redis_that_is_killed_under_the_runs_ends_each_once() {
    let server = Server::start();
    let env = vec![("REDIS_URL", server.tcp_url())];
    runs_end_once(server, env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_users_and_databases_that_is_killed_ends_each_run_once() {
    let server = Server::start_as(&["--user", "us", "on", ">h/sh", "~*", "+@all"]);
    let url = server.tcp_url().replace("://", "://us:h%2Fsh@");
    let env = vec![("REDIS_URL", format!("{url}?db=3"))];
    let settings = redis(&env);
    runs_end_once(server, env).await;
    assert_eq!(settings.url.expose().db, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_at_a_socket_that_is_killed_ends_each_run_once() {
    let server = Server::start();
    let env = vec![("REDIS_URL", server.url())];
    runs_end_once(server, env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_that_is_killed_under_the_runs_ends_each_once() {
    if Command::new("valkey-server")
        .arg("--version")
        .output()
        .is_err()
    {
        skipped("valkey-server is not installed");
        return;
    }
    let server = Server::start_program("valkey-server", &[]);
    let env = vec![("REDIS_URL", server.tcp_url())];
    runs_end_once(server, env).await;
}
