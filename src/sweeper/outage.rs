//! Deadlines without Redis. While it cannot be asked, machines are deleted by the deadline in their
//! signed token, which no guest can change.
//!
//! Nothing is written: the runs are settled when Redis answers again. Every worker does it, since
//! none can lead, and deleting twice does no harm.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::Instant;
use tracing::warn;

use crate::clock::UnixMs;
use crate::machines::wire::{MachineBrief, MachineState};
use crate::machines::{Call, Decision, judge};
use crate::run::budget;
use crate::run::id::MACHINE_PREFIX;
use crate::stage::teardown::delete;
use crate::stage::{Deps, Error, owner};
use crate::sweeper::{CALLS_MAX, Sweeper};

/// How long after its signed deadline a machine is kept: another worker may still reach Redis, and
/// acts at the deadline.
const SLACK: Duration = Duration::from_secs(5);
/// Between two passes.
const INTERVAL: Duration = Duration::from_secs(5);

/// The signed deadlines of an app's machines by their ids; `None` for a machine that is not ours.
type Deadlines = HashMap<String, Option<UnixMs>>;

/// What is known of machines while Redis does not answer.
#[derive(Debug, Default)]
pub(super) struct Outage {
    next: Option<Instant>,
    apps: HashMap<String, Deadlines>,
}

impl Sweeper {
    /// Deletes the machines of all known apps whose signed deadline has passed. One list for each app,
    /// and one read for each machine that is not known yet.
    pub(super) async fn delete_expired_machines(&self) {
        let mut outage = self.outage.lock().await;
        if outage.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        let known = self.known_apps.lock().await.clone();
        let own = self.deps().apps.iter().cloned();
        let apps: HashSet<String> = known.into_iter().chain(own).collect();
        let passes = apps.into_iter().map(|app| {
            let deadlines = outage.apps.remove(&app).unwrap_or_default();
            self.delete_expired_in(app, deadlines)
        });
        let passes: Vec<_> = passes.collect();
        let passes = stream::iter(passes).buffer_unordered(CALLS_MAX);
        outage.apps = passes.collect().await;
        outage.next = Some(Instant::now() + INTERVAL);
    }

    async fn delete_expired_in(&self, app: String, known: Deadlines) -> (String, Deadlines) {
        let deps = self.deps();
        let mut listed = Vec::new();
        let each = |machine: MachineBrief| {
            let is_ours = machine.name.starts_with(MACHINE_PREFIX);
            let is_there = !machine.state.is_gone() && machine.state != MachineState::Destroying;
            if is_ours && is_there {
                listed.push(machine.id);
            }
        };
        if let Err(error) = deps.machines.survey(&app, each).await {
            warn!(app, %error, "machines could not be listed while redis does not answer");
            return (app, known);
        }
        let checks = stream::iter(listed).map(async |id: String| {
            let deadline = match known.get(&id) {
                Some(deadline) => Ok(*deadline),
                None => signed_deadline(deps, &app, &id).await,
            };
            match delete_if_expired(deps, &app, &id, deadline).await {
                Ok(deadline) => Some((id, deadline)),
                Err(error) => {
                    warn!(machine_id = id, %error, "a machine could not be checked or deleted");
                    None
                }
            }
        });
        let checks = checks.buffer_unordered(CALLS_MAX);
        let deadlines = checks.filter_map(std::future::ready).collect().await;
        (app, deadlines)
    }
}

/// Until when we signed for this machine; `None` for one that is not ours, or is gone.
async fn signed_deadline(deps: &Deps, app: &str, id: &str) -> Result<Option<UnixMs>, Error> {
    match deps.machines.get(app, id).await {
        Ok(machine) => {
            let grant = owner::signed(deps, &machine);
            Ok(grant.map(|grant| grant.expires_s.saturating_mul(1000)))
        }
        Err(error) if judge(Call::Get, &error) == Decision::Gone => Ok(None),
        Err(error) => Err(Error::Machines(error)),
    }
}

async fn delete_if_expired(
    deps: &Deps,
    app: &str,
    id: &str,
    deadline: Result<Option<UnixMs>, Error>,
) -> Result<Option<UnixMs>, Error> {
    let deadline = deadline?;
    let is_expired =
        deadline.is_some_and(|at| budget::after(at, SLACK) <= deps.core.clock.now_ms());
    if is_expired {
        delete(deps, app, id).await?;
        warn!(
            app,
            machine_id = id,
            "the signed deadline passed while redis does not answer; the machine is deleted"
        );
    }
    Ok(deadline)
}
