//! Durations of the API: in the notation of the Go language.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration of the API: `"1m30s"`, or a number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}")]
pub struct InvalidDuration(String);

/// Units and their nanoseconds. Longer names come before their prefixes.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The longest a duration of the API can be: its nanoseconds fit in a signed 64-bit number.
const MAX_NANOS: u64 = i64::MAX as u64;

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.chars().take(64).collect());
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut nanos: u64 = 0;
        while !rest.is_empty() {
            let (part, after) = leading_part(rest).ok_or_else(invalid)?;
            nanos = nanos
                .checked_add(part)
                .filter(|sum| *sum <= MAX_NANOS)
                .ok_or_else(invalid)?;
            rest = after;
        }
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

/// The nanoseconds of the first number with its unit, and what follows it.
fn leading_part(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let (name, unit) = UNITS.iter().find(|(name, _)| rest.starts_with(name))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(*unit)?;
    let mut place = *unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some((nanos, &rest[name.len()..]))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in [(1_000, "ns"), (1_000_000, "\u{b5}s"), (1_000_000_000, "ms")] {
            if nanos < unit {
                return write!(f, "{}{name}", decimal(nanos, unit / 1000));
            }
        }
        let (seconds, hours) = (nanos % 60_000_000_000, nanos / 3_600_000_000_000);
        let minutes = nanos / 60_000_000_000 % 60;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", decimal(seconds, 1_000_000_000))
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    if value.is_multiple_of(unit) {
        return (value / unit).to_string();
    }
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').to_owned()
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = GoDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"10s\", or nanoseconds")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, nanos: u64) -> Result<Self::Value, E> {
        Ok(GoDuration(Duration::from_nanos(nanos.min(MAX_NANOS))))
    }

    fn visit_i64<E: serde::de::Error>(self, nanos: i64) -> Result<Self::Value, E> {
        let nanos =
            u64::try_from(nanos).map_err(|_| E::custom(InvalidDuration(nanos.to_string())))?;
        self.visit_u64(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_duration(text: &str, nanos: u64, canonical: &str) {
        let read: GoDuration = text.parse().unwrap();
        assert_eq!(read.0, Duration::from_nanos(nanos), "{text}");
        assert_eq!(read.to_string(), canonical);
        assert_eq!(canonical.parse::<GoDuration>(), Ok(read));
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        check_duration("10s", 10_000_000_000, "10s");
        check_duration("1m30s", 90_000_000_000, "1m30s");
        check_duration("1.5h", 5_400_000_000_000, "1h30m0s");
        check_duration("0", 0, "0s");
        check_duration("250ms", 250_000_000, "250ms");
        check_duration("1.5ms", 1_500_000, "1.5ms");
        check_duration(".5s", 500_000_000, "500ms");
        check_duration(
            "3us",
            3_000,
            "\u{b5}s".replace('\u{b5}', "3\u{b5}").as_str(),
        );
        check_duration("61.25s", 61_250_000_000, "1m1.25s");
    }

    #[test]
    fn what_is_no_duration_is_refused_by_name() {
        for text in [
            "",
            "s",
            "10",
            "10x",
            "-1s",
            "1..5s",
            ".s",
            "1e3s",
            "9999999999h",
        ] {
            let error = text.parse::<GoDuration>().unwrap_err();
            assert_eq!(error.to_string(), format!("invalid duration {text:?}"));
        }
    }

    #[test]
    fn a_duration_may_be_nanoseconds() {
        let read: GoDuration = serde_json::from_str("5000000000").unwrap();
        assert_eq!(read, GoDuration(Duration::from_secs(5)));
        assert!(serde_json::from_str::<GoDuration>("-5").is_err());
    }
}
