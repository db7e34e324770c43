//! What slipped through: machines that no run owns, and runs whose machine has ended.
//!
//! [`survey`] is one pass over one app, level-triggered: it compares what the provider lists with
//! what Redis knows, and acts on the difference. Two at once do no harm. Runs that are overdue
//! are not its business: they are in `due`, and whoever sweeps hands them to
//! [`perform`](crate::stage::perform).

use std::collections::HashMap;
use std::time::Duration;

use tracing::warn;

use crate::clock::UnixMs;
use crate::machines::wire::MachineState;
use crate::machines::{Call, Decision, Detail, ListFilter, judge, wire};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, MACHINE_PREFIX, RunId, machine_name};
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
/// thousand runs.
///
/// The runs in flight are read after the listing. A claim is recorded before its create call is
/// made, so a machine that is listed and has no run then has none for good.
///
/// # Errors
/// When the provider or Redis does not answer.
pub async fn survey(deps: &Deps, app: &str) -> Result<Survey, Error> {
    let began = deps.core.clock.now_ms();
    let filter = ListFilter {
        detail: Detail::Summary,
        ..ListFilter::default()
    };
    let listed = deps
        .machines
        .list(app, &filter)
        .await
        .map_err(Error::Machines)?;
    milestone!("sweep::listed");
    let in_flight = deps.core.store.in_flight(app).await?;
    milestone!("sweep::counted");
    let mut names: HashMap<String, (&RunId, Attempt)> = in_flight
        .iter()
        .map(|(run, attempt)| (machine_name(run, *attempt), (run, *attempt)))
        .collect();
    let mut survey = Survey {
        machines: listed.len(),
        ..Survey::default()
    };
    let mut suspects: Vec<(RunId, Duration)> = Vec::new();
    for machine in &listed {
        match names.remove(&machine.name) {
            Some((run, _)) => {
                suspects.extend(doubt(deps, machine).map(|age| (run.clone(), age)));
            }
            None if machine.name.starts_with(MACHINE_PREFIX) && !machine.state.is_gone() => {
                survey.orphans.push(Orphan {
                    app: app.to_owned(),
                    id: machine.id.clone(),
                    name: machine.name.clone(),
                });
            }
            None => {}
        }
    }
    // What is left in `names` is in flight and not listed.
    suspects.extend(
        names
            .into_values()
            .map(|(run, _)| (run.clone(), Duration::ZERO)),
    );
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

/// How long the run of a listed machine must have been running for the machine to need a closer
/// look; `None` when it runs as it should.
fn doubt(deps: &Deps, machine: &wire::Machine) -> Option<Duration> {
    if machine.state.is_over() {
        return Some(Duration::ZERO);
    }
    machine
        .state
        .is_booting()
        .then_some(deps.core.runs.boot_timeout)
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
    let in_flight = deps.core.store.in_flight(&orphan.app).await?;
    milestone!("sweep::orphan_doubted");
    let owned = in_flight
        .iter()
        .any(|(run, attempt)| machine_name(run, *attempt) == orphan.name);
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
    deps.core.metrics.machines_without_run.inc();
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
