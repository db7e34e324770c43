//! No machine outlives its deadline for long, whatever becomes of Redis and of the workers.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::redis_faults::full::{fleet, hang, machines, results};
use crate::support::command::Daemon;
use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::redis::Server;
use crate::support::until::until_within;

/// Guests that hang have this long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long after its deadline a machine may be there at the most, as the documentation says.
const BOUND: Duration = Duration::from_secs(30);
const RUNS: usize = 5;

/// Runs that hang, and since when.
async fn hanging(server: &Server) -> (Fleet, Daemon, Instant) {
    let fleet = fleet(server, "50", &[]).await;
    let (worker, _) = fleet.worker().await;
    let raw = fleet.raw().await;
    hang(&raw, RUNS).await;
    machines(&fleet, RUNS).await;
    (fleet, worker, Instant::now())
}

async fn gone_in_time(fleet: &Fleet, since: Instant) {
    machines(fleet, 0).await;
    let took = since.elapsed();
    assert!(took <= TIMEOUT + BOUND, "machines lived for {took:?}");
}

/// Each run ends once, by its deadline and not by what was seen of its machine.
async fn all_timed_out(fleet: &Fleet) {
    results(&fleet.raw().await, RUNS).await;
    let core = parts::core(&fleet.redis, parts::runs()).await;
    for result in core.store.newest_results(RUNS).await.unwrap() {
        let result: Value = serde_json::from_str(&result.result).unwrap();
        assert_eq!(result["outcome"], "timed_out", "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_lets_no_machine_outlive_its_deadline() {
    let server = Server::start();
    let (fleet, worker, since) = hanging(&server).await;
    server.freeze();
    gone_in_time(&fleet, since).await;
    server.thaw();
    all_timed_out(&fleet).await;
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_lets_no_machine_outlive_its_deadline() {
    let mut server = Server::start();
    let (fleet, worker, since) = hanging(&server).await;
    server.stop();
    // The worker does it, before the Machines server would do it by itself.
    until_within(
        TIMEOUT + BOUND,
        "the worker to delete all of them",
        async || {
            let said = worker.said();
            let deleted = said.matches("the signed deadline passed").count();
            (deleted >= RUNS).then_some(()).ok_or(said)
        },
    )
    .await;
    gone_in_time(&fleet, since).await;
    server.resume();
    all_timed_out(&fleet).await;
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_machine_ends_at_its_deadline_without_any_worker() {
    let server = Server::start();
    let (fleet, mut worker, since) = hanging(&server).await;
    worker.signal(Signal::KILL);
    worker.ended(BOUND).await;
    gone_in_time(&fleet, since).await;
    let (worker, _) = fleet.worker().await;
    all_timed_out(&fleet).await;
    worker.finish().await;
    fleet.finish().await;
}
