//! Text from outside, made harmless before a person reads it: in the log, and in what commands print.

use std::fmt::{self, Debug};
use std::io::{self, Write};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};

/// Whether a character controls a terminal: a control character (C0, C1, DEL), a line or paragraph
/// separator, or one that changes the direction of text. Noncharacters count too, since some of them
/// mark colours in what commands print.
#[must_use]
pub fn is_control(c: char) -> bool {
    let changes_direction = matches!(
        c,
        '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let is_noncharacter = matches!(c, '\u{fdd0}'..='\u{fdef}');
    changes_direction || is_noncharacter || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A character as it may be printed.
#[must_use]
pub fn printable(c: char) -> char {
    if is_control(c) {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

/// Writes the fields of an event as `name=value`, where every value that is not a single word is
/// quoted, so that no value can pass for another field. The field `message` is fixed text of ours
/// (a test of the source sees to that) and is written as it is.
pub(crate) fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let text = format!("{value:?}");
    if field.name() == "message" {
        return writer.write_str(&text);
    }
    let name = field.name();
    let name = name.strip_prefix("r#").unwrap_or(name);
    if writer.has_ansi_escapes() {
        write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
    } else {
        write!(writer, "{name}=")?;
    }
    match is_word(&text) || is_quoted(&text) {
        true => writer.write_str(&text),
        false => write!(writer, "{text:?}"),
    }
}

/// Whether a text is one word that needs no quotes.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !is_control(c) && !matches!(c, '"' | '=');
    // Nearly every value is plain ASCII, and a run writes many.
    let is_usual = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=');
    !text.is_empty() && (text.as_bytes().iter().all(is_usual) || text.chars().all(is_plain))
}

/// Whether a text is one quoted text, with every quote and backslash inside it escaped, as strings
/// are.
fn is_quoted(text: &str) -> bool {
    let inner = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else { return false };
    let mut is_escaped = false;
    for c in inner.chars() {
        match c {
            _ if is_control(c) => return false,
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return false,
            _ => {}
        }
    }
    !is_escaped
}

/// Writes each event of the log on one line. The escape sequences of colours pass: they come from
/// the formatter, since [`fields`] lets none through from a value.
#[derive(Debug)]
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let is_harmless = |byte: &u8| matches!(byte, b' '..=b'~' | b'\x1b');
        if let Some((b'\n', line)) = event.split_last()
            && line.iter().all(is_harmless)
        {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let plain: String = line
            .chars()
            .map(|c| if c == '\u{1b}' { c } else { printable(c) })
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
    fn what_controls_a_terminal_is_known() {
        for c in [
            '\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{61c}', '\u{200e}',
            '\u{202e}', '\u{2028}', '\u{2029}', '\u{2069}', '\u{fdd0}',
        ] {
            assert!(is_control(c), "{c:?}");
        }
        for c in ['a', ' ', 'é', '\u{a0}', '字', '😀', '\u{200d}'] {
            assert!(!is_control(c), "{c:?}");
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

    /// Where a test's log goes.
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(event: impl FnOnce()) -> String {
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .fmt_fields(fields())
            .with_writer(move || OneLine(to.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, event);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn no_value_passes_for_another_field_or_line() {
        let forged = "/x\n2026-01-01T00:00:00Z  INFO cofferdam: completed run_id=\"v-1\"";
        let quoted = "\"a\" run_id=\"v-1\"";
        for hostile in [
            forged,
            quoted,
            "a run_id=v-1",
            "\u{1b}[2Jx",
            "run_id=\"v-1\"",
        ] {
            let line = logged(|| tracing::info!(error = %hostile, path = hostile, "refused"));
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!line.contains(" run_id=\"v-1\""), "{line}");
            assert!(!line.contains(" run_id=v-1 "), "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
    }

    #[test]
    fn words_and_texts_are_written_as_they_were() {
        let line = logged(|| {
            let (list, address) = ([1, 2], "127.0.0.1:1");
            tracing::info!(id = "a", n = 7, %address, ?list, empty = "", "started it");
        });
        let fields = "id=\"a\" n=7 address=127.0.0.1:1 list=\"[1, 2]\" empty=\"\"";
        assert!(line.ends_with(&format!("started it {fields}\n")), "{line}");
    }
}
