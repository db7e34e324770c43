//! Exit statuses, and how a failure is told.

use std::io;
use std::process::ExitCode;

use crate::cli::human;
use crate::cli::say::{Say, Tone};
use crate::config::Faults;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Done,
    /// It could not be done.
    Failed,
    /// The words or the settings are wrong; nothing was touched.
    WrongUse,
    /// A run that was waited for did not complete.
    NotCompleted,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Done => 0,
            Status::Failed => 1,
            Status::WrongUse => 2,
            Status::NotCompleted => 3,
        })
    }
}

/// Words that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUse(String);

impl WrongUse {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// Characters of a failure that are told.
const TOLD_MAX: usize = 4000;

/// Tells a failure on standard error, with its causes, and says how to exit.
pub(crate) fn told(say: &mut Say, error: &anyhow::Error) -> Status {
    if is_broken_pipe(error) {
        // The reader, `head` perhaps, has seen enough.
        return Status::Done;
    }
    let head = say.paint_note(Tone::Bad, "error:");
    // Where standard error is gone too there is nobody left to tell.
    let told = match error.is::<Faults>() {
        true => chain(error),
        // It may repeat what came from outside, and is one line.
        false => human::one_line(&chain(error), TOLD_MAX),
    };
    let _ = say.note(&format!("{head} {told}"));
    if error.is::<Faults>() || error.is::<WrongUse>() {
        return Status::WrongUse;
    }
    Status::Failed
}

/// The error and its causes on one line; a cause that the line before it already tells is left
/// out.
fn chain(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
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
    fn a_failure_is_told_with_its_causes_once() {
        let error = anyhow!("connection refused").context("ping redis: connection refused");
        assert_eq!(chain(&error), "ping redis: connection refused");
        let error = anyhow!("no such file")
            .context("read the key")
            .context("start");
        assert_eq!(chain(&error), "start: read the key: no such file");
    }

    #[test]
    fn faults_in_words_and_settings_are_wrong_use() {
        let say = &mut Say::new();
        assert_eq!(told(say, &Faults(Vec::new()).into()), Status::WrongUse);
        assert_eq!(told(say, &WrongUse::new("x").into()), Status::WrongUse);
        assert_eq!(told(say, &anyhow!("x")), Status::Failed);
        let gone: io::Result<()> = Err(io::ErrorKind::BrokenPipe.into());
        let gone = gone.context("print").unwrap_err();
        assert_eq!(told(say, &gone), Status::Done);
    }
}
