//! The order of modules, one home for each outside name, and the habits of every file.
//!
//! It reads the source as text. Comments do not count, so a doc link may point upwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and its rank. A module uses modules of lower ranks.
const RANKS: &[(&str, u8)] = &[
    // Values: no I/O, no async, no reading of clocks.
    ("run", 0),
    ("token", 0),
    ("clock", 0),
    // The process around the work.
    ("config", 1),
    ("descriptors", 1),
    ("telemetry", 1),
    ("shutdown", 1),
    ("milestone", 1),
    // Doors: each owns one outside thing.
    ("store", 2),
    ("machines", 2),
    ("http", 2),
    ("artifacts", 2),
    ("traces", 2),
    // Verbs.
    ("stage", 3),
    // Services, and what puts their parts together.
    ("assembly", 4),
    ("worker", 4),
    ("sweeper", 4),
    ("endpoint", 4),
    ("admin", 4),
    ("console", 4),
    ("local", 4),
    // Hands.
    ("up", 5),
    ("cli", 5),
];

/// What a module may use of its own rank or above, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "run",
        "clock",
        "a time is a number of milliseconds; nothing in `run` reads a clock",
    ),
    ("token", "run", "a token opens a run and an attempt"),
    ("telemetry", "config", "the form of log lines is a setting"),
    (
        "shutdown",
        "milestone",
        "every loop begins with a milestone",
    ),
    (
        "sweeper",
        "worker",
        "what is overdue is handed to the worker's tasks",
    ),
    ("cli", "up", "`up` is a command"),
];

/// Outside names and the parts of `src` that may use them.
const HOMES: &[(&str, &[&str])] = &[
    ("redis::", &["store/"]),
    ("reqwest::", &["machines/", "traces/"]),
    ("opentelemetry::", &["traces/"]),
    ("opentelemetry_sdk::", &["traces/"]),
    ("opentelemetry_otlp::", &["traces/"]),
    ("opentelemetry_http::", &["traces/"]),
    ("object_store::", &["artifacts/"]),
    ("prometheus::", &["telemetry/"]),
    (
        "ring::",
        &[
            "run/",
            "token/mod.rs",
            "artifacts/presign.rs",
            "console/access.rs",
            "stage/report.rs",
            "local/",
            "up/",
            "main.rs",
            "crates/images/",
        ],
    ),
    ("fail::", &["milestone.rs"]),
    ("clap::", &["cli/"]),
    ("maud::", &["console/"]),
    ("anyhow::", &["cli/", "main.rs"]),
    (
        "Command::new",
        &[
            "up/",
            "crates/sandbox/",
            "crates/images/src/confined/",
            "crates/guest/",
        ],
    ),
];

/// Lines of a file at the most, without the tests at its foot.
const LONGEST: usize = 450;

struct File {
    /// Its path below `src`; for a crate under `crates`, from the root of the repository.
    path: String,
    text: String,
}

impl File {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The lines that are not comments, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self
            .text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Whether it stands outside the order: the roots, and the crates, which cannot use this one.
    fn is_apart(&self) -> bool {
        matches!(self.path.as_str(), "lib.rs" | "main.rs") || self.path.starts_with("crates/")
    }
}

fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = fs::read_dir(root.join("crates")).unwrap();
    let mut folders: Vec<_> = crates.map(|entry| entry.unwrap().path()).collect();
    folders.push(root.join("src"));
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).unwrap().to_str().unwrap();
                files.push(File {
                    path: below.strip_prefix("src/").unwrap_or(below).to_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn rank(module: &str) -> Option<u8> {
    RANKS
        .iter()
        .find_map(|(name, rank)| (*name == module).then_some(*rank))
}

/// Every place in `line` where `name` stands as a whole word.
fn words_after<'a>(line: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    line.match_indices(name).filter_map(move |(at, found)| {
        let before = line[..at].chars().next_back();
        (!before.is_some_and(is_part)).then(|| &line[at + found.len()..])
    })
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_module_has_a_rank() {
    let files = files();
    let found: BTreeSet<_> = files
        .iter()
        .filter(|file| !file.is_apart())
        .map(File::module)
        .collect();
    let without: Vec<_> = found
        .iter()
        .filter(|module| rank(module).is_none())
        .collect();
    assert!(
        without.is_empty(),
        "no rank is written down for {without:?}"
    );
}

#[test]
fn modules_use_lower_ranks_only() {
    let mut faults = Vec::new();
    for file in files().iter().filter(|file| !file.is_apart()) {
        let own = rank(file.module()).unwrap_or(u8::MAX);
        for (number, line) in file.code() {
            for rest in words_after(line, "crate::") {
                let used: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let is_allowed = used == file.module()
                    || rank(&used).is_some_and(|rank| rank < own)
                    || EXCEPTIONS
                        .iter()
                        .any(|(who, what, _)| *who == file.module() && *what == used);
                if !is_allowed {
                    faults.push(format!("src/{}:{number}: reaches for {used:?}", file.path));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn outside_names_have_one_home() {
    let mut faults = Vec::new();
    for file in files() {
        for (name, homes) in HOMES {
            let is_home = homes.iter().any(|home| file.path.starts_with(home));
            for (number, line) in file.code().filter(|_| !is_home) {
                if words_after(line, name).next().is_some() {
                    faults.push(format!("{}:{number}: {name} lives in {homes:?}", file.path));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn files_say_what_they_are_for_and_stay_short() {
    let mut faults = Vec::new();
    for file in files() {
        if !file.text.starts_with("//! ") {
            faults.push(format!("{}: does not open with what it is for", file.path));
        }
        let lines = file
            .text
            .lines()
            .take_while(|line| *line != "#[cfg(test)]")
            .count();
        if lines > LONGEST {
            faults.push(format!("{}: {lines} lines, more than {LONGEST}", file.path));
        }
    }
    assert_none(&faults);
}

#[test]
fn a_word_is_found_whole() {
    assert_eq!(
        words_after("use redis::Script;", "redis::").next(),
        Some("Script;")
    );
    assert_eq!(
        words_after("use deadpool_redis::Pool;", "redis::").next(),
        None
    );
    assert_eq!(words_after("config::redis::X", "redis::").next(), None);
}

/// The text of a log call is its `message`. A field of that name, whose words may come from outside,
/// would be printed as that text.
#[test]
fn no_log_call_has_a_field_called_message() {
    let mut faults = Vec::new();
    for file in files() {
        let code: Vec<&str> = file.code().map(|(_, line)| line).collect();
        let code = code.join("\n");
        for word in ["error!(", "warn!(", "info!(", "debug!("] {
            for call in code.split(word).skip(1) {
                let call = call.split(");").next().unwrap_or_default();
                let fields = call.split('"').next().unwrap_or_default();
                let is_there = fields.split(',').any(|field| {
                    let name = field.split('=').next().unwrap_or_default();
                    name.trim().trim_start_matches(['%', '?']) == "message"
                });
                if is_there {
                    faults.push(format!("{}: {}", file.path, call.trim()));
                }
            }
        }
    }
    assert_none(&faults);
}
