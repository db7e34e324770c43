//! Hash fields ⇄ values; total functions.

use std::collections::HashMap;

use serde::Serialize;

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::id::{Attempt, Nonce, RunId};
use crate::run::outcome::{Ending, Outcome, Reason};
use crate::run::phase::{MachineRef, Phase, State};
use crate::run::trace::{RunTrace, TraceParent};
use crate::store::acts::BootId;
use crate::store::error::Error;

/// The fields of a run's hash that a [`RunRecord`] is made of: all but the request.
pub(crate) const FIELDS: [&str; 28] = [
    "state",
    "outcome",
    "reason",
    "attempt",
    "app",
    "machine_id",
    "instance_id",
    "region",
    "tenant",
    "submitted_at_ms",
    "booting_at_ms",
    "running_at_ms",
    "settled_at_ms",
    "closed_at_ms",
    "deadline_ms",
    "queue_until_ms",
    "boot_until_ms",
    "refusals",
    "refused_since_ms",
    "deferred",
    "timeout_ms",
    "timeout_asked_ms",
    "metadata",
    "result_entry",
    "nonce",
    "preparing_until_ms",
    "prepared_by_ms",
    "traceparent",
];

/// The fields that hold the image of a run's request, each a piece of it that fits into Redis's compact
/// encoding of a hash.
pub(crate) const IMAGE_FIELDS: [&str; 8] = [
    "image", "image_2", "image_3", "image_4", "image_5", "image_6", "image_7", "image_8",
];

/// Bytes of a value up to which Redis keeps a hash in its compact encoding.
const COMPACT_BYTES: usize = 64;

/// An image as the fields that hold it. One that is longer than may be is cut.
pub(crate) fn image_words(image: &str) -> Vec<(&'static str, String)> {
    let (mut words, mut rest) = (Vec::new(), image);
    for field in IMAGE_FIELDS {
        if rest.is_empty() {
            break;
        }
        let mut end = rest.len().min(COMPACT_BYTES);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, others) = rest.split_at(end);
        words.push((field, piece.to_owned()));
        rest = others;
    }
    words
}

/// A run as its hash has it, without its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Which run.
    pub id: RunId,
    /// `queued`, `booting`, `running`, `settled` or `closed`.
    pub state: &'static str,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it ended so.
    pub reason: Option<Reason>,
    /// How many boots have begun.
    pub attempt: u32,
    /// How many of them the provider deferred, so that they do not count.
    pub deferred: u32,
    /// The app of its machine.
    pub app: Option<String>,
    /// Its machine.
    pub machine_id: Option<String>,
    /// The version of the machine's configuration.
    pub instance_id: Option<String>,
    /// Where the machine runs.
    pub region: Option<String>,
    /// Whose run it is.
    pub tenant: String,
    /// When its request was appended.
    pub submitted_at_ms: Option<UnixMs>,
    /// When its last boot began.
    pub booting_at_ms: Option<UnixMs>,
    /// When the provider had its machine.
    pub running_at_ms: Option<UnixMs>,
    /// When its result was published.
    pub settled_at_ms: Option<UnixMs>,
    /// When its machine was gone.
    pub closed_at_ms: Option<UnixMs>,
    /// When it is ended if it has not ended by itself.
    pub deadline_ms: Option<UnixMs>,
    /// Until when it may wait for its first boot.
    pub queue_until_ms: Option<UnixMs>,
    /// Until when its create call may still be on its way.
    pub boot_until_ms: Option<UnixMs>,
    /// Until when its machine is being prepared, as a sweep saw it.
    pub preparing_until_ms: Option<UnixMs>,
    /// When a machine that is still being prepared is given up.
    pub prepared_by_ms: Option<UnixMs>,
    /// How often the provider refused to boot it, in a row.
    pub refusals: u32,
    /// Since when the provider refuses.
    pub refused_since_ms: Option<UnixMs>,
    /// From boot to deadline.
    pub timeout_ms: Option<u64>,
    /// What its request asked for, where that is more than a run may take.
    pub timeout_asked_ms: Option<u64>,
    /// The id of its result in the results stream.
    pub result_entry: Option<String>,
    /// Unique to its request, once it was claimed.
    pub nonce: Option<Nonce>,
    /// The span of its producer that it belongs to.
    pub traceparent: Option<TraceParent>,
    phase: Phase,
}

impl RunRecord {
    /// How many of its boots count.
    #[must_use]
    pub fn tries(&self) -> u32 {
        budget::tries(Attempt(self.attempt), self.deferred)
    }

    /// The boot that it is at.
    #[must_use]
    pub fn boot(&self) -> BootId<'_> {
        BootId {
            attempt: Attempt(self.attempt),
            nonce: self.nonce.as_ref(),
        }
    }

    /// What its tear-down needs, when one is owed.
    #[must_use]
    pub fn settled(&self) -> Option<SettledRun> {
        let Phase::Settled {
            attempt,
            outcome,
            app,
            machine,
        } = &self.phase
        else {
            return None;
        };
        Some(SettledRun {
            id: self.id.clone(),
            attempt: *attempt,
            nonce: self.nonce.clone(),
            outcome: *outcome,
            app: app.clone(),
            machine: machine.clone(),
            boot_until_ms: self.boot_until_ms,
            settled_at_ms: self.settled_at_ms,
            running_at_ms: self.running_at_ms,
        })
    }

    /// Its trace.
    #[must_use]
    pub fn trace(&self) -> RunTrace {
        RunTrace::new(
            &self.id,
            self.nonce.as_ref(),
            self.submitted_at_ms,
            self.traceparent,
        )
    }

    /// Where the run stands.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }
}

/// A settled run, as far as its tear-down needs it: read from its hash, or carried by a wakeup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledRun {
    /// Which run.
    pub id: RunId,
    /// Which attempt it was.
    pub attempt: Attempt,
    /// Unique to its request.
    pub nonce: Option<Nonce>,
    /// How it ended.
    pub outcome: Outcome,
    /// The app in which a machine may be.
    pub app: String,
    /// The machine, if the create call has answered.
    pub machine: Option<MachineRef>,
    /// Until when its create call may still be on its way.
    pub boot_until_ms: Option<UnixMs>,
    /// When its result was published.
    pub settled_at_ms: Option<UnixMs>,
    /// When the provider had its machine.
    pub running_at_ms: Option<UnixMs>,
}

impl SettledRun {
    /// The boot that it ended at.
    #[must_use]
    pub fn boot(&self) -> BootId<'_> {
        BootId {
            attempt: self.attempt,
            nonce: self.nonce.as_ref(),
        }
    }
}

/// A word of an answer. One that is not text is read with replacement characters, which no id, tenant
/// or number of ours has: it fails by itself, and not the answer that it is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) String);

impl redis::FromRedisValue for Text {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        let redis::Value::BulkString(bytes) = value else {
            return String::from_redis_value(value).map(Self);
        };
        Ok(Self(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }
}

/// Makes a view of the values of [`FIELDS`]; `None` when there is no such run.
pub(crate) fn record(id: &RunId, values: Vec<Option<Text>>) -> Result<Option<RunRecord>, Error> {
    let hash: HashMap<&str, String> = FIELDS
        .iter()
        .zip(values)
        .filter_map(|(name, value)| value.map(|Text(value)| (*name, value)))
        .collect();
    if hash.is_empty() {
        return Ok(None);
    }
    assemble(id, hash).map(Some)
}

/// What the wakeup of a tear-down carries (`settle.lua`): words with spaces between, of which those
/// that are not known are empty or, at the end, absent.
pub(crate) fn of_wakeup(entry: &str) -> Option<SettledRun> {
    let mut words = entry.split(' ');
    let id = words.next()?.parse().ok()?;
    let attempt = Attempt(words.next()?.parse().ok()?);
    let nonce = words.next()?.parse().ok();
    let outcome = Outcome::parse(words.next()?)?;
    let settled_at_ms = words.next()?.parse().ok();
    let app = words.next()?.to_owned();
    let machine = MachineRef {
        app: app.clone(),
        id: words.next()?.to_owned(),
        instance_id: words.next().map(str::to_owned),
        region: None,
    };
    Some(SettledRun {
        id,
        attempt,
        nonce,
        outcome,
        app,
        machine: Some(machine),
        boot_until_ms: None,
        settled_at_ms,
        running_at_ms: words.next().and_then(|ms| ms.parse().ok()),
    })
}

fn assemble(id: &RunId, mut hash: HashMap<&str, String>) -> Result<RunRecord, Error> {
    let corrupt = |field: &str, found: Option<&String>| Error::Corrupt {
        what: format!("field {field} of run {id}"),
        found: found.cloned().unwrap_or_else(|| "nothing".into()),
    };
    let state = hash
        .get("state")
        .and_then(|word| State::parse(word))
        .ok_or_else(|| corrupt("state", hash.get("state")))?;
    let outcome = match hash.get("outcome") {
        Some(word) => {
            Some(Outcome::parse(word).ok_or_else(|| corrupt("outcome", hash.get("outcome")))?)
        }
        None => None,
    };
    let number = |field: &str| hash.get(field).and_then(|value| value.parse::<u64>().ok());
    let small = |field: &str| hash.get(field).and_then(|value| value.parse::<u32>().ok());
    let attempt = Attempt(small("attempt").ok_or_else(|| corrupt("attempt", hash.get("attempt")))?);
    let machine = hash.get("machine_id").map(|machine| MachineRef {
        app: hash.get("app").cloned().unwrap_or_default(),
        id: machine.clone(),
        instance_id: hash.get("instance_id").cloned(),
        region: hash.get("region").cloned(),
    });
    let app = hash.get("app").cloned().unwrap_or_default();
    let phase = match (state, outcome, machine) {
        (State::Queued, _, _) => Phase::Queued { attempt },
        (State::Booting, _, _) => Phase::Booting { attempt, app },
        (State::Running, _, Some(machine)) => Phase::Running { attempt, machine },
        (State::Settled, Some(outcome), machine) => Phase::Settled {
            attempt,
            outcome,
            app,
            machine,
        },
        (State::Closed, Some(outcome), _) => Phase::Closed { outcome },
        (State::Running, _, None) => return Err(corrupt("machine_id", None)),
        (State::Settled | State::Closed, None, _) => return Err(corrupt("outcome", None)),
    };
    Ok(RunRecord {
        id: id.clone(),
        state: state.as_str(),
        outcome,
        reason: hash
            .get("reason")
            .and_then(|json| serde_json::from_str(json).ok()),
        attempt: attempt.0,
        deferred: small("deferred").unwrap_or(0),
        submitted_at_ms: number("submitted_at_ms"),
        booting_at_ms: number("booting_at_ms"),
        running_at_ms: number("running_at_ms"),
        settled_at_ms: number("settled_at_ms"),
        closed_at_ms: number("closed_at_ms"),
        deadline_ms: number("deadline_ms"),
        queue_until_ms: number("queue_until_ms"),
        boot_until_ms: number("boot_until_ms"),
        preparing_until_ms: number("preparing_until_ms"),
        prepared_by_ms: number("prepared_by_ms"),
        refusals: small("refusals").unwrap_or(0),
        refused_since_ms: number("refused_since_ms"),
        timeout_ms: number("timeout_ms"),
        timeout_asked_ms: number("timeout_asked_ms"),
        nonce: hash.get("nonce").and_then(|nonce| nonce.parse().ok()),
        traceparent: hash.get("traceparent").and_then(|text| text.parse().ok()),
        app: hash.remove("app"),
        machine_id: hash.remove("machine_id"),
        instance_id: hash.remove("instance_id"),
        result_entry: hash.remove("result_entry"),
        region: hash.remove("region"),
        tenant: hash.remove("tenant").unwrap_or_default(),
        phase,
    })
}

/// What is known of a result before the run ends: its JSON up to the payload, the payload, and the
/// exit with what else is told of the guest. The script adds what only the run's hash knows (see `result` in `lua/parts/result.lua`).
pub(crate) fn result_parts(run: &RunId, ending: &Ending) -> [String; 3] {
    let (reason, payload, exit) = match ending {
        Ending::Completed { payload } => ("null".into(), payload.as_str(), "null".into()),
        Ending::Without { reason, exit, .. } => (json(reason), "null", json(exit)),
    };
    let exit = match ending {
        Ending::Without { output_tail, .. } if ending.has_output_tail() => {
            format!(r#"{exit},"output_tail":{}"#, json(output_tail))
        }
        Ending::Without { .. } | Ending::Completed { .. } => exit,
    };
    let outcome = ending.outcome().as_str();
    let head = format!(r#"{{"run_id":"{run}","outcome":"{outcome}","reason":{reason},"payload":"#);
    [head, payload.to_owned(), exit]
}

/// A value of ours as JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_image_is_kept_in_pieces_that_redis_keeps_compact() {
        let digest = format!("registry.fly.io/sandboxes@sha256:{}", "0".repeat(64));
        let words = image_words(&digest);
        assert_eq!(words.len(), 2);
        assert!(words.iter().all(|(_, piece)| piece.len() <= COMPACT_BYTES));
        let whole: String = words.into_iter().map(|(_, piece)| piece).collect();
        assert_eq!(whole, digest);
        assert_eq!(image_words("host"), [("image", "host".to_owned())]);
        let wide = "ä".repeat(200);
        let whole: String = image_words(&wide).into_iter().map(|(_, it)| it).collect();
        assert_eq!(whole, wide);
    }

    #[test]
    fn a_wakeup_carries_what_the_tear_down_needs_and_its_nonce() {
        let nonce = "0".repeat(Nonce::LENGTH);
        let entry = format!("pr-17 2 {nonce} completed 1700000000000 app m i 1699999990000");
        let settled = of_wakeup(&entry).unwrap();
        assert_eq!(settled.attempt, Attempt(2));
        assert_eq!(settled.nonce, nonce.parse().ok());
        assert_eq!(settled.machine.unwrap().instance_id.as_deref(), Some("i"));
        assert_eq!(settled.running_at_ms, Some(1_699_999_990_000));
        let without = of_wakeup("pr-17 2  failed 1700000000000 app m").unwrap();
        assert_eq!((without.nonce, without.running_at_ms), (None, None));
        for other in ["", "pr-17", "pr-17 2 completed"] {
            assert_eq!(of_wakeup(other), None, "{other:?}");
        }
    }
}
