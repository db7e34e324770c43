//! What a sandbox is to be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// What a sandbox is to be, resolved: no image names, no defaults left open.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The sandbox's id; names its control group and its folders.
    pub id: String,
    /// Whose it is: sandboxes of one owner have one share of the processor together, as large as any
    /// other owner's.
    pub owner: String,
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
    /// Memory for all processes of the sandbox together, in MiB.
    pub memory_mb: u64,
    /// Processors' worth of time the sandbox may use.
    pub cpus: u32,
    /// Port of the sandbox's own listener, at 127.0.0.1 inside of it; every other is the guest's.
    pub port: u16,
}

/// Where a sandbox's root file system comes from. It is never writable by the guest.
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
    /// Absolute path inside the sandbox.
    pub path: String,
    /// Contents.
    pub bytes: Bytes,
    /// Permission bits.
    pub mode: u32,
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
