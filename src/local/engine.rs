//! The seam between the Machines server and what runs a machine.
//!
//! The server speaks of machines and their lives; an engine turns one [`Spec`] into a real,
//! isolated process tree and tells how it ended. gVisor and a microVM can stand behind the same
//! types later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

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
