//! Printing: lines, JSON and tables, with colours on a terminal only.
//!
//! Everything that a command prints goes through here, where control characters and the like are
//! replaced, so that no text can control a terminal. Until then colours are marks in the text.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use crate::cli::human;
use crate::store::logs::LogStream;
use crate::telemetry;

/// The meaning of a word, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Notice,
    Bad,
    Faint,
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Notice => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        }
    }
}

/// Where a command prints. Standard output is for what was asked for, standard error for the rest.
#[derive(Debug)]
pub(crate) struct Output {
    out: Stream<io::Stdout>,
    err: Stream<io::Stderr>,
}

#[derive(Debug)]
struct Stream<W> {
    to: W,
    has_colours: bool,
}

impl Output {
    /// Colours are used where standard output or error is a terminal and `NO_COLOR` is not set.
    pub(crate) fn new() -> Self {
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out: Stream {
                has_colours: io::stdout().is_terminal() && !wants_none,
                to: io::stdout(),
            },
            err: Stream {
                has_colours: io::stderr().is_terminal() && !wants_none,
                to: io::stderr(),
            },
        }
    }

    /// Prints one line of what was asked for.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out.to, "{}", plain(text))
    }

    /// Prints text from outside: cleaned on a terminal, byte for byte into a pipe or file.
    pub(crate) fn untrusted(&mut self, text: &str) -> io::Result<()> {
        if io::stdout().is_terminal() {
            return self.line(&human::harmless(text));
        }
        writeln!(self.out.to, "{text}")
    }

    /// Prints what a guest wrote where it wrote it: cleaned on a terminal, byte for byte into a pipe or
    /// file.
    pub(crate) fn guest(&mut self, stream: LogStream, bytes: &[u8]) -> io::Result<()> {
        let (to, is_terminal): (&mut dyn io::Write, bool) = match stream {
            LogStream::Stdout => (&mut self.out.to, io::stdout().is_terminal()),
            LogStream::Stderr => (&mut self.err.to, io::stderr().is_terminal()),
        };
        if is_terminal {
            let text = plain(&human::harmless(&String::from_utf8_lossy(bytes)));
            to.write_all(text.as_bytes())?;
        } else {
            to.write_all(bytes)?;
        }
        to.flush()
    }

    /// Clears the terminal that standard output is.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        write!(self.out.to, "\x1b[H\x1b[2J\x1b[3J")
    }

    /// Prints one JSON value on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        self.json_text(&line)
    }

    /// Prints JSON that is text already, on a line of its own.
    pub(crate) fn json_text(&mut self, json: &str) -> io::Result<()> {
        writeln!(self.out.to, "{}", escaped(json))
    }

    /// Prints a remark on standard error.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.err.to, "{}", plain(text))
    }

    /// `text` in its tone, for standard output.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        painted(self.out.has_colours, tone, text)
    }

    /// `text` in its tone, for standard error.
    pub(crate) fn paint_note(&self, tone: Tone, text: &str) -> String {
        painted(self.err.has_colours, tone, text)
    }

    /// Prints rows below a heading, in columns as wide as their widest cell.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<Cell>]) -> io::Result<()> {
        let head: Vec<_> = head
            .iter()
            .map(|text| Cell::new(Tone::Faint, *text))
            .collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|column| {
                let cells = rows.iter().filter_map(|row| row.get(column));
                cells
                    .chain(head.get(column))
                    .map(Cell::width)
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        self.row(&head, &widths)?;
        for row in rows {
            self.row(row, &widths)?;
        }
        Ok(())
    }

    fn row(&mut self, row: &[Cell], widths: &[usize]) -> io::Result<()> {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            line.push_str(&self.paint(cell.tone, &cell.text));
            if index + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
            }
        }
        writeln!(self.out.to, "{}", plain(line.trim_end()))
    }
}

fn painted(has_colours: bool, tone: Tone, text: &str) -> String {
    if !has_colours || tone == Tone::Plain {
        return text.to_owned();
    }
    let text: String = text.chars().filter(|c| !MARKS.contains(c)).collect();
    let at = TONES.iter().position(|known| *known == tone);
    let begin = at.and_then(|at| MARKS.get(at)).copied().unwrap_or(END);
    format!("{begin}{text}{END}")
}

/// Marks for where a colour begins: code points that Unicode reserves for use within a program.
const MARKS: [char; 6] = [
    '\u{fdd0}', '\u{fdd1}', '\u{fdd2}', '\u{fdd3}', '\u{fdd4}', END,
];

/// The mark for where a colour ends.
const END: char = '\u{fdd5}';

/// The tones that have marks, in their order.
const TONES: [Tone; 5] = [
    Tone::Good,
    Tone::Notice,
    Tone::Bad,
    Tone::Faint,
    Tone::Strong,
];

/// A text as it is printed: marks become colours, characters that control a terminal are replaced,
/// line feeds stay.
fn plain(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for c in text.chars() {
        match MARKS.iter().position(|mark| *mark == c) {
            Some(at) => match TONES.get(at) {
                Some(tone) => printed.push_str(&tone.style().render().to_string()),
                None => printed.push_str(&Style::new().bold().render_reset().to_string()),
            },
            None if c == '\n' => printed.push(c),
            None => printed.push(telemetry::printable(c)),
        }
    }
    printed
}

/// JSON as it is printed: the same value, with characters that control a terminal escaped.
fn escaped(json: &str) -> Cow<'_, str> {
    if !json.chars().any(telemetry::is_control) {
        return Cow::Borrowed(json);
    }
    let mut printed = String::with_capacity(json.len());
    for c in json.chars() {
        match u32::from(c) {
            // White space between values: inside strings JSON has these escaped already.
            0..0x20 => printed.push(' '),
            code if telemetry::is_control(c) => printed.push_str(&format!("\\u{code:04x}")),
            _ => printed.push(c),
        }
    }
    Cow::Owned(printed)
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    tone: Tone,
    text: String,
}

impl Cell {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            tone,
            text: text.into(),
        }
    }

    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::new(Tone::Plain, text)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_controls_a_terminal() {
        let text = "a\u{1b}[31mb\u{9b}c\u{202e}d\u{2028}e\u{61c}f\r";
        let printed = plain(text);
        assert!(!printed.chars().any(telemetry::is_control), "{printed:?}");
        assert_eq!(plain("a\nb"), "a\nb");
        let painted = plain(&painted(true, Tone::Bad, text));
        let inner = painted.trim_start_matches("\u{1b}[1m\u{1b}[31m");
        let inner = inner.trim_end_matches("\u{1b}[0m");
        assert_eq!(inner, printed);
    }

    #[test]
    fn printed_json_is_the_same_value() {
        let value = serde_json::json!({"a\u{9b}": "\u{202e}\u{1b}\u{2028}\u{7f}\n", "b": "字"});
        let printed = escaped(&value.to_string()).into_owned();
        assert!(!printed.chars().any(telemetry::is_control), "{printed}");
        let read: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(painted(false, Tone::Bad, "x"), "x");
        assert_eq!(painted(true, Tone::Plain, "x"), "x");
        let coloured = plain(&painted(true, Tone::Good, "x"));
        assert!(
            coloured.starts_with('\u{1b}') && coloured.ends_with("\u{1b}[0m"),
            "{coloured:?}"
        );
    }
}
