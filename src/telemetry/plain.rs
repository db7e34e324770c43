//! Text from outside, made plain before a person sees it.

use std::io::{self, Write};

/// Whether a terminal acts on a character instead of showing it, or shows the others in another
/// order or on another line because of it.
#[must_use]
pub fn steers(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A character as it may be shown.
#[must_use]
pub fn shown(c: char) -> char {
    if steers(c) {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

/// Writes each event of the log on one line, whatever its fields hold. What colours it is written
/// by the formatter, which lets no such sequence through from a field.
#[derive(Debug)]
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let plain: String = line
            .chars()
            .map(|c| if c == '\u{1b}' { c } else { shown(c) })
            .collect();
        self.0.write_all((plain + end).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_known() {
        for c in [
            '\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{61c}', '\u{200e}',
            '\u{202e}', '\u{2028}', '\u{2029}', '\u{2069}',
        ] {
            assert!(steers(c), "{c:?}");
        }
        for c in ['a', ' ', 'é', '\u{a0}', '字', '😀', '\u{200d}'] {
            assert!(!steers(c), "{c:?}");
        }
    }

    #[test]
    fn a_field_with_a_line_feed_makes_no_second_line() {
        let mut written = Vec::new();
        let event = "INFO refused path=\"/x\n2026-01-01 INFO forged\"\n";
        OneLine(&mut written).write_all(event.as_bytes()).unwrap();
        let text = String::from_utf8(written).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.ends_with('\n'));
    }
}
