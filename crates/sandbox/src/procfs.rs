//! What `/proc` tells about processes.
//!
//! A sandbox's processes are told from others by their pid namespace, which the kernel vouches for;
//! names, command lines and the like are the guest's own and only for people to read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::outcome::Process;

/// By this name in its environment a bubblewrap process tells which engine it belongs to.
pub(crate) const MARK: &str = "COFFERDAM_ENGINE";
/// And by this one, which sandbox it is.
pub(crate) const SANDBOX: &str = "COFFERDAM_SANDBOX";
/// Clock ticks per second in `/proc/PID/stat`; the same on all sandboxes Linux supports.
const TICKS_PER_S: u64 = 100;
/// A command line that is shown is cut to this.
const COMMAND_MAX_BYTES: usize = 4096;
/// The most processes that are listed.
const LISTED_MAX: usize = 4096;

/// A process of the host, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    /// Its number inside its own namespace.
    pub(crate) inner: u32,
    pub(crate) parent: u32,
}

/// All processes in the pid namespace of `pid`.
pub(crate) fn members(pid: u32) -> io::Result<Vec<Member>> {
    let namespace = namespace(pid)?;
    let same = |other: &u32| self::namespace(*other).is_ok_and(|found| found == namespace);
    Ok(all()?
        .filter(same)
        .filter_map(member)
        .take(LISTED_MAX)
        .collect())
}

/// A process as its sandbox sees it; `None` when it has ended meanwhile.
pub(crate) fn describe(member: Member) -> Option<Process> {
    let folder = folder(member.pid);
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let stat = Stat::parse(&stat)?;
    let mut command = fs::read(folder.join("cmdline")).ok()?;
    command.truncate(COMMAND_MAX_BYTES);
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    let directory = fs::read_link(folder.join("cwd")).unwrap_or_default();
    Some(Process {
        pid: member.inner,
        command: if words.is_empty() {
            stat.name
        } else {
            words.join(" ")
        },
        directory: directory.display().to_string(),
        cpu_ms: stat.cpu_ticks.saturating_mul(1000 / TICKS_PER_S),
        age_ms: uptime_ms().saturating_sub(stat.start_ticks.saturating_mul(1000 / TICKS_PER_S)),
        rss_bytes: stat.rss_pages.saturating_mul(page_bytes()),
    })
}

/// The processes that carry an engine's mark, or those of one sandbox of it.
pub(crate) fn marked(mark: &str, sandbox: Option<&str>) -> io::Result<Vec<u32>> {
    let engine = format!("{MARK}={mark}");
    let sandbox = sandbox.map(|sandbox| format!("{SANDBOX}={sandbox}"));
    let is_marked = |pid: &u32| {
        let environment = fs::read(folder(*pid).join("environ")).unwrap_or_default();
        let has = |wanted: &str| {
            environment
                .split(|byte| *byte == 0)
                .any(|v| v == wanted.as_bytes())
        };
        has(&engine) && sandbox.as_deref().is_none_or(has)
    };
    Ok(all()?.filter(is_marked).collect())
}

/// Whether `pid` is `ancestor` or was started by it, over any number of steps.
pub(crate) fn descends(pid: u32, ancestor: u32) -> bool {
    let mut at = pid;
    while at != ancestor {
        match member(at) {
            Some(found) if found.parent != 0 => at = found.parent,
            _ => return false,
        }
    }
    true
}

/// Whether there is such a process, be it a zombie.
pub(crate) fn exists(pid: u32) -> bool {
    folder(pid).exists()
}

fn all() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

fn namespace(pid: u32) -> io::Result<PathBuf> {
    fs::read_link(folder(pid).join("ns/pid"))
}

fn member(pid: u32) -> Option<Member> {
    let status = fs::read_to_string(folder(pid).join("status")).ok()?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let inner = line("NSpid:").and_then(|numbers| numbers.split_whitespace().last()?.parse().ok());
    let parent = line("PPid:")?.trim().parse().ok()?;
    Some(Member {
        pid,
        inner: inner.unwrap_or(pid),
        parent,
    })
}

fn folder(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The fields of `/proc/PID/stat` that are used.
struct Stat {
    name: String,
    cpu_ticks: u64,
    start_ticks: u64,
    rss_pages: u64,
}

impl Stat {
    /// The name is in parentheses and can itself contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let field = |number: usize| -> Option<u64> {
            // The first field after the name is the third.
            after.split_whitespace().nth(number - 3)?.parse().ok()
        };
        Some(Self {
            name: name.to_owned(),
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            start_ticks: field(22)?,
            rss_pages: field(24)?,
        })
    }
}

fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let (seconds, rest) = text.split_once('.').unwrap_or(("0", "0"));
    let hundredths = rest
        .get(..2)
        .and_then(|digits| digits.parse::<u64>().ok())
        .unwrap_or(0);
    seconds
        .parse::<u64>()
        .unwrap_or(0)
        .saturating_mul(1000)
        .saturating_add(hundredths * 10)
}

fn page_bytes() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let tail = (3..=24)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let stat = Stat::parse(&format!("7 (a) b (c)) {tail}")).unwrap();
        assert_eq!(stat.name, "a) b (c)");
        assert_eq!(
            (stat.cpu_ticks, stat.start_ticks, stat.rss_pages),
            (14 + 15, 22, 24)
        );
    }

    #[test]
    fn this_process_descends_from_its_parent_and_not_the_other_way() {
        let us = std::process::id();
        let parent = member(us).unwrap().parent;
        assert!(descends(us, us));
        assert!(descends(us, parent));
        assert!(!descends(parent, us));
    }

    #[test]
    fn this_process_is_described() {
        let own = members(std::process::id()).unwrap();
        let own = own
            .into_iter()
            .find(|member| member.pid == std::process::id())
            .unwrap();
        let described = describe(own).unwrap();
        assert!(described.rss_bytes > 0);
        assert!(described.command.contains("cofferdam"), "{described:?}");
    }
}
