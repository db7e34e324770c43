//! settled → closed: wait for the machine to stop, delete it, and only then close the run.
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
use crate::run::phase::MachineRef;
use crate::stage::breaker::{Circuit, OPEN_MAX};
use crate::stage::outline::{exemplar, scope_of_teardown};
use crate::stage::{Deps, Error, has_no_answer, pause, spec};
use crate::store::acts::{Entered, Transition};
use crate::store::codec::{RunRecord, SettledRun};
use crate::telemetry::Timed;
use crate::traces::{self, within};

/// Calls of one kind before the tear-down is left for later.
const TRIES_MAX: u32 = 4;
/// How long calls of one kind are tried again.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A wait for less is not worth a call: the service counts whole seconds.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// First ceiling of the pause between two calls.
const PAUSE_BASE: Duration = Duration::from_millis(100);
/// Longest pause between two calls.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a tear-down came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TornDown {
    /// No machine is left.
    Closed {
        /// Whether some run waits for the capacity.
        runs_wait: bool,
    },
    /// The create call may still be on its way, or the circuit of the app is open.
    Later {
        /// When to try again.
        again_at_ms: UnixMs,
    },
    /// No tear-down is owed (any more).
    NotOwed,
}

/// Tears down what a settled run left: two HTTP calls and one round trip in the usual case. While
/// the circuit of the app is open nothing is called, and the permit is free for other apps.
///
/// # Errors
/// When a call or Redis fails for longer than a few tries. The tear-down stays owed.
pub async fn teardown(deps: &Deps, run: &SettledRun) -> Result<TornDown, Error> {
    let app = run.app.as_str();
    let now = deps.core.clock.now_ms();
    let circuit = deps.health.breakers.acquire(app, None, now);
    if let Circuit::Open(until) = circuit {
        let again_at_ms = until.min(budget::after(now, OPEN_MAX));
        return Ok(TornDown::Later { again_at_ms });
    }
    let scope = scope_of_teardown(deps, run).await;
    let outcome = within(scope, delete_and_close(deps, run)).await;
    match &outcome {
        // A tear-down proves little of whether an app can boot: it closes no circuit but its own
        // trial's.
        Ok(_) if circuit == Circuit::HalfOpen => deps.record_call(app, None, None),
        Err(Error::Machines(error)) if has_no_answer(error) => {
            deps.record_call(app, None, Some(error));
        }
        Ok(_) | Err(_) => {}
    }
    outcome
}

async fn delete_and_close(deps: &Deps, run: &SettledRun) -> Result<TornDown, Error> {
    let grace = grace(deps, run.outcome);
    match &run.machine {
        Some(machine) => stop_and_delete(deps, machine, grace).await?,
        None => {
            let name = machine_name(&run.id, run.attempt, run.nonce.as_ref());
            match find(deps, &run.app, &run.id, &name).await? {
                Some(machine) => stop_and_delete(deps, &machine, grace).await?,
                // While the create call may be on its way, a missing machine proves nothing.
                None => {
                    let until = run.boot_until_ms.unwrap_or(0);
                    if deps.core.clock.now_ms() < until {
                        return Ok(TornDown::Later { again_at_ms: until });
                    }
                }
            }
        }
    }
    close(deps, run).await
}

/// Deletes the machine of a run's attempt, whatever its state, and leaves the run as it is.
///
/// # Errors
/// When the provider does not do it within a few tries.
pub async fn delete_attempt(deps: &Deps, view: &RunRecord) -> Result<(), Error> {
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
        Some(id) => delete(deps, app, &id).await,
        None => Ok(()),
    }
}

/// Deletes a machine by force, whatever its state. Gone is success.
///
/// # Errors
/// When the provider does not do it within a few tries.
pub async fn delete(deps: &Deps, app: &str, id: &str) -> Result<(), Error> {
    let mut tries = Tries::new();
    loop {
        let deleted = deps.machines.delete(app, id, Force::Yes).await;
        milestone!("teardown::forced");
        let Err(error) = deleted else {
            return Ok(());
        };
        if is_gone(Call::Delete, &error) {
            return Ok(());
        }
        pause_or_fail(&mut tries, error).await?;
    }
}

/// A guest that has posted may exit by itself; one that has not is given no time.
fn grace(deps: &Deps, outcome: Outcome) -> Duration {
    match outcome {
        Outcome::Completed => deps.core.runs.grace,
        Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled | Outcome::Rejected => {
            Duration::ZERO
        }
    }
}

/// The state of the machine is not read first: a wait for one that has stopped or is gone returns at
/// once. One that was created a moment ago may not be listed yet, but can be deleted.
async fn stop_and_delete(deps: &Deps, machine: &MachineRef, grace: Duration) -> Result<(), Error> {
    // A machine that has stopped needs no force, and a plain delete fails if it has not.
    if wait_for_stop(deps, machine, grace).await && !needs_force(deps, machine).await? {
        return Ok(());
    }
    delete(deps, &machine.app, &machine.id).await
}

/// Whether the machine stopped within `grace`. The service may end a wait before that; after any
/// other failure there is no more waiting.
async fn wait_for_stop(deps: &Deps, machine: &MachineRef, grace: Duration) -> bool {
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
async fn needs_force(deps: &Deps, machine: &MachineRef) -> Result<bool, Error> {
    let machines = &deps.machines;
    let deleted = machines.delete(&machine.app, &machine.id, Force::No).await;
    milestone!("teardown::deleted");
    match deleted {
        Ok(()) => Ok(false),
        Err(error) => Ok(!is_gone(Call::Delete, &error)),
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
            Err(error) => pause_or_fail(&mut tries, error).await?,
        }
    }
}

async fn close(deps: &Deps, run: &SettledRun) -> Result<TornDown, Error> {
    let core = &deps.core;
    let now = core.clock.now_ms();
    let retention = core.runs.retention;
    let (act, runs_wait) = core
        .store
        .close(&run.id, run.boot(), now, retention)
        .await?;
    milestone!("teardown::closed");
    if act != Transition::Done(Entered::Closed) {
        return Ok(TornDown::NotOwed);
    }
    info!(run_id = run.id.as_str(), "closed");
    let settled_at = run.settled_at_ms.unwrap_or(now);
    let took = budget::left(settled_at, now);
    core.metrics.teardown_duration.observe(took.as_secs_f64());
    let scope = traces::scope();
    exemplar(deps, scope.as_ref(), Timed::TearDown, took);
    if let Some(running_at) = run.running_at_ms {
        let took = budget::left(running_at, settled_at);
        core.metrics.result_duration.observe(took.as_secs_f64());
        exemplar(deps, scope.as_ref(), Timed::Result, took);
    }
    Ok(TornDown::Closed { runs_wait })
}

fn is_gone(call: Call, error: &ApiError) -> bool {
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

/// Pauses before another try, or gives up with the error. Slow answers use up the tries as well,
/// since others need the permit.
async fn pause_or_fail(tries: &mut Tries, error: ApiError) -> Result<(), Error> {
    tries.made += 1;
    if tries.made >= TRIES_MAX || tries.since.elapsed() >= RETRY_MAX {
        return Err(Error::Machines(error));
    }
    warn!(%error, "a call of a tear-down failed; trying again");
    pause(tries.made, PAUSE_BASE, PAUSE_MAX).await;
    Ok(())
}
