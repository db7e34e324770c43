//! Boots and tear-downs in hand: bounded, leased, and counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument as _, info_span, warn};

use crate::clock::UnixMs;
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, RunId};
use crate::run::phase::Duty;
use crate::shutdown::Shutdown;
use crate::stage::boot::{Begin, Booted, boot};
use crate::stage::breaker::Answer;
use crate::stage::hold::Hold;
use crate::stage::{Deps, Performed, perform};
use crate::store::acts::{Claimed, FleetLimits, Work};
use crate::store::codec::RunRecord;
use crate::telemetry::Work as Gauge;

/// A run in hand.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    pub(crate) id: RunId,
    /// The app in which it takes up one of the permits for boots.
    boots_in: Option<String>,
    pub(crate) attempt: Attempt,
    pub(crate) work: Work,
    pub(crate) hold: Hold,
    /// Which of the tasks that had it in hand, one after another.
    turn: u64,
    /// Somebody called for it meanwhile.
    called: bool,
}

/// A run that a task has in hand, until this is dropped: a task that panics lets go too.
struct Holding {
    crew: Arc<Crew>,
    id: RunId,
    turn: u64,
    gauge: Gauge,
}

impl Holding {
    /// Lets go of the run. Says whether somebody called for it meanwhile.
    fn release(self) -> bool {
        self.crew.release(&self.id, self.turn)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.crew.release(&self.id, self.turn);
        let metrics = &self.crew.deps.core.metrics;
        metrics.work_in_hand(self.gauge).dec();
    }
}

/// Where a worker may boot.
#[derive(Debug, Default)]
pub(crate) struct Apps {
    /// Apps that answer, and have not all the permits that one may have.
    pub(crate) open: Vec<String>,
    /// Boots that may begin in any of them.
    pub(crate) most: usize,
    /// An app that did not, and may be tried with one run.
    pub(crate) trial: Option<String>,
    /// When the first of the others may be tried.
    pub(crate) wake_at_ms: Option<UnixMs>,
}

/// What a worker has in hand.
#[derive(Debug)]
pub struct Crew {
    /// What every task of it needs.
    pub deps: Deps,
    pub(crate) shutdown: Shutdown,
    /// A permit for each boot at once; taken before runs are claimed.
    pub(crate) boots: Arc<Semaphore>,
    /// Permits that one app may have. An app that goes silent with all of them would keep the
    /// others waiting for as long as a call may last.
    share: usize,
    /// A permit for each tear-down, or other owed work, at once.
    pub(crate) duties: Arc<Semaphore>,
    /// The fleet had no room for a run that may go, when this worker asked last.
    pub(crate) is_full: AtomicBool,
    /// Rings when there may be room for a boot.
    pub(crate) room: Notify,
    /// A permit for each overdue run at once. Apart from `duties`, whose permits the bell holds
    /// while it listens.
    pub(crate) late: Arc<Semaphore>,
    held: Mutex<HashMap<RunId, InHand>>,
    turns: AtomicU64,
}

impl Crew {
    /// A crew with nothing in hand.
    pub(crate) fn new(deps: Deps, shutdown: Shutdown) -> Self {
        let concurrency = usize::try_from(deps.core.runs.concurrency.get()).unwrap_or(usize::MAX);
        let concurrency = concurrency.min(Semaphore::MAX_PERMITS);
        let share = match deps.apps.len() {
            0 | 1 => concurrency,
            _ => concurrency.div_ceil(2),
        };
        Self {
            deps,
            shutdown,
            boots: Arc::new(Semaphore::new(concurrency)),
            share,
            duties: Arc::new(Semaphore::new(concurrency)),
            is_full: AtomicBool::new(false),
            room: Notify::new(),
            late: Arc::new(Semaphore::new(concurrency)),
            held: Mutex::default(),
            turns: AtomicU64::new(0),
        }
    }

    /// What the fleet allows, as a claim checks it.
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
    pub(crate) fn apps(&self, now: UnixMs) -> Apps {
        let mut apps = Apps::default();
        let busy = self.boots_by_app();
        for app in &self.deps.apps {
            let left = self.share - busy.get(app).map_or(0, |boots| self.share.min(*boots));
            match self.deps.health.breakers.look(app, None, now) {
                Answer::Go if left == 0 => {}
                Answer::Go => {
                    apps.most = if apps.open.is_empty() {
                        left
                    } else {
                        left.min(apps.most)
                    };
                    apps.open.push(app.clone());
                }
                Answer::Try => apps.trial = Some(app.clone()),
                Answer::Wait(until) => {
                    apps.wake_at_ms = Some(apps.wake_at_ms.map_or(until, |at| at.min(until)));
                }
            }
        }
        apps
    }

    /// Boots a run that was claimed at `now`, in a task of its own.
    pub(crate) fn boot(self: &Arc<Self>, run: Claimed, now: UnixMs, permit: OwnedSemaphorePermit) {
        let crew = self.clone();
        let span = info_span!("boot", run_id = run.id.as_str(), attempt = run.attempt.0);
        let in_hand = self.in_hand(&run.id, run.attempt, Work::Boot, Some(&run.app), now);
        let (hold, holding) = self.take_over(in_hand, Gauge::Boot);
        // Boxed where it is made: it is large, and would be moved whole several times.
        let task = Box::pin(async move {
            let mut over = false;
            let began = tokio::time::Instant::now();
            match boot(&crew.deps, &run, &hold, Begin::Create).await {
                Ok(booted @ (Booted::Running | Booted::Over)) => {
                    over = booted == Booted::Over;
                    let metrics = &crew.deps.core.metrics;
                    metrics.boot_duration.observe(began.elapsed().as_secs_f64());
                }
                Ok(Booted::Queued | Booted::Ended(_) | Booted::Left) => {}
                Err(error) => warn!(%error, "the boot is left to the sweep"),
            }
            // A call for a run that is in hand comes to nothing here, or comes to another worker.
            if holding.release() || over {
                crew.look_after(&run.id).await;
            }
            drop(permit);
            // Another run may wait for this permit.
            crew.room.notify_one();
        });
        self.shutdown.spawn(task.instrument(span));
    }

    /// Does what a run owes that was looked up at `now`, in a task of its own.
    pub(crate) fn perform(
        self: &Arc<Self>,
        view: RunRecord,
        now: UnixMs,
        permit: OwnedSemaphorePermit,
    ) {
        let attempt = Attempt(view.attempt);
        let crew = self.clone();
        let work = match view.phase().owes() {
            Duty::ResumeBoot => Work::Boot,
            Duty::Boot | Duty::Await | Duty::Teardown | Duty::Nothing => Work::Duty,
        };
        let in_hand = self.in_hand(&view.id, attempt, work, None, now);
        // The same run may be heard of twice; once at a time is enough, and then once more.
        let Some((hold, holding)) = self.take(in_hand, Gauge::Teardown) else {
            return;
        };
        let span = info_span!("perform", run_id = view.id.as_str(), attempt = attempt.0);
        // Boxed where it is made: it is large, and would be moved whole several times.
        let task = Box::pin(async move {
            match perform(&crew.deps, &view, &hold).await {
                Ok(Performed::Room) => crew.some_run_waits().await,
                Ok(Performed::Done) => {}
                Err(error) => warn!(%error, "not done; due again when its lease ends"),
            }
            let called = holding.release();
            drop(permit);
            if called {
                crew.look_after(&view.id).await;
            }
        });
        self.shutdown.spawn(task.instrument(span));
    }

    /// Some run may boot now, or at a time that nobody knows yet: looks here if this worker can
    /// boot, or calls another.
    pub(crate) async fn some_run_waits(&self) {
        if self.boots.available_permits() > 0 && !self.shutdown.quiet().is_cancelled() {
            self.room.notify_one();
            return;
        }
        if let Err(error) = self.deps.core.store.notify_capacity().await {
            warn!(%error, "could not call another worker; each looks within a second");
        }
        milestone!("crew::rung");
    }

    /// Does what a run owes now, in this task's turn.
    async fn look_after(self: &Arc<Self>, id: &RunId) {
        let Ok(permit) = self.late.clone().acquire_owned().await else {
            return;
        };
        let now = self.deps.core.clock.now_ms();
        let view = self.deps.core.store.record(id).await;
        milestone!("crew::looked_after");
        match view {
            Ok(Some(view)) => self.perform(view, now, permit),
            Ok(None) => {}
            Err(error) => warn!(%error, "left until its lease ends"),
        }
    }

    fn boots_by_app(&self) -> HashMap<String, usize> {
        let mut boots = HashMap::new();
        for app in self.lock().values().filter_map(|run| run.boots_in.as_ref()) {
            *boots.entry(app.clone()).or_insert(0) += 1;
        }
        boots
    }

    /// Every run in hand.
    pub(crate) fn held(&self) -> Vec<InHand> {
        self.lock().values().cloned().collect()
    }

    /// A run held for as long as its lease, which began when Redis was asked and not when it
    /// answered: the process may have stood still between.
    fn in_hand(
        &self,
        id: &RunId,
        attempt: Attempt,
        work: Work,
        boots_in: Option<&str>,
        since: UnixMs,
    ) -> InHand {
        InHand {
            id: id.clone(),
            attempt,
            work,
            boots_in: boots_in.map(str::to_owned),
            hold: Hold::until(budget::after(since, self.deps.core.runs.lease)),
            turn: self.turns.fetch_add(1, Ordering::Relaxed),
            called: false,
        }
    }

    /// Takes a run in hand. `None` when it is: who has it looks at it again afterwards.
    fn take(self: &Arc<Self>, in_hand: InHand, gauge: Gauge) -> Option<(Hold, Holding)> {
        if let Some(held) = self.lock().get_mut(&in_hand.id) {
            held.called = true;
            return None;
        }
        Some(self.take_over(in_hand, gauge))
    }

    /// Takes a run in hand, from whoever is about to let go of it.
    fn take_over(self: &Arc<Self>, mut in_hand: InHand, gauge: Gauge) -> (Hold, Holding) {
        let (id, turn, hold) = (in_hand.id.clone(), in_hand.turn, in_hand.hold.clone());
        let mut held = self.lock();
        in_hand.called = held.get(&id).is_some_and(|before| before.called);
        held.insert(id.clone(), in_hand);
        drop(held);
        self.deps.core.metrics.work_in_hand(gauge).inc();
        let crew = self.clone();
        let holding = Holding {
            crew,
            id,
            turn,
            gauge,
        };
        (hold, holding)
    }

    /// Whether somebody called meanwhile. One who no longer has the run changes nothing.
    fn release(&self, id: &RunId, turn: u64) -> bool {
        let mut held = self.lock();
        if held.get(id).is_none_or(|held| held.turn != turn) {
            return false;
        }
        held.remove(id).is_some_and(|held| held.called)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, InHand>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
