//! Unpacking an image in a process of its own, which has no rights.
//!
//! Whoever made the image is not trusted, and the code that reads it is large: decompressors, tar,
//! JSON. So the program starts itself once more under the name [`ROLE`] and that process reads the
//! image. It sees its staged folder and the source, and nothing else of the file system; it has no
//! network, no capabilities, only the system calls that unpacking needs, and bounds of memory,
//! processor time and time. What it says comes back as one line of JSON, and is checked. Names,
//! locks and the list of images stay with the process that was asked for the import.
//!
//! Where the kernel refuses namespaces (as in most containers) the process sees the file system as
//! its user does; everything else holds there too.

mod child;
mod jail;
mod seccomp;

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::index::write_whole;
use crate::limits::Limits;
use crate::reference::Reference;
use crate::roots::Staged;
use crate::source::Outcome;

pub use child::run_if_asked;

/// The name under which the program is started to unpack an image.
const ROLE: &str = "cofferdam-unpack";

/// Bytes of what the process says. An error holds paths and words of the image.
const REPLY_BYTES: usize = 16 << 10;

/// What the process is to do, besides its arguments: the staged folder and the source.
#[derive(Deserialize, Serialize)]
struct Job {
    /// The name that the image gets.
    wanted: String,
    limits: Limits,
    /// Images that are unpacked already.
    known: Vec<Digest>,
}

/// What came of it.
#[derive(Deserialize, Serialize)]
enum Reply {
    Done(Outcome),
    Failed(String),
}

/// Where the process reads the image from.
pub(crate) enum Input {
    /// An archive, or the folder of an OCI layout.
    Path(PathBuf),
    /// An archive that is passed on to its standard input.
    Stream(Box<dyn Read + Send>),
}

/// Has an image unpacked into the staged folder by `program`, which must call [`run_if_asked`].
pub(crate) fn unpack(
    program: &Path,
    input: Input,
    wanted: &Reference,
    known: Vec<Digest>,
    staged: &Staged,
    limits: &Limits,
) -> Result<Outcome, Error> {
    let folder = staged.canonical()?;
    let job = Job {
        wanted: wanted.key(),
        limits: limits.clone(),
        known,
    };
    write_whole(&job_file(&folder), &job)?;
    let mut command = Command::new(program);
    command
        .arg0(ROLE)
        .arg(&folder)
        // Memory is committed piece by piece, so that the bound counts what is used.
        .env_clear()
        .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let stream = match input {
        Input::Path(path) => {
            command.arg(path);
            None
        }
        Input::Stream(stream) => {
            command.stdin(Stdio::piped());
            Some(stream)
        }
    };
    let mut child = command
        .spawn()
        .map_err(Error::io("start the process that unpacks the image"))?;
    if let (Some(mut stream), Some(mut stdin)) = (stream, child.stdin.take()) {
        // It ends with the stream, or when nobody reads any more.
        std::thread::spawn(move || io::copy(&mut stream, &mut stdin));
    }
    let status = wait(&mut child, limits)?;
    if !status.success() {
        return Err(Error::Process(describe(status, limits)));
    }
    let reply = reply(&mut child)?;
    staged.clear_scaffolding(&job_file(&folder), &jail::view(&folder))?;
    match reply {
        Reply::Done(outcome) => Ok(outcome),
        Reply::Failed(why) => Err(Error::Process(why)),
    }
}

fn job_file(staged: &Path) -> PathBuf {
    staged.join("job.json")
}

/// Waits until the process has ended, and ends it when its time is up.
fn wait(child: &mut Child, limits: &Limits) -> Result<ExitStatus, Error> {
    let waiting = || Error::io("wait for the process that unpacks the image");
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .map_err(|fault| waiting()(fault.into()))?;
    let time = Timespec {
        tv_sec: i64::try_from(limits.process_time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limits.process_time.subsec_nanos()),
    };
    let ended = loop {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let in_time = matches!(ended, Ok(1..));
    if !in_time {
        let _ = child.kill();
    }
    let status = child.wait().map_err(waiting())?;
    ended.map_err(|fault| waiting()(fault.into()))?;
    if in_time {
        return Ok(status);
    }
    Err(Error::Process(format!(
        "the image was not unpacked within {} s",
        limits.process_time.as_secs_f32()
    )))
}

/// Which bound a process that did not end well has hit, as far as its end tells.
fn describe(status: ExitStatus, limits: &Limits) -> String {
    let signal = status.signal().and_then(Signal::from_named_raw);
    match signal {
        Some(Signal::XCPU) => format!(
            "unpacking the image takes more than {} s of processor time",
            limits.process_cpu.as_secs()
        ),
        // What the allocator does when it gets no more.
        Some(Signal::ABORT) => format!(
            "unpacking the image takes more than {} MiB of memory",
            limits.process_memory_bytes >> 20
        ),
        Some(Signal::XFSZ) => "the image has a file larger than all of it may be".to_owned(),
        _ => format!("the process that unpacks the image crashed: {status}"),
    }
}

fn reply(child: &mut Child) -> Result<Reply, Error> {
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(4 * REPLY_BYTES as u64)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read what the unpacking process says"))?;
    }
    serde_json::from_slice(&bytes)
        .map_err(|fault| Error::Process(format!("the unpacking process says nonsense: {fault}")))
}
