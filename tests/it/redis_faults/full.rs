//! A Redis whose memory is full, and stays so: what was admitted ends, no machine outlives its
//! deadline, and what was not admitted waits unread.

use std::time::Duration;

use serde_json::json;

use crate::redis_faults::scene::settings;
use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::until::until_within;

const BOUND: Duration = Duration::from_secs(60);
const TIMES: [(&str, &str); 3] = [
    ("COFFERDAM_LEASE_S", "3"),
    ("COFFERDAM_SWEEP_S", "1"),
    ("COFFERDAM_GRACE_S", "1"),
];

pub(super) async fn fleet(server: &Server, delay_ms: &str, more: &[(&'static str, &str)]) -> Fleet {
    let all: Vec<_> = TIMES.iter().chain(more).copied().collect();
    let args = ["--simulate", delay_ms, "--fault-control"];
    Fleet::start_on(settings(server), &args, &all).await
}

async fn get(admin: &str, path: &str) -> (u16, String) {
    let answer = parts::http().get(format!("http://{admin}{path}"));
    let answer = answer.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits for a line of metrics.
async fn shows(admin: &str, what: impl Fn(&str) -> bool) {
    until_within(BOUND, "the series to show it", async || {
        let (_, text) = get(admin, "/metrics").await;
        text.lines().any(&what).then_some(()).ok_or(text)
    })
    .await;
}

/// Waits until `/readyz` is a no that says `words`.
async fn is_not_ready(admin: &str, words: &str) {
    until_within(BOUND, "readiness to be a no", async || {
        match get(admin, "/readyz").await {
            (503, why) if why.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

pub(super) async fn hang(raw: &Raw, runs: usize) {
    for n in 0..runs {
        let request = json!({"id": format!("hangs-{n}"), "cmd": ["true"], "timeout_s": 5,
            "env": {"SIMULATED_GUEST": "hangs"}});
        raw.add("runs", &[("run", &request.to_string())]).await;
    }
}

pub(super) async fn machines(fleet: &Fleet, count: usize) {
    until_within(BOUND, &format!("{count} machines"), async || {
        let named = fleet.machines_named().await;
        let is_so = named.as_array().is_some_and(|names| names.len() == count);
        is_so.then_some(()).ok_or_else(|| named.to_string())
    })
    .await;
}

pub(super) async fn results(raw: &Raw, count: usize) {
    until_within(BOUND, &format!("{count} results"), async || {
        let results = raw.length("results").await;
        (results == count)
            .then_some(())
            .ok_or_else(|| results.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_lets_no_machine_outlive_its_deadline_and_says_so() {
    let server = Server::start();
    let mut fleet = fleet(&server, "50", &[]).await;
    let serve_admin = fleet.serve.addresses(2).await.remove(1);
    let (worker, admin) = fleet.worker().await;
    let raw = fleet.raw().await;
    hang(&raw, 5).await;
    machines(&fleet, 5).await;
    raw.order(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    for process in [&admin, &serve_admin] {
        is_not_ready(process, "redis is full").await;
        shows(process, |line| {
            line.starts_with("cofferdam_redis_errors_total{kind=\"out_of_memory\"}")
                && !line.ends_with(" 0")
        })
        .await;
    }
    machines(&fleet, 0).await;
    results(&raw, 5).await;
    until_within(BOUND, "every run to be closed", async || {
        let due: usize = raw.say("ZCARD", "due", &[]).await;
        (due == 0)
            .then_some(())
            .ok_or_else(|| format!("{due} due; {}", worker.said()))
    })
    .await;
    worker.finish().await;
    fleet.finish().await;
}

/// No run can end then; machines can.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_writes_lets_no_machine_outlive_its_deadline() {
    let server = Server::start();
    let mut fleet = fleet(&server, "50", &[]).await;
    let serve_admin = fleet.serve.addresses(2).await.remove(1);
    let (worker, admin) = fleet.worker().await;
    let raw = fleet.raw().await;
    hang(&raw, 5).await;
    machines(&fleet, 5).await;
    raw.order(&["REPLICAOF", "127.0.0.1", "1"]).await;
    for process in [&admin, &serve_admin] {
        is_not_ready(process, "it is a replica").await;
    }
    machines(&fleet, 0).await;
    raw.order(&["REPLICAOF", "NO", "ONE"]).await;
    results(&raw, 5).await;
    worker.finish().await;
    fleet.finish().await;
}

/// Requests of 32 KiB, until Redis takes no more. Answers how many it took.
async fn fill(raw: &Raw) -> usize {
    let input = "x".repeat(32 * 1024);
    for n in 0.. {
        let request = json!({"id": format!("n{n}"), "cmd": ["true"], "input": input});
        if !raw.try_add("runs", &[("run", &request.to_string())]).await {
            return n;
        }
    }
    unreachable!()
}

async fn check_that_all_end(is_worker_there: bool) {
    let server = Server::start();
    let more = [
        ("COFFERDAM_MAX_IN_FLIGHT", "5"),
        ("COFFERDAM_BACKLOG_MAX_BYTES", "0"),
    ];
    let fleet = fleet(&server, "20", &more).await;
    let raw = fleet.raw().await;
    raw.order(&["CONFIG", "SET", "maxmemory", "12mb"]).await;
    let mut worker = None;
    if is_worker_there {
        worker = Some(fleet.worker().await.0);
    }
    let taken = fill(&raw).await;
    assert!(taken > 100, "{taken} requests fill it");
    let worker = match worker {
        Some(worker) => worker,
        None => fleet.worker().await.0,
    };
    until_within(BOUND, "every run to end", async || {
        let (left, results) = (raw.length("runs").await, raw.length("results").await);
        let due: usize = raw.say("ZCARD", "due", &[]).await;
        if (left, due, results) == (0, 0, taken) {
            return Ok(());
        }
        let said = worker.said();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        Err(format!(
            "{left} unread, {due} open, {results} of {taken} results, {last:?}"
        ))
    })
    .await;
    // What is counted of the backlog came to nothing with it.
    let bytes: i64 = raw.say("GET", "backlog_bytes", &[]).await;
    assert_eq!(bytes, 0);
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_requests_filled_before_a_worker_came_is_worked_off() {
    check_that_all_end(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_requests_fill_while_runs_are_under_way_is_worked_off() {
    check_that_all_end(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_backlog_in_bytes_stay_unread_until_there_is_room() {
    let server = Server::start();
    let fleet = fleet(&server, "20", &[("COFFERDAM_BACKLOG_MAX_BYTES", "200000")]).await;
    let raw = fleet.raw().await;
    fleet.tool(&["tenants", "pause", "--all"]).done();
    let (worker, admin) = fleet.worker().await;
    let input = "x".repeat(100_000);
    for n in 0..3 {
        let request = json!({"id": format!("first-{n}"), "cmd": ["true"], "input": input});
        raw.add("runs", &[("run", &request.to_string())]).await;
    }
    shows(&admin, |line| line == "cofferdam_intake_stopped 1").await;
    for n in 0..10 {
        let request = json!({"id": format!("second-{n}"), "cmd": ["true"], "input": input});
        raw.add("runs", &[("run", &request.to_string())]).await;
    }
    shows(&admin, |line| line == "cofferdam_requests_unread 10").await;
    assert_eq!(raw.pending("runs").await, 0, "they are not read");
    fleet.tool(&["tenants", "resume", "--all"]).done();
    until_within(BOUND, "every run to end", async || {
        let results = raw.length("results").await;
        (results == 13)
            .then_some(())
            .ok_or_else(|| results.to_string())
    })
    .await;
    shows(&admin, |line| line == "cofferdam_intake_stopped 0").await;
    worker.finish().await;
    fleet.finish().await;
}
