//! The steps of the pipeline, one file each, in the order of the flow: [`intake`], [`boot`],
//! [`report`], [`teardown`]; [`sweep`], which runs the same steps late; and [`control`], which obeys
//! orders from outside.
//!
//! A step is a function over the doors. It can be run twice, and by any worker: what is owed is
//! read from the run, and the worker that does it at once and the sweeper that does it late run
//! the same code.

pub mod boot;
pub mod breaker;
pub mod control;
pub mod health;
pub mod hold;
pub mod intake;
pub mod keys;
pub mod observe;
pub mod owner;
pub mod ready;
pub mod report;
pub mod spec;
pub mod sweep;
pub mod teardown;

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Runs;
use crate::machines::{self, Certainty, Client};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::RunId;
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::phase::Duty;
use crate::run::request::{Limits, RunRequest};
use crate::stage::boot::Booted;
use crate::stage::breaker::Answer;
use crate::stage::health::Health;
use crate::stage::hold::Hold;
use crate::stage::spec::GuestUrls;
use crate::stage::teardown::TornDown;
use crate::store::acts::{BootId, Request, Settlement, Transition};
use crate::store::codec::RunRecord;
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::token::KeyRing;

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
    /// Where guests find the endpoint.
    pub urls: GuestUrls,
    /// Whether the provider takes our calls.
    pub health: Arc<Health>,
}

impl Deps {
    /// What machines of ours carry as their owner: for people, since a guest can change it.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.core.store.keys().namespace()
    }

    /// Notes that the provider refuses us in `app`: no request is at fault, and somebody must act.
    fn refused(&self, app: &str, message: &str) {
        self.health.refused(app, message);
        self.count_refusing();
    }

    /// Notes that the provider took a create call in `app`.
    fn accepted(&self, app: &str) {
        if self.health.accepted(app) {
            self.count_refusing();
        }
    }

    fn count_refusing(&self) {
        let apps = i64::try_from(self.health.refusing().len()).unwrap_or(i64::MAX);
        self.core.metrics.apps_refused.set(apps);
    }

    /// Notes whether a call to `app`, for `region` if it had one, was answered: with `failed`, it
    /// went wrong.
    fn heard(&self, app: &str, region: Option<&str>, failed: Option<&machines::Error>) {
        let breakers = &self.health.breakers;
        if failed.is_some_and(is_silence) {
            breakers.silent(app, region, self.core.clock.now_ms(), roll());
        } else {
            breakers.answered(app, region);
        }
        let open = i64::try_from(breakers.open()).unwrap_or(i64::MAX);
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
    /// There is room for another boot, and some run waits for it.
    Room,
}

/// Does what a run owes now: the one way forward, at once and late.
///
/// # Errors
/// When Redis or the provider does not do its part; it stays owed.
pub async fn perform(deps: &Deps, view: &RunRecord, hold: &Hold) -> Result<Performed, Error> {
    let now = deps.core.clock.now_ms();
    let boot = Some(view.boot());
    let late = view.deadline_ms.is_some_and(|deadline| deadline <= now);
    match view.phase().owes() {
        Duty::Boot if view.queue_until_ms.is_some_and(|until| until <= now) => {
            let ending = Ending::without(
                ReasonCode::ExpiredInQueue,
                "it was not started in the time that it may wait",
            );
            end(&deps.core, &view.id, boot, &ending).await?;
        }
        // The machine may have ended long before, unseen. That is what is told then.
        Duty::Await if late && observe::ended(deps, view).await? => {}
        Duty::ResumeBoot | Duty::Await if late => {
            let ending = Ending::without(ReasonCode::Deadline, "the deadline passed");
            end(&deps.core, &view.id, boot, &ending).await?;
        }
        Duty::ResumeBoot => {
            let booted = boot::reboot(deps, view, hold).await?;
            if matches!(booted, Booted::Queued) {
                return Ok(Performed::Room);
            }
        }
        Duty::Teardown => match tear_down(deps, view).await? {
            TornDown::Closed { waiting: true } => return Ok(Performed::Room),
            TornDown::TooEarly { again_at_ms } => {
                deps.core.store.reschedule(&view.id, again_at_ms).await?;
                milestone!("teardown::put_off");
            }
            TornDown::Closed { waiting: false } | TornDown::Nothing => {}
        },
        Duty::Boot | Duty::Await | Duty::Nothing => {}
    }
    Ok(Performed::Done)
}

/// Tears down, unless the app does not answer: then later, and the permit is free for others.
async fn tear_down(deps: &Deps, view: &RunRecord) -> Result<TornDown, Error> {
    let app = view.app.as_deref().unwrap_or_default();
    let now = deps.core.clock.now_ms();
    let answer = deps.health.breakers.ask(app, None, now);
    if let Answer::Wait(until) = answer {
        let again_at_ms = until.min(budget::after(now, breaker::REST_MAX));
        return Ok(TornDown::TooEarly { again_at_ms });
    }
    let torn_down = teardown::teardown(deps, view).await;
    match &torn_down {
        // An app that tears down and does not boot is no better for it, save on trial.
        Ok(_) if answer == Answer::Try => deps.heard(app, None, None),
        Err(Error::Machines(error)) if is_silence(error) => deps.heard(app, None, Some(error)),
        Ok(_) | Err(_) => {}
    }
    torn_down
}

/// Ends a run without a result. One round trip.
///
/// # Errors
/// When Redis does not answer.
pub async fn end(
    core: &Core,
    id: &RunId,
    boot: Option<BootId<'_>>,
    ending: &Ending,
) -> Result<Transition, Error> {
    let settlement = without_result(core, ending);
    let act = core
        .store
        .settle(id, boot, &settlement, core.clock.now_ms())
        .await?;
    milestone!("end::settled");
    ended(core, id, ending, act);
    Ok(act)
}

/// Ends a run whose `boot` was refused for good and made nothing: closes it at once, so
/// that its place in fleet, app and tenant is free. One round trip.
async fn refuse(
    core: &Core,
    id: &RunId,
    boot: BootId<'_>,
    ending: &Ending,
) -> Result<Transition, Error> {
    let settlement = without_result(core, ending);
    let act = core
        .store
        .refuse(id, boot, &settlement, core.clock.now_ms())
        .await?;
    milestone!("end::refused");
    ended(core, id, ending, act);
    Ok(act)
}

/// Ends a run whose hash is gone, so that it does not end in silence: somebody deleted it, or nobody
/// swept for so long that it expired. Two round trips.
///
/// # Errors
/// When Redis does not answer; it stays due.
pub async fn vanish(core: &Core, id: &RunId) -> Result<Transition, Error> {
    let request = core.store.request(id).await?;
    milestone!("vanish::request_read");
    let readable = match request.map(|stored| stored.request) {
        Some(Request::Here(json)) => RunRequest::readable(&json).ok(),
        // Not for its tenant alone.
        Some(Request::Large { .. }) | None => None,
    };
    let message = "what Redis had of it was gone: it expired unseen, or somebody deleted it";
    let ending = Ending::without(ReasonCode::MachineLost, message);
    let end = without_result(core, &ending);
    let now = core.clock.now_ms();
    let act = core
        .store
        .end_lost(id, readable.as_ref(), &end, now)
        .await?;
    milestone!("vanish::ended");
    match act {
        Transition::Done(_) => {
            error!(run_id = id.as_str(), %ending, "a run vanished from redis");
            core.metrics.runs_vanished.inc();
            core.metrics.results.of(ending.outcome()).inc();
        }
        Transition::Over => warn!(run_id = id.as_str(), "an ended run vanished from redis"),
        Transition::Repeated
        | Transition::OverBudget
        | Transition::Older
        | Transition::Refused
        | Transition::Unknown => {}
    }
    Ok(act)
}

fn without_result<'a>(core: &Core, ending: &'a Ending) -> Settlement<'a> {
    Settlement {
        ending,
        post: None,
        retention: core.runs.retention,
        lease: core.runs.lease,
    }
}

fn ended(core: &Core, id: &RunId, ending: &Ending, act: Transition) {
    if let Transition::Done(_) = act {
        info!(run_id = id.as_str(), %ending, "ended without a result");
        core.metrics.results.of(ending.outcome()).inc();
    }
}

/// Whether the provider said nothing that tells it is there and at work.
fn is_silence(error: &machines::Error) -> bool {
    match error.certainty() {
        Certainty::Unknown => true,
        Certainty::NothingSent => matches!(error, machines::Error::NotSent { .. }),
        Certainty::Refused => false,
    }
}

/// JSON above which it is parsed beside the tasks of this process: one of 16 MiB would keep leases
/// from being renewed.
const PARSED_HERE_BYTES: usize = 64 << 10;

/// Parses, or judges, JSON of so many bytes.
async fn parsed<T: Send + 'static>(bytes: usize, parse: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= PARSED_HERE_BYTES {
        return parse();
    }
    match tokio::task::spawn_blocking(parse).await {
        Ok(parsed) => parsed,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends, and all tasks with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Pauses between two tries, with full jitter.
async fn pause(tries: u32, base: Duration, most: Duration) {
    tokio::time::sleep(budget::backoff(tries, base, most, roll())).await;
}

/// A random number from 0 to 1.
fn roll() -> f64 {
    fastrand::f64()
}
