//! The command: started in a session of its own, and how it ended.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The first argument by which the agent starts itself as the command's first step: leaving the
/// agent's session needs a process of its own.
pub(crate) const ROLE: &str = "start-command";
/// What a shell exits with for a command that is not there, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUNNABLE: i32 = 126;
/// Where a command works when nobody says.
const WORKSPACE: &str = "/workspace";

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Its exit code, if it ended by itself.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Processor time of it and all it waited for.
    pub(crate) cpu: Option<Duration>,
    /// The largest of its processes, in bytes of memory.
    pub(crate) peak_bytes: Option<u64>,
}

impl Ended {
    /// It did not end, or nobody knows how.
    pub(crate) const UNKNOWN: Self = Self {
        code: None,
        signal: None,
        cpu: None,
        peak_bytes: None,
    };

    /// As a shell tells it: 128 and the signal's number for one that was killed.
    pub(crate) fn status(&self) -> i32 {
        self.code
            .or_else(|| self.signal.map(|signal| 128 + signal))
            .unwrap_or(128 + 9)
    }
}

/// Starts `command` with `stdin` as its input.
pub(crate) fn start(command: &[String], stdin: Option<&Path>) -> Result<Child, String> {
    let input = match stdin {
        None => Stdio::null(),
        Some(path) => File::open(path)
            .map_err(|error| format!("standard input {}: {error}", path.display()))?
            .into(),
    };
    let environment = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        !name.starts_with("SANDBOX_")
    });
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let has_workspace = has_workspace();
    let mut child = Command::new("/proc/self/exe");
    child.arg(ROLE).args(command).env_clear().envs(environment);
    match home {
        Some(home) => child.env("HOME", home),
        None if has_workspace => child.env("HOME", WORKSPACE),
        None => child.env("HOME", "/"),
    };
    if let Some(folder) = folder(has_workspace) {
        child.current_dir(folder);
    }
    child
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the command: {error}"))
}

/// Whether the workspace is there. On Fly nobody else makes it; where it cannot be made, the command
/// works where it is.
fn has_workspace() -> bool {
    let workspace = Path::new(WORKSPACE);
    workspace.is_dir() || std::fs::create_dir(workspace).is_ok()
}

/// The working folder, made if it is the workspace.
pub(crate) fn make_folder() -> Option<PathBuf> {
    folder(has_workspace())
}

/// The working folder: the machine's own, or the workspace where that is the root.
pub(crate) fn folder(has_workspace: bool) -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    match here {
        Some(here) if here != Path::new("/") => Some(here),
        _ if has_workspace => Some(PathBuf::from(WORKSPACE)),
        here => here,
    }
}

/// In the new process: leaves the agent's session and becomes the command. Answers the exit status
/// if that cannot be.
pub(crate) fn exec(command: &[String]) -> i32 {
    let Some((program, arguments)) = command.split_first() else {
        return NOT_FOUND;
    };
    if let Err(error) = nix::unistd::setsid() {
        crate::say(&format!("cannot make a session: {error}"));
        return NOT_RUNNABLE;
    }
    let error = Command::new(program).args(arguments).exec();
    crate::say(&format!("cannot run {program}: {error}"));
    if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_RUNNABLE
    }
}

/// Waits for the command's end, and meanwhile for the orphans that the agent adopted.
pub(crate) fn wait(child: &Child) -> Ended {
    let command = i32::try_from(child.id()).map(Pid::from_raw).ok();
    let (code, signal) = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if Some(pid) == command => break (Some(code), None),
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == command => {
                break (None, Some(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Ended::UNKNOWN,
        }
    };
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
    Ended {
        code,
        signal,
        cpu: usage.and_then(|usage| {
            let micros = micros(usage.user_time())? + micros(usage.system_time())?;
            Some(Duration::from_micros(micros))
        }),
        // Linux tells it in KiB (getrusage(2)).
        peak_bytes: usage.and_then(|usage| u64::try_from(usage.max_rss()).ok()?.checked_mul(1024)),
    }
}

fn micros(time: nix::sys::time::TimeVal) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    let rest = u64::try_from(time.tv_usec()).ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(rest)
}
