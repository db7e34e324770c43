//! Control groups, version 2: one hierarchy, in which a group has either processes or controlled
//! groups below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Counters, field, locate, number, processes, read};
use crate::limits::{CPU_PERIOD_US, Quota};
use crate::procfs;

/// The group the server moves itself into when sandboxes' groups go beside it.
const SERVER: &str = "cofferdam-server";
/// Without these there is no group for sandboxes; `cpu` is used where it is to be had.
const NEEDED: [&str; 2] = ["memory", "pids"];

/// The engine's group.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    folder: PathBuf,
    cpu: bool,
}

impl Groups {
    /// Makes the engine's group below the group the server is in, so that its limits hold for all
    /// sandboxes together. If that has processes of others in it, who must stay, then below the
    /// nearest group above that can have one.
    pub(crate) fn open(groups: &str, mounts: &str, name: &str) -> Result<Self, String> {
        let own = locate::own(groups, mounts, None).ok_or("not mounted")?;
        let top = locate::top(mounts).ok_or("not mounted")?;
        // An earlier engine of this process has moved it already.
        let own = match own.file_name() {
            Some(last) if last == SERVER => own.parent().unwrap_or(&own).to_owned(),
            _ => own,
        };
        let mut reasons = Vec::new();
        for parent in own
            .ancestors()
            .take_while(|parent| parent.starts_with(&top))
        {
            match below(parent, name, parent == own) {
                Ok(found) => return Ok(found),
                Err(reason) => reasons.push(format!("{}: {reason}", parent.display())),
            }
        }
        Err(reasons.join(", "))
    }

    pub(crate) fn has_cpu(&self) -> bool {
        self.cpu
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets the groups in one of these be limited one by one.
    pub(crate) fn share(&self, owner: &Path) -> io::Result<()> {
        enable(owner, if self.cpu { "cpu" } else { "" })
    }

    pub(crate) fn limit(&self, place: &Path, quota: &Quota) -> io::Result<()> {
        let group = self.folder.join(place);
        fs::write(group.join("memory.max"), quota.memory_bytes.to_string())?;
        // Only there when the kernel counts swap.
        let swap = group.join("memory.swap.max");
        if swap.exists() {
            fs::write(swap, "0")?;
        }
        fs::write(group.join("pids.max"), quota.processes.to_string())?;
        if self.cpu {
            let limit = format!("{} {CPU_PERIOD_US}", quota.cpu_us);
            fs::write(group.join("cpu.max"), limit)?;
        }
        Ok(())
    }
}

/// Makes the engine's group below `parent`, with controllers for the groups in it.
fn below(parent: &Path, name: &str, own: bool) -> Result<Groups, String> {
    let say = |error: io::Error| error.to_string();
    let offered = read(parent.join("cgroup.controllers")).map_err(say)?;
    if let Some(missing) = NEEDED.iter().find(|needed| !has(&offered, needed)) {
        return Err(format!("no {missing} controller is delegated to it"));
    }
    let enabled = read(parent.join("cgroup.subtree_control")).map_err(say)?;
    if !NEEDED.iter().all(|needed| has(&enabled, needed)) {
        if own {
            move_server_below(parent)?;
        }
        enable(parent, &offered).map_err(say)?;
    } else if !has(&enabled, "cpu") {
        let _ = enable(parent, &offered);
    }
    let folder = parent.join(name);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(say(error)),
        _ => {}
    }
    let offered = read(folder.join("cgroup.controllers")).map_err(say)?;
    if let Err(error) = enable(&folder, &offered) {
        let _ = fs::remove_dir(&folder);
        return Err(say(error));
    }
    Ok(Groups {
        folder,
        cpu: has(&offered, "cpu"),
    })
}

/// Moves the server and its children out of its group into one below, if nobody else is there.
fn move_server_below(own: &Path) -> Result<(), String> {
    let say = |error: io::Error| error.to_string();
    // The topmost group of all may have both processes and groups.
    if !own.join("cgroup.type").exists() {
        return Ok(());
    }
    let here = processes(own).map_err(say)?;
    let us = std::process::id();
    if let Some(other) = here.iter().find(|pid| !procfs::descends(**pid, us)) {
        return Err(format!("it also holds process {other}"));
    }
    let server = own.join(SERVER);
    match fs::create_dir(&server) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(say(error)),
        _ => {}
    }
    for pid in here {
        match fs::write(server.join("cgroup.procs"), pid.to_string()) {
            Err(_) if !procfs::exists(pid) => {}
            Err(error) => return Err(say(error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn enable(group: &Path, offered: &str) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    fs::write(&control, "+memory +pids")?;
    if has(offered, "cpu") {
        fs::write(&control, "+cpu")?;
    }
    Ok(())
}

fn has(controllers: &str, name: &str) -> bool {
    controllers
        .split_whitespace()
        .any(|controller| controller == name)
}

pub(crate) fn counters(folder: &Path) -> Counters {
    let file = |name: &str| read(folder.join(name)).unwrap_or_default();
    let events = file("memory.events");
    Counters {
        oom_kills: field(&events, "oom_kill").unwrap_or(0),
        // Counts each time that this group's own limit left nothing to hand out; a kill for the
        // limit of a group around it, or for the host, is not among them.
        own_limit_reached: field(&events, "oom").is_none_or(|times| times > 0),
        cpu_ms: field(&file("cpu.stat"), "usage_usec").map(|microseconds| microseconds / 1000),
        peak_bytes: number(folder.join("memory.peak")),
    }
}
