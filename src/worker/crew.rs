//! Boots and tear-downs in hand: bounded, leased, and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument as _, info_span, warn};

use crate::run::budget;
use crate::run::id::{Attempt, RunId};
use crate::run::phase::Duty;
use crate::shutdown::Shutdown;
use crate::stage::boot::{Begin, Booted, boot};
use crate::stage::hold::Hold;
use crate::stage::{Deps, Performed, perform};
use crate::store::acts::{Claimed, Room, Work};
use crate::store::codec::View;
use crate::telemetry::Work as Gauge;

/// A run in hand.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    pub(crate) id: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) work: Work,
    pub(crate) hold: Hold,
}

/// What a worker has in hand.
#[derive(Debug)]
pub struct Crew {
    /// What every task of it needs.
    pub deps: Deps,
    pub(crate) shutdown: Shutdown,
    /// A permit for each boot at once; taken before runs are claimed.
    pub(crate) boots: Arc<Semaphore>,
    /// A permit for each tear-down, or other owed work, at once.
    pub(crate) duties: Arc<Semaphore>,
    /// Rings when there may be room for a boot.
    pub(crate) room: Notify,
    /// A permit for each overdue run at once. Apart from `duties`, whose permits the bell holds
    /// while it listens.
    pub(crate) late: Arc<Semaphore>,
    held: Mutex<HashMap<RunId, InHand>>,
}

impl Crew {
    /// A crew with nothing in hand.
    pub(crate) fn new(deps: Deps, shutdown: Shutdown) -> Self {
        let concurrency = usize::try_from(deps.core.runs.concurrency.get()).unwrap_or(usize::MAX);
        let concurrency = concurrency.min(Semaphore::MAX_PERMITS);
        Self {
            deps,
            shutdown,
            boots: Arc::new(Semaphore::new(concurrency)),
            duties: Arc::new(Semaphore::new(concurrency)),
            room: Notify::new(),
            late: Arc::new(Semaphore::new(concurrency)),
            held: Mutex::default(),
        }
    }

    /// What the fleet allows, as a claim checks it.
    pub(crate) fn limits(&self) -> Room {
        let runs = &self.deps.core.runs;
        Room {
            apps: self.deps.apps.clone(),
            max_in_flight: runs.max_in_flight.get(),
            boot_rate: runs.boot_rate,
            boot_burst: runs.boot_burst.get(),
        }
    }

    /// Boots a claimed run in a task of its own.
    pub(crate) fn boot(self: &Arc<Self>, run: Claimed, permit: OwnedSemaphorePermit) {
        let crew = self.clone();
        let span = info_span!("boot", run_id = run.id.as_str(), attempt = run.attempt.0);
        let hold = self.hold(&run.id, run.attempt, Work::Boot);
        let task = async move {
            let metrics = crew.deps.core.metrics.clone();
            metrics.work_in_hand(Gauge::Boot).inc();
            let mut over = false;
            let began = tokio::time::Instant::now();
            match boot(&crew.deps, &run, &hold, Begin::Create).await {
                Ok(booted @ (Booted::Running | Booted::Over)) => {
                    over = booted == Booted::Over;
                    metrics.boot_duration.observe(began.elapsed().as_secs_f64());
                }
                Ok(Booted::Queued | Booted::Ended(_) | Booted::Left) => {}
                Err(error) => warn!(%error, "the boot is left to the sweep"),
            }
            metrics.work_in_hand(Gauge::Boot).dec();
            crew.release(&run.id);
            // The bell for a run that ended while it booted may have rung in vain.
            if over {
                crew.look_after(&run.id).await;
            }
            drop(permit);
            // Another run may wait for this permit.
            crew.room.notify_one();
        };
        self.shutdown.spawn(task.instrument(span));
    }

    /// Does what a run owes, in a task of its own.
    pub(crate) fn perform(self: &Arc<Self>, view: View, permit: OwnedSemaphorePermit) {
        let attempt = Attempt(view.attempt);
        // The same run may be heard of twice; once at a time is enough.
        if self.lock().contains_key(&view.id) {
            return;
        }
        let crew = self.clone();
        let work = match view.phase().owes() {
            Duty::Reboot => Work::Boot,
            Duty::Boot | Duty::Await | Duty::Teardown | Duty::Nothing => Work::Duty,
        };
        let hold = self.hold(&view.id, attempt, work);
        let span = info_span!("perform", run_id = view.id.as_str(), attempt = attempt.0);
        let task = async move {
            let metrics = crew.deps.core.metrics.clone();
            metrics.work_in_hand(Gauge::Teardown).inc();
            match perform(&crew.deps, &view, &hold).await {
                Ok(Performed::Room) => crew.room_is_free().await,
                Ok(Performed::Done) => {}
                Err(error) => warn!(%error, "not done; due again when its lease ends"),
            }
            metrics.work_in_hand(Gauge::Teardown).dec();
            crew.release(&view.id);
            drop(permit);
        };
        self.shutdown.spawn(task.instrument(span));
    }

    /// There is room and some run waits: boots one here if that can be, or calls another worker.
    async fn room_is_free(&self) {
        if self.boots.available_permits() > 0 && !self.shutdown.quiet().is_cancelled() {
            self.room.notify_one();
        } else if let Err(error) = self.deps.core.store.ring_for_room().await {
            warn!(%error, "could not tell of free room; another worker will look within a second");
        }
    }

    /// Does what a run owes now, in this task's turn.
    async fn look_after(self: &Arc<Self>, id: &RunId) {
        let Ok(permit) = self.late.clone().acquire_owned().await else {
            return;
        };
        match self.deps.core.store.view(id).await {
            Ok(Some(view)) => self.perform(view, permit),
            Ok(None) => {}
            Err(error) => warn!(%error, "left until its lease ends"),
        }
    }

    /// Every run in hand.
    pub(crate) fn held(&self) -> Vec<InHand> {
        self.lock().values().cloned().collect()
    }

    fn hold(&self, id: &RunId, attempt: Attempt, work: Work) -> Hold {
        let core = &self.deps.core;
        let hold = Hold::until(budget::after(core.clock.now_ms(), core.runs.lease));
        let in_hand = InHand {
            id: id.clone(),
            attempt,
            work,
            hold: hold.clone(),
        };
        self.lock().insert(id.clone(), in_hand);
        hold
    }

    fn release(&self, id: &RunId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, InHand>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
