//! What slipped through: machines that no run owns, and runs whose machine has ended.
//!
//! [`survey`] is one pass over one app, level-triggered: it compares what the provider lists with
//! what Redis knows, and acts on the difference. Two at once do no harm. Runs that are overdue
//! are not its business: they are in `due`, and whoever sweeps hands them to
//! [`perform`](crate::stage::perform).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use tracing::warn;

use crate::clock::UnixMs;
use crate::machines::wire::{self, MachineState};
use crate::machines::{Call, Decision, judge};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, MACHINE_PREFIX, Nonce, RunId, machine_name};
use crate::run::phase::Phase;
use crate::stage::observe::{BootLimits, NEWBORN};
use crate::stage::owner::{self, Whose};
use crate::stage::teardown::remove;
use crate::stage::{Deps, Error};
use crate::store::codec::RunRecord;

/// Runs read from Redis in one go.
const PAGE: usize = 256;

/// What a pass over an app found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Machines that the provider lists.
    pub machines: usize,
    /// Running runs at whose machine somebody must look.
    pub doubtful: Vec<RunRecord>,
    /// Machines named like ours that no run in flight has. The first pass that sees one only notes
    /// it; one that is seen for long enough and is ours is removed.
    pub orphans: Vec<Orphan>,
}

/// A machine that no run has.
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
/// thousand runs. Of the machines only the names, ids and states are held meanwhile, and of the
/// runs a page.
///
/// The runs in flight are read after the listing. A claim is recorded before its create call is
/// made, so a machine that is listed and has no run then has none for good.
///
/// # Errors
/// When the provider or Redis does not answer.
pub async fn survey(deps: &Deps, app: &str) -> Result<Survey, Error> {
    let began = deps.core.clock.now_ms();
    let mut survey = Survey::default();
    let mut listed: HashMap<Box<str>, Listed> = HashMap::new();
    let mut twins: Vec<(Box<str>, Listed)> = Vec::new();
    let each = |machine: wire::MachineBrief| {
        survey.machines += 1;
        if !machine.name.starts_with(MACHINE_PREFIX) {
            return;
        }
        let name = machine.name.into_boxed_str();
        let seen = Listed {
            id: machine.id.into_boxed_str(),
            state: machine.state,
        };
        match listed.entry(name) {
            Entry::Vacant(place) => {
                place.insert(seen);
            }
            Entry::Occupied(place) => twins.push((place.key().clone(), seen)),
        }
    };
    let all = deps.machines.survey(app, each).await;
    milestone!("sweep::listed");
    all.map_err(Error::Machines)?;
    let mut suspects: Vec<(RunId, Doubt)> = Vec::new();
    let each = |run: RunId, attempt, nonce: Option<Nonce>| {
        match listed.remove(machine_name(&run, attempt, nonce.as_ref()).as_str()) {
            Some(machine) => suspects.extend(doubt(&machine.state).map(|doubt| (run, doubt))),
            // It is in flight and not listed.
            None => suspects.push((run, Doubt::Over)),
        }
    };
    let counted = deps.core.store.each_in_flight(app, each).await;
    milestone!("sweep::counted");
    counted?;
    let left = listed.into_iter().chain(twins);
    let alive = left.filter(|(_, machine)| !machine.state.is_gone());
    survey.orphans.extend(alive.map(|(name, machine)| Orphan {
        app: app.to_owned(),
        id: machine.id.into(),
        name: name.into(),
    }));
    for page in suspects.chunks(PAGE) {
        let ids: Vec<RunId> = page.iter().map(|(run, _)| run.clone()).collect();
        let views = deps.core.store.records(&ids).await?;
        milestone!("sweep::suspected");
        let mut preparing = Vec::new();
        for (view, (_, doubt)) in views.into_iter().zip(page) {
            let Some(view) = view.filter(|view| matches!(view.phase(), Phase::Running { .. }))
            else {
                continue;
            };
            let limits = BootLimits::of(&view, &deps.core.runs);
            if *doubt == Doubt::Preparing {
                let attempt = Attempt(view.attempt);
                preparing.push((view.id.clone(), attempt, limits.prepared_by));
            }
            if may_be_judged(&view, *doubt, limits, began) {
                survey.doubtful.push(view);
            }
        }
        if !preparing.is_empty() {
            // The next sweep may see it still, and may come a little late.
            let until = budget::after(began, deps.core.runs.sweep.saturating_mul(2));
            deps.core.store.note_preparing(&preparing, until).await?;
            milestone!("sweep::noted");
        }
    }
    Ok(survey)
}

/// What is held of a machine during a survey.
struct Listed {
    id: Box<str>,
    state: MachineState,
}

/// Why a run's machine may need a closer look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// It has ended, or is not listed.
    Over,
    /// It is being prepared.
    Preparing,
    /// It is being started.
    Starting,
}

/// What there is to doubt of a listed machine; `None` when it runs as it should.
fn doubt(state: &MachineState) -> Option<Doubt> {
    if state.is_over() {
        return Some(Doubt::Over);
    }
    let doubt = if state.is_preparing() {
        Doubt::Preparing
    } else {
        Doubt::Starting
    };
    state.is_booting().then_some(doubt)
}

/// A run whose machine was made after the listing began, or just before, may not be listed yet.
fn may_be_judged(view: &RunRecord, doubt: Doubt, limits: BootLimits, began: UnixMs) -> bool {
    let from = match doubt {
        Doubt::Over => view.running_at_ms.unwrap_or(UnixMs::MAX),
        Doubt::Preparing => limits.prepared_by,
        Doubt::Starting => limits.started_by,
    };
    from < began
}

/// Removes a machine that no run has: after a second look that it is ours, and that no run has it
/// still. Says whose it is, as far as can be told; what was nobody's is removed.
///
/// # Errors
/// When the provider or Redis does not answer.
pub async fn remove_orphan(deps: &Deps, orphan: &Orphan) -> Result<Whose, Error> {
    let known = deps.machines.get(&orphan.app, &orphan.id).await;
    milestone!("sweep::orphan_read");
    let machine = match known {
        Ok(machine) if !machine.state.is_gone() => machine,
        Ok(_) => return Ok(Whose::Nobodys),
        Err(error) if judge(Call::Get, &error) == Decision::Gone => {
            return Ok(Whose::Nobodys);
        }
        Err(error) => return Err(Error::Machines(error)),
    };
    let whose = owner::whose(deps, &machine).await?;
    if whose != Whose::Nobodys {
        return Ok(whose);
    }
    // It was asked to go before, and is still on its way: once more does no harm.
    if machine.state == MachineState::Destroying {
        remove(deps, &orphan.app, &orphan.id).await?;
        return Ok(whose);
    }
    warn!(
        app = orphan.app,
        machine_id = orphan.id,
        name = orphan.name,
        "removing a machine that no run has"
    );
    remove(deps, &orphan.app, &orphan.id).await?;
    deps.core.metrics.machines_without_run_removed.inc();
    Ok(whose)
}

/// How long an orphan must have been one before it is removed: a worker that was stopped in the
/// middle of a boot gets that long to say that the machine is its own.
#[must_use]
pub fn orphan_age(lease: Duration) -> Duration {
    lease.max(NEWBORN)
}

/// Whether a machine noted as an orphan at `noted` may be removed at `now`.
#[must_use]
pub fn is_ripe(noted: UnixMs, now: UnixMs, lease: Duration) -> bool {
    now >= budget::after(noted, orphan_age(lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_is_not_removed_at_first_sight() {
        let (noted, short, long) = (1_000_000, Duration::from_secs(3), Duration::from_secs(15));
        for (lease, age) in [(short, NEWBORN), (long, long)] {
            assert!(!is_ripe(noted, noted, lease));
            assert!(!is_ripe(noted, budget::after(noted, age) - 1, lease));
            assert!(is_ripe(noted, budget::after(noted, age), lease));
        }
    }
}
