//! Control groups, version 1: a hierarchy for each controller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Counters, field, locate, number, read};
use crate::limits::{CPU_PERIOD_US, Quota};

const SHARES: &str = "cpu.shares";
/// The largest piece of memory that the kernel hands out at once.
const PIECE_MAX_BYTES: u64 = 2 << 20;

/// How much a sandbox weighs among its owner's for the processor, and while it boots. The starting thread
/// goes into its group then, and all other starts wait for that thread.
const WEIGHT: u32 = 1024;
const BOOT_WEIGHT: u32 = 32 * WEIGHT;

/// The engine's group in each hierarchy that is used.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    memory: PathBuf,
    pids: PathBuf,
    cpu: Option<PathBuf>,
    /// Counts only.
    cpuacct: Option<PathBuf>,
}

impl Groups {
    /// Makes the engine's group below the group the server is in, so that its limits hold for all
    /// sandboxes together.
    pub(crate) fn open(groups: &str, mounts: &str, name: &str) -> Result<Self, String> {
        let find = |controller| {
            let own = locate::own(groups, mounts, Some(controller))
                .ok_or_else(|| format!("no {controller} controller"))?;
            let folder = own.join(name);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(format!("{}: {error}", folder.display()))
                }
                _ => Ok(folder),
            }
        };
        let memory = find("memory")?;
        let pids = find("pids").inspect_err(|_| drop(fs::remove_dir(&memory)))?;
        Ok(Self {
            memory,
            pids,
            cpu: find("cpu").ok(),
            cpuacct: find("cpuacct").ok(),
        })
    }

    pub(crate) fn has_cpu(&self) -> bool {
        self.cpu.is_some()
    }

    /// The engine's folders; two controllers can share one.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let all = [
            Some(&self.memory),
            Some(&self.pids),
            self.cpu.as_ref(),
            self.cpuacct.as_ref(),
        ];
        let mut folders: Vec<_> = all.into_iter().flatten().cloned().collect();
        folders.sort();
        folders.dedup();
        folders
    }

    pub(crate) fn limit(&self, place: &Path, quota: &Quota) -> io::Result<()> {
        let memory = self.memory.join(place);
        fs::write(
            memory.join("memory.limit_in_bytes"),
            quota.memory_bytes.to_string(),
        )?;
        // Memory and swap together; only there when the kernel counts swap.
        let with_swap = memory.join("memory.memsw.limit_in_bytes");
        if with_swap.exists() {
            fs::write(with_swap, quota.memory_bytes.to_string())?;
        }
        // What waits in connections is not counted as memory here, but by itself if it is limited.
        // Without this a guest could fill up what the host has for all connections.
        let sockets = memory.join("memory.kmem.tcp.limit_in_bytes");
        if sockets.exists() {
            fs::write(sockets, quota.sockets_bytes().to_string())?;
        }
        fs::write(
            self.pids.join(place).join("pids.max"),
            quota.processes.to_string(),
        )?;
        if let Some(cpu) = &self.cpu {
            let cpu = cpu.join(place);
            fs::write(cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
            fs::write(cpu.join("cpu.cfs_quota_us"), quota.cpu_us.to_string())?;
            fs::write(cpu.join(SHARES), BOOT_WEIGHT.to_string())?;
        }
        Ok(())
    }
}

/// From now on the sandbox weighs what others do.
pub(crate) fn end_of_boot(folders: &[PathBuf]) -> io::Result<()> {
    let mut shares = folders.iter().map(|folder| folder.join(SHARES));
    match shares.find(|shares| shares.exists()) {
        Some(shares) => fs::write(shares, WEIGHT.to_string()),
        None => Ok(()),
    }
}

/// Moves the calling thread, and only that, into the group in all hierarchies.
pub(crate) fn enter<'a>(mut folders: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    folders.try_for_each(|folder| fs::write(folder.join("tasks"), "0"))
}

/// Whether the most that was held came to the limit. The kernel kills when the next piece does not
/// fit, which is larger than a page where it hands memory out in advance. What is not known counts as
/// reached: the sandbox's own limit is the usual cause.
fn reached(most: Option<u64>, limit: Option<u64>) -> bool {
    match (most, limit) {
        (Some(most), Some(limit)) => most.saturating_add(PIECE_MAX_BYTES) >= limit,
        (None, None) => false,
        _ => true,
    }
}

/// A file is read from whichever of the folders has it.
pub(crate) fn counters(folders: &[PathBuf]) -> Counters {
    let find = |name: &str| {
        let mut files = folders.iter().map(|folder| folder.join(name));
        files.find(|file| file.exists())
    };
    let events = find("memory.oom_control")
        .and_then(|file| read(file).ok())
        .unwrap_or_default();
    let number_of = |name| find(name).and_then(number);
    Counters {
        oom_kills: field(&events, "oom_kill").unwrap_or(0),
        // With swap, memory alone can stay below its limit while both together have come to theirs.
        own_limit_reached: [
            ("memory.max_usage_in_bytes", "memory.limit_in_bytes"),
            (
                "memory.memsw.max_usage_in_bytes",
                "memory.memsw.limit_in_bytes",
            ),
        ]
        .into_iter()
        .any(|(most, limit)| reached(number_of(most), number_of(limit))),
        cpu_ms: find("cpuacct.usage")
            .and_then(number)
            .map(|nanoseconds| nanoseconds / 1_000_000),
        peak_bytes: find("memory.max_usage_in_bytes").and_then(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_reached_when_the_next_piece_would_not_fit() {
        let mb = |mb: u64| Some(mb << 20);
        assert!(reached(mb(128), mb(128)));
        assert!(reached(Some((128 << 20) - 4096), mb(128)));
        assert!(!reached(mb(80), mb(128)));
        assert!(reached(None, mb(128)));
        assert!(
            !reached(None, None),
            "a part that the kernel does not count"
        );
    }
}
