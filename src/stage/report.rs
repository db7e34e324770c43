//! Token and body → a settled run, its result on the stream.

use serde_json::value::RawValue;
use tracing::info;

use crate::milestone::milestone;
use crate::run::digest::sha256;
use crate::run::json;
use crate::run::outcome::Ending;
use crate::run::request::RunRequest;
use crate::stage::{Core, Error};
use crate::store::acts::{Act, Post, Settlement};
use crate::token::{Grant, KeyRing};

/// What a guest is told about its post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The result is on the results stream.
    Accepted,
    /// The identical body was accepted before; nothing changed.
    Repeated,
    /// The token opens nothing (any more). One answer for every reason.
    Denied,
    /// The body is not one JSON value that every consumer can read.
    Unreadable(json::Fault),
}

/// Checks a token against the keys and the clock, before anything is read or asked.
#[must_use]
pub fn check(core: &Core, ring: &KeyRing, token: &str) -> Option<Grant> {
    ring.verify(token, core.clock.now_ms() / 1000).ok()
}

/// Accepts a guest's result. One round trip. Safe to repeat: an identical body is answered with
/// [`Reported::Repeated`].
///
/// # Errors
/// When Redis does not answer; the result may have been accepted, and a repeat will tell.
pub async fn report(core: &Core, grant: &Grant, body: &[u8]) -> Result<Reported, Error> {
    let payload = match json::check(body) {
        Ok(payload) => payload,
        Err(fault) => return Ok(Reported::Unreadable(fault)),
    };
    let now = core.clock.now_ms();
    // The body may have taken its time: what counts is when it was all there.
    if now / 1000 >= grant.expires_s {
        return Ok(Reported::Denied);
    }
    let digest = sha256(body);
    let ending = Ending::Completed {
        payload: payload.to_owned(),
    };
    let settlement = Settlement {
        ending: &ending,
        post: Some(Post {
            digest: &digest,
            nonce: grant.nonce.as_ref(),
        }),
        retention: core.runs.retention,
        lease: core.runs.lease,
    };
    let act = core
        .store
        .settle(&grant.run, Some(grant.attempt), &settlement, now)
        .await?;
    milestone!("report::settled");
    Ok(match act {
        Act::Done(_) => {
            info!(
                run_id = grant.run.as_str(),
                attempt = grant.attempt.0,
                "completed"
            );
            core.metrics.results.of(ending.outcome()).inc();
            Reported::Accepted
        }
        Act::Repeated => Reported::Repeated,
        Act::Over | Act::Older | Act::Refused | Act::Unknown => Reported::Denied,
    })
}

/// The input of the run that a token opens, byte for byte; `None` when it opens none. One round
/// trip.
///
/// # Errors
/// When Redis does not answer.
pub async fn input(core: &Core, grant: &Grant) -> Result<Option<Box<RawValue>>, Error> {
    let Some((attempt, nonce, request)) = core.store.request(&grant.run).await? else {
        return Ok(None);
    };
    milestone!("report::input_read");
    if attempt != grant.attempt || nonce != grant.nonce {
        return Ok(None);
    }
    Ok(RunRequest::input_of(&request))
}
