//! The beat around the sweep: one holder at a time, harmless when two run.
//!
//! Every second the holder hands the worker's crew what is overdue; every `COFFERDAM_SWEEP_S` it
//! compares each app's machines with the runs in flight (`survey`), and counts what there is for its
//! metrics.

mod survey;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{info, warn};

use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::RunId;
use crate::shutdown::Shutdown;
use crate::stage::teardown::end_attempt;
use crate::stage::{Deps, Error, vanish};
use crate::store::fleet::Census;
use crate::store::keys::Inbox;
use crate::store::results::KeptBack;
use crate::worker::crew::Crew;

/// How often the holder looks for what is overdue.
const BEAT: Duration = Duration::from_secs(1);
/// How long a holder that died keeps others from sweeping.
const LEAD_LEASE: Duration = Duration::from_secs(5);
/// Overdue runs taken at once.
const OVERDUE_MAX: usize = 256;
/// Looks at machines under way at once: the Machines API allows 5 a second and machine id.
const LOOKS_MAX: usize = 64;
/// How often results are trimmed and dead consumers forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How often what is known of runs is compared with their hashes.
const MENDING: Duration = Duration::from_secs(60);
/// Open runs at which one such pass looks, beside all in flight.
const MEND_MAX: usize = 10_000;
/// How often a process counts what there is.
const CENSUS: Duration = Duration::from_secs(5);
/// How long a consumer must have been silent before it is forgotten.
const CONSUMER_SILENCE: Duration = Duration::from_secs(3600);

/// Starts the sweeper beside a worker's crew.
pub fn start(crew: Arc<Crew>, name: &str, shutdown: &Shutdown) {
    let sweeper = Arc::new(Sweeper {
        crew,
        name: name.to_owned(),
        leads: AtomicBool::new(false),
        mended_to: AtomicU64::new(0),
        ended: Mutex::default(),
        kept_back: Mutex::default(),
        idle: Mutex::default(),
        quiet: shutdown.clone(),
    });
    shutdown.spawn_loop("overdue", beat(sweeper.clone(), BEAT, Sweeper::overdue));
    let every = sweeper.deps().core.runs.sweep;
    shutdown.spawn_loop("surveys", sweeper.clone().surveys(every));
    let housekeeping = beat(sweeper.clone(), HOUSEKEEPING, Sweeper::housekeeping);
    shutdown.spawn_loop("housekeeping", housekeeping);
    shutdown.spawn_loop("mending", beat(sweeper.clone(), MENDING, Sweeper::mending));
    shutdown.spawn_loop("census", beat(sweeper, CENSUS, Sweeper::census));
}

struct Sweeper {
    crew: Arc<Crew>,
    name: String,
    leads: AtomicBool,
    /// Where the next pass of mending goes on.
    mended_to: AtomicU64,
    /// Attempts whose machines were removed while Redis takes no writes.
    ended: Mutex<HashSet<(RunId, u32)>>,
    /// Consumer groups of which it was told that old results are kept for them.
    kept_back: Mutex<HashSet<String>>,
    /// Apps that are not this worker's and in which nothing was seen, and since when.
    idle: Mutex<HashMap<String, Instant>>,
    quiet: Shutdown,
}

/// Runs `pass` at every beat until the end begins. The first beat comes after a random part of
/// one, so that processes started together do not beat together.
async fn beat<F, P>(sweeper: Arc<Sweeper>, every: Duration, pass: P)
where
    P: Fn(Arc<Sweeper>) -> F,
    F: Future<Output = Result<(), Error>>,
{
    let mut ticks = interval_at(Instant::now() + every.mul_f64(fastrand::f64()), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    while sweeper
        .quiet
        .quiet()
        .run_until_cancelled(ticks.tick())
        .await
        .is_some()
    {
        match pass(sweeper.clone()).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                warn!(%error, "a pass of the sweep failed; the next one tries again");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

impl Sweeper {
    fn deps(&self) -> &Deps {
        &self.crew.deps
    }

    /// Hands the crew what is overdue. While Redis takes no writes no run can end, but no machine
    /// may live on for that.
    async fn overdue(self: Arc<Self>) -> Result<(), Error> {
        let handed = self.hand_over().await;
        match &handed {
            Err(Error::Store(error)) if error.refuses_writes() => self.end_machines().await?,
            _ => self.ended.lock().await.clear(),
        }
        handed
    }

    /// Removes the machines of runs past their deadline, without a word of it to Redis: the runs
    /// end when Redis takes writes again. Every worker does it, since none can lead.
    async fn end_machines(&self) -> Result<(), Error> {
        let deps = self.deps();
        let now = deps.core.clock.now_ms();
        let views = deps.core.store.overdue_unleased(now, OVERDUE_MAX).await?;
        let mut ended = self.ended.lock().await;
        let late = views.into_iter().filter(|view| {
            let is_late = view.deadline_ms.is_some_and(|deadline| deadline <= now);
            is_late && !ended.contains(&(view.id.clone(), view.attempt))
        });
        let removals = late.map(async |view| {
            let removed = end_attempt(deps, &view).await;
            (view, removed)
        });
        let removals = stream::iter(removals).buffer_unordered(LOOKS_MAX);
        for (view, removed) in removals.collect::<Vec<_>>().await {
            match removed {
                Ok(()) => {
                    warn!(
                        run_id = view.id.as_str(),
                        "its deadline passed while redis takes no writes; its machine is removed"
                    );
                    ended.insert((view.id, view.attempt));
                }
                Err(error) => {
                    warn!(run_id = view.id.as_str(), %error, "its machine could not be removed");
                }
            }
        }
        Ok(())
    }

    /// Hands the crew what is overdue. Runs beyond the permits wait for the next beat.
    async fn hand_over(&self) -> Result<(), Error> {
        let core = &self.deps().core;
        let leads = core.store.lead(&self.name, LEAD_LEASE).await;
        self.leads
            .store(*leads.as_ref().unwrap_or(&false), Ordering::SeqCst);
        if !leads? {
            return Ok(());
        }
        milestone!("sweeper::led");
        loop {
            let most = self.crew.late.available_permits().min(OVERDUE_MAX);
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
                vanish(core, &id).await?;
            }
            for view in overdue.runs {
                let permit = self.crew.late.clone().acquire_owned().await;
                if let Ok(permit) = permit {
                    self.crew.perform(view, now, permit);
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
            // Another worker trims, and tells.
            core.metrics.results_kept_back.set(0.0);
            self.kept_back.lock().await.clear();
            return Ok(());
        }
        let (retention, cap) = (core.runs.results_retention, core.runs.results_hard_cap);
        let results = core
            .store
            .trim_results(core.clock.now_ms(), retention, cap)
            .await?;
        let trimmed = results.removed;
        self.tell_kept_back(results.kept_back).await;
        let mut forgotten = 0;
        for inbox in [Inbox::Runs, Inbox::Control] {
            forgotten += core.store.forget_consumers(inbox, CONSUMER_SILENCE).await?;
        }
        if trimmed > 0 || forgotten > 0 {
            info!(trimmed, forgotten, "trimmed results, forgot consumers");
        }
        Ok(())
    }

    /// Tells once of each consumer group for which old results are kept.
    async fn tell_kept_back(&self, kept_back: Vec<KeptBack>) {
        let longest = kept_back.iter().map(|kept| kept.over).max();
        let seconds = longest.unwrap_or_default().as_secs_f64();
        self.deps().core.metrics.results_kept_back.set(seconds);
        let mut told = self.kept_back.lock().await;
        for KeptBack { group, over, .. } in &kept_back {
            if !told.contains(group) {
                let over_s = over.as_secs();
                warn!(
                    group,
                    over_s, "old results are kept: this consumer group has not acknowledged them"
                );
            }
        }
        *told = kept_back.into_iter().map(|kept| kept.group).collect();
    }

    /// Makes right what somebody changed by hand: all that is in flight, and a part of what waits.
    async fn mending(self: Arc<Self>) -> Result<(), Error> {
        if !self.leads.load(Ordering::SeqCst) {
            return Ok(());
        }
        let core = &self.deps().core;
        let from = self.mended_to.load(Ordering::SeqCst);
        let (mended, next) = core.store.mend(from, MEND_MAX, core.clock.now_ms()).await?;
        self.mended_to.store(next, Ordering::SeqCst);
        if mended > 0 {
            warn!(mended, "what Redis had was not as cofferdam writes it");
        }
        Ok(())
    }

    /// Tells the others of this worker; and its metrics of the whole fleet, if it is the one that
    /// sweeps: the others show nothing of it.
    async fn census(self: Arc<Self>) -> Result<(), Error> {
        let core = &self.deps().core;
        let refused_max = core.runs.refused_max;
        core.store
            .announce(&self.crew.limits(), refused_max)
            .await?;
        let census = if self.leads.load(Ordering::SeqCst) {
            core.store.census(core.clock.now_ms()).await?
        } else {
            Census::default()
        };
        let metrics = &core.metrics;
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.runs_queued.set(gauge(census.queued));
        metrics.machines_in_flight.set(gauge(census.in_flight));
        metrics.runs_overdue.set(gauge(census.overdue));
        metrics.teardowns_owed.set(gauge(census.owed));
        let now = core.clock.now_ms();
        let waited = budget::left(census.oldest_queued_ms.unwrap_or(now), now);
        metrics.oldest_queued_age.set(waited.as_secs_f64());
        metrics.requests_unread.set(gauge(census.unread));
        metrics.tenants_held.set(gauge(census.tenants_held));
        Ok(())
    }
}
