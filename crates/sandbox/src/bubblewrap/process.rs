//! One bubblewrap process: its arguments, environment and descriptors, and its start.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use command_fds::CommandFdExt;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};

use crate::procfs::{MARK, SANDBOX};

/// One bubblewrap process to be started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) options: Vec<OsString>,
    /// What is run inside.
    pub(super) command: Vec<OsString>,
    /// Descriptors that the options name; they keep their numbers.
    pub(super) keep: Vec<OwnedFd>,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The user it runs as, when the server is root.
    pub(super) uid: Option<u32>,
    pub(super) mark: String,
    pub(super) sandbox: String,
}

/// Starts it; returns once bubblewrap has been exec'ed. To be called on the starting thread.
pub(super) fn start(launch: Launch) -> io::Result<Child> {
    let options = memfd(c"options", &nul_separated(&launch.options))?;
    let mut command = Command::new(launch.program);
    command
        .arg("--args")
        .arg(options.as_raw_fd().to_string())
        .arg("--")
        .args(launch.command);
    // The options are not in the command line, which all users of the host can read.
    command
        .env_clear()
        .env(MARK, launch.mark)
        .env(SANDBOX, launch.sandbox)
        .current_dir("/");
    command
        .stdin(launch.stdin)
        .stdout(launch.stdout)
        .stderr(launch.stderr);
    if let Some(uid) = launch.uid {
        // The standard library drops all supplementary groups with this.
        command.uid(uid).gid(uid);
    }
    // In the child only: in the server every descriptor stays closed to all other children.
    command.preserved_fds(launch.keep.into_iter().chain([options]).collect());
    command.spawn()
}

/// A nameless file in memory with these contents, to be read from its start.
pub(super) fn memfd(name: &std::ffi::CStr, contents: &[u8]) -> io::Result<OwnedFd> {
    let mut file = fs::File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(contents)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}

fn nul_separated(words: &[OsString]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.as_bytes().iter().copied().chain([0]))
        .collect()
}
