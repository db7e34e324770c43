//! Why an engine does not open, or a sandbox does not start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::outcome::Exit;
use crate::report::Report;

/// Why an engine did not open, or a sandbox did not start.
#[derive(Debug, Error)]
pub enum Error {
    /// This host cannot run sandboxes as they are. Nothing less safe is tried.
    #[error("sandboxes cannot be run here: {reason}\n{remedy}")]
    Unavailable {
        /// What was seen.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// Another server works in the same state folder.
    #[error("another server is using {}", state_dir.display())]
    Locked {
        /// The folder.
        state_dir: PathBuf,
    },
    /// Limits were required and do not hold.
    #[error("required limits do not hold (memory={} processes={} cpu={} disk={}): {}",
        report.memory, report.processes, report.cpu, report.disk, report.advice)]
    Limits {
        /// What does hold.
        report: Box<Report>,
    },
    /// The specification cannot be carried out.
    #[error("it cannot be made: {0}")]
    Spec(String),
    /// There is no such program in the sandbox.
    #[error("no such program: {0}")]
    NotFound(String),
    /// The program cannot be executed.
    #[error("cannot be executed: {program}: {reason}")]
    NotExecutable {
        /// The program.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// The working directory cannot be entered.
    #[error("no such working directory: {0}")]
    Workdir(String),
    /// The sandbox could not be set up.
    #[error("the sandbox could not be set up: {0}")]
    Boot(String),
    /// The sandbox did not come up in time and was removed.
    #[error("the sandbox did not come up within {0:?}")]
    Late(Duration),
    /// The sandbox has ended.
    #[error("the sandbox has ended")]
    Ended,
    /// The sandbox already runs as many execs as it may.
    #[error("the sandbox is busy: {0}")]
    Busy(String),
    /// A call to the system failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The end of a sandbox whose program cannot be started, as a shell tells it; `None` when it
    /// was not the program's fault and another try may do better.
    pub fn as_exit(&self) -> Option<Exit> {
        let code = match self {
            Self::NotFound(_) | Self::Workdir(_) => 127,
            Self::NotExecutable { .. } => 126,
            _ => return None,
        };
        Some(Exit {
            code: Some(code),
            error: Some(self.to_string()),
            ..Exit::default()
        })
    }

    /// Puts what was being done to a system's answer.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
