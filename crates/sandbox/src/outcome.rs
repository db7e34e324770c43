//! What comes of a sandbox: its end, what an exec brought, what runs in it.

/// How a sandbox's main process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, when it exited by itself.
    pub code: Option<i32>,
    /// Signal number, when a signal ended it.
    pub signal: Option<i32>,
    /// The kernel killed the main process because the sandbox's own memory ran out.
    pub oom_killed: bool,
    /// The kernel killed the main process because memory ran out around the sandbox, which was
    /// within its own limit: the host's, or that of a group around all sandboxes.
    pub oom_killed_by_host: bool,
    /// The kernel killed some other process of the sandbox because memory ran out.
    pub oom_elsewhere: bool,
    /// Processor time used by the whole sandbox, in milliseconds, where it is known.
    pub cpu_ms: Option<u64>,
    /// The most memory the sandbox held at once, in bytes, where it is known.
    pub peak_bytes: Option<u64>,
    /// Why the program never ran, when it could not be started at all.
    pub error: Option<String>,
}

/// What an exec inside a running sandbox brought.
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

/// One process of a running sandbox, as the sandbox itself sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id inside the sandbox.
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
