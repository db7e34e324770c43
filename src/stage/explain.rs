//! Why a run waits and what happened to it, in words: for the command line and the console.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::wait::{WaitReason, Waiting};
use crate::store::codec::RunRecord;
use crate::telemetry::human;

/// What holds a waiting run back and how many are before it, a line each.
#[must_use]
pub fn lines(waiting: &Waiting, now: UnixMs) -> Vec<String> {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut lines: Vec<String> = waiting
        .held_by
        .iter()
        .map(|reason| hold(reason, now))
        .collect();
    let Some(before) = waiting.runs_before else {
        return lines;
    };
    let runs = human::count(number(before), "run", "runs");
    let tenants = waiting.tenants_before.map_or_else(String::new, |before| {
        format!(
            ", {} before it",
            human::count(number(before), "tenant", "tenants")
        )
    });
    lines.push(format!("behind {runs} of its tenant{tenants}"));
    lines
}

/// One thing that holds a run.
#[must_use]
pub fn hold(hold: &WaitReason, now: UnixMs) -> String {
    let until = |at: UnixMs| format!("for another {}", human::duration(between(now, at)));
    match hold {
        WaitReason::Paused => "everything is paused".to_owned(),
        WaitReason::TenantPaused => "its tenant is paused".to_owned(),
        WaitReason::NotBefore { until_ms } => format!("it may not start {}", until(*until_ms)),
        WaitReason::TenantCap { max, in_flight } => {
            format!("its tenant has {in_flight} of {max} machines")
        }
        WaitReason::TenantShare { in_flight, free } => format!(
            "its tenant has {in_flight} machines, and leaves the {free} that are free to tenants with fewer"
        ),
        WaitReason::Budget {
            budget_s,
            used_s,
            until_ms,
        } => {
            let rest = until(*until_ms);
            format!("its tenant used {used_s} of {budget_s} machine seconds of this day, {rest}")
        }
        WaitReason::FleetCap { max, in_flight } => {
            format!("the fleet has {in_flight} of {max} machines")
        }
        WaitReason::AppCap { max } => format!("every app has {max} machines, as many as it may"),
        WaitReason::Limiter { until_ms } => format!("no app may boot {}", until(*until_ms)),
        WaitReason::Provider { says } => {
            let says = human::one_line(says, 600);
            format!("the provider refuses our calls until an operator acts: {says}")
        }
        WaitReason::Refused { until_ms } => format!(
            "the provider has no capacity for it; retried {}, then it fails",
            until(*until_ms)
        ),
        WaitReason::NoWorker => "no worker is running".to_owned(),
    }
}

/// The states that a run went through and when it came to each.
#[must_use]
pub fn moments(run: &RunRecord) -> Vec<(&'static str, UnixMs)> {
    let marks = [
        ("queued", run.submitted_at_ms),
        ("booting", run.booting_at_ms),
        ("running", run.running_at_ms),
        ("tear-down", run.settled_at_ms),
        ("", run.closed_at_ms),
    ];
    // A run that is queued again still has the times of its last boot.
    let known = match run.state {
        "queued" => 1,
        "booting" => 2,
        "running" => 3,
        _ => marks.len(),
    };
    let reached = marks.iter().take(known);
    reached
        .filter_map(|(word, at)| Some((*word, (*at)?)))
        .collect()
}

/// The time from one moment to another. A clock that went backwards in between gives zero.
#[must_use]
pub fn between(from: UnixMs, to: UnixMs) -> Duration {
    Duration::from_millis(to.saturating_sub(from))
}
