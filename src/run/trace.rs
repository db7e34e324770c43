//! The trace of a run: which it is, and the ids of its spans. All of them follow from the run, so that
//! every process that tells of a run tells of the same spans.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock::UnixMs;
use crate::run::digest::sha256;
use crate::run::id::{Nonce, RunId};

/// The id of a trace, 16 bytes; not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// The id of a span, 8 bytes; not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A span of somebody else, as the header `traceparent` of the W3C names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Its trace.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// Whether it is recorded.
    pub is_sampled: bool,
}

/// Why a text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not of the form 00-TRACE-SPAN-FLAGS with 32, 16 and 2 lower-case hexadecimal digits, neither id zero"
)]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// Later versions than 00 may have more behind it; what is known of them is read.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let version = hexadecimal(parts.next(), 2)?;
        let trace = hexadecimal(parts.next(), 32)?;
        let span = hexadecimal(parts.next(), 16)?;
        let flags = hexadecimal(parts.next(), 2)?;
        let has_more = parts.next().is_some();
        if version == 0xff || (version == 0 && has_more) || trace == 0 || span == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self {
            trace: TraceId(trace),
            span: SpanId(u64::try_from(span).map_err(|_| InvalidTraceParent)?),
            is_sampled: flags & 1 == 1,
        })
    }
}

fn hexadecimal(part: Option<&str>, digits: usize) -> Result<u128, InvalidTraceParent> {
    let part = part.filter(|part| part.len() == digits);
    let part = part.filter(|part| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let number = part.and_then(|part| u128::from_str_radix(part, 16).ok());
    number.ok_or(InvalidTraceParent)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

impl TraceParent {
    /// That in a request's metadata, if there is a sound one: metadata are the producer's own, and no
    /// rule holds for them.
    #[must_use]
    pub fn in_metadata(metadata: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            traceparent: Option<String>,
        }
        let metadata: Metadata = serde_json::from_str(metadata.get()).ok()?;
        metadata.traceparent?.parse().ok()
    }
}

/// A part of a run that is a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The wait for a boot.
    Queued(u32),
    /// A boot.
    Boot(u32),
    /// What the guest of a boot did.
    Run(u32),
    /// The acceptance of the result.
    Report,
    /// The removal of the machine.
    TearDown,
}

impl Part {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "cofferdam.run",
            Self::Queued(_) => "queued",
            Self::Boot(_) => "boot",
            Self::Run(_) => "run",
            Self::Report => "report",
            Self::TearDown => "tear-down",
        }
    }

    fn attempt(self) -> u32 {
        match self {
            Self::Queued(attempt) | Self::Boot(attempt) | Self::Run(attempt) => attempt,
            Self::Whole | Self::Report | Self::TearDown => 0,
        }
    }
}

/// The trace of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTrace {
    /// Its id: that of the request's `traceparent`, or one of its own.
    pub id: TraceId,
    /// The span of the producer that it belongs to.
    pub parent: Option<TraceParent>,
    seed: String,
}

impl RunTrace {
    /// The trace of the run `id`. What tells its request from every other with this id is the nonce or,
    /// of one that no worker has claimed, when it was submitted.
    #[must_use]
    pub fn new(
        id: &RunId,
        nonce: Option<&Nonce>,
        submitted_at_ms: Option<UnixMs>,
        parent: Option<TraceParent>,
    ) -> Self {
        let seed = match nonce {
            Some(nonce) => format!("{id} {nonce}"),
            None => format!("{id} {}", submitted_at_ms.unwrap_or(0)),
        };
        let own = || TraceId(first_digits(&format!("trace {seed}"), 32).max(1));
        Self {
            id: parent.map_or_else(own, |parent| parent.trace),
            parent,
            seed,
        }
    }

    /// The id of a span.
    #[must_use]
    pub fn span(&self, part: Part) -> SpanId {
        let text = format!("{} {} {}", part.name(), part.attempt(), self.seed);
        SpanId(u64::try_from(first_digits(&text, 16)).unwrap_or(1).max(1))
    }
}

/// The first hexadecimal digits of a digest as a number.
fn first_digits(text: &str, digits: usize) -> u128 {
    let digest = sha256(text.as_bytes());
    let first = digest.get(..digits).unwrap_or_default();
    u128::from_str_radix(first, 16).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_the_w3c_writes_it() {
        let parent: TraceParent = SOUND.parse().unwrap();
        assert!(parent.is_sampled);
        assert_eq!(parent.to_string(), SOUND);
        let later = SOUND.replacen("00-", "cc-", 1) + "-what-comes-later";
        assert_eq!(later.parse(), Ok(parent));
        let other: TraceParent = SOUND.replace("-01", "-02").parse().unwrap();
        assert!(!other.is_sampled);
        for unsound in [
            "",
            "00",
            &SOUND.to_uppercase(),
            &SOUND.replacen("00-", "ff-", 1),
            &format!("{SOUND}-more"),
            &SOUND.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &SOUND.replace("b7ad6b7169203331", &"0".repeat(16)),
            &SOUND.replace("b7ad", "+7ad"),
            &SOUND.replace("-01", "-1"),
        ] {
            assert!(unsound.parse::<TraceParent>().is_err(), "{unsound}");
        }
    }

    #[test]
    fn metadata_may_have_a_parent_and_need_not() {
        let read = |json: &str| {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            TraceParent::in_metadata(&raw)
        };
        assert_eq!(
            read(&format!(r#"{{"a":1,"traceparent":"{SOUND}"}}"#)),
            SOUND.parse().ok()
        );
        for none in [
            r#"{"traceparent":7}"#,
            r#"{"traceparent":"x"}"#,
            r#"{"traceparent":null}"#,
            "{}",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn ids_follow_from_the_run_and_differ_between_runs_and_parts() {
        let id: RunId = "pr-17".parse().unwrap();
        let nonce = |last: char| {
            let text = "0".repeat(Nonce::LENGTH - 1) + &last.to_string();
            text.parse::<Nonce>().unwrap()
        };
        let one = RunTrace::new(&id, Some(&nonce('1')), Some(1), None);
        assert_eq!(one, RunTrace::new(&id, Some(&nonce('1')), Some(2), None));
        let two = RunTrace::new(&id, Some(&nonce('2')), Some(1), None);
        assert_ne!(one.id, two.id);
        let parts = [
            Part::Whole,
            Part::Queued(1),
            Part::Queued(2),
            Part::Boot(1),
            Part::Boot(2),
            Part::Run(2),
            Part::Report,
            Part::TearDown,
        ];
        let ids = [&one, &two]
            .into_iter()
            .flat_map(|trace| parts.map(|part| trace.span(part)));
        let ids: std::collections::HashSet<SpanId> = ids.collect();
        assert_eq!(ids.len(), 2 * parts.len());
        let child = RunTrace::new(&id, Some(&nonce('1')), None, SOUND.parse().ok());
        assert_eq!(child.id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(child.span(Part::Whole), one.span(Part::Whole));
    }
}
