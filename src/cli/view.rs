//! Runs and results as people and programs read them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::human;
use crate::cli::output::{Cell, Tone};
use crate::clock::UnixMs;
use crate::run::outcome::{Outcome, Reason};
use crate::run::wait::Waiting;
use crate::stage::explain::{self, between};
use crate::store::codec::RunRecord;

/// The parts of a result that are printed for people; whatever is missing or malformed is left out.
#[derive(Debug, Deserialize)]
pub(crate) struct ResultSummary {
    #[serde(default)]
    pub(crate) reason: Option<Reason>,
    #[serde(default)]
    pub(crate) payload: Option<Box<RawValue>>,
    #[serde(default)]
    submitted_at_ms: Option<UnixMs>,
    #[serde(default)]
    settled_at_ms: Option<UnixMs>,
}

impl ResultSummary {
    pub(crate) fn read(result: &str) -> Option<Self> {
        serde_json::from_str(result).ok()
    }

    /// From the request to the result.
    pub(crate) fn took(&self) -> Option<Duration> {
        Some(between(self.submitted_at_ms?, self.settled_at_ms?))
    }

    /// One line: the payload, or the reason why there is none.
    pub(crate) fn summary(&self, longest: usize) -> String {
        match (&self.reason, &self.payload) {
            (Some(reason), _) => human::one_line(&reason.to_string(), longest),
            (None, Some(payload)) => human::one_line(&compact(payload.get()), longest),
            (None, None) => String::new(),
        }
    }
}

/// A run as `show --json` and `runs --json` print it: what stands in the run's hash, and no more than
/// consumers of these lines may rely on. Each field is that of [`RunRecord`].
#[derive(Debug, Serialize)]
pub(crate) struct RunJson<'a> {
    run_id: &'a str,
    state: &'static str,
    outcome: Option<Outcome>,
    reason: Option<&'a Reason>,
    attempt: u32,
    deferred: u32,
    app: Option<&'a str>,
    machine_id: Option<&'a str>,
    instance_id: Option<&'a str>,
    region: Option<&'a str>,
    tenant: &'a str,
    submitted_at_ms: Option<UnixMs>,
    booting_at_ms: Option<UnixMs>,
    running_at_ms: Option<UnixMs>,
    settled_at_ms: Option<UnixMs>,
    closed_at_ms: Option<UnixMs>,
    deadline_ms: Option<UnixMs>,
    queue_until_ms: Option<UnixMs>,
    boot_until_ms: Option<UnixMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preparing_until_ms: Option<UnixMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared_by_ms: Option<UnixMs>,
    refusals: u32,
    refused_since_ms: Option<UnixMs>,
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_asked_ms: Option<u64>,
    result_entry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
}

impl<'a> RunJson<'a> {
    /// As it is listed, with the image that it asked for.
    pub(crate) fn with_image(record: &'a RunRecord, image: Option<&'a str>) -> Self {
        Self {
            image,
            ..Self::of(record)
        }
    }

    pub(crate) fn of(record: &'a RunRecord) -> Self {
        Self {
            run_id: record.id.as_str(),
            state: record.state,
            outcome: record.outcome,
            reason: record.reason.as_ref(),
            attempt: record.attempt,
            deferred: record.deferred,
            app: record.app.as_deref(),
            machine_id: record.machine_id.as_deref(),
            instance_id: record.instance_id.as_deref(),
            region: record.region.as_deref(),
            tenant: &record.tenant,
            submitted_at_ms: record.submitted_at_ms,
            booting_at_ms: record.booting_at_ms,
            running_at_ms: record.running_at_ms,
            settled_at_ms: record.settled_at_ms,
            closed_at_ms: record.closed_at_ms,
            deadline_ms: record.deadline_ms,
            queue_until_ms: record.queue_until_ms,
            boot_until_ms: record.boot_until_ms,
            preparing_until_ms: record.preparing_until_ms,
            prepared_by_ms: record.prepared_by_ms,
            refusals: record.refusals,
            refused_since_ms: record.refused_since_ms,
            timeout_ms: record.timeout_ms,
            timeout_asked_ms: record.timeout_asked_ms,
            result_entry: record.result_entry.as_deref(),
            image: None,
        }
    }
}

/// A run with its result, as `show --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct ShowJson<'a> {
    #[serde(flatten)]
    pub(crate) run: RunJson<'a>,
    /// Why it waits, while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<Waiting>,
    /// The result, while it is on its stream.
    pub(crate) result: Option<Box<RawValue>>,
}

/// What a run waits for whose machine was not prepared at the last sweep.
pub(crate) fn preparing_line(view: &RunRecord, now: UnixMs) -> String {
    let by = view.prepared_by_ms.unwrap_or(now);
    let left = human::duration(between(now, by));
    format!("the provider fetches its image; the machine is given up in {left}")
}

/// The phases that a run went through and how long each took; the last one of a run that is not
/// over is measured until `now`. A clock that went backwards in between gives zero.
pub(crate) fn phases(view: &RunRecord, now: UnixMs) -> Vec<(&'static str, Duration)> {
    let mut reached = explain::moments(view).into_iter();
    let mut phases = Vec::new();
    let Some(mut current) = reached.next() else {
        return phases;
    };
    for next in reached {
        phases.push((current.0, between(current.1, next.1)));
        current = next;
    }
    if !current.0.is_empty() {
        phases.push((current.0, between(current.1, now)));
    }
    phases
}

/// The state and, once there is one, the outcome.
pub(crate) fn state_cell(view: &RunRecord) -> Cell {
    match view.outcome {
        Some(outcome) => Cell::new(tone(outcome), outcome.as_str()),
        None => Cell::new(Tone::Notice, view.state),
    }
}

/// How an outcome is coloured.
pub(crate) fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Completed => Tone::Good,
        Outcome::Cancelled => Tone::Notice,
        Outcome::Failed | Outcome::TimedOut | Outcome::Rejected => Tone::Bad,
    }
}

/// JSON without the white space between its parts; numbers and strings stay byte for byte.
pub(crate) fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut is_string, mut is_escaped) = (false, false);
    for c in json.chars() {
        if !is_string && c.is_ascii_whitespace() {
            continue;
        }
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_string => is_escaped = true,
            '"' => is_string = !is_string,
            _ => {}
        }
        text.push(c);
    }
    text
}

/// JSON for people: indented, and as it came where it cannot be read.
pub(crate) fn pretty(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut depth = 0usize;
    let (mut is_string, mut is_escaped) = (false, false);
    let flat = compact(json);
    let mut rest = flat.chars().peekable();
    while let Some(c) = rest.next() {
        if is_string {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => is_string = false,
                _ => {}
            }
            text.push(c);
            continue;
        }
        match c {
            '{' | '[' if rest.peek().is_some_and(|next| matches!(next, '}' | ']')) => text.push(c),
            '{' | '[' => {
                depth += 1;
                text.push(c);
                new_line(&mut text, depth);
            }
            '}' | ']' if text.ends_with(['{', '[']) => text.push(c),
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                is_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

/// Levels that are indented; deeper ones are indented like the last, so that nesting cannot make a
/// small text huge.
const INDENTED_MAX: usize = 16;

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth.min(INDENTED_MAX)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_json_keeps_numbers_and_strings() {
        let json = "{ \"a b\" : [ 1.0,\n 1e2, 18446744073709551616 ],\t\"c\\\" :\": \"\\\\\" }";
        let expected = r#"{"a b":[1.0,1e2,18446744073709551616],"c\" :":"\\"}"#;
        assert_eq!(compact(json), expected);
    }

    #[test]
    fn pretty_json_is_indented_and_keeps_numbers() {
        let json = r#"{"a":[1.0,{}],"b":[],"c":"x:{,"}"#;
        let expected = "{\n  \"a\": [\n    1.0,\n    {}\n  ],\n  \"b\": [],\n  \"c\": \"x:{,\"\n}";
        assert_eq!(pretty(json), expected);
        assert_eq!(pretty("42"), "42");
    }

    #[test]
    fn deep_nesting_does_not_blow_up() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(pretty(&deep).len() < 100 * deep.len());
    }

    #[test]
    fn a_result_is_summarised_in_one_line() {
        let read =
            ResultSummary::read(r#"{"payload":{"a": 1},"submitted_at_ms":5,"settled_at_ms":1005}"#);
        let read = read.unwrap();
        assert_eq!(read.summary(80), r#"{"a":1}"#);
        assert_eq!(read.took(), Some(Duration::from_secs(1)));
        let lost = r#"{"reason":{"code":"machine_lost","message":"gone"},"payload":null}"#;
        assert_eq!(
            ResultSummary::read(lost).unwrap().summary(80),
            "machine_lost: gone"
        );
    }
}
