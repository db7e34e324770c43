//! Processes of others, and what this one was given.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, test_kill_process};

use crate::report::{Report, any};

const GROUP: &str = "processes";

/// The highest process number that is tried.
const PID_MAX: i32 = 65_536;

/// Names by which a variable that a guest must not have is known.
const SECRETS: [&str; 6] = [
    "FLY_API_TOKEN",
    "COFFERDAM_SIGNING_KEYS",
    "COFFERDAM_CONSOLE_KEYS",
    "REDIS_URL",
    "AWS_SECRET_ACCESS_KEY",
    "DOCKER_HOST",
];

struct Process {
    name: String,
    parent: i32,
}

pub(crate) fn probe(report: &mut Report) {
    let seen = visible();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let others: Vec<String> = seen
        .iter()
        .filter(|(pid, process)| !is_expected(**pid, process, own, &seen))
        .map(|(pid, process)| format!("{} ({pid})", process.name))
        .collect();
    report.note(GROUP, "other-processes", any(others, "none to be seen"));

    let reached: Vec<String> = (2..PID_MAX)
        .filter(|pid| *pid != own && !seen.contains_key(pid))
        // Threads answer as well, and are not listed.
        .filter(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        .filter(|pid| Pid::from_raw(*pid).is_some_and(|pid| test_kill_process(pid).is_ok()))
        .map(|pid| pid.to_string())
        .collect();
    report.note(GROUP, "signal-others", any(reached, "no other answers"));

    let first = fs::read("/proc/1/environ").unwrap_or_default();
    report.note(GROUP, "secrets-of-pid-1", secrets(&first));
    let mine = fs::read("/proc/self/environ").unwrap_or_default();
    report.note(GROUP, "secrets-in-environment", secrets(&mine));

    let mut inherited = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        if number > 2 && !target.starts_with("/proc/") {
            inherited.push(format!("{number} {target}"));
        }
    }
    report.note(
        GROUP,
        "inherited-descriptors",
        any(inherited, "none but 0, 1, 2"),
    );

    let mut shared = Vec::new();
    for kind in ["shm", "sem", "msg"] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        shared.extend(table.lines().skip(1).map(|line| format!("{kind} {line}")));
    }
    for folder in ["/dev/shm", "/dev/mqueue"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            shared.push(entry.path().display().to_string());
        }
    }
    report.note(GROUP, "shared-memory", any(shared, "none of others"));
}

fn visible() -> BTreeMap<i32, Process> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let process = Process {
            name: line("Name:").unwrap_or_default().trim().to_owned(),
            parent: line("PPid:")
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
        };
        seen.insert(pid, process);
    }
    seen
}

/// Whether a process belongs to this machine: the first, this one and its ancestors, threads of the
/// machine's own kernel, and the shell server that Fly puts into each machine.
fn is_expected(pid: i32, process: &Process, own: i32, seen: &BTreeMap<i32, Process>) -> bool {
    let is_kernel = pid == 2 || process.parent == 2;
    if pid == 1 || is_kernel || process.name == "hallpass" {
        return true;
    }
    let mut ancestor = own;
    while ancestor > 1 {
        if ancestor == pid {
            return true;
        }
        ancestor = seen.get(&ancestor).map_or(0, |process| process.parent);
    }
    false
}

fn secrets(environment: &[u8]) -> Result<String, String> {
    let variables = environment.split(|byte| *byte == 0);
    let names = variables.filter_map(|variable| {
        let text = String::from_utf8_lossy(variable);
        text.split_once('=').map(|(name, _)| name.to_owned())
    });
    any(
        names
            .filter(|name| SECRETS.contains(&name.as_str()))
            .collect(),
        "none",
    )
}
