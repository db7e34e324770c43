//! Makes the parts of a service from its settings: store, clock, metrics, Machines client, keys.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use crate::artifacts::{self, ArtifactStore};
use crate::clock::{Clock, Followed, UnixMs};
use crate::config::{self, ArtifactPlace, SigningKey};
use crate::machines::{self, Call, Class, Client, Observed, Observer};
use crate::run::request::LOCAL_AGENT;
use crate::shutdown::Shutdown;
use crate::stage::artifacts::Artifacts;
use crate::stage::calls::CallSpans;
use crate::stage::health::ProviderHealth;
use crate::stage::key_agreement::KeyAgreement;
use crate::stage::outline;
use crate::stage::spec::GuestSetup;
use crate::stage::{Core, Deps};
use crate::store::{self, Store};
use crate::telemetry::{DataChange, Label as _, MachinesCall, Metrics, ResponseClass, Timed};
use crate::token::fleet::Use;
use crate::token::{KeyError, KeyRing};
use crate::traces::{self, Traces};

/// Attempts to reach a Redis that is not there yet, and the pause between two.
const STORE_TRIES: u32 = 60;
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Why the parts cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis is not there, too old, or its address is none.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There can be no client for the Machines API with these settings.
    #[error(transparent)]
    Machines(#[from] machines::Error),
    /// The signing keys are unusable.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Artifacts cannot be kept as the settings say.
    #[error("COFFERDAM_ARTIFACTS: {0}")]
    Artifacts(#[from] artifacts::Error),
    /// Traces cannot go where the settings say.
    #[error("the settings of traces: {0}")]
    Traces(#[from] traces::Error),
}

/// A clock that is wrong by this much is logged.
const CLOCK_SKEW_LOGGED_MS: u64 = 1000;

/// How often a process has a heartbeat, and how often while the clock of Redis is doubted.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
const DOUBTFUL_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Store, clock and metrics. The clock is that of Redis from the beginning. Waits half a minute for
/// a Redis that is not there yet or goes away meanwhile, as when both are started together.
///
/// # Errors
/// [`Error::Store`].
pub async fn core<R>(redis: &config::Redis, runs: R) -> Result<Core<R>, Error> {
    let core = Core {
        store: retry_until_available(async || {
            let store = Store::connect(redis).await?;
            store.check_scripts().await?;
            Ok(store)
        })
        .await?,
        clock: Clock::steady(),
        metrics: Arc::new(Metrics::new()),
        runs: Arc::new(runs),
    };
    core.store.measure(&core.metrics);
    core.store.warn_of_risks().await;
    match retry_until_available(async || sync_clock(&core).await).await {
        Err(Error::Store(error)) if error.is_denied() => {
            warn!(%error, "no permission to read the time of redis; using this computer's clock");
        }
        answer => answer?,
    }
    Ok(core)
}

/// Sees that Redis can do what workers need beside what every process does.
///
/// # Errors
/// [`Error::Store`].
pub async fn check_worker(core: &Core) -> Result<(), Error> {
    retry_until_available(async || Ok(core.store.check_wakeups().await?)).await
}

/// Sets the clock by that of Redis, which all processes of a fleet go by.
///
/// # Errors
/// [`Error::Store`].
pub async fn sync_clock<R>(core: &Core<R>) -> Result<(), Error> {
    let asked = core.clock.now_ms();
    let theirs = core.store.time().await?;
    follow(core, theirs, asked);
    Ok(())
}

/// Sets the clock by what Redis said when it was asked at that time. Whether it is doubted.
fn follow<R>(core: &Core<R>, theirs: UnixMs, asked: UnixMs) -> bool {
    let followed = core.clock.follow(theirs, asked);
    match followed {
        Some(Followed::Set(behind_ms)) if behind_ms.unsigned_abs() >= CLOCK_SKEW_LOGGED_MS => {
            warn!(
                behind_ms,
                "this computer's clock differs from that of redis, which is used"
            )
        }
        Some(Followed::Doubted(by_ms)) => {
            error!(
                by_ms,
                "the clock of redis jumped; it is used if the jump persists"
            );
            core.metrics.clock_jumps.inc();
        }
        Some(Followed::Set(_)) | None => {}
    }
    matches!(followed, Some(Followed::Doubted(_)))
}

/// How often such a process asks for the time.
const CLOCK_SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// The same for a process that has no more than a store. Until Redis has answered for the first time it
/// goes by this computer's clock.
pub async fn keep_store_clock_synced(store: Store, clock: Clock, shutdown: Shutdown) {
    let quiet = shutdown.quiet();
    loop {
        let asked = clock.now_ms();
        if let Ok(theirs) = store.time().await {
            clock.follow(theirs, asked);
        }
        let pause = tokio::time::sleep(CLOCK_SYNC_INTERVAL);
        if quiet.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// What the process `name` publishes about its signing keys: their fingerprints.
#[must_use]
pub fn keys(name: &str, uses: Use, ring: &KeyRing, now: UnixMs) -> Arc<KeyAgreement> {
    let host = rustix::system::uname();
    let name = format!("{name} on {}", host.nodename().to_string_lossy());
    Arc::new(KeyAgreement::new(&name, uses, ring, now))
}

/// This process's heartbeat, until shutdown begins: publishes what it has in hand and the fingerprints
/// of its signing keys, compares those with the others', hears whether it is to take no more work, and
/// sets its clock by that of Redis. One round trip each time.
pub async fn keep_keys_published<R>(core: Core<R>, keys: Arc<KeyAgreement>, shutdown: Shutdown) {
    let quiet = shutdown.quiet();
    let mut is_logged = false;
    loop {
        let own = keys.heartbeat(&core.metrics);
        let asked = core.clock.now_ms();
        let mut is_doubtful = false;
        match core.store.tell_keys(&own, asked).await {
            Ok(heard) => {
                is_doubtful = heard
                    .time_ms
                    .is_some_and(|theirs| follow(&core, theirs, asked));
                if let Some(change) = heard.change {
                    tell_change(&core, change).await;
                }
                keys.compare(&heard.holders);
                keys.set_quiet(heard.is_quiet);
            }
            Err(error @ store::Error::Schema { .. }) => {
                shutdown.fail(error.to_string());
                return;
            }
            Err(error) if !is_logged => {
                warn!(%error, "the signing keys of worker and serve cannot be compared");
                is_logged = true;
            }
            Err(_) => {}
        }
        let pause = tokio::time::sleep(if is_doubtful {
            DOUBTFUL_HEARTBEAT_INTERVAL
        } else {
            HEARTBEAT_INTERVAL
        });
        if quiet.run_until_cancelled(pause).await.is_none() {
            break;
        }
    }
    // Without this they expire a little later.
    let _ = core
        .store
        .withdraw_keys(&keys.own, core.clock.now_ms())
        .await;
}

/// The data in Redis are others than before: whoever looks after it must know.
async fn tell_change<R>(core: &Core<R>, change: DataChange) {
    core.metrics.data_changes.of(change).inc();
    match change {
        DataChange::Emptied => error!(
            "redis has lost its data: requests without a result, and results that nobody had read, are gone"
        ),
        DataChange::SetBack => error!(
            "redis was set back: what it had acknowledged last is lost, and runs that had ended may end again"
        ),
        DataChange::Foreign => error!(
            "redis holds the data of another installation: does REDIS_URL lead where it did before?"
        ),
    }
    // For `doctor`; the log and the metric say it too.
    let now = core.clock.now_ms();
    let _ = core.store.note_loss(change.word(), now).await;
}

async fn retry_until_available<T>(attempt: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let mut tries = 1;
    loop {
        match attempt().await {
            Err(Error::Store(error)) if error.may_pass() && tries < STORE_TRIES => {
                if tries == 1 {
                    warn!(%error, "waiting for redis");
                }
                tries += 1;
                tokio::time::sleep(STORE_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Where a worker's traces go, if anywhere; from now on runs that end are told there.
///
/// # Errors
/// [`Error::Traces`] and [`Error::Store`].
pub async fn traces(
    core: &Core,
    settings: Option<&config::Traces>,
) -> Result<Option<Traces>, Error> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let traces = Traces::new(settings, core.metrics.clone())?;
    retry_until_available(async || Ok(outline::begin(&core.store).await?)).await?;
    Ok(Some(traces))
}

/// The parts of a worker.
///
/// # Errors
/// [`Error::Machines`], [`Error::Keys`] and [`Error::Artifacts`].
pub fn deps(
    core: Core,
    machines: &config::Machines,
    guests: &config::Guests,
    artifacts: Option<&ArtifactPlace>,
    traces: Option<Traces>,
) -> Result<Deps, Error> {
    let token = machines::Token::new(machines.token.expose().as_str());
    let mut runs = config::Runs::clone(&core.runs);
    runs.capture.has_image_commands = guests.program.as_deref() == Some(LOCAL_AGENT);
    runs.capture.is_plain_http = guests.url.scheme() == "http";
    let core = core.with(runs);
    let mut settings = machines::ClientSettings::new(machines.api_url.clone(), token);
    let calls = traces.clone();
    let calls = calls.map(|traces| CallSpans::new(traces, core.clock.clone(), &machines.api_url));
    settings.observer = observer(core.metrics.clone(), core.clock.clone(), calls);
    Ok(Deps {
        core,
        machines: Client::new(settings)?,
        apps: machines.apps.clone(),
        ring: ring(&guests.keys)?,
        guests: GuestSetup::new(&guests.url, guests.program.clone(), artifacts.is_some()),
        health: Arc::new(ProviderHealth::of(&machines.apps)),
        artifacts: artifacts.map(ArtifactStore::open).transpose()?,
        traces,
    })
}

/// Where the endpoint keeps artifacts, and how much; `None` for nowhere.
///
/// # Errors
/// [`Error::Artifacts`].
pub fn artifacts(settings: &config::Artifacts) -> Result<Option<Artifacts>, Error> {
    let Some(place) = &settings.place else {
        return Ok(None);
    };
    Ok(Some(Artifacts {
        store: ArtifactStore::open(place)?,
        bounds: settings.bounds.clone(),
    }))
}

/// The configured keys as a keyring.
///
/// # Errors
/// [`KeyError`]; not for keys that the settings let pass.
pub fn ring(keys: &[SigningKey]) -> Result<KeyRing, KeyError> {
    KeyRing::new(keys.iter().map(|key| (key.kid.clone(), key.bytes.expose())))
}

/// Counts the answers of the Machines API, and how long they took; and makes spans of calls.
fn observer(metrics: Arc<Metrics>, clock: Clock, spans: Option<CallSpans>) -> Observer {
    Observer::new(move |observed: Observed| {
        let (call, class) = (call(observed.request.call), class(observed.class));
        metrics.machines_responses(call, class).inc();
        let took = observed.took.as_secs_f64();
        metrics.machines_duration(call).observe(took);
        if let Some(trace) = spans.as_ref().and_then(|spans| spans.record(&observed)) {
            let (exemplars, now) = (&metrics.exemplars, clock.now_ms());
            exemplars.note(Timed::Call(call), took, &trace.to_string(), now);
        }
    })
}

fn call(call: Call) -> MachinesCall {
    match call {
        Call::Create => MachinesCall::Create,
        Call::Get => MachinesCall::Get,
        Call::List => MachinesCall::List,
        Call::Wait => MachinesCall::Wait,
        Call::Start => MachinesCall::Start,
        Call::Stop => MachinesCall::Stop,
        Call::Delete => MachinesCall::Delete,
        Call::App => MachinesCall::App,
        Call::Token => MachinesCall::Token,
        Call::Logs => MachinesCall::Logs,
    }
}

fn class(class: Class) -> ResponseClass {
    match class {
        Class::Ok => ResponseClass::Ok,
        Class::Gone => ResponseClass::Gone,
        Class::Refused => ResponseClass::Refused,
        Class::TimedOut => ResponseClass::TimedOut,
        Class::RateLimited => ResponseClass::RateLimited,
        Class::ServerError => ResponseClass::ServerError,
        Class::Unreadable => ResponseClass::Unreadable,
        Class::NoAnswer => ResponseClass::NoAnswer,
        Class::NotSent => ResponseClass::NotSent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_bear_the_words_of_the_client() {
        for known in Call::ALL {
            assert_eq!(call(known).word(), known.as_str());
        }
        for known in Class::ALL {
            assert_eq!(class(known).word(), known.as_str());
        }
    }
}
