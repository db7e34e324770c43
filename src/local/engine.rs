//! The seam between the Machines server and what runs a machine.
//!
//! The server speaks of machines and their lives; an engine turns one [`Spec`] into a real,
//! isolated process tree and tells how it ended. gVisor and a microVM can stand behind the same
//! types later.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use thiserror::Error;

pub use crate::local::bwrap::{Engine, Handle, Running};

/// What a machine is to be, resolved: no image names, no defaults left open.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The machine's id; names its control group and its folders.
    pub id: String,
    /// The root file system.
    pub root: Root,
    /// Program and arguments, never empty.
    pub argv: Vec<String>,
    /// The whole environment of the guest; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Working directory; the engine's own default when `None`.
    pub workdir: Option<String>,
    /// Files placed before the program starts.
    pub files: Vec<GuestFile>,
    /// Memory for all processes of the machine together, in MiB.
    pub memory_mb: u64,
    /// Processors' worth of time the machine may use.
    pub cpus: u32,
}

/// Where a machine's root file system comes from. It is never writable by the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// The host's own `/usr`, read-only.
    Host,
    /// An unpacked image.
    Dir(PathBuf),
}

/// One file of a [`Spec`].
#[derive(Clone, Debug)]
pub struct GuestFile {
    /// Absolute path inside the machine.
    pub path: String,
    /// Contents.
    pub bytes: Bytes,
    /// Permission bits.
    pub mode: u32,
}

/// How a machine's main process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, when it exited by itself.
    pub code: Option<i32>,
    /// Signal number, when a signal ended it.
    pub signal: Option<i32>,
    /// The kernel killed the main process for want of memory.
    pub oom_killed: bool,
    /// The kernel killed some other process of the machine for want of memory.
    pub oom_elsewhere: bool,
    /// Processor time used by the whole machine, in milliseconds, where it is known.
    pub cpu_ms: Option<u64>,
    /// The most memory the machine held at once, in bytes, where it is known.
    pub peak_bytes: Option<u64>,
    /// Why the program never ran, when it could not be started at all.
    pub error: Option<String>,
}

/// What an exec inside a running machine brought.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// Standard output, cut at the engine's bound.
    pub stdout: String,
    /// Standard error, cut at the engine's bound.
    pub stderr: String,
    /// Exit code, when it exited by itself.
    pub exit_code: Option<i32>,
    /// Signal number, when a signal (or the time limit) ended it.
    pub exit_signal: Option<i32>,
}

/// One process of a running machine, as the machine itself sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id inside the machine.
    pub pid: u32,
    /// Its command line, arguments joined by blanks, or its name when it has none.
    pub command: String,
    /// Working directory, where it is known.
    pub directory: String,
    /// Processor time in the kernel and in the program, in milliseconds.
    pub cpu_ms: u64,
    /// Time since it started, in milliseconds.
    pub age_ms: u64,
    /// Memory it has in use, in bytes; what it shares with others is counted for each.
    pub rss_bytes: u64,
}

/// Which output of the guest some bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes the guest's output, piece by piece as it comes. It is called from the engine's tasks, so
/// it must be quick; what it does not take is not kept. The rate is bounded by the engine.
pub type OutputSink = Arc<dyn Fn(Stream, Bytes) + Send + Sync>;

/// What an engine needs to know to open.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The engine keeps its own files in the folder `engine` in here, which it makes.
    pub state_dir: PathBuf,
    /// Refuse to open unless every limit holds for a machine as a whole.
    pub require_limits: bool,
    /// Look no further than this kind of limits; the best that works when `None`.
    pub limits: Option<Limits>,
    /// First user id of 65536 for machines, when the server is root; chosen by the engine when
    /// `None`. No machine shares one with another while it lives.
    pub uid_base: Option<u32>,
    /// The bubblewrap program; looked for in the usual folders when `None`.
    pub bwrap: Option<PathBuf>,
}

impl Settings {
    /// The defaults over this folder.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            require_limits: false,
            limits: None,
            uid_base: None,
            bwrap: None,
        }
    }
}

/// The means by which limits are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limits {
    /// Per process only, by `setrlimit`.
    Rlimit,
    /// By control groups, version 1.
    Cgroup1,
    /// By control groups, version 2.
    Cgroup2,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rlimit => "rlimit",
            Self::Cgroup1 => "cgroup1",
            Self::Cgroup2 => "cgroup2",
        })
    }
}

/// How far a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// For all processes of a machine together.
    Machine,
    /// For each process by itself; many can get more together.
    Process,
    /// Not at all.
    Nothing,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::Process => "process",
            Self::Nothing => "none",
        })
    }
}

/// What an engine found out about this host when it opened, by trying it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How machines are kept apart: `namespaces` means by the one kernel they all share. It is
    /// not a virtual machine.
    pub isolation: &'static str,
    /// By what the limits are enforced.
    pub limits: Limits,
    /// How far the memory limit holds.
    pub memory: Hold,
    /// How far the limit on the number of processes holds.
    pub processes: Hold,
    /// How far the limit on processor time holds.
    pub cpu: Hold,
    /// How far the limit on what is written to files holds.
    pub disk: Hold,
    /// How far the limit on the rate of output holds.
    pub output: Hold,
    /// Why there are no better limits, and what would help; empty when all hold.
    pub advice: String,
}

impl Report {
    /// Whether every limit holds for a machine as a whole.
    #[must_use]
    pub fn holds(&self) -> bool {
        [
            self.memory,
            self.processes,
            self.cpu,
            self.disk,
            self.output,
        ]
        .iter()
        .all(|hold| *hold == Hold::Machine)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolation={} limits={}", self.isolation, self.limits)
    }
}

/// Why an engine did not open, or a machine did not start.
#[derive(Debug, Error)]
pub enum Error {
    /// This host cannot run machines as they are. Nothing less safe is tried.
    #[error("machines cannot be run here: {reason}\n{remedy}")]
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
    #[error("the machine cannot be made: {0}")]
    Spec(String),
    /// There is no such program in the machine.
    #[error("no such program in the machine: {0}")]
    NotFound(String),
    /// The program cannot be executed.
    #[error("cannot be executed in the machine: {program}: {reason}")]
    NotExecutable {
        /// The program.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// The working directory cannot be entered.
    #[error("no such working directory in the machine: {0}")]
    Workdir(String),
    /// The sandbox could not be set up.
    #[error("the sandbox could not be set up: {0}")]
    Boot(String),
    /// The machine did not come up in time and was removed.
    #[error("the machine did not come up within {0:?}")]
    Late(Duration),
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
    /// The machine already runs as many execs as it may.
    #[error("the machine is busy: {0}")]
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
    /// The end of a machine whose program cannot be started, as a shell tells it; `None` when it
    /// was not the program's fault and another try may do better.
    pub(crate) fn as_exit(&self) -> Option<Exit> {
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
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
