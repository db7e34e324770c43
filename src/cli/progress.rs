//! What is shown while a command waits. Both are hidden unless standard error is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::human;

/// Between two redraws of the spinner.
const TICK: Duration = Duration::from_millis(100);

/// A line with the phases of one run and how long each has taken; the last one is still on.
#[derive(Debug)]
pub(crate) struct Line(ProgressBar);

impl Line {
    pub(crate) fn new() -> Self {
        let line = ProgressBar::new_spinner();
        line.enable_steady_tick(TICK);
        Self(line)
    }

    /// Shows `phases`, each with its time so far.
    pub(crate) fn show(&self, phases: &[(&str, Duration)]) {
        self.0.set_message(joined(phases));
    }

    /// Prints without disturbing the line.
    pub(crate) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn joined(phases: &[(&str, Duration)]) -> String {
    let words: Vec<_> = phases
        .iter()
        .map(|(word, length)| format!("{word} {}", human::duration(*length)))
        .collect();
    words.join(" · ")
}

/// A bar that counts to `total`.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(total: u64, what: &str) -> Self {
        let template = "{bar:30} {pos}/{len} {msg} · {elapsed} · {per_sec}";
        let style = ProgressStyle::with_template(template).expect("a constant that parses");
        let bar = ProgressBar::new(total)
            .with_style(style)
            .with_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub(crate) fn advance(&self) {
        self.0.inc(1);
    }

    /// Prints without disturbing the bar.
    pub(crate) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_stand_side_by_side() {
        let phases = [
            ("queued", Duration::from_millis(3)),
            ("booting", Duration::from_secs(2)),
        ];
        assert_eq!(joined(&phases), "queued 3 ms · booting 2.0 s");
    }
}
