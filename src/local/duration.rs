//! Durations as Go programs write them: `"10s"`, `"1m30s"`, `"250ms"`, or nanoseconds as a number.

use std::time::Duration;

use serde_json::Value;

/// The longest that anything here waits because a caller said so.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Reads a duration string. `None` when it is not one, negative, or beyond a day.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|&end| end > 0)?;
        let amount: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, seconds) = unit(rest)?;
        rest = rest.get(unit..)?;
        total += amount * seconds;
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(total)
        .ok()
        .filter(|&whole| whole <= LONGEST)
}

/// Reads a duration from JSON: a string as above, or whole nanoseconds.
pub(crate) fn from_json(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => {
            let nanos = Duration::from_nanos(number.as_u64()?);
            (nanos <= LONGEST).then_some(nanos)
        }
        _ => None,
    }
}

/// Reads what `restart?timeout=` takes: a duration string, or a plain number of seconds.
pub(crate) fn or_seconds(text: &str) -> Option<Duration> {
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)).filter(|&whole| whole <= LONGEST),
        Err(_) => parse(text),
    }
}

/// The length of the unit at the start of `text`, and its seconds. Two-letter units come first,
/// since `ms` also begins with `m`.
fn unit(text: &str) -> Option<(usize, f64)> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    UNITS
        .iter()
        .find(|(name, _)| text.starts_with(name))
        .map(|(name, seconds)| (name.len(), *seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected_ms) in [
            ("10s", Some(10_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("1.5s", Some(1_500)),
            ("1h0m0s", Some(3_600_000)),
            ("24h", Some(86_400_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("10 s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("25h", None),
        ] {
            assert_eq!(
                parse(text),
                expected_ms.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn numbers_are_nanoseconds_in_json_and_seconds_in_a_query() {
        assert_eq!(
            from_json(&json!(5_000_000_000_u64)),
            Some(Duration::from_secs(5))
        );
        assert_eq!(from_json(&json!("5s")), Some(Duration::from_secs(5)));
        assert_eq!(from_json(&json!(-1)), None);
        assert_eq!(from_json(&json!(true)), None);
        assert_eq!(or_seconds("5"), Some(Duration::from_secs(5)));
        assert_eq!(or_seconds("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(or_seconds("soon"), None);
    }
}
