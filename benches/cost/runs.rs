//! What a run costs: cofferdam, the floor and the peer in turns, each with a Redis of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::load::Cost;
use crate::report::{Part, Report};
use crate::stack::{Size, Stack, System, peer_is_missing};
use crate::standin::{Guests, StandIn};
use crate::times::Times;
use crate::wire::spawn;

/// From the machine's making to its guest's post.
const DELAY: Duration = Duration::from_millis(20);
const SIZE: Size = Size {
    workers: 1,
    in_flight: 1000,
};
/// Runs made one at a time, whose calls are counted.
const COUNTED: usize = 200;

async fn burst(system: System, api: &Arc<StandIn>, runs: usize) -> Cost {
    let stack = Stack::start(system, api, SIZE).await;
    stack.burst(runs, DELAY).await
}

/// Floor and cofferdam in turns, several times: each pair, in its order.
pub(crate) async fn pairs(api: &Arc<StandIn>, rounds: usize, runs: usize) -> Vec<(Cost, Cost)> {
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let floor = burst(System::Floor, api, runs).await;
        pairs.push((floor, burst(System::Cofferdam, api, runs).await));
    }
    pairs
}

/// The middle one of some figures.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn middle(costs: &[Cost]) -> Cost {
    let of = |f: fn(&Cost) -> f64| median(costs.iter().map(f).collect());
    Cost {
        worker_ms: of(|cost| cost.worker_ms),
        endpoint_ms: of(|cost| cost.endpoint_ms),
        redis_ms: of(|cost| cost.redis_ms),
        runs_per_s: of(|cost| cost.runs_per_s),
    }
}

/// What cofferdam's own processes use, as a multiple of the floor's beside them.
pub(crate) fn own_ratio(pairs: &[(Cost, Cost)]) -> f64 {
    ratio(pairs, Cost::own_ms)
}

fn ratio(pairs: &[(Cost, Cost)], of: fn(&Cost) -> f64) -> f64 {
    let ratios = pairs.iter().map(|(floor, ours)| of(ours) / of(floor));
    median(ratios.collect())
}

pub(crate) async fn measure(report: &mut Report, api: &Arc<StandIn>, rounds: usize, runs: usize) {
    let pairs = pairs(api, rounds, runs).await;
    let (floors, ours): (Vec<Cost>, Vec<Cost>) = pairs.iter().copied().unzip();
    let (floor, ours) = (middle(&floors), middle(&ours));
    let mut peer = None;
    match peer_is_missing() {
        Some(why) => report.skipped.push(format!("the peer: {why}")),
        None => {
            let mut costs = Vec::new();
            for _ in 0..rounds.min(3) {
                costs.push(burst(System::Peer, api, runs / 10).await);
            }
            peer = Some(middle(&costs));
        }
    }
    let mut part = Part::new(
        format!("A run's cost: processor ms per run, {rounds} rounds of {runs} runs, medians"),
        &["cofferdam", "floor", "peer", "× floor", "peer ×"],
    );
    let mut row = |name: &str, of: fn(&Cost) -> f64, ratio: f64| {
        let peer = peer.as_ref().map(of);
        let times = peer.map(|peer| peer / of(&ours));
        part.row(
            name,
            vec![Some(of(&ours)), Some(of(&floor)), peer, Some(ratio), times],
        );
    };
    let own = own_ratio(&pairs);
    let redis = ratio(&pairs, |cost| cost.redis_ms);
    let speed = ratio(&pairs, |cost| cost.runs_per_s);
    row(
        "worker",
        |cost| cost.worker_ms,
        ratio(&pairs, |cost| cost.worker_ms),
    );
    row(
        "endpoint",
        |cost| cost.endpoint_ms,
        ratio(&pairs, |cost| cost.endpoint_ms),
    );
    row("worker + endpoint", Cost::own_ms, own);
    row("Redis", |cost| cost.redis_ms, redis);
    row("all", Cost::all_ms, ratio(&pairs, Cost::all_ms));
    row("runs per second", |cost| cost.runs_per_s, speed);
    report.parts.push(part);
    report.bars = vec![("floor".into(), floor), ("cofferdam".into(), ours)];
    report.target("worker + endpoint per run, × floor", own, "×", 1.5);
    if let Some(peer) = peer {
        report.bars.push(("peer".into(), peer));
        let less = peer.own_ms() / ours.own_ms();
        report.target_at_least(
            "peer's processor time per run, × cofferdam's",
            less,
            "×",
            10.0,
        );
    }
    report.target_at_least("runs per second, × floor", speed, "×", 0.6);
    if let Some(peer) = peer {
        let faster = ours.runs_per_s / peer.runs_per_s;
        report.target_at_least("runs per second, × peer", faster, "×", 10.0);
    }
    report.target("Redis processor time per run, × floor", redis, "×", 1.5);
}

/// Calls of one run, counted on the wire, one run at a time.
pub(crate) async fn count(report: &mut Report, api: &Arc<StandIn>) {
    let mut part = Part::new(
        format!("Calls per run, {COUNTED} runs one after the other"),
        &["cofferdam", "floor"],
    );
    let (ours, ours_http) = counted(System::Cofferdam, api).await;
    let (floor, floor_http) = counted(System::Floor, api).await;
    for (index, name) in ["create", "get", "list", "wait", "delete", "post"]
        .iter()
        .enumerate()
    {
        let values = vec![Some(ours_http[index]), Some(floor_http[index])];
        part.row(format!("HTTP {name}"), values);
    }
    let mut names: Vec<&String> = ours.keys().chain(floor.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let of = |counts: &BTreeMap<String, f64>| Some(counts.get(name).copied().unwrap_or(0.0));
        part.row(format!("Redis {name}"), vec![of(&ours), of(&floor)]);
    }
    let sum = |counts: &BTreeMap<String, f64>| Some(counts.values().sum());
    part.row("Redis, all", vec![sum(&ours), sum(&floor)]);
    report.parts.push(part);
}

/// Redis commands and HTTP calls per run. Commands that scripts give are no talk on the wire.
async fn counted(system: System, api: &Arc<StandIn>) -> (BTreeMap<String, f64>, [f64; 6]) {
    let stack = Stack::start(system, api, SIZE).await;
    api.begin(Guests::After(DELAY), Arc::new(Times::new(0)));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    monitor(stack.redis.port, tell).await;
    for number in 0..COUNTED {
        stack.submit(number..number + 1, 1).await;
        stack.until_deleted(number + 1).await;
    }
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    while let Ok(command) = told.try_recv() {
        // What this program asks for itself.
        if !["XADD", "HELLO", "CLIENT", "INFO", "COMMAND"].contains(&command.as_str()) {
            *counts.entry(command).or_default() += 1.0 / COUNTED as f64;
        }
    }
    // What comes by the clock and not by the run.
    counts.retain(|_, count| *count >= 0.1);
    let http = api
        .calls
        .made()
        .map(|count| count.load(Ordering::SeqCst) as f64 / COUNTED as f64);
    (counts, http)
}

/// Tells of each command that a client sends.
async fn monitor(port: u16, tell: tokio::sync::mpsc::UnboundedSender<String>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    lines.next_line().await.unwrap();
    spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            // +1700000000.123 [0 127.0.0.1:5000] "EVALSHA" "…"; a script's own are of `lua`.
            let Some((from, command)) = line.split_once("] \"") else {
                continue;
            };
            if !from.ends_with(" lua")
                && let Some((name, _)) = command.split_once('"')
            {
                let _ = tell.send(name.to_ascii_uppercase());
            }
        }
    });
}
