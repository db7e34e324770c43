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

/// What was measured close together: only such figures are compared.
pub(crate) struct Round {
    floor: Cost,
    ours: Cost,
    peer: Option<Cost>,
}

impl Round {
    /// What cofferdam's own processes use, as a multiple of the floor's beside them.
    pub(crate) fn own(&self) -> f64 {
        self.ours.own_ms() / self.floor.own_ms()
    }

    /// The same of Redis.
    pub(crate) fn redis(&self) -> f64 {
        self.ours.redis_ms / self.floor.redis_ms
    }
}

/// Floor, cofferdam and perhaps the peer, several times, another one first each time.
pub(crate) async fn rounds(
    api: &Arc<StandIn>,
    count: usize,
    runs: usize,
    with_peer: bool,
) -> Vec<Round> {
    let mut rounds = Vec::new();
    for number in 0..count {
        let mut systems = vec![System::Floor, System::Cofferdam];
        systems.extend(with_peer.then_some(System::Peer));
        let first = number % systems.len();
        systems.rotate_left(first);
        let mut round = Round {
            floor: Cost::default(),
            ours: Cost::default(),
            peer: None,
        };
        for system in systems {
            let stack = Stack::start(system, api, SIZE).await;
            match system {
                System::Floor => round.floor = stack.burst(runs, DELAY).await,
                System::Cofferdam => round.ours = stack.burst(runs, DELAY).await,
                // It takes ten times as long.
                System::Peer => round.peer = Some(stack.burst(runs / 10, DELAY).await),
            }
        }
        rounds.push(round);
    }
    rounds
}

/// The middle one of some figures.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn middle(costs: &[Cost]) -> Cost {
    let of = |f: fn(&Cost) -> f64| median(costs.iter().map(f).collect());
    Cost {
        worker_ms: of(|cost| cost.worker_ms),
        endpoint_ms: of(|cost| cost.endpoint_ms),
        redis_ms: of(|cost| cost.redis_ms),
        runs_per_s: of(|cost| cost.runs_per_s),
    }
}

pub(crate) async fn measure(report: &mut Report, api: &Arc<StandIn>, count: usize, runs: usize) {
    let missing = peer_is_missing();
    let rounds = rounds(api, count, runs, missing.is_none()).await;
    if let Some(why) = missing {
        report.skipped.push(format!("the peer: {why}"));
    }
    let all = |of: fn(&Round) -> Option<Cost>| rounds.iter().filter_map(of).collect::<Vec<_>>();
    let floor = middle(&all(|round| Some(round.floor)));
    let ours = middle(&all(|round| Some(round.ours)));
    let peers = all(|round| round.peer);
    let peer = (!peers.is_empty()).then(|| middle(&peers));
    let mut part = Part::new(
        format!(
            "A run's cost: processor ms per run, {count} rounds of {runs} runs; medians, and of the \
             ratio to the floor within one round the least and the most too"
        ),
        &[
            "cofferdam",
            "floor",
            "peer",
            "× floor",
            "least",
            "most",
            "peer ×",
        ],
    );
    let mut row = |name: &str, of: fn(&Cost) -> f64| {
        let ratios: Vec<f64> = rounds
            .iter()
            .map(|round| of(&round.ours) / of(&round.floor))
            .collect();
        let peers: Vec<f64> = rounds
            .iter()
            .filter_map(|round| Some(of(&round.peer?) / of(&round.ours)))
            .collect();
        let times = (!peers.is_empty()).then(|| median(peers));
        let ratio = median(ratios.clone());
        let values = vec![
            Some(of(&ours)),
            Some(of(&floor)),
            peer.as_ref().map(of),
            Some(ratio),
            ratios.iter().copied().reduce(f64::min),
            ratios.iter().copied().reduce(f64::max),
            times,
        ];
        part.row(name, values);
        (ratio, times)
    };
    row("worker", |cost| cost.worker_ms);
    row("endpoint", |cost| cost.endpoint_ms);
    let (own, less) = row("worker + endpoint", Cost::own_ms);
    let (redis, _) = row("Redis", |cost| cost.redis_ms);
    row("all", Cost::all_ms);
    let (speed, slower) = row("runs per second", |cost| cost.runs_per_s);
    report.parts.push(part);
    report.bars = vec![("floor".into(), floor), ("cofferdam".into(), ours)];
    report
        .bars
        .extend(peer.map(|peer| ("Sidekiq, Puma".into(), peer)));
    report.target(
        "worker + endpoint processor time per run",
        own,
        "× floor",
        1.5,
    );
    if let Some(less) = less {
        let name = "the peer's processor time per run";
        report.target_at_least(name, less, "× cofferdam's", 10.0);
    }
    report.target_at_least("runs per second", speed, "× floor", 0.6);
    if let Some(slower) = slower {
        report.target_at_least(
            "runs per second, beside the peer",
            1.0 / slower,
            "× peer",
            10.0,
        );
    }
    report.target("Redis processor time per run", redis, "× floor", 1.5);
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
    stack.warm(50, DELAY).await;
    api.begin(Guests::After(DELAY), Arc::new(Times::new(0)));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    monitor(stack.redis.port, tell).await;
    let before = evals(&stack).await;
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
    // Redis's own account says the same, but for what was on its way at either end.
    let own = (evals(&stack).await - before) / COUNTED as f64;
    let seen = counts.get("EVALSHA").copied().unwrap_or(0.0);
    assert!((own - seen).abs() < 0.1, "{seen} scripts seen, {own} told");
    // What comes by the clock and not by the run.
    counts.retain(|_, count| *count >= 0.1);
    let http = api
        .calls
        .made()
        .map(|count| count.load(Ordering::SeqCst) as f64 / COUNTED as f64);
    (counts, http)
}

/// Scripts called so far, by Redis's own account.
async fn evals(stack: &Stack) -> f64 {
    let told: String = stack.redis.command(&["INFO", "commandstats"]).await;
    let line = told
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    let calls = line.and_then(|line| line.split_once("calls=")?.1.split(',').next());
    calls.map_or(0.0, |calls| calls.parse().unwrap())
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
