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
use crate::run::id::{MACHINE_PREFIX, Nonce, RunId, machine_name};
use crate::run::phase::Phase;
use crate::stage::observe::NEWBORN;
use crate::stage::spec::OWNER;
use crate::stage::teardown::remove;
use crate::stage::{Deps, Error};
use crate::store::codec::View;

/// Runs read from Redis in one go.
const PAGE: usize = 256;

/// What a pass over an app found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Machines that the provider lists.
    pub machines: usize,
    /// Running runs at whose machine somebody must look.
    pub doubtful: Vec<View>,
    /// Machines of our kind that no run in flight has. The first pass that sees one only
    /// notes it; one that is seen twice is removed.
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
    let mut suspects: Vec<(RunId, Duration)> = Vec::new();
    let each = |run: RunId, attempt, nonce: Option<Nonce>| {
        match listed.remove(machine_name(&run, attempt, nonce.as_ref()).as_str()) {
            Some(machine) => suspects.extend(doubt(deps, &machine.state).map(|age| (run, age))),
            // It is in flight and not listed.
            None => suspects.push((run, Duration::ZERO)),
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
        let views = deps.core.store.views(&ids).await?;
        milestone!("sweep::suspected");
        for (view, (_, age)) in views.into_iter().zip(page) {
            survey
                .doubtful
                .extend(view.filter(|view| may_be_judged(view, *age, began)));
        }
    }
    Ok(survey)
}

/// What is held of a machine during a survey.
struct Listed {
    id: Box<str>,
    state: MachineState,
}

/// How long the run of a listed machine must have been running for the machine to need a closer
/// look; `None` when it runs as it should.
fn doubt(deps: &Deps, state: &MachineState) -> Option<Duration> {
    if state.is_over() {
        return Some(Duration::ZERO);
    }
    state.is_booting().then_some(deps.core.runs.boot_timeout)
}

/// A run whose machine was made after the listing began, or just before, may not be listed yet.
fn may_be_judged(view: &View, age: Duration, began: UnixMs) -> bool {
    let Phase::Running { .. } = view.phase() else {
        return false;
    };
    view.running_at_ms
        .is_some_and(|since| budget::after(since, age) < began)
}

/// Removes a machine that no run has: after a second look that it is ours, and that no run has
/// it still. Says whether it was removed.
///
/// # Errors
/// When the provider or Redis does not answer.
pub async fn remove_orphan(deps: &Deps, orphan: &Orphan) -> Result<bool, Error> {
    let known = deps.machines.get(&orphan.app, &orphan.id).await;
    milestone!("sweep::orphan_read");
    let machine = match known {
        Ok(machine) => machine,
        Err(error) if judge(Call::Get, &error).decision == Decision::Gone => return Ok(false),
        Err(error) => return Err(Error::Machines(error)),
    };
    // Another fleet may share the app. Its machines say so, and are its own to sweep.
    if machine
        .metadata(OWNER)
        .is_some_and(|owner| owner != deps.owner())
    {
        return Ok(false);
    }
    let mut owned = false;
    let each = |run, attempt, nonce: Option<Nonce>| {
        owned |= machine_name(&run, attempt, nonce.as_ref()) == orphan.name;
    };
    let looked = deps.core.store.each_in_flight(&orphan.app, each).await;
    milestone!("sweep::orphan_doubted");
    looked?;
    if owned || machine.state.is_gone() {
        return Ok(false);
    }
    // It was asked to go before, and is still on its way: once more does no harm.
    if machine.state == MachineState::Destroying {
        remove(deps, &orphan.app, &orphan.id).await?;
        return Ok(false);
    }
    warn!(
        app = orphan.app,
        machine_id = orphan.id,
        name = orphan.name,
        "removing a machine that no run has"
    );
    remove(deps, &orphan.app, &orphan.id).await?;
    deps.core.metrics.machines_without_run_removed.inc();
    Ok(true)
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
