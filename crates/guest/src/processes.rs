//! Ends what the command started and left behind.
//!
//! The agent adopts the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`), so whatever a
//! command leaves in the background, also in a session of its own, stays below the agent. Nothing else
//! is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

/// Processes that are made while others are killed are met in the next round.
const ROUNDS: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Asks everything that the command started to end.
pub(crate) fn terminate() {
    for pid in descendants() {
        let _ = send(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Kills everything that the command started, until nothing is left or some rounds are over.
pub(crate) fn kill() {
    for round in 0..ROUNDS {
        let living = descendants();
        if living.is_empty() {
            return;
        }
        if round > 0 {
            thread::sleep(PAUSE);
        }
        for pid in living {
            // One that has ended meanwhile, or is not ours to kill.
            let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The living processes that descend from this one.
fn descendants() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let mut dead = BTreeSet::new();
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((state, parent)) = state_and_parent(&stat) else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
        if matches!(state, 'Z' | 'X') {
            dead.insert(pid);
        }
    }
    let mut next: Vec<i32> = i32::try_from(std::process::id()).into_iter().collect();
    let mut found = Vec::new();
    while let Some(parent) = next.pop() {
        // Taken out, so that numbers that were given anew while reading cannot make a circle.
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child);
            found.push(child);
        }
    }
    found.retain(|pid| !dead.contains(pid));
    found
}

/// Of a line of `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where the name can hold anything.
fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_confuses_nobody() {
        let stat = "17 (a) R 9 (b) S 12 17 17 0 -1 4194560 0";
        assert_eq!(state_and_parent(stat), Some(('S', 12)));
        assert_eq!(state_and_parent("17"), None);
    }

    #[test]
    fn descendants_are_found_and_nothing_else() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 100 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let found = descendants();
        let shell = i32::try_from(child.id()).unwrap();
        assert!(found.contains(&shell) && found.len() >= 2, "{found:?}");
        assert!(!found.contains(&1));
        for pid in found {
            let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
        }
        child.wait().unwrap();
    }
}
