//! The tasks of a worker, one for each leased run: bounded by permits, and counted.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{Instrument as _, info_span, warn};

use crate::clock::UnixMs;
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, RunId};
use crate::run::phase::Duty;
use crate::shutdown::Shutdown;
use crate::stage::boot::{Begin, Booted, boot};
use crate::stage::breaker::Circuit;
use crate::stage::key_agreement::KeyAgreement;
use crate::stage::lease::LeaseGuard;
use crate::stage::{Deps, Owed, Performed, perform};
use crate::store::acts::{Claimed, FleetLimits, Work};
use crate::telemetry::TaskKind;
use crate::worker::activity::Activity;

/// Owed work that takes longer is long: most often a guest that stays after its result.
const QUICK: Duration = Duration::from_millis(250);
/// So many times as much long work as other work may be under way.
const LONG: usize = 4;

/// A run for which a task of this worker holds the lease.
#[derive(Clone, Debug)]
pub(crate) struct LeasedRun {
    pub(crate) id: RunId,
    /// The app in which it is being booted, for the bound of each app.
    boots_in: Option<String>,
    pub(crate) attempt: Attempt,
    pub(crate) work: Work,
    pub(crate) lease: LeaseGuard,
    /// Tells the tasks that had this run one after another apart.
    generation: u64,
    /// A wakeup for it came while the task was running.
    notified: bool,
}

/// Removes the run from the leased ones when dropped, also when its task panics.
struct TaskGuard {
    tasks: Arc<Tasks>,
    id: RunId,
    generation: u64,
    kind: TaskKind,
}

impl TaskGuard {
    /// Removes the run. Says whether a wakeup for it came meanwhile.
    fn release(self) -> bool {
        self.tasks.release(&self.id, self.generation)
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.tasks.release(&self.id, self.generation);
        let metrics = &self.tasks.deps.core.metrics;
        metrics.tasks(self.kind).dec();
    }
}

/// The apps in which a worker may boot now.
#[derive(Debug, Default)]
pub(crate) struct BootableApps {
    /// Apps whose circuit is closed and that have permits left.
    pub(crate) names: Vec<String>,
    /// How many boots may begin in whichever of them.
    pub(crate) max_boots: usize,
    /// An app whose circuit is half-open: one run may try it.
    pub(crate) trial: Option<String>,
    /// When the first of the open circuits becomes half-open.
    pub(crate) wake_at_ms: Option<UnixMs>,
}

/// The leased runs of a worker, and the permits for more.
#[derive(Debug)]
pub struct Tasks {
    /// What every task needs.
    pub deps: Deps,
    heartbeat: Arc<KeyAgreement>,
    pub(crate) shutdown: Shutdown,
    /// Boots at once. Permits are taken before runs are claimed.
    pub(crate) boot_permits: Arc<Semaphore>,
    /// Boot permits that one app may have, so that an app that stops answering cannot take all of
    /// them until its calls time out.
    share: usize,
    /// Tear-downs, and other owed work, at once.
    pub(crate) owed_permits: Arc<Semaphore>,
    /// Whether the last claim failed because the fleet was at its limit.
    pub(crate) is_fleet_full: AtomicBool,
    /// Wakes the dispatch loop: a boot may be possible.
    pub(crate) may_boot: Notify,
    /// Whether there is anything to do.
    pub(crate) activity: Activity,
    /// Overdue runs at once. Apart from `owed_permits`, which the wakeup loop holds while it waits.
    pub(crate) overdue_permits: Arc<Semaphore>,
    /// For owed work that takes long, so that what waits for one guest's exit keeps no other from its own.
    long_permits: Arc<Semaphore>,
    runs: Mutex<HashMap<RunId, LeasedRun>>,
    generations: AtomicU64,
}

impl Tasks {
    /// No tasks yet.
    pub(crate) fn new(deps: Deps, heartbeat: Arc<KeyAgreement>, shutdown: Shutdown) -> Self {
        let concurrency = usize::try_from(deps.core.runs.concurrency.get()).unwrap_or(usize::MAX);
        let concurrency = concurrency.min(Semaphore::MAX_PERMITS);
        let long = concurrency.saturating_mul(LONG).min(Semaphore::MAX_PERMITS);
        let share = match deps.apps.len() {
            0 | 1 => concurrency,
            _ => concurrency.div_ceil(2),
        };
        Self {
            deps,
            heartbeat,
            shutdown,
            boot_permits: Arc::new(Semaphore::new(concurrency)),
            share,
            owed_permits: Arc::new(Semaphore::new(concurrency)),
            is_fleet_full: AtomicBool::new(false),
            may_boot: Notify::new(),
            activity: Activity::new(),
            overdue_permits: Arc::new(Semaphore::new(concurrency)),
            long_permits: Arc::new(Semaphore::new(long)),
            runs: Mutex::default(),
            generations: AtomicU64::new(0),
        }
    }

    /// Whether this worker was told to take no more work.
    pub(crate) fn is_quiet(&self) -> bool {
        self.heartbeat.is_quiet()
    }

    /// Returns when a read is to wait no longer: the shutdown begins, or entries may have been left by a
    /// worker that died.
    pub(crate) async fn ends_waiting(&self) {
        tokio::select! {
            () = self.shutdown.quiet().cancelled() => {}
            () = self.activity.begins_to_pend() => {}
        }
    }

    /// As [`Tasks::ends_waiting`], and when this worker is to take no more work.
    pub(crate) async fn ends_taking(&self) {
        tokio::select! {
            () = self.ends_waiting() => {}
            () = self.heartbeat.becomes_quiet() => {}
        }
    }

    /// The limits of the fleet, which a claim checks.
    pub(crate) fn limits(&self) -> FleetLimits {
        let runs = &self.deps.core.runs;
        FleetLimits {
            apps: self.deps.apps.clone(),
            max_in_flight: runs.max_in_flight.get(),
            app_max_in_flight: runs.app_max_in_flight,
            tenant_max_in_flight: runs.tenant_max_in_flight,
            boot_rate: runs.boot_rate,
            boot_burst: runs.boot_burst.get(),
        }
    }

    /// The apps in which this worker may boot now.
    pub(crate) fn bootable_apps(&self, now: UnixMs) -> BootableApps {
        let mut apps = BootableApps::default();
        let busy = self.boots_by_app();
        for app in &self.deps.apps {
            let left = self.share - busy.get(app).map_or(0, |boots| self.share.min(*boots));
            match self.deps.health.breakers.state(app, None, now) {
                Circuit::Closed if left == 0 => {}
                Circuit::Closed => {
                    apps.max_boots = if apps.names.is_empty() {
                        left
                    } else {
                        left.min(apps.max_boots)
                    };
                    apps.names.push(app.clone());
                }
                Circuit::HalfOpen => apps.trial = Some(app.clone()),
                Circuit::Open(until) => {
                    apps.wake_at_ms = Some(apps.wake_at_ms.map_or(until, |at| at.min(until)));
                }
            }
        }
        apps
    }

    /// Boots a run that was claimed at `now`, in a task of its own.
    pub(crate) fn boot(self: &Arc<Self>, run: Claimed, now: UnixMs, permit: OwnedSemaphorePermit) {
        let tasks = self.clone();
        let span = info_span!("boot", run_id = run.id.as_str(), attempt = run.attempt.0);
        let leased = self.new_lease(&run.id, run.attempt, Work::Boot, Some(&run.app), now);
        let (lease, guard) = self.replace(leased, TaskKind::Boot);
        // Boxed because the future is large and would be copied several times.
        let task = Box::pin(async move {
            let mut over = false;
            match boot(&tasks.deps, &run, &lease, Begin::Create).await {
                Ok(booted) => over = booted == Booted::Over,
                Err(error) => warn!(%error, "the boot failed; the sweep resumes it"),
            }
            // A wakeup that came while this task had the run was not acted on.
            if guard.release() || over {
                tasks.perform_owed(&run.id).await;
            }
            drop(permit);
            tasks.may_boot.notify_one();
        });
        self.shutdown.spawn(task.instrument(span));
    }

    /// Does what a run owes, in a task of its own. The run was read at `now`.
    pub(crate) fn perform(self: &Arc<Self>, owed: Owed, now: UnixMs, permit: OwnedSemaphorePermit) {
        let (id, attempt) = (owed.id().clone(), owed.attempt());
        let tasks = self.clone();
        let work = match owed.duty() {
            Duty::ResumeBoot => Work::Boot,
            Duty::Boot | Duty::Await | Duty::Teardown | Duty::Nothing => Work::Duty,
        };
        let leased = self.new_lease(&id, attempt, work, None, now);
        // A run that has a task is done once more after it.
        let Some((lease, guard)) = self.insert(leased, TaskKind::Teardown) else {
            return;
        };
        let span = info_span!("perform", run_id = id.as_str(), attempt = attempt.0);
        // Boxed because the future is large and would be copied several times.
        let task = Box::pin(async move {
            let performing = pin!(perform(&tasks.deps, &owed, &lease));
            let (performed, permit) = tasks.with_permit(performing, permit).await;
            match performed {
                Ok(Performed::CapacityFreed) => tasks.wake_dispatch().await,
                Ok(Performed::Done) => {}
                Err(error) => warn!(%error, "not done; due again when its lease ends"),
            }
            let notified = guard.release();
            drop(permit);
            if notified {
                tasks.perform_owed(&id).await;
            }
        });
        self.shutdown.spawn(task.instrument(span));
    }

    /// Does owed work; what takes long gives its permit to others, while there are permits for that.
    async fn with_permit<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
        permit: OwnedSemaphorePermit,
    ) -> (T, OwnedSemaphorePermit) {
        if let Ok(done) = timeout(QUICK, work.as_mut()).await {
            return (done, permit);
        }
        let long = Arc::clone(&self.long_permits).try_acquire_owned();
        let permit = long.unwrap_or(permit);
        (work.await, permit)
    }

    /// A run may be ready to boot: wakes the dispatch loop here if there is a permit, else notifies
    /// another worker.
    pub(crate) async fn wake_dispatch(&self) {
        self.activity.note();
        if self.boot_permits.available_permits() > 0 && !self.shutdown.quiet().is_cancelled() {
            self.may_boot.notify_one();
            return;
        }
        if let Err(error) = self.deps.core.store.notify_capacity().await {
            warn!(%error, "could not notify another worker; each checks within a second");
        }
        milestone!("dispatch::notified");
    }

    /// Reads the run again and does what it owes now.
    async fn perform_owed(self: &Arc<Self>, id: &RunId) {
        let Ok(permit) = self.overdue_permits.clone().acquire_owned().await else {
            return;
        };
        let now = self.deps.core.clock.now_ms();
        let view = self.deps.core.store.record(id).await;
        milestone!("tasks::read_again");
        match view {
            Ok(Some(view)) => self.perform(view.into(), now, permit),
            Ok(None) => {}
            Err(error) => warn!(%error, "not read again; due when its lease ends"),
        }
    }

    fn boots_by_app(&self) -> HashMap<String, usize> {
        let mut boots = HashMap::new();
        for app in self.lock().values().filter_map(|run| run.boots_in.as_ref()) {
            *boots.entry(app.clone()).or_insert(0) += 1;
        }
        boots
    }

    /// Every leased run.
    pub(crate) fn leased(&self) -> Vec<LeasedRun> {
        self.lock().values().cloned().collect()
    }

    /// A run with a lease that began at `since`, when Redis was asked and not when it answered: the
    /// process may have been suspended in between.
    fn new_lease(
        &self,
        id: &RunId,
        attempt: Attempt,
        work: Work,
        boots_in: Option<&str>,
        since: UnixMs,
    ) -> LeasedRun {
        LeasedRun {
            id: id.clone(),
            attempt,
            work,
            boots_in: boots_in.map(str::to_owned),
            lease: LeaseGuard::until(budget::after(since, self.deps.core.runs.lease)),
            generation: self.generations.fetch_add(1, Ordering::Relaxed),
            notified: false,
        }
    }

    /// Adds a run. `None` when it has a task already, which then reads the run again at its end.
    fn insert(
        self: &Arc<Self>,
        leased: LeasedRun,
        kind: TaskKind,
    ) -> Option<(LeaseGuard, TaskGuard)> {
        if let Some(known) = self.lock().get_mut(&leased.id) {
            known.notified = true;
            return None;
        }
        Some(self.replace(leased, kind))
    }

    /// Adds a run, in place of a task that is about to end.
    fn replace(self: &Arc<Self>, mut leased: LeasedRun, kind: TaskKind) -> (LeaseGuard, TaskGuard) {
        let (id, generation, lease) = (leased.id.clone(), leased.generation, leased.lease.clone());
        let mut runs = self.lock();
        leased.notified = runs.get(&id).is_some_and(|before| before.notified);
        runs.insert(id.clone(), leased);
        drop(runs);
        self.deps.core.metrics.tasks(kind).inc();
        let tasks = self.clone();
        let guard = TaskGuard {
            tasks,
            id,
            generation,
            kind,
        };
        (lease, guard)
    }

    /// Removes a run unless a later task has it. Says whether a wakeup for it came meanwhile.
    fn release(&self, id: &RunId, generation: u64) -> bool {
        let mut runs = self.lock();
        if runs.get(id).is_none_or(|run| run.generation != generation) {
            return false;
        }
        runs.remove(id).is_some_and(|run| run.notified)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, LeasedRun>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
