//! How much a sandbox may have, in numbers, and the part of it that the kernel holds per process.

use std::io;

use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, Resource, Rlimit};

use crate::report::Limits;
use crate::spec::Spec;

/// Processor time is given out in slices of this length.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// Processes and threads of one sandbox. On a real one only memory bounds them.
pub(crate) const PROCESSES_MAX: u64 = 512;
/// Our own processes in a sandbox's group: bubblewrap twice, and init with its threads.
const PROCESSES_OURS: u64 = 16;
/// Less memory than this and the sandbox itself does not come up.
const MEMORY_MIN_MB: u64 = 16;
/// The kernel hands the memory of a crashed process to a program of the host, where the host has
/// one for that, even if none may be stored (0). With one byte it does not.
const CORE_BYTES_MAX: u64 = 1;
const OPEN_FILES_MAX: u64 = 4096;
const LOCKED_BYTES_MAX: u64 = 64 << 10;
const QUEUE_BYTES_MAX: u64 = 800 << 10;
const MB: u64 = 1 << 20;

/// Sizes of a sandbox's writable file systems, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) workspace: u64,
    pub(crate) tmp: u64,
    pub(crate) shm: u64,
}

/// What a sandbox as a whole may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u64,
    /// Processor time in each [`CPU_PERIOD_US`].
    pub(crate) cpu_us: u64,
}

impl Quota {
    pub(crate) fn of(spec: &Spec) -> Self {
        Self {
            memory_bytes: spec.memory_mb.max(MEMORY_MIN_MB).saturating_mul(MB),
            processes: PROCESSES_MAX + PROCESSES_OURS,
            cpu_us: u64::from(spec.cpus.max(1)) * CPU_PERIOD_US,
        }
    }

    /// The writable file systems hold no more than the sandbox's memory; where a group counts
    /// memory, what they hold is counted there too.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            workspace: self.memory_bytes,
            tmp: self.memory_bytes / 2,
            shm: self.memory_bytes / 4,
        }
    }

    /// What may wait in the sandbox's own connections, where the kernel counts that apart.
    pub(crate) fn sockets_bytes(&self) -> u64 {
        self.memory_bytes / 4
    }

    /// The limits that each process gets. Without a group there are two more: on processes, if
    /// the kernel counts them where `count_processes` says, and on each one's own memory. That is
    /// the memory it can write to, not its addresses: languages that reserve much and use little
    /// must go on running.
    pub(crate) fn per_process(&self, kind: Limits, count_processes: bool) -> Vec<(Resource, u64)> {
        let mut limits = vec![
            (Resource::Core, CORE_BYTES_MAX),
            (Resource::Nofile, OPEN_FILES_MAX),
            (Resource::Fsize, self.memory_bytes),
            (Resource::Memlock, LOCKED_BYTES_MAX),
            (Resource::Msgqueue, QUEUE_BYTES_MAX),
        ];
        if kind == Limits::Rlimit {
            limits.push((Resource::Data, self.memory_bytes));
            if count_processes {
                limits.push((Resource::Nproc, PROCESSES_MAX));
            }
        }
        limits
    }
}

/// Puts limits on the sandbox's init, which waits; all that it starts later inherits them. Limits
/// are only ever lowered.
///
/// It is done now rather than before the sandbox is made because from here on the kernel counts
/// processes per sandbox, even if many belong to one user. Setting another process's limits asks
/// that the caller's real ids be the same as the target's, or for a capability that root lacks in
/// many containers: so this thread takes the sandbox's real ids on for a moment. Nothing of the
/// sandbox runs yet. To be called on the starting thread.
pub(crate) fn apply(pid: u32, uid: Option<u32>, limits: &[(Resource, u64)]) -> io::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound)?;
    let Some(uid) = uid else {
        return lower(pid, limits);
    };
    let (own_uid, own_gid) = (rustix::process::getuid(), rustix::process::getgid());
    rustix::thread::set_thread_res_gid(Gid::from_raw(uid), None, None)?;
    rustix::thread::set_thread_res_uid(Uid::from_raw(uid), None, None)?;
    let lowered = lower(pid, limits);
    rustix::thread::set_thread_res_uid(own_uid, None, None)?;
    rustix::thread::set_thread_res_gid(own_gid, None, None)?;
    lowered
}

fn lower(pid: Pid, limits: &[(Resource, u64)]) -> io::Result<()> {
    for (resource, most) in limits {
        // What the server itself has is what the sandbox has until now.
        let now = rustix::process::getrlimit(*resource)
            .maximum
            .unwrap_or(u64::MAX);
        let most = Some(now.min(*most));
        rustix::process::prlimit(
            Some(pid),
            *resource,
            Rlimit {
                current: most,
                maximum: most,
            },
        )?;
    }
    Ok(())
}

/// Whether the kernel counts a user's processes for each user namespace by itself (Linux 5.14).
/// Before that a limit would count all processes of the server's user.
pub(crate) fn counts_per_namespace(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|n| n.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_release() {
        for (release, expected) in [
            ("5.13.19-generic", false),
            ("5.14.0", true),
            ("6.1.0-13-amd64", true),
            ("4.19.0", false),
            ("10.0", true),
            ("", false),
        ] {
            assert_eq!(counts_per_namespace(release), expected, "{release}");
        }
    }

    #[test]
    fn memory_per_process_is_limited_only_where_no_group_does() {
        let quota = Quota {
            memory_bytes: 64 * MB,
            processes: 10,
            cpu_us: CPU_PERIOD_US,
        };
        let data = |kind| {
            let limits = quota.per_process(kind, true);
            limits
                .iter()
                .any(|(resource, _)| *resource == Resource::Data)
        };
        assert!(data(Limits::Rlimit));
        assert!(!data(Limits::Cgroup1));
        assert!(!data(Limits::Cgroup2));
    }
}
