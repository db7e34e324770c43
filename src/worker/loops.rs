//! The worker's loops. Each ends when no more work is to be taken; none spins when Redis is away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::RunId;
use crate::stage::intake as take_in;
use crate::store::Error;
use crate::store::acts::{Claim, FleetLimits, Stop};
use crate::store::requests::{Entry, Requests};
use crate::store::wakeups::{Wakeup, Wakeups};
use crate::worker::crew::Crew;
use crate::worker::gate::Gate;

/// How long a blocking read waits, and so how late a loop can notice the end.
const BLOCK: Duration = Duration::from_secs(1);
/// Requests read at once.
const BATCH: usize = 128;
/// How often a worker looks for room unasked, in case nobody could call it.
const LOOK: Duration = Duration::from_secs(1);
/// Runs claimed at once.
const CLAIM_MAX: usize = 32;
/// Longest pause while Redis is away.
const OUTAGE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// First ceiling of that pause.
const OUTAGE_PAUSE_BASE: Duration = Duration::from_millis(50);
/// Between two renewals while the end waits for what is in hand.
const ENDING_BEAT: Duration = Duration::from_millis(200);

/// Redis is away or refuses: tells it once, and pauses for longer and longer.
pub(super) struct Outage {
    what: &'static str,
    tries: u32,
}

impl Outage {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, tries: 0 }
    }

    pub(super) fn over(&mut self) {
        if self.tries > 0 {
            info!(loop_name = self.what, "redis does its part again");
        }
        self.tries = 0;
    }

    pub(super) async fn met(&mut self, crew: &Crew, error: &impl std::fmt::Display) {
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
        let quiet = crew.shutdown.quiet();
        // Never without a pause, however the dice fall.
        let pause = pause.max(OUTAGE_PAUSE_BASE);
        let _ = quiet.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// When to look for what other workers left: at once, then every so often, and again without a
/// pause while there is more.
pub(super) struct LookBack {
    every: Duration,
    next: tokio::time::Instant,
}

impl LookBack {
    pub(super) fn new(every: Duration) -> Self {
        let next = tokio::time::Instant::now();
        Self { every, next }
    }

    pub(super) fn is_due(&self) -> bool {
        tokio::time::Instant::now() >= self.next
    }

    /// How long a read may wait before the next look.
    pub(super) fn block(&self) -> Duration {
        let left = self
            .next
            .saturating_duration_since(tokio::time::Instant::now());
        // Redis takes zero for ever.
        left.clamp(Duration::from_millis(1), BLOCK)
    }

    pub(super) fn looked(&mut self, is_more: bool) {
        let wait = if is_more { Duration::ZERO } else { self.every };
        self.next = tokio::time::Instant::now() + wait;
    }
}

/// Requests → queued runs. Reads that are under way when the end begins are waited for, so that
/// nothing is left half-read.
pub(super) async fn intake(crew: Arc<Crew>, mut requests: Requests) {
    let core = &crew.deps.core;
    let mut outage = Outage::new("intake");
    let mut back = LookBack::new(core.runs.lease / 2);
    let mut gate = Gate::new();
    let quiet = crew.shutdown.quiet();
    while !quiet.is_cancelled() {
        let room = match gate.room(&crew).await {
            Ok(room) => room.min(BATCH),
            Err(error) => {
                outage.met(&crew, &error).await;
                continue;
            }
        };
        if room == 0 {
            let _ = quiet.run_until_cancelled(tokio::time::sleep(LOOK)).await;
            continue;
        }
        let entries = match requests.next(room, back.block()).await {
            Ok(entries) => entries,
            Err(error) => {
                outage.met(&crew, &error).await;
                continue;
            }
        };
        if !entries.is_empty() {
            milestone!("requests::read");
        }
        gate.took(entries.len());
        admit(&crew, entries, &mut outage).await;
        // What another worker read and did not admit.
        if back.is_due() {
            match requests.take_over(BATCH, core.runs.lease).await {
                Ok(stalled) => {
                    back.looked(stalled.has_more);
                    if !stalled.entries.is_empty() {
                        milestone!("requests::taken_over");
                    }
                    admit(&crew, stalled.entries, &mut outage).await;
                }
                Err(error) => {
                    outage.met(&crew, &error).await;
                    continue;
                }
            }
        }
        outage.over();
    }
    if let Err(error) = requests.leave().await {
        warn!(%error, "the consumer stays in its group until a sweep forgets it");
    }
}

/// Admits entries. One that is read is ours to admit: until it is, or the lease gives it to another.
async fn admit(crew: &Crew, entries: Vec<Entry>, outage: &mut Outage) {
    while !entries.is_empty() {
        match take_in::intake(&crew.deps.core, &entries).await {
            Ok(taken) => {
                if taken.queued > 0 {
                    crew.some_run_waits().await;
                }
                return;
            }
            Err(error) if crew.shutdown.quiet().is_cancelled() => {
                warn!(%error, "requests are left to another worker");
                return;
            }
            Err(error) => outage.met(crew, &error).await,
        }
    }
}

/// Queued runs → boots, as there is room.
pub(super) async fn pump(crew: Arc<Crew>) {
    let mut outage = Outage::new("pump");
    let quiet = crew.shutdown.quiet();
    let mut wait = Duration::ZERO;
    loop {
        let called = async {
            tokio::select! {
                () = crew.room.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        };
        if quiet.run_until_cancelled(called).await.is_none() {
            return;
        }
        match claim(&crew).await {
            Ok(next) => {
                wait = next;
                outage.over();
            }
            Err(error) => {
                outage.met(&crew, &error).await;
                wait = LOOK;
            }
        }
    }
}

/// Claims and boots until there are no more permits, no room or no runs. Answers how long to wait
/// unless called.
async fn claim(crew: &Arc<Crew>) -> Result<Duration, Error> {
    let core = &crew.deps.core;
    try_an_app(crew).await?;
    loop {
        let mut permits = take(crew);
        // A boot that ends calls.
        if permits.is_empty() || crew.shutdown.quiet().is_cancelled() {
            return Ok(LOOK);
        }
        let now = core.clock.now_ms();
        let apps = crew.apps(now);
        if apps.open.is_empty() {
            let wake = apps.wake_at_ms.map(|at| budget::left(now, at));
            return Ok(wake.map_or(LOOK, |wake| wake.min(LOOK)));
        }
        permits.truncate(apps.most);
        let stopped = claim_in(crew, apps.open, &mut permits).await?;
        match stopped.stop {
            Stop::Wanted if crew.boots.available_permits() == 0 => {
                // More may wait than this worker can boot at once.
                core.store.notify_capacity().await?;
                milestone!("pump::rung");
                return Ok(LOOK);
            }
            Stop::Wanted => {}
            Stop::Empty | Stop::Full | Stop::Held | Stop::Paused => {
                let wake = stopped
                    .wake_at_ms
                    .map(|at| budget::left(core.clock.now_ms(), at));
                return Ok(wake.map_or(LOOK, |wake| wake.min(LOOK)));
            }
        }
    }
}

/// Boots one run in an app that did not answer and has rested, if there is one.
async fn try_an_app(crew: &Arc<Crew>) -> Result<(), Error> {
    let Some(app) = crew.apps(crew.deps.core.clock.now_ms()).trial else {
        return Ok(());
    };
    if let Ok(permit) = crew.boots.clone().try_acquire_owned() {
        claim_in(crew, vec![app], &mut vec![permit]).await?;
    }
    Ok(())
}

/// Claims as many runs for these apps as there are permits, and boots them.
async fn claim_in(
    crew: &Arc<Crew>,
    apps: Vec<String>,
    permits: &mut Vec<OwnedSemaphorePermit>,
) -> Result<Claim, Error> {
    let core = &crew.deps.core;
    let now = core.clock.now_ms();
    let room = FleetLimits {
        apps,
        ..crew.limits()
    };
    let mut claim = core
        .store
        .claim(&room, permits.len(), now, core.runs.lease)
        .await?;
    if !claim.runs.is_empty() {
        milestone!("pump::claimed");
    }
    let is_full = claim.stop == Stop::Full;
    crew.is_full.store(is_full, Ordering::SeqCst);
    for run in claim.runs.drain(..) {
        if let Some(permit) = permits.pop() {
            crew.boot(run, now, permit);
        }
    }
    Ok(claim)
}

fn take(crew: &Crew) -> Vec<OwnedSemaphorePermit> {
    let mut permits = Vec::new();
    while permits.len() < CLAIM_MAX {
        let Ok(permit) = crew.boots.clone().try_acquire_owned() else {
            break;
        };
        permits.push(permit);
    }
    permits
}

/// The bell → tear-downs.
pub(super) async fn bell(crew: Arc<Crew>, mut wakeups: Wakeups) {
    let mut outage = Outage::new("wakeups");
    let quiet = crew.shutdown.quiet();
    while !quiet.is_cancelled() {
        let first = crew.duties.clone().acquire_owned();
        let Some(Ok(first)) = quiet.run_until_cancelled(first).await else {
            return;
        };
        let mut permits = vec![first];
        while let Ok(permit) = crew.duties.clone().try_acquire_owned() {
            permits.push(permit);
        }
        let calls = match wakeups.next(permits.len(), BLOCK).await {
            Ok(calls) => calls,
            Err(error) => {
                drop(permits);
                outage.met(&crew, &error).await;
                continue;
            }
        };
        if !calls.is_empty() {
            milestone!("bell::heard");
        }
        if let Err(error) = answer(&crew, calls, permits).await {
            outage.met(&crew, &error).await;
        } else {
            outage.over();
        }
    }
}

/// Takes up what the bell called for. What is not taken up is overdue when its lease ends.
async fn answer(
    crew: &Arc<Crew>,
    calls: Vec<Wakeup>,
    mut permits: Vec<OwnedSemaphorePermit>,
) -> Result<(), Error> {
    let now = crew.deps.core.clock.now_ms();
    let mut ids: Vec<RunId> = Vec::new();
    for call in calls {
        match call {
            Wakeup::Capacity => crew.room.notify_one(),
            Wakeup::Run(id) => ids.extend(id.parse().ok()),
            Wakeup::Teardown(view) => {
                if let Some(permit) = permits.pop() {
                    crew.perform(*view, now, permit);
                }
            }
        }
    }
    let views = crew.deps.core.store.records(&ids).await?;
    if !views.is_empty() {
        milestone!("bell::looked_up");
    }
    for view in views.into_iter().flatten() {
        if let Some(permit) = permits.pop() {
            crew.perform(view, now, permit);
        }
    }
    Ok(())
}

/// Holds what is in hand, until everything in hand is done.
pub(super) async fn renew(crew: Arc<Crew>) {
    let core = &crew.deps.core;
    let mut outage = Outage::new("renew");
    let quiet = crew.shutdown.quiet();
    let beat = core.runs.lease / 3;
    loop {
        let woken = quiet.run_until_cancelled(tokio::time::sleep(beat)).await;
        let held = crew.held();
        if held.is_empty() {
            if quiet.is_cancelled() {
                return;
            }
            continue;
        }
        if woken.is_none() {
            // The end waits for what is in hand, and for nothing longer than that.
            tokio::time::sleep(beat.min(ENDING_BEAT)).await;
        }
        let named: Vec<_> = held
            .iter()
            .map(|run| (run.id.clone(), run.attempt, run.work))
            .collect();
        let now = core.clock.now_ms();
        match core.store.renew(&named, now, core.runs.lease).await {
            Ok(lost) => {
                milestone!("leases::renewed");
                for run in &held {
                    if lost.iter().any(|lost| lost == run.id.as_str()) {
                        run.hold.lose();
                    } else {
                        run.hold.renew(budget::after(now, core.runs.lease));
                    }
                }
                outage.over();
            }
            Err(error) => outage.met(&crew, &error).await,
        }
    }
}
