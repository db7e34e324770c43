//! Times as the API writes them: RFC 3339 outside events, milliseconds inside them.

use jiff::Timestamp;

use crate::clock::UnixMs;

/// RFC 3339 in UTC, whole seconds: `2023-11-08T01:52:30Z`.
pub(crate) fn seconds(at_ms: UnixMs) -> String {
    let whole = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    format!(
        "{:.0}",
        Timestamp::from_second(whole).unwrap_or(Timestamp::MAX)
    )
}

/// RFC 3339 in UTC with milliseconds: `2023-11-08T01:52:30.250Z`.
pub(crate) fn millis(at_ms: UnixMs) -> String {
    let at = i64::try_from(at_ms).unwrap_or(i64::MAX);
    format!(
        "{:.3}",
        Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX)
    )
}

/// Reads RFC 3339 with any offset. `None` when it is not that, or before 1970.
pub(crate) fn parse(text: &str) -> Option<UnixMs> {
    let at: Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_the_api_does() {
        assert_eq!(seconds(1_699_408_350_300), "2023-11-08T01:52:30Z");
        assert_eq!(millis(1_699_408_350_300), "2023-11-08T01:52:30.300Z");
        assert_eq!(seconds(u64::MAX), "9999-12-30T22:00:00Z");
        assert_eq!(parse("2023-11-08T01:52:30.3Z"), Some(1_699_408_350_300));
        assert_eq!(parse("2023-11-08T03:52:30+02:00"), Some(1_699_408_350_000));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse("1923-11-08T01:52:30Z"), None);
    }
}
