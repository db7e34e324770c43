//! The end of a run that brought no result: settled, refused, or missing from Redis.

use tracing::{error, info, warn};

use crate::milestone::milestone;
use crate::run::id::RunId;
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::request::RunRequest;
use crate::stage::{Core, Error};
use crate::store::acts::{BootId, Request, Settlement, Transition};

/// Bytes of a guest's output that a result tells.
const OUTPUT_TAIL_BYTES: usize = 4096;

/// Settles a run without a result. One round trip, and one before it for the last that its guest wrote.
///
/// # Errors
/// When Redis does not answer.
pub async fn settle(
    core: &Core,
    id: &RunId,
    boot: Option<BootId<'_>>,
    ending: &Ending,
) -> Result<Transition, Error> {
    let ending = &with_output_tail(core, id, boot, ending).await;
    let settlement = without_result(core, ending);
    let act = core
        .store
        .settle(id, boot, &settlement, core.clock.now_ms())
        .await?;
    milestone!("settle::settled");
    count(core, id, ending, act);
    Ok(act)
}

/// Settles and closes a run whose `boot` was refused for good and created nothing, so
/// that its place in fleet, app and tenant is free at once. One round trip.
pub(super) async fn refuse(
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
    milestone!("settle::refused");
    count(core, id, ending, act);
    Ok(act)
}

/// Settles a run whose hash is missing, so that it still gets a result: somebody deleted the hash,
/// or no sweep ran for so long that it expired. Two round trips.
///
/// # Errors
/// When Redis does not answer; the run stays due.
pub async fn settle_missing(core: &Core, id: &RunId) -> Result<Transition, Error> {
    let request = core.store.request(id).await?;
    milestone!("missing::request_read");
    let readable = match request.map(|stored| stored.request) {
        Some(Request::Here(json)) => RunRequest::readable(&json).ok(),
        // A large request is not fetched for the name of its tenant alone.
        Some(Request::Large { .. }) | None => None,
    };
    let message = "what Redis had of it was gone: it expired unseen, or somebody deleted it";
    let ending = Ending::without(ReasonCode::MachineLost, message);
    let settlement = without_result(core, &ending);
    let now = core.clock.now_ms();
    let act = core
        .store
        .end_lost(id, readable.as_ref(), &settlement, now)
        .await?;
    milestone!("missing::settled");
    match act {
        Transition::Done(_) => {
            error!(run_id = id.as_str(), %ending, "the state of a run is missing from redis");
            core.metrics.runs_missing.inc();
            core.metrics.results.of(ending.outcome()).inc();
        }
        Transition::Over => warn!(
            run_id = id.as_str(),
            "the state of a settled run is missing from redis"
        ),
        Transition::Repeated
        | Transition::OverBudget
        | Transition::Older
        | Transition::Refused
        | Transition::Unknown => {}
    }
    Ok(act)
}

/// Adds the last that the guest wrote, where the result tells it. It is left out where it cannot be read:
/// the end is what counts.
async fn with_output_tail(
    core: &Core,
    id: &RunId,
    boot: Option<BootId<'_>>,
    ending: &Ending,
) -> Ending {
    let mut ending = ending.clone();
    let had_machine = boot.is_some_and(|boot| boot.attempt.0 > 0);
    if had_machine
        && ending.has_output_tail()
        && let Ending::Without { output_tail, .. } = &mut ending
    {
        let tail = core.store.log_tail(id, OUTPUT_TAIL_BYTES).await;
        *output_tail = tail.ok().flatten().map(|bytes| text(&bytes));
    }
    ending
}

/// Output as text: from the first whole character on, and what is no text replaced.
fn text(bytes: &[u8]) -> String {
    let rest = bytes
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000);
    let whole = bytes.get(rest.count()..).unwrap_or_default();
    String::from_utf8_lossy(whole).into_owned()
}

fn without_result<'a>(core: &Core, ending: &'a Ending) -> Settlement<'a> {
    Settlement {
        ending,
        post: None,
        retention: core.runs.retention,
        lease: core.runs.lease,
    }
}

fn count(core: &Core, id: &RunId, ending: &Ending, act: Transition) {
    if let Transition::Done(_) = act {
        info!(run_id = id.as_str(), %ending, "settled without a result");
        core.metrics.results.of(ending.outcome()).inc();
    }
}
