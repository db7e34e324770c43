//! What operators do to single runs, by the command line or the console: cancel, ask for again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::UnixMs;
use crate::run::id::RunId;
use crate::run::outcome::{Ending, Outcome, ReasonCode};
use crate::store::acts::{Request, Settlement, Transition};
use crate::store::{Error, Store};

/// On what terms runs are cancelled.
#[derive(Clone, Copy, Debug)]
pub struct CancelTerms {
    /// How long a run can be looked up after its end.
    pub retention: Duration,
    /// How long a worker that died keeps a tear-down from the others.
    pub lease: Duration,
}

/// The outcome of a cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled.
    Now,
    /// It will be, when a worker reads its request.
    WhenRead,
    /// It is not cancelled, for this reason.
    Not(String),
}

/// What asking for a run again came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rerun {
    /// It is asked for under this id.
    Asked(RunId),
    /// It is not, for this reason.
    Not(String),
}

/// Ends a run with the outcome `cancelled`. Three round trips at most.
/// Safe to repeat.
///
/// # Errors
/// When Redis does not answer.
pub async fn cancel(
    store: &Store,
    terms: CancelTerms,
    id: &RunId,
    now: UnixMs,
) -> Result<Cancelled, Error> {
    let ending = Ending::without(ReasonCode::Cancelled, "cancelled by an operator");
    let settlement = Settlement {
        ending: &ending,
        post: None,
        retention: terms.retention,
        lease: terms.lease,
    };
    Ok(match store.settle(id, None, &settlement, now).await? {
        Transition::Done(_) => Cancelled::Now,
        Transition::Over => match store.record(id).await?.and_then(|run| run.outcome) {
            Some(Outcome::Cancelled) => Cancelled::Now,
            outcome => {
                let outcome = outcome.map_or("ended", Outcome::as_str);
                Cancelled::Not(format!("had ended already: {outcome}"))
            }
        },
        // Its request may be among those that no worker has read yet.
        Transition::Unknown if store.census(now).await?.unread > 0 => {
            store.order("cancel", id.as_str()).await?;
            Cancelled::WhenRead
        }
        Transition::Unknown => {
            Cancelled::Not("is not known: it was never admitted, or ended too long ago".into())
        }
        other @ (Transition::Older
        | Transition::Refused
        | Transition::Repeated
        | Transition::OverBudget) => Cancelled::Not(format!("cannot be cancelled: {other:?}")),
    })
}

/// Asks for a run again, by its own request under a new id. The run itself stays as it is. Two round
/// trips. Not safe to repeat: each is another run.
///
/// # Errors
/// When Redis does not answer; it may have been asked for.
pub async fn rerun(store: &Store, id: &RunId) -> Result<Rerun, Error> {
    let json = match store.request(id).await?.map(|stored| stored.request) {
        Some(Request::Here(json)) => json,
        Some(Request::Large { bytes }) => match store.fetch(id, bytes).await? {
            Some(fetched) => fetched.json,
            None => return Ok(gone()),
        },
        None => return Ok(gone()),
    };
    let new = another_id(id);
    let Some(request) = under(&json, &new) else {
        return Ok(Rerun::Not("has a request that cannot be read".into()));
    };
    store.submit(&[request]).await?;
    Ok(Rerun::Asked(new))
}

fn gone() -> Rerun {
    let why = "has no request any more: it is kept only for runs that have not ended, or that ended \
               without a result of their guest (or with one, if COFFERDAM_KEEP_REQUESTS was true), up to \
               64 KiB each and as long as there is room";
    Rerun::Not(why.to_owned())
}

/// A new id that tells of the old one.
fn another_id(id: &RunId) -> RunId {
    let old = id.as_str();
    // What a rerun added is not added again.
    let base = old.split("_again_").next().unwrap_or(old);
    let base: String = base.chars().take(RERUN_BASE_MAX).collect();
    let tail = ulid::Ulid::new().to_string().to_lowercase();
    let made = format!("{base}_again_{}", &tail[tail.len() - 16..]);
    made.parse()
        .expect("letters, digits and underscores, 64 at the most")
}

/// Characters of the old id in a new one.
const RERUN_BASE_MAX: usize = 40;

/// The request under another id, its other fields byte for byte. A time before which it may not start is
/// left out.
fn under(json: &str, id: &RunId) -> Option<String> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json).ok()?;
    fields.remove("not_before_ms");
    let id = serde_json::to_string(id.as_str()).ok()?;
    fields.insert("id".to_owned(), RawValue::from_string(id).ok()?);
    serde_json::to_string(&fields).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rerun_is_the_same_request_under_another_id() {
        let id: RunId = "pr-17".parse().unwrap();
        let new = another_id(&id);
        assert!(new.as_str().starts_with("pr-17_again_"), "{new}");
        let again = another_id(&new);
        assert_eq!(again.as_str().len(), new.as_str().len());
        assert_ne!(again, new);
        let long: RunId = "x".repeat(64).parse().unwrap();
        assert!(another_id(&long).as_str().len() <= 64);
        let json = r#"{"id":"pr-17","input":{"n":1e400,"m": 1.0},"not_before_ms":5}"#;
        let expected = format!(r#"{{"id":"{new}","input":{{"n":1e400,"m": 1.0}}}}"#);
        assert_eq!(under(json, &new).unwrap(), expected);
        assert_eq!(under("[]", &new), None);
    }
}
