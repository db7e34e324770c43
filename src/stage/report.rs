//! Token and body → a settled run, its result on the stream.

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::config::Results;
use crate::milestone::milestone;
use crate::run::digest::sha256;
use crate::run::json;
use crate::run::outcome::{Ending, Outcome};
use crate::stage::{Core, Error};
use crate::store::acts::{BootId, Post, ResultsBudget, Settlement, Transition};
pub use crate::store::guests::InputPiece;
use crate::store::guests::Standing;
use crate::token::{Grant, KeyRing};

/// Bodies up to this are checked where they arrive: that takes less than to hand them over.
const INLINE_BYTES: usize = 64 * 1024;
/// Larger ones that are checked at once, each on a thread of its own.
const LARGE_CHECKS_MAX: usize = 2;

/// What a guest is told about its post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The result is on the results stream.
    Accepted {
        /// SHA-256 of the body, in hexadecimal digits.
        digest: String,
    },
    /// The identical body was accepted before; nothing changed.
    Repeated,
    /// The run has ended without this result: as many bytes of results are kept as may.
    OverBudget,
    /// The token is not valid (any more). One answer for every reason.
    Denied,
    /// The body is not one JSON value that every consumer can read.
    Unreadable(json::JsonFault),
}

/// Checks a token against the keys and the clock, before the body is read or Redis is asked.
#[must_use]
pub fn check(core: &Core<Results>, ring: &KeyRing, token: &str) -> Option<Grant> {
    ring.verify(token, core.clock.now_ms() / 1000).ok()
}

/// A body's JSON and its digest. A large one is checked on another thread, a few at a time, so that the
/// small ones that come meanwhile need not wait for it.
async fn check_body(body: &Bytes) -> Result<(String, String), json::JsonFault> {
    static LARGE: Semaphore = Semaphore::const_new(LARGE_CHECKS_MAX);
    let check = |body: &[u8]| json::check(body).map(|json| (json.to_owned(), sha256(body)));
    if body.len() <= INLINE_BYTES {
        return check(body);
    }
    let _permit = LARGE.acquire().await;
    let large = body.clone();
    let checked = tokio::task::spawn_blocking(move || check(&large)).await;
    checked.unwrap_or_else(|_| check(body))
}

/// Accepts a guest's result, whose post began then. One round trip. Safe to repeat: an identical body is answered with
/// [`Reported::Repeated`].
///
/// # Errors
/// When Redis does not answer; the result may have been accepted, and a repeat will tell.
pub async fn report(
    core: &Core<Results>,
    grant: &Grant,
    body: &Bytes,
    begun_ms: UnixMs,
) -> Result<Reported, Error> {
    let (payload, digest) = match check_body(body).await {
        Ok(checked) => checked,
        Err(fault) => return Ok(Reported::Unreadable(fault)),
    };
    let now = core.clock.now_ms();
    // The token must be valid when the whole body has arrived.
    if now / 1000 >= grant.expires_s {
        return Ok(Reported::Denied);
    }
    let ending = Ending::Completed { payload };
    let settlement = Settlement {
        ending: &ending,
        post: Some(Post {
            digest: &digest,
            budget: ResultsBudget {
                bytes: core.runs.kept_bytes,
                tenant_bytes: core.runs.tenant_kept_bytes,
                retention: core.runs.kept_for,
            },
            begun_ms: Some(begun_ms).filter(|_| core.runs.notes_posts),
            keeps_request: core.runs.keeps_requests,
        }),
        retention: core.runs.retention,
        lease: core.runs.lease,
    };
    let boot = BootId {
        attempt: grant.attempt,
        nonce: grant.nonce.as_ref(),
    };
    let act = core
        .store
        .settle(&grant.run, Some(boot), &settlement, now)
        .await?;
    milestone!("report::settled");
    Ok(match act {
        Transition::Done(_) => {
            info!(
                run_id = grant.run.as_str(),
                attempt = grant.attempt.0,
                "completed"
            );
            core.metrics.results.of(ending.outcome()).inc();
            Reported::Accepted { digest }
        }
        Transition::Repeated => Reported::Repeated,
        Transition::OverBudget => {
            warn!(
                run_id = grant.run.as_str(),
                bytes = body.len(),
                "a result was dropped: as many bytes of results are kept as may"
            );
            core.metrics.results.of(Outcome::Failed).inc();
            Reported::OverBudget
        }
        Transition::Over | Transition::Older | Transition::Refused | Transition::Unknown => {
            Reported::Denied
        }
    })
}

/// Up to `most_bytes` of the run's input from byte `first` on; `None` when the token is not valid for
/// the run. One round trip.
///
/// # Errors
/// When Redis does not answer.
pub async fn input(
    core: &Core<Results>,
    grant: &Grant,
    first: usize,
    most_bytes: usize,
) -> Result<Option<InputPiece>, Error> {
    let read = core.store.input(&grant.run, first, most_bytes).await?;
    milestone!("report::input_read");
    Ok(read
        .filter(|(at, _)| *at == (grant.attempt, grant.nonce.clone()))
        .map(|(_, piece)| piece))
}

/// What a post would come to, before its body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It can end the run.
    Open,
    /// The run has its result. Only a body with this digest is its repeat.
    Spent {
        /// SHA-256 of the accepted body, in hexadecimal digits.
        digest: String,
        /// Whether it is the run's result, and was not dropped.
        is_kept: bool,
    },
    /// It is denied, whatever it is.
    Denied,
}

/// Checks what a large post would come to, so that one that is denied takes no memory. One round
/// trip.
///
/// # Errors
/// When Redis does not answer.
pub async fn prospect(core: &Core<Results>, grant: &Grant) -> Result<Prospect, Error> {
    let standing = core.store.standing(&grant.run).await?;
    milestone!("report::standing_read");
    Ok(match standing {
        Some(standing) if standing.attempt != grant.attempt => Prospect::Denied,
        Some(standing) if standing.nonce != grant.nonce => Prospect::Denied,
        Some(standing) if standing.outcome.is_none() => Prospect::Open,
        Some(Standing {
            digest: Some(digest),
            outcome,
            ..
        }) => Prospect::Spent {
            digest,
            is_kept: outcome == Some(Outcome::Completed),
        },
        _ => Prospect::Denied,
    })
}
