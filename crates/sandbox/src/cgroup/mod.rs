//! Control groups: one for every sandbox, below one for each owner of sandboxes, below one of the engine.
//!
//! ```text
//!  engine ─┬─ owner a ─┬─ sandbox      each owner has the same share of the processor,
//!          │           └─ sandbox      however many sandboxes it has
//!          └─ owner b ─── sandbox
//! ```
//!
//! Both versions of the interface are used as they are found, never mounted or arranged anew for
//! others. A group says what a sandbox may have, what it had, and whether the kernel killed
//! something in it because memory ran out; that is the only proof of it, and it is gone with the
//! group.

mod locate;
mod v1;
mod v2;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::Quota;
use crate::report::Limits;

/// How often and after what pause a group that still seems to be in use is removed again.
const REMOVE_TRIES: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// Groups from that of a sandbox up to the one that the engine's is in.
const ABOVE: usize = 3;
/// Bytes of an owner that tell it from others: each is three at most in the name of a folder.
const OWNER_MAX: usize = 80;

/// The engine's own group, in which those of the sandboxes are made.
#[derive(Clone, Debug)]
pub(crate) enum Groups {
    V1(v1::Groups),
    V2(v2::Groups),
}

/// What a group knows about the sandbox that was in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// So many processes were killed by the kernel because memory ran out.
    pub(crate) oom_kills: u64,
    /// The sandbox had come to its own limit; else the memory that ran out was not its own.
    pub(crate) own_limit_reached: bool,
    /// Processor time, in milliseconds.
    pub(crate) cpu_ms: Option<u64>,
    /// The most memory held at once, in bytes.
    pub(crate) peak_bytes: Option<u64>,
}

impl Groups {
    /// Finds where groups of this kind can be made, and makes the engine's, of this name. Says why
    /// when none can be had.
    pub(crate) fn open(kind: Limits, name: &str) -> Result<Self, String> {
        let groups = read("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let mounts = read("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        match kind {
            Limits::Cgroup2 => v2::Groups::open(&groups, &mounts, name).map(Self::V2),
            Limits::Cgroup1 => v1::Groups::open(&groups, &mounts, name).map(Self::V1),
            Limits::Rlimit => Err("not a kind of group".into()),
        }
    }

    /// Which kind they are.
    pub(crate) fn kind(&self) -> Limits {
        match self {
            Self::V1(_) => Limits::Cgroup1,
            Self::V2(_) => Limits::Cgroup2,
        }
    }

    /// Whether processor time can be limited too.
    pub(crate) fn has_cpu(&self) -> bool {
        match self {
            Self::V1(groups) => groups.has_cpu(),
            Self::V2(groups) => groups.has_cpu(),
        }
    }

    /// The folders of the engine's group.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        match self {
            Self::V1(groups) => groups.folders(),
            Self::V2(groups) => vec![groups.folder().to_owned()],
        }
    }

    /// Makes a group among its owner's with its limits in force. It is an error if one of that name
    /// exists.
    pub(crate) fn make(&self, owner: &str, name: &str, quota: &Quota) -> io::Result<Group> {
        let place = Path::new(&owner_name(owner)).join(name);
        let group = Group {
            folders: self
                .folders()
                .iter()
                .map(|folder| folder.join(&place))
                .collect(),
            kind: self.kind(),
        };
        for (made, folder) in group.folders.iter().enumerate() {
            if let Err(error) = self.make_folder(folder) {
                discard(&group.folders[..made]);
                return Err(error);
            }
        }
        let limited = match self {
            Self::V1(groups) => groups.limit(&place, quota),
            Self::V2(groups) => groups.limit(&place, quota),
        };
        limited.inspect_err(|_| discard(&group.folders))?;
        Ok(group)
    }

    /// Makes the folder of a sandbox's group, and that of its owner, which goes with the owner's last
    /// sandbox and can do so just now.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let owner = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut tries = 0;
        loop {
            let made = match fs::create_dir(owner) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => self.share(owner).and_then(|()| fs::create_dir(folder)),
            };
            match made {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < REMOVE_TRIES => {
                    tries += 1;
                }
                made => return made,
            }
        }
    }

    /// Lets the groups in an owner's be limited one by one.
    fn share(&self, owner: &Path) -> io::Result<()> {
        match self {
            Self::V1(_) => Ok(()),
            Self::V2(groups) => groups.share(owner),
        }
    }

    /// Removes the engine's group; no sandbox may be in it.
    pub(crate) fn close(&self) {
        for folder in self.folders() {
            for owner in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(owner.path());
            }
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The group of one sandbox. It is not removed by being dropped.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
    kind: Limits,
}

impl Group {
    /// Starts a process so that it is started in the group, where that can be: with version 1 a
    /// single thread can go into a group and come back.
    pub(crate) fn spawn_inside<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.needs_move() {
            return start();
        }
        // The processor's comes first in the list: into it last, and out of it first, since others wait
        // for this thread, which has no more of the processor there than the sandbox.
        let folders = self.folders.iter().map(PathBuf::as_path);
        let started = v1::enter(folders.clone().rev()).and_then(|()| start());
        // Above its owner's and the engine's is the group that the server is in.
        let homes = folders.filter_map(|folder| folder.ancestors().nth(ABOVE));
        if let Err(error) = v1::enter(homes) {
            // The next start moves the thread on, so only this group stays.
            tracing::warn!(%error, "the starting thread could not leave a control group");
        }
        started
    }

    /// Whether what is started is not started in the group and has to be moved there.
    pub(crate) fn needs_move(&self) -> bool {
        self.kind != Limits::Cgroup1
    }

    /// The guest's program is about to start.
    pub(crate) fn end_of_boot(&self) -> io::Result<()> {
        match self.kind {
            Limits::Cgroup1 => v1::end_of_boot(&self.folders),
            _ => Ok(()),
        }
    }

    /// Moves a process, with all its threads, into the group. What it starts later starts there.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        for folder in &self.folders {
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Whether a process is in the group, in all its parts.
    pub(crate) fn contains(&self, pid: u32) -> io::Result<bool> {
        let groups = read(format!("/proc/{pid}/cgroup"))?;
        let is_in = |folder: &PathBuf| {
            let names: Vec<_> = folder.iter().rev().take(ABOVE).collect();
            let ends = |line: &str| {
                Path::new(line)
                    .iter()
                    .rev()
                    .take(ABOVE)
                    .eq(names.iter().copied())
            };
            groups.lines().filter(|line| ends(line)).count()
        };
        // All parts have the same last names, in as many hierarchies as there are parts.
        Ok(self.folders.first().map_or(0, is_in) >= self.folders.len())
    }

    /// What the group has counted. To be read before it is removed.
    pub(crate) fn counters(&self) -> Counters {
        match self.kind {
            Limits::Cgroup2 => v2::counters(&self.folders[0]),
            _ => v1::counters(&self.folders),
        }
    }

    /// Removes the group if nothing was ever in it.
    pub(crate) fn discard(&self) {
        discard(&self.folders);
    }

    /// Removes the group as soon as the kernel has let go of its last process.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        for folder in &self.folders {
            remove(folder).await?;
            leave_owner(folder);
        }
        Ok(())
    }
}

fn discard(folders: &[PathBuf]) {
    for folder in folders {
        let _ = fs::remove_dir(folder);
        leave_owner(folder);
    }
}

/// Removes the group of an owner, if this was the last one in it.
fn leave_owner(folder: &Path) {
    if let Some(owner) = folder.parent() {
        let _ = fs::remove_dir(owner);
    }
}

/// The name of an owner's group: any text makes one of its own, up to a length.
fn owner_name(owner: &str) -> String {
    let mut name = "of-".to_owned();
    for byte in owner.bytes().take(OWNER_MAX) {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02x}");
        }
    }
    name
}

/// Ends everything in the groups of an engine that is gone, and removes them. Only a folder of
/// this name is touched.
pub(crate) async fn sweep(folder: &Path, name: &str) -> io::Result<()> {
    if folder.file_name().is_none_or(|last| last != name) || !folder.is_dir() {
        return Ok(());
    }
    empty(folder).await?;
    remove(folder).await
}

/// The same for the groups in this folder, but not for the folder.
pub(crate) async fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let group = entry?.path();
        if group.is_dir() {
            // An owner's, with those of its sandboxes.
            Box::pin(empty(&group)).await?;
            end_all(&group).await?;
            remove(&group).await?;
        }
    }
    Ok(())
}

/// Kills what is in a group until nothing is: something may fork meanwhile.
async fn end_all(group: &Path) -> io::Result<()> {
    for _ in 0..REMOVE_TRIES {
        let processes = processes(group)?;
        if processes.is_empty() {
            return Ok(());
        }
        for pid in processes {
            if let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    }
    Err(io::Error::other(format!(
        "{} does not get empty",
        group.display()
    )))
}

async fn remove(folder: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVE_TRIES => {
                tries += 1;
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
}

fn processes(folder: &Path) -> io::Result<Vec<u32>> {
    let text = read(folder.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

fn read(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(path)
}

/// The number after `name` in a file of lines like `oom_kill 3`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// The number that is all of a file.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_owner_has_a_folder_of_its_own() {
        assert_eq!(owner_name("team_a-1"), "of-team_a-1");
        assert_eq!(owner_name("a.b:c"), "of-a%2eb%3ac");
        assert_eq!(owner_name(".."), "of-%2e%2e");
        assert_eq!(owner_name("a/b"), "of-a%2fb");
        assert_eq!(owner_name(""), "of-");
        assert!(owner_name(&"/".repeat(1000)).len() <= 255);
    }
}
