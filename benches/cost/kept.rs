//! The figure that must not grow: a run's processor time in worker and endpoint, as a multiple of
//! the floor's in the same run.

use std::process::ExitCode;

use serde::Deserialize;

use crate::runs::{own_ratio, pairs};
use crate::standin::StandIn;

/// More than so many times the kept figure is too much.
const SLACK: f64 = 1.2;
const ROUNDS: usize = 5;
const RUNS: usize = 2_000;
/// Looks before it counts as too much: on a busy computer one may be off.
const LOOKS: usize = 3;

#[derive(Deserialize)]
struct Kept {
    own_processor_time_per_floor: f64,
}

/// Compares with the figure in `file`.
pub(crate) async fn check(file: &str) -> ExitCode {
    let json = std::fs::read_to_string(file).unwrap();
    let kept: Kept = serde_json::from_str(&json).unwrap();
    let most = kept.own_processor_time_per_floor * SLACK;
    let api = StandIn::start().await;
    for look in 1..=LOOKS {
        let ratio = own_ratio(&pairs(&api, ROUNDS, RUNS).await);
        println!(
            "a run's processor time is {ratio:.2} × the floor's; kept {:.2}, at most {most:.2}",
            kept.own_processor_time_per_floor
        );
        if ratio <= most {
            return ExitCode::SUCCESS;
        }
        println!("look {look} of {LOOKS}: too much");
    }
    println!("find out why, or, if it is right, write the new figure to {file}");
    ExitCode::FAILURE
}
