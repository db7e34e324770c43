//! Exit statuses, and how a failure is printed.

use std::io;
use std::process::ExitCode;

use crate::cli::human;
use crate::cli::output::{Output, Tone};
use crate::config::Faults;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Done,
    /// It could not be done.
    Failed,
    /// The arguments or the settings are wrong; nothing was done.
    WrongUse,
    /// A run that was waited for did not complete.
    NotCompleted,
    /// What a guest exited with.
    Guest(u8),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Done => 0,
            Status::Failed => 1,
            Status::WrongUse => 2,
            Status::NotCompleted => 3,
            Status::Guest(status) => status,
        })
    }
}

/// Arguments that make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUse(String);

impl WrongUse {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// Most characters of a failure that are printed.
const ERROR_MAX: usize = 4000;

/// Prints a failure and its causes on standard error and returns the exit status.
pub(crate) fn report(out: &mut Output, error: &anyhow::Error) -> Status {
    if is_broken_pipe(error) {
        // The reader, such as `head`, has closed the pipe.
        return Status::Done;
    }
    let head = out.paint_note(Tone::Bad, "error:");
    let text = match error.is::<Faults>() {
        true => chain(error),
        // It may repeat text from outside, so it is put on one line.
        false => human::one_line(&chain(error), ERROR_MAX),
    };
    let _ = out.note(&format!("{head} {text}"));
    if error.is::<Faults>() || error.is::<WrongUse>() {
        return Status::WrongUse;
    }
    Status::Failed
}

/// The error and its causes on one line, without causes that the error's own text repeats.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_failure_is_printed_with_each_cause_once() {
        let error = anyhow!("connection refused").context("ping redis: connection refused");
        assert_eq!(chain(&error), "ping redis: connection refused");
        let error = anyhow!("no such file")
            .context("read the key")
            .context("start");
        assert_eq!(chain(&error), "start: read the key: no such file");
    }

    #[test]
    fn faults_in_arguments_and_settings_are_wrong_use() {
        let out = &mut Output::new();
        assert_eq!(report(out, &Faults(Vec::new()).into()), Status::WrongUse);
        assert_eq!(report(out, &WrongUse::new("x").into()), Status::WrongUse);
        assert_eq!(report(out, &anyhow!("x")), Status::Failed);
        let gone: io::Result<()> = Err(io::ErrorKind::BrokenPipe.into());
        let gone = gone.context("print").unwrap_err();
        assert_eq!(report(out, &gone), Status::Done);
    }
}
