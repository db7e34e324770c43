//! The figures that must not grow: a run's processor time in worker and endpoint, and in Redis, as
//! multiples of the floor's in the same run.
//!
//! Ratios to something measured at the same time are what a busy computer spoils least; and a look
//! that comes out too high is taken again, since nothing that disturbs makes a run cheaper.

use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::runs::{median, rounds};
use crate::standin::StandIn;

/// More than so many times the kept figure is too much.
const SLACK: f64 = 1.2;
const ROUNDS: usize = 5;
const RUNS: usize = 1_000;
/// Looks before it counts as too much.
const LOOKS: usize = 3;

#[derive(Clone, Copy, Deserialize, Serialize)]
struct Kept {
    own_processor_time_per_floor: f64,
    redis_processor_time_per_floor: f64,
}

async fn look(api: &Arc<StandIn>) -> Kept {
    let rounds = rounds(api, ROUNDS, RUNS, false).await;
    Kept {
        own_processor_time_per_floor: median(rounds.iter().map(|round| round.own()).collect()),
        redis_processor_time_per_floor: median(rounds.iter().map(|round| round.redis()).collect()),
    }
}

/// Compares with the figures in `file`.
pub(crate) async fn check(file: &str) -> ExitCode {
    let json = std::fs::read_to_string(file).unwrap();
    let kept: Kept = serde_json::from_str(&json).unwrap();
    let api = StandIn::start().await;
    let mut best = Kept {
        own_processor_time_per_floor: f64::INFINITY,
        redis_processor_time_per_floor: f64::INFINITY,
    };
    for number in 1..=LOOKS {
        let seen = look(&api).await;
        let own = &mut best.own_processor_time_per_floor;
        *own = own.min(seen.own_processor_time_per_floor);
        let redis = &mut best.redis_processor_time_per_floor;
        *redis = redis.min(seen.redis_processor_time_per_floor);
        println!("A run's processor time, × the floor's, look {number} of {LOOKS}:");
        let own = is_fine("worker + endpoint", *own, kept.own_processor_time_per_floor);
        let redis = is_fine("Redis", *redis, kept.redis_processor_time_per_floor);
        if own && redis {
            return ExitCode::SUCCESS;
        }
    }
    println!("Find out why; if it must be so, `scripts/bench --keep` keeps the new figures.");
    ExitCode::FAILURE
}

fn is_fine(name: &str, best: f64, kept: f64) -> bool {
    let most = kept * SLACK;
    let is_fine = best <= most;
    let verdict = if is_fine { "fine" } else { "TOO MUCH" };
    println!("  {name:<18} {best:.2}, kept {kept:.2}, at most {most:.2}: {verdict}");
    is_fine
}

/// Writes the figures of now to `file`: the middle ones of several looks.
pub(crate) async fn keep(file: &str) {
    let api = StandIn::start().await;
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        looks.push(look(&api).await);
    }
    let of = |f: fn(&Kept) -> f64| {
        let middle = median(looks.iter().map(f).collect());
        (middle * 1000.0).round() / 1000.0
    };
    let kept = Kept {
        own_processor_time_per_floor: of(|kept| kept.own_processor_time_per_floor),
        redis_processor_time_per_floor: of(|kept| kept.redis_processor_time_per_floor),
    };
    let json = serde_json::to_string_pretty(&kept).unwrap() + "\n";
    print!("{json}");
    std::fs::write(file, json).unwrap();
}
