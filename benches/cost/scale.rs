//! What a run costs as everything grows: what waits, what flies, workers, tenants; and the memory
//! that all of it takes.

use std::sync::Arc;
use std::time::Duration;

use crate::load::Cost;
use crate::report::{Part, Report};
use crate::runs::middle;
use crate::stack::{Size, Stack, System};
use crate::standin::{Guests, StandIn};
use crate::times::Times;

/// How far each goes.
pub(crate) struct Reach {
    pub(crate) waiting: &'static [usize],
    pub(crate) flying: &'static [usize],
    pub(crate) workers: &'static [usize],
    pub(crate) tenants: &'static [usize],
    pub(crate) runs: usize,
}

pub(crate) const FULL: Reach = Reach {
    waiting: &[1_000, 100_000, 1_000_000],
    flying: &[1_000, 10_000, 100_000],
    workers: &[1, 2, 4, 8],
    tenants: &[1, 10_000],
    runs: 10_000,
};

pub(crate) const SHORT: Reach = Reach {
    waiting: &[1_000, 20_000],
    flying: &[1_000, 5_000],
    workers: &[1, 2],
    tenants: &[1, 1_000],
    runs: 2_000,
};

const MIB: f64 = 1024.0 * 1024.0;
const COLUMNS: [&str; 9] = [
    "worker ms",
    "endpoint ms",
    "Redis ms",
    "all ms",
    "× first",
    "runs/s",
    "worker MiB",
    "peak MiB",
    "Redis B/run",
];

/// Machines in flight while what waits is measured.
const FEW: usize = 200;
/// Numbers set aside for the runs of one stretch.
const STRETCH: usize = 1_000_000;

struct Seen {
    cost: Cost,
    memory: f64,
    peak: f64,
    bytes: Option<f64>,
}

impl Stack {
    async fn look(&self, cost: Cost, bytes: Option<f64>) -> Seen {
        let memory = self.workers.iter().map(|worker| worker.memory());
        let (now, peak): (Vec<u64>, Vec<u64>) = memory.unzip();
        Seen {
            cost,
            memory: now.iter().copied().max().unwrap_or(0) as f64 / MIB,
            peak: peak.iter().copied().max().unwrap_or(0) as f64 / MIB,
            bytes,
        }
    }

    /// The middle cost of three stretches: one may have been disturbed.
    async fn thrice(&self, from: usize, runs: usize, tenants: usize) -> Cost {
        let mut costs = Vec::new();
        for stretch in 0..3 {
            let from = from + stretch * STRETCH;
            costs.push(self.steady(from, runs / 3, tenants).await);
        }
        middle(&costs)
    }

    /// Waits until every request has been taken in.
    async fn until_taken_in(&self) {
        while self.redis.command::<u64>(&["XLEN", "cofferdam:runs"]).await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn row(part: &mut Part, name: String, seen: &Seen, first: f64) {
    let cost = seen.cost;
    let values = vec![
        Some(cost.worker_ms),
        Some(cost.endpoint_ms),
        Some(cost.redis_ms),
        Some(cost.all_ms()),
        Some(cost.all_ms() / first),
        Some(cost.runs_per_s),
        Some(seen.memory),
        Some(seen.peak),
        seen.bytes,
    ];
    part.row(name, values);
}

pub(crate) async fn measure(report: &mut Report, api: &Arc<StandIn>, reach: &Reach) {
    let mut part = Part::new("Scale: processor ms per run, and memory", &COLUMNS);
    let mut all = Vec::new();
    for &count in reach.waiting {
        all.push(waiting(api, count, 1, reach.runs).await);
        let name = format!("{count} waiting");
        row(&mut part, name, &all[all.len() - 1], all[0].cost.all_ms());
    }
    let (first, last) = (&all[0], &all[all.len() - 1]);
    let times = last.cost.all_ms() / first.cost.all_ms();
    let name = format!("cost at {} waiting, × first", reach.waiting[all.len() - 1]);
    report.target(&name, times, "×", 1.25);
    let name = "Redis memory per waiting run".to_owned();
    report.target(&name, last.bytes.unwrap_or(0.0), "B", 1024.0);
    let mut all = Vec::new();
    for &count in reach.flying {
        all.push(flying(api, count, reach.runs).await);
        let name = format!("{count} in flight");
        row(&mut part, name, &all[all.len() - 1], all[0].cost.all_ms());
    }
    let (first, last) = (&all[0], &all[all.len() - 1]);
    let most = reach.flying[all.len() - 1];
    let times = last.cost.all_ms() / first.cost.all_ms();
    report.target(
        &format!("cost at {most} in flight, × first"),
        times,
        "×",
        1.25,
    );
    report.target(
        &format!("worker memory at {most} in flight, peak"),
        last.peak,
        "MiB",
        64.0,
    );
    report.target(
        "Redis memory per run in flight",
        last.bytes.unwrap_or(0.0),
        "B",
        1536.0,
    );
    let mut first = None;
    for &count in reach.workers {
        let seen = workers(api, count, reach.runs).await;
        let first = *first.get_or_insert_with(|| seen.cost.all_ms());
        row(&mut part, format!("{count} workers"), &seen, first);
    }
    let mut first = None;
    for &count in reach.tenants {
        let seen = waiting(api, 20_000, count, reach.runs).await;
        let first = *first.get_or_insert_with(|| seen.cost.all_ms());
        row(
            &mut part,
            format!("{count} tenants, 20000 waiting"),
            &seen,
            first,
        );
    }
    report.parts.push(part);
}

/// With so many waiting all the time.
async fn waiting(api: &Arc<StandIn>, count: usize, tenants: usize, runs: usize) -> Seen {
    let size = Size {
        workers: 1,
        in_flight: FEW,
    };
    let stack = Stack::start(System::Cofferdam, api, size).await;
    api.begin(Guests::Held(FEW), Arc::new(Times::new(0)));
    let before = stack.redis.memory().await;
    stack.submit(0..count + FEW, tenants).await;
    stack.until_taken_in().await;
    stack.until_created(FEW).await;
    let bytes = (stack.redis.memory().await - before) / count as f64;
    api.hold(FEW / 2);
    let cost = stack.thrice(count + FEW, runs, tenants).await;
    stack.look(cost, Some(bytes)).await
}

/// With so many in flight all the time.
async fn flying(api: &Arc<StandIn>, count: usize, runs: usize) -> Seen {
    let size = Size {
        workers: 1,
        in_flight: 2 * count + 1000,
    };
    let stack = Stack::start(System::Cofferdam, api, size).await;
    api.begin(Guests::Held(count), Arc::new(Times::new(0)));
    let before = stack.redis.memory().await;
    stack.submit(0..count, 1).await;
    stack.until_created(count).await;
    stack.until_taken_in().await;
    let bytes = (stack.redis.memory().await - before) / count as f64;
    // Long enough for the sweep to look at all of them, and for what mends.
    tokio::time::sleep(Duration::from_secs(if count >= 100_000 { 65 } else { 1 })).await;
    stack.submit(count..count + FEW, 1).await;
    let cost = stack.thrice(count + FEW, runs, 1).await;
    stack.look(cost, Some(bytes)).await
}

async fn workers(api: &Arc<StandIn>, count: usize, runs: usize) -> Seen {
    let size = Size {
        workers: count,
        in_flight: 1000,
    };
    let stack = Stack::start(System::Cofferdam, api, size).await;
    let cost = stack.burst(runs, Duration::from_millis(20)).await;
    stack.look(cost, None).await
}
