//! Finds what slipped through: orphans, which are machines without a run, and runs whose machine has
//! stopped.
//!
//! [`reconcile`] is one level-triggered pass over one app: it compares the provider's list with what
//! Redis knows. Two passes at once do no harm. Overdue runs are not its business: they are in `due`,
//! and the sweeper hands them to [`perform`](crate::stage::perform).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use tracing::warn;

use crate::clock::UnixMs;
use crate::machines::wire::{self, MachineState};
use crate::machines::{Call, Decision, Service, judge};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, MACHINE_PREFIX, Nonce, RunId, machine_name};
use crate::run::phase::Phase;
use crate::stage::observe::{BootLimits, LISTED_AFTER};
use crate::stage::owner::{self, Ownership};
use crate::stage::teardown::delete;
use crate::stage::{Deps, Error};
use crate::store::codec::RunRecord;

/// Runs read from Redis in one go.
const PAGE: usize = 256;

/// What a pass over an app found.
#[derive(Debug, Default)]
pub struct Differences {
    /// Machines that the provider lists.
    pub machines: usize,
    /// Which service lists them.
    pub service: Service,
    /// Runs in flight.
    pub in_flight: usize,
    /// `running` runs whose machine must be read.
    pub to_inspect: Vec<RunRecord>,
    /// Machines named like ours that belong to no run in flight. A pass only reports them; one that
    /// is reported for long enough and is ours is deleted.
    pub orphans: Vec<Orphan>,
}

/// A machine without a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Where it lives.
    pub app: String,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// Compares one app's machines with the runs in flight: one listing, and one round trip for each
/// thousand runs. Only the names, ids and states of the machines are in memory, and one page of the
/// runs.
///
/// The runs in flight are read after the list. A claim is recorded before its create call is made,
/// so a listed machine without a run will never get one.
///
/// # Errors
/// When the provider or Redis does not answer.
pub async fn reconcile(deps: &Deps, app: &str) -> Result<Differences, Error> {
    let began = deps.core.clock.now_ms();
    let mut found = Differences::default();
    let mut listed: HashMap<Box<str>, Listed> = HashMap::new();
    let mut duplicates: Vec<(Box<str>, Listed)> = Vec::new();
    let each = |machine: wire::MachineBrief| {
        found.machines += 1;
        if !machine.name.starts_with(MACHINE_PREFIX) {
            return;
        }
        let name = machine.name.into_boxed_str();
        let brief = Listed {
            id: machine.id.into_boxed_str(),
            state: machine.state,
        };
        match listed.entry(name) {
            Entry::Vacant(place) => {
                place.insert(brief);
            }
            Entry::Occupied(place) => duplicates.push((place.key().clone(), brief)),
        }
    };
    let all = deps.machines.survey(app, each).await;
    milestone!("reconcile::listed");
    found.service = all.map_err(Error::Machines)?;
    let mut suspects: Vec<(RunId, Suspicion)> = Vec::new();
    let in_flight = &mut found.in_flight;
    let each = |run: RunId, attempt, nonce: Option<Nonce>| {
        *in_flight += 1;
        match listed.remove(machine_name(&run, attempt, nonce.as_ref()).as_str()) {
            Some(machine) => suspects.extend(suspicion(&machine.state).map(|why| (run, why))),
            None => suspects.push((run, Suspicion::Gone)),
        }
    };
    let counted = deps.core.store.each_in_flight(app, each).await;
    milestone!("reconcile::in_flight_read");
    counted?;
    let unclaimed = listed.into_iter().chain(duplicates);
    let alive = unclaimed.filter(|(_, machine)| !machine.state.is_gone());
    found.orphans.extend(alive.map(|(name, machine)| Orphan {
        app: app.to_owned(),
        id: machine.id.into(),
        name: name.into(),
    }));
    for page in suspects.chunks(PAGE) {
        let ids: Vec<RunId> = page.iter().map(|(run, _)| run.clone()).collect();
        let views = deps.core.store.records(&ids).await?;
        milestone!("reconcile::runs_read");
        let mut preparing = Vec::new();
        for (view, (_, suspicion)) in views.into_iter().zip(page) {
            let Some(view) = view.filter(|view| matches!(view.phase(), Phase::Running { .. }))
            else {
                continue;
            };
            let limits = BootLimits::of(&view, &deps.core.runs);
            if *suspicion == Suspicion::Preparing {
                let attempt = Attempt(view.attempt);
                preparing.push((view.id.clone(), attempt, limits.prepared_by));
            }
            if is_due(&view, *suspicion, limits, began) {
                found.to_inspect.push(view);
            }
        }
        if !preparing.is_empty() {
            // Until the next pass, which may be a little late.
            let until = budget::after(began, deps.core.runs.sweep.saturating_mul(2));
            deps.core.store.note_preparing(&preparing, until).await?;
            milestone!("reconcile::preparing_noted");
        }
    }
    Ok(found)
}

/// What is kept of a machine during a pass.
struct Listed {
    id: Box<str>,
    state: MachineState,
}

/// Why the machine of a run may have to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// It has stopped, or is not listed.
    Gone,
    /// It is being prepared.
    Preparing,
    /// It is being started.
    Starting,
}

/// Why a listed machine may have to be read; `None` when it runs as it should.
fn suspicion(state: &MachineState) -> Option<Suspicion> {
    if state.is_over() {
        return Some(Suspicion::Gone);
    }
    let suspicion = if state.is_preparing() {
        Suspicion::Preparing
    } else {
        Suspicion::Starting
    };
    state.is_booting().then_some(suspicion)
}

/// Whether the machine must be read now. One that was created after the list began, or just before,
/// may not be listed yet.
fn is_due(view: &RunRecord, suspicion: Suspicion, limits: BootLimits, began: UnixMs) -> bool {
    let from = match suspicion {
        Suspicion::Gone => view.running_at_ms.unwrap_or(UnixMs::MAX),
        Suspicion::Preparing => limits.prepared_by,
        Suspicion::Starting => limits.started_by,
    };
    from < began
}

/// Deletes an orphan, after a check that it is ours and still has no run. Returns to whom it belongs.
///
/// # Errors
/// When the provider or Redis does not answer.
pub async fn delete_orphan(deps: &Deps, orphan: &Orphan) -> Result<Ownership, Error> {
    let known = deps.machines.get(&orphan.app, &orphan.id).await;
    milestone!("reconcile::orphan_read");
    let machine = match known {
        Ok(machine) if !machine.state.is_gone() => machine,
        Ok(_) => return Ok(Ownership::Orphan),
        Err(error) if judge(Call::Get, &error) == Decision::Gone => {
            return Ok(Ownership::Orphan);
        }
        Err(error) => return Err(Error::Machines(error)),
    };
    let ownership = owner::ownership(deps, &machine).await?;
    if ownership != Ownership::Orphan {
        return Ok(ownership);
    }
    // It was deleted before and is still shutting down. Repeating the call does no harm.
    if machine.state == MachineState::Destroying {
        delete(deps, &orphan.app, &orphan.id).await?;
        return Ok(ownership);
    }
    warn!(
        app = orphan.app,
        machine_id = orphan.id,
        name = orphan.name,
        "deleting an orphan: a machine without a run"
    );
    delete(deps, &orphan.app, &orphan.id).await?;
    deps.core.metrics.orphan_machines_deleted.inc();
    Ok(ownership)
}

/// How long an orphan must have been one before it is deleted: a worker that was suspended in the
/// middle of a boot gets that long to record the machine.
#[must_use]
pub fn orphan_grace(lease: Duration) -> Duration {
    lease.max(LISTED_AFTER)
}

/// Whether a machine that is an orphan since `since` may be deleted at `now`.
#[must_use]
pub fn is_orphan_due(since: UnixMs, now: UnixMs, lease: Duration) -> bool {
    now >= budget::after(since, orphan_grace(lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_is_not_deleted_by_the_first_pass() {
        let (since, short, long) = (1_000_000, Duration::from_secs(3), Duration::from_secs(15));
        for (lease, age) in [(short, LISTED_AFTER), (long, long)] {
            assert!(!is_orphan_due(since, since, lease));
            assert!(!is_orphan_due(since, budget::after(since, age) - 1, lease));
            assert!(is_orphan_due(since, budget::after(since, age), lease));
        }
    }
}
