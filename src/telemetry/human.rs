//! Numbers and text from outside, formatted for people.

use std::time::Duration;

use crate::telemetry::printable;

/// A length of time in at most two units: `83 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
#[must_use]
pub fn duration(length: Duration) -> String {
    let ms = length.as_millis();
    let s = length.as_secs();
    match s {
        _ if ms < 1000 => format!("{ms} ms"),
        0..60 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// How long ago something was; a time in the future, by another clock, counts as now.
#[must_use]
pub fn ago(then_ms: u64, now_ms: u64) -> String {
    format!(
        "{} ago",
        duration(Duration::from_millis(now_ms.saturating_sub(then_ms)))
    )
}

/// A size with a binary unit.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = count.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A count with its noun.
#[must_use]
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Text from outside on one line: characters that control a terminal are replaced, and the end of a
/// long text is cut off.
#[must_use]
pub fn one_line(text: &str, longest: usize) -> String {
    let line: String = text
        .chars()
        .take(longest + 1)
        .map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c })
        .collect();
    let mut line = harmless(&line);
    if line.chars().count() > longest {
        line = line.chars().take(longest.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

/// Text from outside without characters that control a terminal; line feeds stay.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' { c } else { printable(c) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_at_most_two_units() {
        for (ms, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (4_290, "4.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min 0 s"),
            (7_800_000, "2 h 10 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "1677721.5 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn text_from_outside_cannot_control_the_terminal() {
        assert_eq!(
            one_line("a\x1b[31mb\nc\u{202e}d", 20),
            "a\u{fffd}[31mb c\u{fffd}d"
        );
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abcde…");
    }
}
