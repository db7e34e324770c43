//! Artifacts of guests: from a put with its token to a file that is kept and listed, and the end of those
//! that nobody needs any more.
//!
//! ```text
//!  put ─▶ reserve ─┬─ bytes come through us ──────────────────────────────▶ keep ─▶ listed
//!    (state, bounds)└─ the guest sends them to an address ─▶ says so ─▶ take over ─┘
//! ```
//!
//! Room is reserved before a byte is taken. A put that is not kept gives it back at once, or, where its
//! process died or its guest never came again, when the room is wanted and its time is over.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};
use ulid::Ulid;
use url::Url;

use crate::artifacts::{
    self, ADDRESS_LIVES, Arriving, ArtifactStore, FoundRun, Kept, LEFT_OVER_AFTER,
};
use crate::clock::UnixMs;
use crate::config::{ArtifactBounds, Results};
use crate::milestone::milestone;
use crate::run::artifact::{Artifact, ArtifactKey, ArtifactName, PutId, media_type};
use crate::run::budget;
use crate::run::id::Tenant;
use crate::stage::{Core, Error};
pub use crate::store::artifacts::Bound;
use crate::store::artifacts::{Listed, Pending, Put, Reserved};
use crate::telemetry::Metrics;
use crate::token::Grant;

/// For how long room is kept for what is on its way: until what it left behind is swept up.
const RESERVED_FOR: Duration =
    Duration::from_secs(ADDRESS_LIVES.as_secs() + LEFT_OVER_AFTER.as_secs() + 600);
/// Requests whose artifacts one turn of the sweep removes.
const EXPIRED_MAX: usize = 100;

/// Where artifacts are kept, and how much.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Where.
    pub store: ArtifactStore,
    /// How much.
    pub bounds: ArtifactBounds,
}

/// How the bytes of an artifact come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the store has it: to an address of its own where there is one.
    Usual,
    /// Through us, since the guest does not reach the store.
    ThroughUs,
}

/// What a put came to before its bytes.
#[derive(Debug)]
pub enum Begun {
    /// They come through us.
    Here(Box<Arrival>),
    /// They go to this address, and then the guest is to name the put.
    Elsewhere(Url, PutId),
}

/// What a guest is told of its put.
#[derive(Debug)]
pub enum Unkept {
    /// The token opens nothing (any more).
    Denied,
    /// A bound is reached.
    Over(Bound),
    /// Nothing of this length was sent to the address that this put was given.
    NotSent,
    /// The store does not do its part.
    Store(artifacts::Error),
    /// Redis does not do its part.
    Failed(Error),
}

impl From<artifacts::Error> for Unkept {
    fn from(error: artifacts::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Unkept {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<crate::store::Error> for Unkept {
    fn from(error: crate::store::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// An artifact on its way in, through us.
#[derive(Debug)]
pub struct Arrival {
    put: Put,
    arriving: Box<Arriving>,
}

/// Room for an artifact that is to come.
#[derive(Debug)]
pub struct Reservation {
    put: Put,
    bytes: u64,
    /// Whose.
    pub tenant: Tenant,
}

/// Checks the run, and reserves room for `bytes` bytes. One round trip to Redis.
///
/// # Errors
/// [`Unkept`]; no room is reserved then.
pub async fn reserve(
    core: &Core<Results>,
    artifacts: &Artifacts,
    grant: &Grant,
    name: ArtifactName,
    bytes: u64,
) -> Result<Reservation, Unkept> {
    let put = put_of(grant, name, PutId::from_bits(Ulid::new().0))?;
    let now = core.clock.now_ms();
    let ends_at = grant.expires_s.saturating_mul(1000);
    let bounds = &artifacts.bounds;
    let reserved = core
        .store
        .reserve_artifact(&put, bytes, bounds, now, RESERVED_FOR, ends_at)
        .await?;
    milestone!("artifacts::reserved");
    match reserved {
        Reserved::Yes(tenant) => Ok(Reservation { put, bytes, tenant }),
        Reserved::Denied => Err(Unkept::Denied),
        Reserved::Over(bound) => Err(Unkept::Over(bound)),
    }
}

impl Reservation {
    /// Opens the way for the bytes.
    ///
    /// # Errors
    /// [`Unkept`]; its room is given back then.
    pub async fn open(
        self,
        core: &Core<Results>,
        artifacts: &Artifacts,
        way: Way,
    ) -> Result<Begun, Unkept> {
        let Self { put, bytes, .. } = self;
        let opened = open(artifacts, &put, bytes, way).await;
        if opened.is_err() {
            release(core, &put.key).await;
        }
        match opened? {
            Opened::Address(url) => Ok(Begun::Elsewhere(url, put.key.put)),
            Opened::Arriving(arriving) => Ok(Begun::Here(Box::new(Arrival { put, arriving }))),
        }
    }

    /// It does not come: gives its room back.
    pub async fn give_up(self, core: &Core<Results>) {
        release(core, &self.put.key).await;
    }
}

enum Opened {
    Address(Url),
    Arriving(Box<Arriving>),
}

async fn open(
    artifacts: &Artifacts,
    put: &Put,
    bytes: u64,
    way: Way,
) -> Result<Opened, artifacts::Error> {
    if way == Way::Usual
        && let Some(url) = artifacts.store.address(&put.key, bytes).await?
    {
        return Ok(Opened::Address(url));
    }
    let arriving = artifacts.store.begin(&put.key, bytes).await?;
    Ok(Opened::Arriving(Box::new(arriving)))
}

impl Arrival {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the store does not take them; it is to be [given up](Self::give_up) then.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), artifacts::Error> {
        self.arriving.push(bytes).await
    }

    /// All bytes have come: keeps them, and lists the artifact. One round trip to Redis.
    ///
    /// # Errors
    /// [`Unkept`]; nothing is kept then.
    pub async fn finish(
        self,
        core: &Core<Results>,
        artifacts: &Artifacts,
        media: Option<&str>,
    ) -> Result<(Artifact, ArtifactKey), Unkept> {
        let Self { put, arriving } = self;
        let finished = arriving.finish().await;
        milestone!("artifacts::stored");
        match finished {
            Ok(kept) => keep(core, artifacts, put, kept, media).await,
            Err(error) => {
                release(core, &put.key).await;
                Err(error.into())
            }
        }
    }

    /// Not all bytes have come: nothing is kept, and its room is given back.
    pub async fn give_up(self, core: &Core<Results>) {
        let Self { put, arriving } = self;
        drop(arriving);
        release(core, &put.key).await;
    }
}

/// The guest has sent `kept` to the address that it was given: takes it over, and lists the artifact. Its
/// digest is what the guest says, and whoever fetches it checks that. Two round trips to Redis.
///
/// # Errors
/// [`Unkept`]; nothing is kept then.
pub async fn sent(
    core: &Core<Results>,
    artifacts: &Artifacts,
    grant: &Grant,
    (name, put): (ArtifactName, PutId),
    kept: Kept,
    media: Option<&str>,
) -> Result<(Artifact, ArtifactKey), Unkept> {
    let put = put_of(grant, name, put)?;
    match core.store.pending_artifact(&put).await? {
        Pending::Bytes(bytes) if bytes == kept.bytes => {}
        Pending::Bytes(_) | Pending::Unknown => return Err(Unkept::NotSent),
        Pending::Denied => return Err(Unkept::Denied),
    }
    if !artifacts.store.take_over(&put.key, kept.bytes).await? {
        return Err(Unkept::NotSent);
    }
    keep(core, artifacts, put, kept, media).await
}

async fn keep(
    core: &Core<Results>,
    artifacts: &Artifacts,
    put: Put,
    kept: Kept,
    media: Option<&str>,
) -> Result<(Artifact, ArtifactKey), Unkept> {
    let artifact = Artifact {
        media_type: media_type(media, &put.name),
        name: put.name.clone(),
        bytes: kept.bytes,
        sha256: kept.sha256,
        put: put.key.put.clone(),
    };
    let until = budget::after(core.clock.now_ms(), RESERVED_FOR);
    let listed = core.store.keep_artifact(&put, &artifact, until).await;
    milestone!("artifacts::listed");
    let why = match listed {
        Ok(Listed::Yes { earlier }) => {
            if let Some(earlier) = earlier {
                let key = ArtifactKey {
                    put: earlier,
                    ..put.key.clone()
                };
                remove(core, artifacts, &key).await;
            }
            return Ok((artifact, put.key));
        }
        Ok(Listed::Denied) => Unkept::Denied,
        Ok(Listed::Unknown) => Unkept::NotSent,
        // It may be listed all the same: it stays, and goes with the others of its run.
        Err(error) => return Err(error.into()),
    };
    remove(core, artifacts, &put.key).await;
    Err(why)
}

fn put_of(grant: &Grant, name: ArtifactName, put: PutId) -> Result<Put, Unkept> {
    // Only a run that an older version claimed has none, and its guest was told of no artifacts.
    let nonce = grant.nonce.clone().ok_or(Unkept::Denied)?;
    Ok(Put {
        key: ArtifactKey {
            run: grant.run.clone(),
            nonce,
            put,
        },
        attempt: grant.attempt,
        name,
    })
}

/// Gives room back. If that fails it is given back when its time is over.
async fn release(core: &Core<Results>, key: &ArtifactKey) {
    if let Err(error) = core.store.release_artifact(key).await {
        warn!(run_id = key.run.as_str(), %error, "room for an artifact could not be given back");
    }
}

/// Removes what is not listed, and gives its room back. If that fails it goes with the others of its run.
async fn remove(core: &Core<Results>, artifacts: &Artifacts, key: &ArtifactKey) {
    match artifacts.store.remove(key).await {
        Ok(()) => release(core, key).await,
        Err(error) => {
            warn!(run_id = key.run.as_str(), %error, "an artifact could not be removed");
        }
    }
}

/// Removes the artifacts whose results are not kept any more. Answers whether more of them wait.
///
/// # Errors
/// When Redis or the store does not do its part; the next turn goes on.
pub async fn expire(core: &Core, store: &ArtifactStore) -> Result<bool, SweepError> {
    let (now, retention) = (core.clock.now_ms(), core.runs.results_retention);
    let expired = core
        .store
        .expired_artifacts(now, retention, EXPIRED_MAX)
        .await?;
    for (run, nonce) in &expired {
        let removed = store.remove_run(run, nonce).await?;
        core.store.forget_artifacts(run, nonce).await?;
        core.metrics.artifacts_expired.inc_by(removed);
        info!(run_id = run.as_str(), removed, "artifacts have expired");
    }
    Ok(expired.len() == EXPIRED_MAX)
}

/// Removes what is left over: what never became whole, and what no request has. Looks at a bounded part
/// each time, and answers where to go on.
///
/// # Errors
/// When Redis or the store does not do its part; the next turn goes on.
pub async fn remove_left_over(
    core: &Core,
    store: &ArtifactStore,
    from: Option<String>,
) -> Result<Option<String>, SweepError> {
    let Some(installation) = core.store.installation().await? else {
        return Ok(None);
    };
    let before = time_of(core.clock.now_ms()) - LEFT_OVER_AFTER;
    let mut removed = store.remove_incoming(&installation, before).await?;
    let look = store.look(&installation, from).await?;
    let is_old = |found: &FoundRun| found.changed < before;
    let old: Vec<_> = look.runs.into_iter().filter(is_old).collect();
    let requests: Vec<_> = old
        .into_iter()
        .map(|found| (found.run, found.nonce))
        .collect();
    let known = core.store.may_have_artifacts(&requests).await?;
    for ((run, nonce), is_known) in requests.iter().zip(known) {
        if !is_known {
            removed += store.remove_run(run, nonce).await?;
        }
    }
    if removed > 0 {
        warn!(removed, "removed artifacts that were left over");
    }
    core.metrics.artifacts_left_over.inc_by(removed);
    Ok(look.next)
}

fn time_of(now: UnixMs) -> SystemTime {
    SystemTime::UNIX_EPOCH + budget::left(0, now)
}

/// Shows how much is kept.
///
/// # Errors
/// When Redis does not answer.
pub async fn count(core: &Core, metrics: &Metrics) -> Result<(), Error> {
    let bytes = core.store.artifact_bytes().await?;
    metrics
        .artifact_bytes
        .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    Ok(())
}

/// Why a turn of the sweep could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Redis did not do its part.
    #[error(transparent)]
    Redis(#[from] crate::store::Error),
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] artifacts::Error),
}
