//! A machine that is there, or is not → what that means for the run that awaits its result.

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
use crate::stage::breaker::Answer;
use crate::stage::teardown::remove;
use crate::stage::{Deps, Error, end};
use crate::store::acts::Requeue;
use crate::store::codec::RunRecord;

/// A machine that was made this short a time ago may not be visible yet.
pub const NEWBORN: Duration = Duration::from_secs(10);

/// How long a machine must not be shown before it counts as lost: reads come from a store that may
/// be behind, and one look proves nothing.
const UNSEEN_FOR: Duration = Duration::from_secs(10);

/// How long the deadline of a run waits for a last look at its machine.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What a look at a machine means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Its guest may still post.
    Alive,
    /// Its program ended.
    Exited(ExitStatus),
    /// Its program was ended by somebody else: an operator, or the platform.
    Stopped,
    /// Its program never ran, and will not.
    NeverStarted,
    /// It is gone and nothing tells how.
    Lost,
}

/// When the boot of a running run's machine has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootLimits {
    /// By when it must be prepared: its image is there.
    pub prepared_by: UnixMs,
    /// By when its program must run.
    pub started_by: UnixMs,
}

impl BootLimits {
    /// Those of a run. The time of its start begins when nobody sees it being prepared any more.
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

/// Judges a look at the machine of a run that is `running` since `since`. `machine` is `None`
/// when the provider does not know it.
#[must_use]
pub fn sight(
    machine: Option<&wire::Machine>,
    since: UnixMs,
    now: UnixMs,
    limits: BootLimits,
) -> Sight {
    let Some(machine) = machine else {
        let may_be_unseen = now < budget::after(since, NEWBORN);
        return if may_be_unseen {
            Sight::Alive
        } else {
            Sight::Lost
        };
    };
    // What is behind a host that does not answer is not known: the deadline decides.
    if matches!(machine.host_status, Some(HostStatus::Unreachable)) {
        return Sight::Alive;
    }
    if machine.state.is_over() {
        return match machine.last_exit() {
            Some(exit) if machine.was_asked_to_end() && !exit.oom_killed => Sight::Stopped,
            Some(exit) => Sight::Exited(status(&exit)),
            None if machine.started_at_ms().is_none() => Sight::NeverStarted,
            None => Sight::Lost,
        };
    }
    let by = if machine.state.is_preparing() {
        limits.prepared_by
    } else {
        limits.started_by
    };
    if machine.state.is_booting() && now >= by {
        return Sight::NeverStarted;
    }
    Sight::Alive
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

/// What a look at a machine came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// What follows is done.
    Done,
    /// The provider does not know the machine. That may be for a moment only: nothing was done.
    Unseen,
}

/// Looks at the machine of a running run and does what follows. Usually one HTTP call.
/// `unseen_since` is when an earlier look did not find it, if nobody has seen it from then on.
///
/// # Errors
/// When the provider or Redis does not answer; the next sweep looks again.
pub async fn observe(
    deps: &Deps,
    view: &RunRecord,
    unseen_since: Option<UnixMs>,
) -> Result<Looked, Error> {
    let Phase::Running { attempt, machine } = view.phase() else {
        return Ok(Looked::Done);
    };
    let known = deps.machines.get(&machine.app, &machine.id).await;
    milestone!("observe::looked");
    let known = match known {
        Ok(known) => Some(known),
        Err(error) if judge(Call::Get, &error) == Decision::Gone => None,
        Err(error) => return Err(Error::Machines(error)),
    };
    let since = view.running_at_ms.unwrap_or(0);
    let now = deps.core.clock.now_ms();
    let limits = BootLimits::of(view, &deps.core.runs);
    match sight(known.as_ref(), since, now, limits) {
        // One that was made a moment ago may not be seen yet. It is noted all the same.
        Sight::Alive if known.is_none() => return Ok(Looked::Unseen),
        Sight::Alive => {}
        Sight::Exited(exit) => {
            // The result may have been posted with the guest's last breath.
            tokio::time::sleep(EXIT_GRACE).await;
            let ending = exited(exit, known.as_ref());
            end(&deps.core, &view.id, Some(view.boot()), &ending).await?;
        }
        Sight::NeverStarted => {
            let is_preparing = |machine: &wire::Machine| machine.state.is_preparing();
            let message = match launch_error(known.as_ref()) {
                Some(error) => format!("the machine did not start: {error}"),
                None if known.as_ref().is_some_and(is_preparing) => {
                    "the machine did not start: its image did not come in time".to_owned()
                }
                None => "the machine did not start".to_owned(),
            };
            another(deps, view, *attempt, ReasonCode::BootFailed, &message).await?;
        }
        Sight::Stopped => {
            tokio::time::sleep(EXIT_GRACE).await;
            let message = "the machine was stopped or deleted from outside";
            another(deps, view, *attempt, ReasonCode::MachineLost, message).await?;
        }
        Sight::Lost => {
            let is_sure = match (&known, unseen_since) {
                (Some(_), _) => true,
                (None, Some(since)) => now >= budget::after(since, UNSEEN_FOR),
                (None, None) => false,
            };
            if !is_sure {
                return Ok(Looked::Unseen);
            }
            let message = "the machine is gone and nothing tells how";
            another(deps, view, *attempt, ReasonCode::MachineLost, message).await?;
        }
    }
    Ok(Looked::Done)
}

/// Looks at the machine of a run whose deadline has passed: whether its program had ended by
/// itself, which then ends the run. What cannot be seen now does not hold up the deadline, nor an
/// app that does not answer the permit of another app's run.
///
/// # Errors
/// When Redis does not answer.
pub async fn ended(deps: &Deps, view: &RunRecord) -> Result<bool, Error> {
    let Phase::Running { machine, .. } = view.phase() else {
        return Ok(false);
    };
    let now = deps.core.clock.now_ms();
    if let Answer::Wait(_) = deps.health.breakers.look(&machine.app, None, now) {
        return Ok(false);
    }
    let look = deps.machines.get(&machine.app, &machine.id);
    let known = tokio::time::timeout(LAST_LOOK, look).await;
    milestone!("observe::looked_late");
    let Ok(Ok(known)) = known else {
        return Ok(false);
    };
    let (since, now) = (view.running_at_ms.unwrap_or(0), deps.core.clock.now_ms());
    let limits = BootLimits::of(view, &deps.core.runs);
    let Sight::Exited(exit) = sight(Some(&known), since, now, limits) else {
        return Ok(false);
    };
    let ending = exited(exit, Some(&known));
    end(&deps.core, &view.id, Some(view.boot()), &ending).await?;
    Ok(true)
}

/// What the provider says of a machine that it could not start, if it says anything.
fn launch_error(machine: Option<&wire::Machine>) -> Option<&str> {
    let events = machine?.events.iter();
    events
        .filter_map(|event| event.request.as_ref()?.get("error")?.as_str())
        .next()
}

/// What the machine's own init says of the program's end, if it says anything.
fn exit_error(machine: Option<&wire::Machine>) -> Option<String> {
    let error = machine?.last_exit()?.guest_error?;
    (!error.is_empty()).then_some(error)
}

fn exited(exit: ExitStatus, machine: Option<&wire::Machine>) -> Ending {
    Ending::Without {
        reason: exit_reason(exit, exit_error(machine)),
        exit: Some(exit),
    }
}

fn exit_reason(exit: ExitStatus, error: Option<String>) -> Reason {
    if exit.oom_killed {
        return Reason::new(
            ReasonCode::OomKilled,
            "the guest was killed for want of memory",
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

/// Removes what is left of the machine, then lets the run try again, or ends it.
async fn another(
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
        return end(&deps.core, &view.id, Some(view.boot()), &ending)
            .await
            .map(drop);
    }
    let Phase::Running { machine, .. } = view.phase() else {
        return Ok(());
    };
    remove(deps, &machine.app, &machine.id).await?;
    info!(
        run_id = view.id.as_str(),
        attempt = attempt.0,
        message,
        "tries another machine"
    );
    let now = deps.core.clock.now_ms();
    deps.core
        .store
        .requeue(view, view.boot(), Requeue::Failed, None, now)
        .await?;
    milestone!("observe::requeued");
    Ok(())
}
