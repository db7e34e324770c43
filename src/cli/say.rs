//! Printing: colours only on a terminal, JSON lines, tables, and an end of the reader that is no
//! fault of ours.

use std::io::{self, IsTerminal as _, Write as _};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use crate::cli::human;

/// What a word means, and so how it is coloured.
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

/// Where a command prints. Standard output is for what was asked for; the rest goes to standard
/// error.
#[derive(Debug)]
pub(crate) struct Say {
    out: Stream<io::Stdout>,
    err: Stream<io::Stderr>,
}

#[derive(Debug)]
struct Stream<W> {
    to: W,
    has_colours: bool,
}

impl Say {
    /// Looks once at what is connected.
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
        writeln!(self.out.to, "{text}")
    }

    /// Prints what somebody else wrote. A terminal gets it without what could steer it; a program
    /// gets it as it is.
    pub(crate) fn foreign(&mut self, text: &str) -> io::Result<()> {
        if io::stdout().is_terminal() {
            return self.line(&human::harmless(text));
        }
        self.line(text)
    }

    /// Prints one JSON value on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        writeln!(self.out.to, "{line}")
    }

    /// Tells something beside what was asked for.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.err.to, "{text}")
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
        writeln!(self.out.to, "{}", line.trim_end())
    }
}

fn painted(has_colours: bool, tone: Tone, text: &str) -> String {
    if !has_colours || tone == Tone::Plain {
        return text.to_owned();
    }
    let style = tone.style();
    format!("{style}{text}{style:#}")
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
    fn colours_are_for_terminals() {
        assert_eq!(painted(false, Tone::Bad, "x"), "x");
        assert_eq!(painted(true, Tone::Plain, "x"), "x");
        let coloured = painted(true, Tone::Good, "x");
        assert!(
            coloured.starts_with('\u{1b}') && coloured.ends_with("\u{1b}[0m"),
            "{coloured:?}"
        );
    }
}
