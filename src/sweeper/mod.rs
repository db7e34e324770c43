//! The periodic work of a fleet. One worker leads at a time; two at once do no harm.
//!
//! Every second the leader hands the worker's tasks what is overdue. Every `COFFERDAM_SWEEP_S` it
//! reconciles each app's machines with the runs in flight (`reconcile`). It also trims, repairs and
//! counts.

mod artifacts;
mod outage;
mod reconcile;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::RunId;
use crate::shutdown::Shutdown;
use crate::stage::settle::settle_missing;
use crate::stage::teardown::delete_attempt;
use crate::stage::{Deps, Error};
use crate::store::fleet::Census;
use crate::store::keys::Inbox;
use crate::store::results::KeptBack;
use crate::sweeper::outage::Outage;
use crate::worker::tasks::Tasks;

/// How often the leader looks for what is overdue.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(1);
/// The same while no run is open.
const IDLE_OVERDUE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a leader that died keeps others from leading.
const LEAD_LEASE: Duration = Duration::from_secs(5);
/// The same while no run is open.
const IDLE_LEAD_LEASE: Duration = Duration::from_secs(25);
/// Overdue runs taken at once.
const OVERDUE_MAX: usize = 256;
/// Calls for machines at once: the Machines API allows 5 a second and machine id.
const CALLS_MAX: usize = 64;
/// How often results are trimmed and dead consumers removed.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);
/// How often artifacts are removed that nobody needs any more.
const ARTIFACTS_INTERVAL: Duration = Duration::from_secs(60);
/// How often the indexes are compared with the hashes of the runs.
const REPAIR_INTERVAL: Duration = Duration::from_secs(60);
/// The same while no run is open.
const IDLE_REPAIR_INTERVAL: Duration = Duration::from_secs(300);
/// Open runs that one such pass reads, beside all in flight.
const REPAIR_MAX: usize = 10_000;
/// How often the gauges of the fleet are brought up to date.
const CENSUS_INTERVAL: Duration = Duration::from_secs(5);
/// How often a worker announces itself while no run is open, and how often it counts then.
const IDLE_CENSUS_INTERVAL: Duration = Duration::from_secs(20);
const IDLE_COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// How long a consumer must have been idle before it is removed.
const CONSUMER_IDLE: Duration = Duration::from_secs(3600);

/// Starts the sweeper of a worker with these tasks.
pub fn start(tasks: Arc<Tasks>, name: &str, shutdown: &Shutdown) {
    let sweeper = Arc::new(Sweeper {
        tasks,
        name: name.to_owned(),
        leads: AtomicBool::new(false),
        repaired_to: AtomicU64::new(0),
        deleted: Mutex::default(),
        unacknowledged: Mutex::default(),
        idle: Mutex::default(),
        known_apps: Mutex::default(),
        outage: Mutex::default(),
        looked_to: Mutex::default(),
        counted: Mutex::default(),
        shutdown: shutdown.clone(),
    });
    shutdown.spawn_loop(
        "overdue",
        repeat(
            sweeper.clone(),
            (OVERDUE_INTERVAL, IDLE_OVERDUE_INTERVAL),
            Sweeper::overdue,
        ),
    );
    let every = sweeper.deps().core.runs.sweep;
    shutdown.spawn_loop("reconcile", sweeper.clone().reconcile_apps(every));
    let housekeeping = repeat(
        sweeper.clone(),
        (HOUSEKEEPING_INTERVAL, HOUSEKEEPING_INTERVAL * 2),
        Sweeper::housekeeping,
    );
    shutdown.spawn_loop("housekeeping", housekeeping);
    let every = (ARTIFACTS_INTERVAL, ARTIFACTS_INTERVAL);
    let artifacts = repeat(sweeper.clone(), every, Sweeper::artifacts);
    shutdown.spawn_loop("artifacts", artifacts);
    let every = (REPAIR_INTERVAL, IDLE_REPAIR_INTERVAL);
    let repair = repeat(sweeper.clone(), every, Sweeper::repair);
    shutdown.spawn_loop("repair", repair);
    let every = (CENSUS_INTERVAL, IDLE_CENSUS_INTERVAL);
    shutdown.spawn_loop("census", repeat(sweeper, every, Sweeper::census));
}

struct Sweeper {
    tasks: Arc<Tasks>,
    name: String,
    leads: AtomicBool,
    /// Where the next repair goes on.
    repaired_to: AtomicU64,
    /// Attempts whose machines were deleted while Redis takes no writes.
    deleted: Mutex<HashSet<(RunId, u32)>>,
    /// Consumer groups for which it was logged that old results are kept.
    unacknowledged: Mutex<HashSet<String>>,
    /// BootableApps that are not this worker's and in which nothing was seen, and since when.
    idle: Mutex<HashMap<String, Instant>>,
    /// Every app that has or had a machine, as last read.
    known_apps: Mutex<HashSet<String>>,
    outage: Mutex<Outage>,
    /// Where the next look for artifacts that are left over goes on.
    looked_to: Mutex<Option<String>>,
    /// When the gauges were brought up to date.
    counted: Mutex<Option<Instant>>,
    shutdown: Shutdown,
}

/// Runs `pass` at the first of two intervals until the shutdown begins; at the second while there is
/// nothing to do, and at the first sign of work. The first pass comes after a random part of the
/// interval, so that processes started together do not run together.
async fn repeat<F, P>(sweeper: Arc<Sweeper>, (busy, idle): (Duration, Duration), pass: P)
where
    P: Fn(Arc<Sweeper>) -> F,
    F: Future<Output = Result<(), Error>>,
{
    let activity = &sweeper.tasks.activity;
    let mut next = Instant::now() + busy.mul_f64(fastrand::f64());
    let mut failing = false;
    loop {
        let is_idle = activity.is_idle();
        let woken = async {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = activity.begins(), if is_idle && idle > busy => {}
            }
        };
        let quiet = sweeper.shutdown.quiet();
        if quiet.run_until_cancelled(woken).await.is_none() {
            return;
        }
        let begun = Instant::now();
        match pass(sweeper.clone()).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                warn!(%error, "a pass of the sweep failed; the next one tries again");
                failing = true;
            }
            Err(_) => {}
        }
        let every = if activity.is_idle() { idle } else { busy };
        next = (begun + every).max(Instant::now());
    }
}

impl Sweeper {
    fn deps(&self) -> &Deps {
        &self.tasks.deps
    }

    /// Hands the tasks what is overdue. While Redis takes no writes, or does not answer, no run can be
    /// settled, but machines are deleted after their deadline all the same.
    async fn overdue(self: Arc<Self>) -> Result<(), Error> {
        let handed = self.hand_over().await;
        match &handed {
            Err(Error::Store(error)) if error.refuses_writes() => {
                if self.delete_overdue_machines().await.is_err() {
                    self.delete_expired_machines().await;
                }
            }
            Err(_) => self.delete_expired_machines().await,
            Ok(()) => {
                self.deleted.lock().await.clear();
                *self.outage.lock().await = Outage::default();
            }
        }
        handed
    }

    /// Deletes the machines of runs past their deadline, and writes nothing: the runs are settled when
    /// Redis takes writes again. Every worker does it, since none can lead.
    async fn delete_overdue_machines(&self) -> Result<(), Error> {
        let deps = self.deps();
        let now = deps.core.clock.now_ms();
        let views = deps.core.store.overdue_unleased(now, OVERDUE_MAX).await?;
        let mut deleted = self.deleted.lock().await;
        let late = views.into_iter().filter(|view| {
            let is_late = view.deadline_ms.is_some_and(|deadline| deadline <= now);
            is_late && !deleted.contains(&(view.id.clone(), view.attempt))
        });
        let deletions = late.map(async |view| {
            let outcome = delete_attempt(deps, &view).await;
            (view, outcome)
        });
        let deletions = stream::iter(deletions).buffer_unordered(CALLS_MAX);
        for (view, outcome) in deletions.collect::<Vec<_>>().await {
            match outcome {
                Ok(()) => {
                    warn!(
                        run_id = view.id.as_str(),
                        "the deadline passed while redis takes no writes; the machine is deleted"
                    );
                    deleted.insert((view.id, view.attempt));
                }
                Err(error) => {
                    warn!(run_id = view.id.as_str(), %error, "the machine could not be deleted");
                }
            }
        }
        Ok(())
    }

    /// Hands the tasks what is overdue. Runs beyond the permits wait for the next pass.
    async fn hand_over(&self) -> Result<(), Error> {
        let core = &self.deps().core;
        let activity = &self.tasks.activity;
        let lease = if activity.is_idle() {
            IDLE_LEAD_LEASE
        } else {
            LEAD_LEASE
        };
        let led = core.store.lead(&self.name, lease).await;
        let leads = led.as_ref().is_ok_and(|led| led.leads);
        self.leads.store(leads, Ordering::SeqCst);
        if led.is_err() {
            // What there is to do is not known: it is looked for as often as ever.
            activity.note();
        }
        let led = led?;
        activity.set_pending(led.has_pending);
        if led.first_due_ms.is_some() || led.has_pending {
            activity.note();
        }
        if !led.leads {
            return Ok(());
        }
        milestone!("sweeper::led");
        let is_due = |at| at <= core.clock.now_ms();
        if !led.first_due_ms.is_some_and(is_due) {
            return Ok(());
        }
        loop {
            let most = self
                .tasks
                .overdue_permits
                .available_permits()
                .min(OVERDUE_MAX);
            if most == 0 {
                return Ok(());
            }
            let now = core.clock.now_ms();
            let overdue = core.store.overdue(now, core.runs.lease, most).await?;
            if !overdue.runs.is_empty() {
                milestone!("sweeper::leased");
            }
            let all = overdue.runs.len() + overdue.lost.len() < most;
            for id in overdue.lost {
                settle_missing(core, &id).await?;
            }
            for view in overdue.runs {
                let permit = self.tasks.overdue_permits.clone().acquire_owned().await;
                if let Ok(permit) = permit {
                    self.tasks.perform(view.into(), now, permit);
                }
            }
            if all {
                return Ok(());
            }
        }
    }

    async fn housekeeping(self: Arc<Self>) -> Result<(), Error> {
        let core = &self.deps().core;
        if !self.leads.load(Ordering::SeqCst) {
            // Another worker leads, and shows the gauge.
            core.metrics.results_past_retention.set(0.0);
            self.unacknowledged.lock().await.clear();
            return Ok(());
        }
        let (retention, cap) = (core.runs.results_retention, core.runs.results_hard_cap);
        let results = core
            .store
            .trim_results(core.clock.now_ms(), retention, cap)
            .await?;
        let trimmed = results.removed;
        self.report_unacknowledged(results.kept_back).await;
        let mut removed = 0;
        for inbox in [Inbox::Runs, Inbox::Control] {
            removed += core.store.forget_consumers(inbox, CONSUMER_IDLE).await?;
        }
        if trimmed > 0 || removed > 0 {
            info!(trimmed, removed, "trimmed results, removed idle consumers");
        }
        Ok(())
    }

    /// Logs each consumer group for which old results are kept, once.
    async fn report_unacknowledged(&self, kept_back: Vec<KeptBack>) {
        let longest = kept_back.iter().map(|kept| kept.over).max();
        let seconds = longest.unwrap_or_default().as_secs_f64();
        self.deps().core.metrics.results_past_retention.set(seconds);
        let mut logged = self.unacknowledged.lock().await;
        for KeptBack { group, over, .. } in &kept_back {
            if !logged.contains(group) {
                let over_s = over.as_secs();
                warn!(
                    group,
                    over_s,
                    "results are kept beyond their retention: this consumer group has not acknowledged them"
                );
            }
        }
        *logged = kept_back.into_iter().map(|kept| kept.group).collect();
    }

    /// Repairs indexes that were changed by hand: of all runs in flight, and of a part of the backlog.
    async fn repair(self: Arc<Self>) -> Result<(), Error> {
        if !self.leads.load(Ordering::SeqCst) {
            return Ok(());
        }
        let core = &self.deps().core;
        let from = self.repaired_to.load(Ordering::SeqCst);
        let (repaired, next) = core
            .store
            .mend(from, REPAIR_MAX, core.clock.now_ms())
            .await?;
        self.repaired_to.store(next, Ordering::SeqCst);
        if repaired > 0 {
            warn!(
                repaired,
                "repaired entries in redis that cofferdam does not write"
            );
        }
        Ok(())
    }

    /// Announces this worker to the fleet, and sets the gauges of the whole fleet if it leads. Other
    /// workers show zero.
    async fn census(self: Arc<Self>) -> Result<(), Error> {
        let core = &self.deps().core;
        let refused_max = core.runs.refused_max;
        core.store
            .announce(&self.tasks.limits(), refused_max)
            .await?;
        let mut counted = self.counted.lock().await;
        let is_fresh = counted.is_some_and(|at| at.elapsed() < IDLE_COUNT_INTERVAL);
        let leads = self.leads.load(Ordering::SeqCst);
        if leads && is_fresh && self.tasks.activity.is_idle() {
            return Ok(());
        }
        *counted = leads.then(Instant::now);
        let census = if leads {
            core.store.census(core.clock.now_ms()).await?
        } else {
            Census::default()
        };
        let metrics = &core.metrics;
        let groups = match census.results {
            0 => Vec::new(),
            _ => core.store.result_lags().await?,
        };
        metrics.set_result_groups(groups);
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.runs_queued.set(gauge(census.queued));
        metrics.machines_in_flight.set(gauge(census.in_flight));
        metrics.runs_overdue.set(gauge(census.overdue));
        metrics.teardowns_pending.set(gauge(census.owed));
        let now = core.clock.now_ms();
        let waited = budget::left(census.oldest_queued_ms.unwrap_or(now), now);
        metrics.oldest_queued_age.set(waited.as_secs_f64());
        metrics.requests_unread.set(gauge(census.unread));
        metrics.tenants_blocked.set(gauge(census.tenants_held));
        metrics.results_length.set(gauge(census.results));
        metrics.dead_letters.set(gauge(census.dead));
        Ok(())
    }
}
