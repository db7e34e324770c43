//! The state of a machine → what it means for the run that awaits its result.

use std::time::Duration;

use tracing::info;

use crate::clock::UnixMs;
use crate::config::Runs;
use crate::machines::wire::{self, HostStatus};
use crate::machines::{Call, Decision, judge};
use crate::milestone::milestone;
use crate::run::budget::{self, EXIT_GRACE};
use crate::run::id::Attempt;
use crate::run::outcome::{Ending, ExitStatus, Reason, ReasonCode};
use crate::run::phase::Phase;
use crate::stage::breaker::Circuit;
use crate::stage::settle::settle;
use crate::stage::teardown::delete;
use crate::stage::{Deps, Error};
use crate::store::acts::Requeue;
use crate::store::codec::RunRecord;

/// How long after its creation a machine may not be listed yet.
pub const LISTED_AFTER: Duration = Duration::from_secs(10);

/// How long a machine must be missing before it counts as lost: the provider's reads may be stale, so
/// one of them proves nothing.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// How long the deadline of a run waits for a last read of its machine.
const LAST_READ_MAX: Duration = Duration::from_secs(5);

/// What the state of a machine means for its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its guest may still post.
    Alive,
    /// Its program ended.
    Exited(ExitStatus),
    /// Its program was stopped from outside: by an operator, or the platform.
    Stopped,
    /// Its program never ran, and will not.
    NeverStarted,
    /// It is gone and nothing tells how.
    Lost,
}

/// When the machine of a `running` run counts as failed to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootLimits {
    /// By when it must be prepared: its image is there.
    pub prepared_by: UnixMs,
    /// By when its program must run.
    pub started_by: UnixMs,
}

impl BootLimits {
    /// Those of a run. The time to start counts from when the machine was last seen being prepared.
    #[must_use]
    pub fn of(view: &RunRecord, runs: &Runs) -> Self {
        let since = view.running_at_ms.unwrap_or(0);
        let prepared = since.max(view.preparing_until_ms.unwrap_or(0));
        Self {
            prepared_by: budget::after(since, runs.image_pull_timeout),
            started_by: budget::after(prepared, runs.boot_timeout),
        }
    }
}

/// Judges the machine of a run that is `running` since `since`. `machine` is `None` when the provider
/// does not know it.
#[must_use]
pub fn liveness(
    machine: Option<&wire::Machine>,
    since: UnixMs,
    now: UnixMs,
    limits: BootLimits,
) -> Liveness {
    let Some(machine) = machine else {
        let may_be_unlisted = now < budget::after(since, LISTED_AFTER);
        return if may_be_unlisted {
            Liveness::Alive
        } else {
            Liveness::Lost
        };
    };
    // A machine whose host is unreachable may be alive: the deadline decides.
    if matches!(machine.host_status, Some(HostStatus::Unreachable)) {
        return Liveness::Alive;
    }
    if machine.state.is_over() {
        return match machine.last_exit() {
            Some(exit) if machine.was_asked_to_end() && !exit.oom_killed => Liveness::Stopped,
            Some(exit) => Liveness::Exited(status(&exit)),
            None if machine.started_at_ms().is_none() => Liveness::NeverStarted,
            None => Liveness::Lost,
        };
    }
    let by = if machine.state.is_preparing() {
        limits.prepared_by
    } else {
        limits.started_by
    };
    if machine.state.is_booting() && now >= by {
        return Liveness::NeverStarted;
    }
    Liveness::Alive
}

fn status(exit: &wire::ExitEvent) -> ExitStatus {
    ExitStatus {
        code: i32::try_from(exit.code()).ok(),
        signal: exit
            .ended_by()
            .and_then(|signal| i32::try_from(signal).ok()),
        oom_killed: exit.oom_killed,
    }
}

/// What came of reading a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// What its state asked for was done.
    Done,
    /// The provider does not know the machine, perhaps only for a moment. Nothing was done.
    Missing,
}

/// Reads the machine of a `running` run and does what its state asks for. Usually one HTTP call.
/// `missing_since` is when an earlier read did not find it, if none has found it since.
///
/// # Errors
/// When the provider or Redis does not answer; the next pass tries again.
pub async fn observe(
    deps: &Deps,
    view: &RunRecord,
    missing_since: Option<UnixMs>,
) -> Result<Observed, Error> {
    let Phase::Running { attempt, machine } = view.phase() else {
        return Ok(Observed::Done);
    };
    let known = deps.machines.get(&machine.app, &machine.id).await;
    milestone!("observe::read");
    let known = match known {
        Ok(known) => Some(known),
        Err(error) if judge(Call::Get, &error) == Decision::Gone => None,
        Err(error) => return Err(Error::Machines(error)),
    };
    let since = view.running_at_ms.unwrap_or(0);
    let now = deps.core.clock.now_ms();
    let limits = BootLimits::of(view, &deps.core.runs);
    let liveness = liveness(known.as_ref(), since, now, limits);
    let is_late = view.deadline_ms.is_some_and(|deadline| deadline <= now);
    match liveness {
        // The deadline ends the run, and whoever deleted its machine did it for that.
        Liveness::NeverStarted | Liveness::Stopped | Liveness::Lost if is_late => {}
        // It may not be listed yet.
        Liveness::Alive if known.is_none() => return Ok(Observed::Missing),
        Liveness::Alive => {}
        Liveness::Exited(exit) => {
            // The guest may have posted just before it exited.
            tokio::time::sleep(EXIT_GRACE).await;
            let ending = exited(exit, known.as_ref());
            settle(&deps.core, &view.id, Some(view.boot()), &ending).await?;
        }
        Liveness::NeverStarted => {
            let is_preparing = |machine: &wire::Machine| machine.state.is_preparing();
            let message = match launch_error(known.as_ref()) {
                Some(error) => format!("the machine did not start: {error}"),
                None if known.as_ref().is_some_and(is_preparing) => {
                    "the machine did not start: its image did not come in time".to_owned()
                }
                None => "the machine did not start".to_owned(),
            };
            retry_or_settle(deps, view, *attempt, ReasonCode::BootFailed, &message).await?;
        }
        Liveness::Stopped => {
            tokio::time::sleep(EXIT_GRACE).await;
            let message = match platform_error(known.as_ref()) {
                Some(error) => format!("the machine was ended by the platform: {error}"),
                None => "the machine was stopped or deleted from outside".to_owned(),
            };
            retry_or_settle(deps, view, *attempt, ReasonCode::MachineLost, &message).await?;
        }
        Liveness::Lost => {
            let is_sure = match (&known, missing_since) {
                (Some(_), _) => true,
                (None, Some(since)) => now >= budget::after(since, MISSING_FOR),
                (None, None) => false,
            };
            if !is_sure {
                return Ok(Observed::Missing);
            }
            let message = "the machine is gone and nothing tells how";
            retry_or_settle(deps, view, *attempt, ReasonCode::MachineLost, message).await?;
        }
    }
    Ok(Observed::Done)
}

/// Reads the machine of a run whose deadline has passed, and settles the run if its program had
/// exited by itself. A machine that cannot be read in time does not delay the deadline, and an app
/// whose circuit is open is not called.
///
/// # Errors
/// When Redis does not answer.
pub async fn settle_if_exited(deps: &Deps, view: &RunRecord) -> Result<bool, Error> {
    let Phase::Running { machine, .. } = view.phase() else {
        return Ok(false);
    };
    let now = deps.core.clock.now_ms();
    if let Circuit::Open(_) = deps.health.breakers.state(&machine.app, None, now) {
        return Ok(false);
    }
    let read = deps.machines.get(&machine.app, &machine.id);
    let known = tokio::time::timeout(LAST_READ_MAX, read).await;
    milestone!("observe::read_late");
    let Ok(Ok(known)) = known else {
        return Ok(false);
    };
    let (since, now) = (view.running_at_ms.unwrap_or(0), deps.core.clock.now_ms());
    let limits = BootLimits::of(view, &deps.core.runs);
    let Liveness::Exited(exit) = liveness(Some(&known), since, now, limits) else {
        return Ok(false);
    };
    let ending = exited(exit, Some(&known));
    settle(&deps.core, &view.id, Some(view.boot()), &ending).await?;
    Ok(true)
}

/// Why the provider could not start the machine, if it says so.
fn launch_error(machine: Option<&wire::Machine>) -> Option<&str> {
    let events = machine?.events.iter();
    events
        .filter_map(|event| event.request.as_ref()?.get("error")?.as_str())
        .next()
}

/// The error that the machine's init reports for the program's end, if any.
fn exit_error(machine: Option<&wire::Machine>) -> Option<String> {
    let error = machine?.last_exit()?.guest_error?;
    (!error.is_empty()).then_some(error)
}

/// The error that the platform reports for the program's end, if any.
fn platform_error(machine: Option<&wire::Machine>) -> Option<String> {
    let error = machine?.last_exit()?.error?;
    (!error.is_empty()).then_some(error)
}

fn exited(exit: ExitStatus, machine: Option<&wire::Machine>) -> Ending {
    Ending::Without {
        reason: exit_reason(exit, exit_error(machine)),
        exit: Some(exit),
        output_tail: None,
    }
}

fn exit_reason(exit: ExitStatus, error: Option<String>) -> Reason {
    if exit.oom_killed {
        return Reason::new(
            ReasonCode::OomKilled,
            "the guest was killed because it ran out of memory",
        );
    }
    let how = match (exit.signal, exit.code) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("exited with {code}"),
        (None, None) => "ended".to_owned(),
    };
    Reason::new(
        ReasonCode::ExitedWithoutResult,
        match error {
            Some(error) => format!("the guest {how} and posted no result: {error}"),
            None => format!("the guest {how} and posted no result"),
        },
    )
}

/// Deletes what is left of the machine and queues the run again, or settles it after its last attempt.
async fn retry_or_settle(
    deps: &Deps,
    view: &RunRecord,
    attempt: Attempt,
    code: ReasonCode,
    message: &str,
) -> Result<(), Error> {
    let max_attempts = deps.core.runs.max_attempts.get();
    if !budget::may_try_again(view.tries(), max_attempts) {
        let message = format!("{message}, at the last of {max_attempts} attempts");
        let ending = Ending::without(code, message);
        return settle(&deps.core, &view.id, Some(view.boot()), &ending)
            .await
            .map(drop);
    }
    let Phase::Running { machine, .. } = view.phase() else {
        return Ok(());
    };
    delete(deps, &machine.app, &machine.id).await?;
    info!(
        run_id = view.id.as_str(),
        attempt = attempt.0,
        reason = message,
        "queued again for another machine"
    );
    let now = deps.core.clock.now_ms();
    deps.core
        .store
        .requeue(view, view.boot(), Requeue::Failed, None, now)
        .await?;
    milestone!("observe::requeued");
    Ok(())
}
