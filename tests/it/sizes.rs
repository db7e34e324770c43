//! Requests as large as they may be, by the default settings: what a worker needs of memory, and
//! that nobody waits behind them for ever.

use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::run::day::Day;
use serde_json::json;

use crate::support::command::Daemon;
use crate::support::fleet::Fleet;
use crate::support::memory::MemoryLimit;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::throttle::Throttle;
use crate::support::until::until_within;

const MIB: usize = 1 << 20;
/// What a worker needs at the most, as `docs/architecture.md` says: `fly.toml` gives it 512 MB.
const NEEDED_KIB: u64 = 384 << 10;
/// A minute is enough on a computer that does nothing else.
const BOUND: Duration = Duration::from_secs(240);

async fn submit(raw: &Raw, id: &str, bytes: usize) {
    let request = json!({"id": id, "cmd": ["true"], "input": "x".repeat(bytes)});
    raw.add("runs", &[("run", &request.to_string())]).await;
}

async fn all_end(raw: &Raw, worker: &Daemon, runs: usize) {
    until_within(BOUND, "every run to have its result", async || {
        match raw.length("results").await {
            n if n == runs => Ok(()),
            n => Err(format!("{n} of {runs}: {}", worker.said())),
        }
    })
    .await;
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = line.unwrap().split_whitespace().next().unwrap();
    words.parse().unwrap()
}

#[tokio::test]
async fn twenty_of_the_largest_requests_brought_a_worker_down() {
    let server = Server::start();
    let settings = server.settings();
    let raw = Raw::new(&settings).await;
    let fleet = Fleet::start_on(settings, &["--simulate", "100"], &[]).await;
    for n in 0..20 {
        if n % 2 == 0 {
            submit(&raw, &format!("large-{n}"), 15 * MIB).await;
            continue;
        }
        // What goes on to the provider is held longer than an input.
        let file = json!({"guest_path": "/a", "raw_value": "QUJD".repeat(15 * MIB / 4)});
        let request = json!({"id": format!("large-{n}"), "cmd": ["true"], "files": [file]});
        raw.add("runs", &[("run", &request.to_string())]).await;
    }
    let (worker, _) = fleet.worker().await;
    let limit = MemoryLimit::of_fly();
    if let Some(limit) = &limit {
        limit.hold(worker.pid());
    }
    all_end(&raw, &worker, 20).await;
    assert_eq!(limit.as_ref().map_or(0, MemoryLimit::kills), 0);
    let peak = peak_kib(worker.pid());
    println!("a worker needed {} MiB", peak / 1024);
    assert!(peak < NEEDED_KIB, "{peak} KiB");
    drop(worker);
    fleet.finish().await;
}

#[tokio::test]
async fn behind_large_requests_on_a_slow_link_small_ones_waited_for_ever() {
    let server = Server::start();
    let settings = server.settings();
    let raw = Raw::new(&settings).await;
    let address = server.tcp_url().replace("redis://", "");
    let link = Throttle::start(address, 10_000_000).await;
    let fleet = Fleet::start_on(settings, &["--simulate", "100"], &[]).await;
    for n in 0..8 {
        submit(&raw, &format!("large-{n}"), 12_000_000).await;
    }
    for n in 0..20 {
        submit(&raw, &format!("small-{n}"), 10).await;
    }
    let (worker, _) = fleet.worker_with(&[("REDIS_URL", &link.url())]).await;
    all_end(&raw, &worker, 28).await;
    drop(worker);
    fleet.finish().await;
}

/// How much Redis keeps beside runs and results could not be set.
#[tokio::test]
async fn what_redis_keeps_beside_runs_has_the_bounds_that_are_set() {
    let settings = [
        ("COFFERDAM_DEAD_MAX", "3"),
        ("COFFERDAM_USAGE_RETENTION_S", "7200"),
    ];
    let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
    let (worker, _) = fleet.worker().await;
    let raw = fleet.raw().await;
    for n in 0..5 {
        raw.add("runs", &[("nothing", &n.to_string())]).await;
    }
    fleet.tool(&["submit", "--id", "one", "--", "true"]).done();
    fleet.until_state("one", "closed").await;
    until_within(BOUND, "the newest dead letters", async || {
        let fields: Vec<String> = raw.fields("dead", "nothing").await;
        if fields == ["2", "3", "4"] {
            Ok(())
        } else {
            Err(format!("{fields:?}"))
        }
    })
    .await;
    let today = Day::of(Clock::system().now_ms());
    let usage = format!("usage:{today}:default");
    let left: i64 = raw.say("PTTL", &usage, &[]).await;
    assert!((1..=7_200_000).contains(&left), "{usage}: {left}");
    worker.finish().await;
    fleet.finish().await;
}
