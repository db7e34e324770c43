//! The steps of the pipeline, one file each, in the order of the flow: [`intake`], [`boot`],
//! [`report`], [`teardown`]; [`mod@settle`], the end of a run without a result; [`reconcile`], which finds
//! what slipped through; [`control`], which carries out orders from outside; [`operate`], what operators
//! do to single runs; [`explain`], why a run waits, in words; and [`outline`], its trace.
//!
//! A step is a function over the doors. It can be run twice, and by any worker: what is owed is
//! read from the run, and the worker that does it at once and the sweeper that does it late run
//! the same code.

pub mod artifacts;
pub mod boot;
pub mod breaker;
pub mod calls;
pub mod control;
pub mod explain;
pub mod health;
pub mod intake;
pub mod key_agreement;
pub mod lease;
pub mod log;
pub mod observe;
pub mod operate;
pub mod outline;
pub mod owner;
pub mod ready;
pub mod reconcile;
pub mod report;
pub mod settle;
pub mod spec;
pub mod teardown;

use std::sync::Arc;
use std::time::Duration;

use crate::artifacts::ArtifactStore;
use crate::clock::Clock;
use crate::config::Runs;
use crate::machines::{self, Certainty, Client};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, RunId};
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::phase::Duty;
use crate::run::request::Limits;
use crate::run::trace::Part;
use crate::stage::boot::Booted;
use crate::stage::health::ProviderHealth;
use crate::stage::lease::LeaseGuard;
use crate::stage::settle::settle;
use crate::stage::spec::GuestSetup;
use crate::stage::teardown::TornDown;
use crate::store::codec::{RunRecord, SettledRun};
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::token::KeyRing;
use crate::traces::{Traces, within};

/// What every step needs, with the settings of a worker or, as [`Results`](crate::config::Results), of an endpoint.
#[derive(Clone, Debug)]
pub struct Core<R = Runs> {
    /// The runs.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where counts go.
    pub metrics: Arc<Metrics>,
    /// Bounds and times of runs.
    pub runs: Arc<R>,
}

impl<R> Core<R> {
    /// The same with other settings.
    #[must_use]
    pub fn with<T>(&self, runs: T) -> Core<T> {
        Core {
            store: self.store.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            runs: Arc::new(runs),
        }
    }
}

impl Core {
    /// The bounds that requests are checked against.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            image: self.runs.image.clone(),
            region: self.runs.region.clone(),
            run_timeout: self.runs.run_timeout,
            max_cpus: self.runs.max_cpus,
            max_memory_mb: self.runs.max_memory_mb,
            capture: self.runs.capture.clone(),
        }
    }
}

/// What the steps that have to do with machines need beside that.
#[derive(Clone, Debug)]
pub struct Deps {
    /// What every step needs.
    pub core: Core,
    /// The Machines API.
    pub machines: Client,
    /// The apps in which machines are made.
    pub apps: Vec<String>,
    /// The keys that sign.
    pub ring: KeyRing,
    /// What guests are told.
    pub guests: GuestSetup,
    /// Whether the provider accepts our calls.
    pub health: Arc<ProviderHealth>,
    /// Where artifacts are kept; `None` for nowhere.
    pub artifacts: Option<ArtifactStore>,
    /// Where traces go; `None` for nowhere.
    pub traces: Option<Traces>,
}

impl Deps {
    /// The owner in the metadata of our machines. For people only, since a guest can change it.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.core.store.keys().namespace()
    }

    /// Records that the provider refuses us in `app`: no request is at fault, and an operator must act.
    fn refused(&self, app: &str, message: &str) {
        self.health.refused(app, message);
        self.count_refusing();
    }

    /// Records that the provider accepted a create call in `app`.
    fn accepted(&self, app: &str) {
        if self.health.accepted(app) {
            self.count_refusing();
        }
    }

    fn count_refusing(&self) {
        let apps = i64::try_from(self.health.refusing().len()).unwrap_or(i64::MAX);
        self.core.metrics.apps_refused.set(apps);
    }

    /// Records the outcome of a call to `app`, for `region` if it had one, in the circuit breaker.
    fn record_call(&self, app: &str, region: Option<&str>, failed: Option<&machines::Error>) {
        let breakers = &self.health.breakers;
        if failed.is_some_and(has_no_answer) {
            breakers.record_no_answer(app, region, self.core.clock.now_ms(), jitter());
        } else {
            breakers.record_answer(app, region);
        }
        let open = i64::try_from(breakers.open_count()).unwrap_or(i64::MAX);
        self.core.metrics.circuits_open.set(open);
    }
}

/// Why a step could not be done. What a step stands for stays owed, so every error means the same
/// for a run: try again, later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis did not do its part.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The provider did not do its part.
    #[error(transparent)]
    Machines(machines::Error),
}

/// What came of doing what a run owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Performed {
    /// Done, or nothing to do.
    Done,
    /// Done, and a waiting run may boot now.
    CapacityFreed,
}

/// What may be owed, as far as it is known.
#[derive(Clone, Debug)]
pub enum Owed {
    /// Whatever the run owes in its state.
    Run(Box<RunRecord>),
    /// A tear-down.
    Teardown(Box<SettledRun>),
}

impl From<RunRecord> for Owed {
    fn from(run: RunRecord) -> Self {
        match run.settled() {
            Some(settled) => Self::Teardown(Box::new(settled)),
            None => Self::Run(Box::new(run)),
        }
    }
}

impl Owed {
    /// For which run.
    #[must_use]
    pub fn id(&self) -> &RunId {
        match self {
            Self::Run(run) => &run.id,
            Self::Teardown(run) => &run.id,
        }
    }

    /// The attempt that the run is at.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        match self {
            Self::Run(run) => Attempt(run.attempt),
            Self::Teardown(run) => run.attempt,
        }
    }

    /// What is owed.
    #[must_use]
    pub fn duty(&self) -> Duty {
        match self {
            Self::Run(run) => run.phase().owes(),
            Self::Teardown(_) => Duty::Teardown,
        }
    }
}

/// Does what a run owes now: the one way forward, at once and late.
///
/// # Errors
/// When Redis or the provider does not do its part; it stays owed.
pub async fn perform(deps: &Deps, owed: &Owed, lease: &LeaseGuard) -> Result<Performed, Error> {
    match owed {
        Owed::Run(run) => {
            let attempt = Attempt(run.attempt);
            let part = Part::Run(run.attempt);
            let scope = outline::scope(deps, &run.trace(), part, &run.id, attempt);
            within(scope, perform_run(deps, run, lease)).await
        }
        Owed::Teardown(run) => perform_teardown(deps, run).await,
    }
}

async fn perform_run(
    deps: &Deps,
    view: &RunRecord,
    lease: &LeaseGuard,
) -> Result<Performed, Error> {
    let now = deps.core.clock.now_ms();
    let boot = Some(view.boot());
    let late = view.deadline_ms.is_some_and(|deadline| deadline <= now);
    match view.phase().owes() {
        Duty::Boot if view.queue_until_ms.is_some_and(|until| until <= now) => {
            let ending = Ending::without(
                ReasonCode::ExpiredInQueue,
                "it was not started in the time that it may wait",
            );
            settle(&deps.core, &view.id, boot, &ending).await?;
        }
        // The machine may have exited before the deadline, unseen. Then the result says so.
        Duty::Await if late && observe::settle_if_exited(deps, view).await? => {}
        Duty::ResumeBoot | Duty::Await if late => {
            let ending = Ending::without(ReasonCode::Deadline, "the deadline passed");
            settle(&deps.core, &view.id, boot, &ending).await?;
        }
        Duty::ResumeBoot => {
            let booted = boot::resume(deps, view, lease).await?;
            if matches!(booted, Booted::Queued) {
                return Ok(Performed::CapacityFreed);
            }
        }
        // A tear-down comes as such.
        Duty::Boot | Duty::Await | Duty::Teardown | Duty::Nothing => {}
    }
    Ok(Performed::Done)
}

async fn perform_teardown(deps: &Deps, run: &SettledRun) -> Result<Performed, Error> {
    match teardown::teardown(deps, run).await? {
        TornDown::Closed { runs_wait: true } => return Ok(Performed::CapacityFreed),
        TornDown::Later { again_at_ms } => {
            deps.core.store.reschedule(&run.id, again_at_ms).await?;
            milestone!("teardown::deferred");
        }
        TornDown::Closed { runs_wait: false } | TornDown::NotOwed => {}
    }
    Ok(Performed::Done)
}

/// Whether a failed call got no answer, so that the provider may be down.
fn has_no_answer(error: &machines::Error) -> bool {
    match error.certainty() {
        Certainty::Unknown => true,
        Certainty::NothingSent => matches!(error, machines::Error::NotSent { .. }),
        Certainty::Refused => false,
    }
}

/// JSON above this is parsed on a blocking thread: 16 MiB would delay the renewal of leases.
const PARSED_INLINE_BYTES: usize = 64 << 10;

/// Runs `parse` on JSON of `bytes` bytes.
async fn parsed<T: Send + 'static>(bytes: usize, parse: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= PARSED_INLINE_BYTES {
        return parse();
    }
    match tokio::task::spawn_blocking(parse).await {
        Ok(parsed) => parsed,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: the runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Pauses between two tries, with full jitter.
async fn pause(tries: u32, base: Duration, most: Duration) {
    tokio::time::sleep(budget::backoff(tries, base, most, jitter())).await;
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    fastrand::f64()
}
