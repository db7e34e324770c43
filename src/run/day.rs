//! Days, by which use is counted: UTC, as `2026-11-23`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use crate::clock::UnixMs;

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(Date);

/// Why a text is not a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a day such as 2026-11-23")]
pub struct InvalidDay;

impl Day {
    /// The day on which `at` lies. Times beyond the calendar's end lie on its last day.
    #[must_use]
    pub fn of(at: UnixMs) -> Self {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX);
        Self(TimeZone::UTC.to_datetime(at).date())
    }

    /// When the day ends: the first moment of the next.
    #[must_use]
    pub fn end_ms(self) -> UnixMs {
        let next = self.0.tomorrow().unwrap_or(Date::MAX);
        let midnight = TimeZone::UTC.to_timestamp(next.to_datetime(jiff::civil::Time::midnight()));
        midnight.map_or(UnixMs::MAX, |at| {
            u64::try_from(at.as_millisecond()).unwrap_or(0)
        })
    }

    /// The day after; the calendar's last day stays itself.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.tomorrow().unwrap_or(self.0))
    }
}

/// The time that a length of time such as `30m`, `2h` or `3d` before `now` means, or a time in UTC such as
/// `2026-11-29T10:00:00Z`.
#[must_use]
pub fn since_ms(text: &str, now: UnixMs) -> Option<UnixMs> {
    if let Some(unit) = text.chars().last().filter(|last| "smhd".contains(*last)) {
        let number: u64 = text.get(..text.len() - 1)?.parse().ok()?;
        let unit_ms = match unit {
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            _ => 86_400_000,
        };
        return Some(now.saturating_sub(number.checked_mul(unit_ms)?));
    }
    let at: Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// A time in UTC, to the second.
#[must_use]
pub fn utc(at: UnixMs) -> String {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let is_plain = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        let date: Date = text.parse().map_err(|_| InvalidDay)?;
        is_plain.then_some(Self(date)).ok_or(InvalidDay)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_day_is_written_and_read_as_people_do() {
        let day = Day::of(1_795_392_000_000);
        assert_eq!(day.to_string(), "2026-11-23");
        assert_eq!("2026-11-23".parse(), Ok(day));
        assert_eq!(day.next().to_string(), "2026-11-24");
        assert_eq!(Day::of(0).to_string(), "1970-01-01");
        for bad in [
            "",
            "2026-13-01",
            "2026-02-30",
            "20261123",
            "2026-11-23T00:00",
            "today",
        ] {
            assert_eq!(bad.parse::<Day>(), Err(InvalidDay), "{bad}");
        }
    }

    #[test]
    fn no_time_is_too_late() {
        let last = Day::of(u64::MAX).next();
        assert_eq!(last.next(), last);
        assert!(last.end_ms() > 0);
    }

    proptest! {
        #[test]
        fn a_time_lies_within_its_day(at in 0u64..4_000_000_000_000) {
            let day = Day::of(at);
            prop_assert!(at < day.end_ms() && day.end_ms() - at <= 86_400_000);
            prop_assert_eq!(Day::of(day.end_ms()), day.next());
            prop_assert_eq!(day.to_string().parse(), Ok(day));
        }
    }
}
