//! The worker's loops. Each ends when the shutdown begins; each backs off while Redis is away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::RunId;
use crate::stage::Owed;
use crate::stage::intake as take_in;
use crate::store::Error;
use crate::store::acts::{Claim, FleetLimits, Stop};
use crate::store::requests::{Entry, Requests};
use crate::store::wakeups::{Wakeup, Wakeups};
use crate::worker::gate::Gate;
use crate::worker::tasks::Tasks;

/// How long a read blocks while entries may have to be taken over.
const BLOCK: Duration = Duration::from_secs(1);
/// How long it blocks else. What else can come ends the wait.
pub(super) const LONG_BLOCK: Duration = Duration::from_secs(30);
/// Requests read at once.
const BATCH: usize = 128;
/// How often a worker tries to claim without a wakeup, in case one was lost.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// The same while there is nothing to do.
const IDLE_CLAIM_INTERVAL: Duration = Duration::from_secs(15);
/// Runs claimed at once.
const CLAIM_MAX: usize = 32;
/// Longest pause while Redis is away.
const OUTAGE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// First ceiling of that pause.
const OUTAGE_PAUSE_BASE: Duration = Duration::from_millis(50);
/// Between two renewals while the shutdown waits for the tasks.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

/// Backs off while Redis is away or refuses, and logs the first failure and the recovery.
pub(super) struct Outage {
    what: &'static str,
    tries: u32,
}

impl Outage {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, tries: 0 }
    }

    pub(super) fn recovered(&mut self) {
        if self.tries > 0 {
            info!(loop_name = self.what, "calls to redis succeed again");
        }
        self.tries = 0;
    }

    pub(super) async fn pause(&mut self, tasks: &Tasks, error: &impl std::fmt::Display) {
        if self.tries == 0 {
            warn!(loop_name = self.what, %error, "a call to redis failed; trying again");
        }
        self.tries = self.tries.saturating_add(1);
        let pause = budget::backoff(
            self.tries,
            OUTAGE_PAUSE_BASE,
            OUTAGE_PAUSE_MAX,
            fastrand::f64(),
        );
        let quiet = tasks.shutdown.quiet();
        // Full jitter can come out as zero.
        let pause = pause.max(OUTAGE_PAUSE_BASE);
        let _ = quiet.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// When to take over what other workers left: at once, then at an interval, and without a pause
/// while there is more.
pub(super) struct TakeOverTimer {
    every: Duration,
    next: tokio::time::Instant,
}

impl TakeOverTimer {
    pub(super) fn new(every: Duration) -> Self {
        let next = tokio::time::Instant::now();
        Self { every, next }
    }

    /// Whether it is time to, where there may be something.
    pub(super) fn is_due(&self, tasks: &Tasks) -> bool {
        tasks.activity.has_pending() && tokio::time::Instant::now() >= self.next
    }

    /// How long a read may block until then.
    pub(super) fn block(&self, tasks: &Tasks) -> Duration {
        if !tasks.activity.has_pending() {
            return LONG_BLOCK;
        }
        let left = self
            .next
            .saturating_duration_since(tokio::time::Instant::now());
        // Zero would block for ever.
        left.clamp(Duration::from_millis(1), BLOCK)
    }

    pub(super) fn done(&mut self, is_more: bool) {
        let wait = if is_more { Duration::ZERO } else { self.every };
        self.next = tokio::time::Instant::now() + wait;
    }
}

/// Requests → queued runs. A read that is under way when the shutdown begins is waited for, so that
/// its entries are admitted.
pub(super) async fn intake(tasks: Arc<Tasks>, mut requests: Requests) {
    let core = &tasks.deps.core;
    let mut outage = Outage::new("intake");
    let mut take_over = TakeOverTimer::new(core.runs.lease / 2);
    let mut gate = Gate::new();
    let quiet = tasks.shutdown.quiet();
    while !quiet.is_cancelled() {
        let room = match gate.room(&tasks).await {
            Ok(_) if tasks.is_quiet() => 0,
            Ok(room) => room.min(BATCH),
            Err(error) => {
                outage.pause(&tasks, &error).await;
                continue;
            }
        };
        if room == 0 {
            let _ = quiet
                .run_until_cancelled(tokio::time::sleep(CLAIM_INTERVAL))
                .await;
            continue;
        }
        let block = take_over.block(&tasks);
        let read = requests.next_unless(room, block, tasks.ends_taking());
        let entries = match read.await {
            Ok(entries) => entries,
            Err(error) => {
                outage.pause(&tasks, &error).await;
                continue;
            }
        };
        if !entries.is_empty() {
            milestone!("requests::read");
            tasks.activity.note();
        }
        gate.count(entries.len());
        admit(&tasks, entries, &mut outage).await;
        if take_over.is_due(&tasks) {
            match requests.take_over(BATCH, core.runs.lease).await {
                Ok(stalled) => {
                    take_over.done(stalled.has_more);
                    if !stalled.entries.is_empty() {
                        milestone!("requests::taken_over");
                    }
                    admit(&tasks, stalled.entries, &mut outage).await;
                }
                Err(error) => {
                    outage.pause(&tasks, &error).await;
                    continue;
                }
            }
        }
        outage.recovered();
    }
    if let Err(error) = requests.leave().await {
        warn!(%error, "the consumer stays in its group until a sweep removes it");
    }
}

/// Admits entries, and tries until it succeeds: an entry that was read is this worker's until its
/// lease ends.
async fn admit(tasks: &Tasks, entries: Vec<Entry>, outage: &mut Outage) {
    while !entries.is_empty() {
        match take_in::intake(&tasks.deps.core, &entries).await {
            Ok(counts) => {
                if counts.queued > 0 {
                    tasks.wake_dispatch().await;
                }
                return;
            }
            Err(error) if tasks.shutdown.quiet().is_cancelled() => {
                warn!(%error, "requests are left to another worker");
                return;
            }
            Err(error) => outage.pause(tasks, &error).await,
        }
    }
}

/// Queued runs → boots, as there is room.
pub(super) async fn dispatch(tasks: Arc<Tasks>) {
    let mut outage = Outage::new("dispatch");
    let quiet = tasks.shutdown.quiet();
    let mut wait = Duration::ZERO;
    loop {
        let woken = async {
            tokio::select! {
                () = tasks.may_boot.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        };
        if quiet.run_until_cancelled(woken).await.is_none() {
            return;
        }
        match claim(&tasks).await {
            Ok(next) => {
                wait = next;
                outage.recovered();
            }
            Err(error) => {
                outage.pause(&tasks, &error).await;
                wait = CLAIM_INTERVAL;
            }
        }
    }
}

/// Claims and boots until there are no more permits, no room or no runs. Answers how long to wait
/// unless notified.
async fn claim(tasks: &Arc<Tasks>) -> Result<Duration, Error> {
    let core = &tasks.deps.core;
    if tasks.is_quiet() {
        // What wakes this loop may be meant for another worker.
        return Ok(CLAIM_INTERVAL);
    }
    try_half_open_app(tasks).await?;
    loop {
        let mut permits = take(tasks);
        // A boot that ends wakes this loop.
        if permits.is_empty() || tasks.shutdown.quiet().is_cancelled() {
            return Ok(CLAIM_INTERVAL);
        }
        let now = core.clock.now_ms();
        let apps = tasks.bootable_apps(now);
        if apps.names.is_empty() {
            let wake = apps.wake_at_ms.map(|at| budget::left(now, at));
            return Ok(wake.map_or(CLAIM_INTERVAL, |wake| wake.min(CLAIM_INTERVAL)));
        }
        permits.truncate(apps.max_boots);
        let stopped = claim_in(tasks, apps.names, &mut permits).await?;
        match stopped.stop {
            Stop::Wanted if tasks.boot_permits.available_permits() == 0 => {
                // More may wait than this worker has permits for.
                core.store.notify_capacity().await?;
                milestone!("dispatch::notified_others");
                return Ok(CLAIM_INTERVAL);
            }
            Stop::Wanted => {}
            Stop::Empty | Stop::Full | Stop::Held | Stop::Paused => {
                let wake = stopped
                    .wake_at_ms
                    .map(|at| budget::left(core.clock.now_ms(), at));
                let has_nothing = matches!(stopped.stop, Stop::Empty | Stop::Paused);
                let interval = if has_nothing && tasks.activity.is_idle() {
                    IDLE_CLAIM_INTERVAL
                } else {
                    CLAIM_INTERVAL
                };
                return Ok(wake.map_or(interval, |wake| wake.min(interval)));
            }
        }
    }
}

/// Boots one run in an app whose circuit is half-open, if there is one.
async fn try_half_open_app(tasks: &Arc<Tasks>) -> Result<(), Error> {
    let Some(app) = tasks.bootable_apps(tasks.deps.core.clock.now_ms()).trial else {
        return Ok(());
    };
    if let Ok(permit) = tasks.boot_permits.clone().try_acquire_owned() {
        claim_in(tasks, vec![app], &mut vec![permit]).await?;
    }
    Ok(())
}

/// Claims as many runs for these apps as there are permits, and boots them.
async fn claim_in(
    tasks: &Arc<Tasks>,
    apps: Vec<String>,
    permits: &mut Vec<OwnedSemaphorePermit>,
) -> Result<Claim, Error> {
    let core = &tasks.deps.core;
    let now = core.clock.now_ms();
    let room = FleetLimits {
        apps,
        ..tasks.limits()
    };
    let mut claim = core
        .store
        .claim(&room, permits.len(), now, core.runs.lease)
        .await?;
    if !claim.runs.is_empty() {
        milestone!("dispatch::claimed");
        tasks.activity.note();
    }
    let is_full = claim.stop == Stop::Full;
    tasks.is_fleet_full.store(is_full, Ordering::SeqCst);
    for run in claim.runs.drain(..) {
        if let Some(permit) = permits.pop() {
            tasks.boot(run, now, permit);
        }
    }
    Ok(claim)
}

fn take(tasks: &Tasks) -> Vec<OwnedSemaphorePermit> {
    let mut permits = Vec::new();
    while permits.len() < CLAIM_MAX {
        let Ok(permit) = tasks.boot_permits.clone().try_acquire_owned() else {
            break;
        };
        permits.push(permit);
    }
    permits
}

/// The notification list → tear-downs.
pub(super) async fn wakeups(tasks: Arc<Tasks>, mut wakeups: Wakeups) {
    let mut outage = Outage::new("wakeups");
    let quiet = tasks.shutdown.quiet();
    while !quiet.is_cancelled() {
        let first = tasks.owed_permits.clone().acquire_owned();
        let Some(Ok(first)) = quiet.run_until_cancelled(first).await else {
            return;
        };
        let mut permits = vec![first];
        while let Ok(permit) = tasks.owed_permits.clone().try_acquire_owned() {
            permits.push(permit);
        }
        let read = wakeups.next_unless(permits.len(), LONG_BLOCK, quiet.cancelled());
        let calls = match read.await {
            Ok(calls) => calls,
            Err(error) => {
                drop(permits);
                outage.pause(&tasks, &error).await;
                continue;
            }
        };
        if !calls.is_empty() {
            milestone!("wakeups::read");
            tasks.activity.note();
        }
        if let Err(error) = handle_wakeups(&tasks, calls, permits).await {
            outage.pause(&tasks, &error).await;
        } else {
            outage.recovered();
        }
    }
}

/// Acts on wakeups. What finds no permit is overdue when its lease ends.
async fn handle_wakeups(
    tasks: &Arc<Tasks>,
    calls: Vec<Wakeup>,
    mut permits: Vec<OwnedSemaphorePermit>,
) -> Result<(), Error> {
    let now = tasks.deps.core.clock.now_ms();
    let mut ids: Vec<RunId> = Vec::new();
    for call in calls {
        match call {
            Wakeup::Capacity => tasks.may_boot.notify_one(),
            Wakeup::Run(id) => ids.extend(id.parse().ok()),
            Wakeup::Teardown(run) => {
                if let Some(permit) = permits.pop() {
                    tasks.perform(Owed::Teardown(run), now, permit);
                }
            }
        }
    }
    let views = tasks.deps.core.store.records(&ids).await?;
    if !views.is_empty() {
        milestone!("wakeups::looked_up");
    }
    for view in views.into_iter().flatten() {
        if let Some(permit) = permits.pop() {
            tasks.perform(view.into(), now, permit);
        }
    }
    Ok(())
}

/// Renews the leases of all tasks, until the last one ends.
pub(super) async fn renew(tasks: Arc<Tasks>) {
    let core = &tasks.deps.core;
    let mut outage = Outage::new("renew");
    let quiet = tasks.shutdown.quiet();
    let interval = core.runs.lease / 3;
    loop {
        let woken = quiet
            .run_until_cancelled(tokio::time::sleep(interval))
            .await;
        let leased = tasks.leased();
        if leased.is_empty() {
            if quiet.is_cancelled() {
                return;
            }
            continue;
        }
        if woken.is_none() {
            // The shutdown waits for the tasks, and should not wait a whole beat more.
            tokio::time::sleep(interval.min(DRAIN_INTERVAL)).await;
        }
        let named: Vec<_> = leased
            .iter()
            .map(|run| (run.id.clone(), run.attempt, run.work))
            .collect();
        let now = core.clock.now_ms();
        match core.store.renew(&named, now, core.runs.lease).await {
            Ok(lost) => {
                milestone!("leases::renewed");
                for run in &leased {
                    if lost.iter().any(|lost| lost == run.id.as_str()) {
                        run.lease.lose();
                    } else {
                        run.lease.renew(budget::after(now, core.runs.lease));
                    }
                }
                outage.recovered();
            }
            Err(error) => outage.pause(&tasks, &error).await,
        }
    }
}
