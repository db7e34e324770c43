//! settled → closed: wait for the machine to end, delete it, and only then forget it.
//!
//! Every step can fail and be repeated: what is not done is due again when the lease ends, for as
//! long as the machine is there. A 404 anywhere means gone.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::machines::wire::MachineState;
use crate::machines::{Call, Decision, Error as ApiError, Force, Wait, judge};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, RunId, machine_name};
use crate::run::outcome::Outcome;
use crate::run::phase::{MachineRef, Phase};
use crate::stage::{Deps, Error, pause, spec};
use crate::store::acts::{Entered, Transition};
use crate::store::codec::RunRecord;

/// Calls of one kind before the tear-down is left for later.
const TRIES_MAX: u32 = 4;
/// How long calls of one kind are tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// A wait for less is not worth a call: the service counts whole seconds.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// First ceiling of the pause between two calls.
const PAUSE_BASE: Duration = Duration::from_millis(100);
/// Longest pause between two calls.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a tear-down came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TornDown {
    /// No machine is left. Whether some run waits for the room.
    Closed {
        /// Some run waits.
        waiting: bool,
    },
    /// The create call may still be on its way, or the app does not answer and is left alone for a
    /// while: look again then.
    TooEarly {
        /// From when.
        again_at_ms: UnixMs,
    },
    /// Nothing is owed (any more).
    Nothing,
}

/// Tears down what a settled run left: two HTTP calls and one round trip in the usual case.
///
/// # Errors
/// When a call or Redis fails for longer than a few tries. The tear-down stays owed.
pub async fn teardown(deps: &Deps, view: &RunRecord) -> Result<TornDown, Error> {
    let Phase::Settled {
        attempt,
        outcome,
        app,
        machine,
    } = view.phase()
    else {
        return Ok(TornDown::Nothing);
    };
    match machine {
        Some(machine) => end_machine(deps, machine, grace(deps, *outcome)).await?,
        None => {
            let name = machine_name(&view.id, *attempt, view.nonce.as_ref());
            match find(deps, app, &view.id, &name).await? {
                Some(machine) => end_machine(deps, &machine, grace(deps, *outcome)).await?,
                // Nothing is there yet. While the create call may be on its way that is no proof.
                None => {
                    let until = view.boot_until_ms.unwrap_or(0);
                    if deps.core.clock.now_ms() < until {
                        return Ok(TornDown::TooEarly { again_at_ms: until });
                    }
                }
            }
        }
    }
    close(deps, view).await
}

/// Removes the machine of a run's attempt, whatever its state, and changes nothing of the run.
///
/// # Errors
/// When the provider does not do it within a few tries.
pub async fn end_attempt(deps: &Deps, view: &RunRecord) -> Result<(), Error> {
    let Some(app) = view.app.as_deref() else {
        return Ok(());
    };
    let id = match &view.machine_id {
        Some(id) => Some(id.clone()),
        None => {
            let name = machine_name(&view.id, Attempt(view.attempt), view.nonce.as_ref());
            find(deps, app, &view.id, &name)
                .await?
                .map(|machine| machine.id)
        }
    };
    match id {
        Some(id) => remove(deps, app, &id).await,
        None => Ok(()),
    }
}

/// Removes a machine by force, whatever it does. Gone is success.
///
/// # Errors
/// When the provider does not do it within a few tries.
pub async fn remove(deps: &Deps, app: &str, id: &str) -> Result<(), Error> {
    let mut tries = Tries::new();
    loop {
        let deleted = deps.machines.delete(app, id, Force::Yes).await;
        milestone!("teardown::forced");
        let Err(error) = deleted else {
            return Ok(());
        };
        if gone(Call::Delete, &error) {
            return Ok(());
        }
        again(&mut tries, error).await?;
    }
}

/// A guest that has posted may end by itself; nobody waits for one that has not.
fn grace(deps: &Deps, outcome: Outcome) -> Duration {
    match outcome {
        Outcome::Completed => deps.core.runs.grace,
        Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled | Outcome::Rejected => {
            Duration::ZERO
        }
    }
}

/// Nobody asks first how the machine is: a wait for one that has ended or is gone ends at once. One
/// that was made a moment ago may not be seen yet; it can be deleted all the same.
async fn end_machine(deps: &Deps, machine: &MachineRef, grace: Duration) -> Result<(), Error> {
    // A machine that has ended needs no force, and a plain delete would tell us if it has not.
    if wait_for_end(deps, machine, grace).await && !force_is_needed(deps, machine).await? {
        return Ok(());
    }
    remove(deps, &machine.app, &machine.id).await
}

/// Whether the machine ended within `grace`. The service may give up a wait before that; any other
/// failure is no reason to wait longer.
async fn wait_for_end(deps: &Deps, machine: &MachineRef, grace: Duration) -> bool {
    let began = Instant::now();
    let mut waits = 0;
    loop {
        let left = grace.saturating_sub(began.elapsed());
        if left < WAIT_MIN {
            return false;
        }
        let wait = Wait {
            states: &[
                MachineState::Stopped,
                MachineState::Destroyed,
                MachineState::Failed,
            ],
            version: machine.instance_id.as_deref(),
            timeout: left,
        };
        let waited = deps.machines.wait(&machine.app, &machine.id, &wait).await;
        milestone!("teardown::waited");
        let Err(error) = waited else {
            return true;
        };
        match judge(Call::Wait, &error) {
            Decision::Gone => return true,
            Decision::NotYet => {
                waits += 1;
                pause(waits, PAUSE_BASE, PAUSE_MAX).await;
            }
            _ => return false,
        }
    }
}

/// Deletes without force; whether that was not enough.
async fn force_is_needed(deps: &Deps, machine: &MachineRef) -> Result<bool, Error> {
    let machines = &deps.machines;
    let deleted = machines.delete(&machine.app, &machine.id, Force::No).await;
    milestone!("teardown::deleted");
    match deleted {
        Ok(()) => Ok(false),
        Err(error) => Ok(!gone(Call::Delete, &error)),
    }
}

async fn find(
    deps: &Deps,
    app: &str,
    run: &RunId,
    name: &str,
) -> Result<Option<MachineRef>, Error> {
    let mut tries = Tries::new();
    let filter = spec::machines_of(run);
    loop {
        let found = deps.machines.find_by_name(app, name, &filter).await;
        milestone!("teardown::looked_up");
        match found {
            Ok(found) => {
                return Ok(found.map(|machine| MachineRef {
                    app: app.to_owned(),
                    instance_id: machine.version_id().map(str::to_owned),
                    region: machine.region.clone(),
                    id: machine.id,
                }));
            }
            Err(error) => again(&mut tries, error).await?,
        }
    }
}

async fn close(deps: &Deps, view: &RunRecord) -> Result<TornDown, Error> {
    let core = &deps.core;
    let now = core.clock.now_ms();
    let retention = core.runs.retention;
    let (act, waiting) = core
        .store
        .close(&view.id, view.boot(), now, retention)
        .await?;
    milestone!("teardown::closed");
    if act != Transition::Done(Entered::Closed) {
        return Ok(TornDown::Nothing);
    }
    info!(run_id = view.id.as_str(), "closed");
    let settled_at = view.settled_at_ms.unwrap_or(now);
    let took = budget::left(settled_at, now);
    core.metrics.teardown_duration.observe(took.as_secs_f64());
    if let Some(running_at) = view.running_at_ms {
        let took = budget::left(running_at, settled_at);
        core.metrics.result_duration.observe(took.as_secs_f64());
    }
    Ok(TornDown::Closed { waiting })
}

fn gone(call: Call, error: &ApiError) -> bool {
    judge(call, error) == Decision::Gone
}

/// How often a call was tried, and since when.
struct Tries {
    made: u32,
    since: Instant,
}

impl Tries {
    fn new() -> Self {
        Self {
            made: 0,
            since: Instant::now(),
        }
    }
}

/// Pauses before another try, or gives up with the error. Who has waited long for an answer does
/// not wait for another: others need the permit.
async fn again(tries: &mut Tries, error: ApiError) -> Result<(), Error> {
    tries.made += 1;
    if tries.made >= TRIES_MAX || tries.since.elapsed() >= PATIENCE {
        return Err(Error::Machines(error));
    }
    warn!(%error, "a call of a tear-down failed; trying again");
    pause(tries.made, PAUSE_BASE, PAUSE_MAX).await;
    Ok(())
}
