//! The process that unpacks: it gives up its rights, then reads the image.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

use super::{Job, REPLY_BYTES, ROLE, Reply, jail, job_file, seccomp};
use crate::error::Error;
use crate::limits::Limits;
use crate::plan::parse;
use crate::reference::Reference;
use crate::roots::Staged;
use crate::source::{self, Outcome};

/// Files open at once: one for each folder inside another, and a few.
const FILES: u64 = 256;

/// Unpacks an image if the program was started to do so, under a name of its own; `None` otherwise.
/// To be called before anything else: threads and open files would be taken along.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if arguments.next()? != OsStr::new(ROLE) {
        return None;
    }
    let staged = arguments.next()?;
    let source = arguments.next();
    let reply = match unpack(Path::new(&staged), source.as_deref().map(Path::new)) {
        Ok(outcome) => Reply::Done(outcome),
        Err(fault) => Reply::Failed(fault.to_string().chars().take(REPLY_BYTES / 4).collect()),
    };
    let said = serde_json::to_vec(&reply)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::io::stdout().write_all(&bytes));
    Some(match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn unpack(folder: &Path, path: Option<&Path>) -> Result<Outcome, Error> {
    let lost = |fault: rustix::io::Errno| Error::io("give up rights")(fault.into());
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(lost)?;
    let file = job_file(folder);
    let job = std::fs::read(&file).map_err(Error::io("read what is to be unpacked"))?;
    let job: Job = parse(file.display(), &job)?;
    let limits = &job.limits;
    // Namespaces that the kernel refuses are done without: see the module above.
    let _ = jail::enter(folder, path);
    let staged = Staged::existing(folder);
    let opened = match path {
        Some(path) => source::open(path)?,
        None => source::Opened::Stream(Box::new(std::io::stdin())),
    };
    bound(limits).map_err(lost)?;
    drop_capabilities().map_err(lost)?;
    seccomp::allow_only_what_unpacking_needs().map_err(Error::io("give up system calls"))?;
    let wanted = Reference::parse(&job.wanted)?;
    let is_known = |digest: &_| job.known.contains(digest);
    source::unpack(opened, &staged, &wanted, &is_known, limits)
}

fn bound(limits: &Limits) -> rustix::io::Result<()> {
    let all = [
        (Resource::Data, limits.process_memory_bytes),
        (Resource::Stack, 8 << 20),
        // The archive may be spread out beside its contents.
        (
            Resource::Fsize,
            limits.unpacked_bytes.max(limits.source_bytes),
        ),
        (Resource::Nofile, FILES),
        (Resource::Core, 0),
    ];
    // One second more until it is killed, so that its end tells why.
    let cpu_s = limits.process_cpu.as_secs().max(1);
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(cpu_s),
            maximum: Some(cpu_s + 1),
        },
    )?;
    for (resource, most) in all {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

fn drop_capabilities() -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}
