//! The list of milestones against the source: every point is in a story, and every await of a step
//! has its point or says why it needs none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::points::POINTS;

/// Awaits of the steps without a milestone, and why.
const EXEMPT: &[(&str, &str)] = &[
    (
        "tokio::time::sleep",
        "nothing changes in a sleep; the milestone before it stands for it",
    ),
    (
        "tokio::task::spawn_blocking",
        "nothing outside changes while JSON is parsed",
    ),
    (
        "std::future::pending",
        "it waits for the end of the process",
    ),
    (
        "acts.next",
        "each of these is a cancellation, which has its own",
    ),
    ("core.store.log_tail", "it only reads"),
    ("scope_of_teardown", "it only reads"),
    ("within", "what is done within has its own"),
    ("LARGE.acquire", "it waits for its turn in this process"),
    ("self.is_quiet.subscribe.wait_for", "it waits for an order"),
    ("self.cached.lock", "readiness is no step: it moves no run"),
    ("self.store.probe", "readiness is no step: it moves no run"),
];

/// What leads out of this process.
const DOORS: [&str; 2] = ["store", "machines"];

/// Files of the steps that move no run by themselves: they keep what guests write and make, or do what
/// an operator asks for, who sees whether it was done and may ask again.
const OTHERS: [&str; 4] = ["artifacts.rs", "log.rs", "operate.rs", "outline.rs"];

/// Files beside those that have milestones.
const ALSO: [&str; 8] = [
    "endpoint/artifacts.rs",
    "endpoint/mod.rs",
    "stage/artifacts.rs",
    "stage/log.rs",
    "sweeper/mod.rs",
    "worker/control.rs",
    "worker/tasks.rs",
    "worker/loops.rs",
];

fn source(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines();
    let lines = lines.map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn steps() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stage");
    let mut folders = vec![folder];
    let mut steps = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !OTHERS.iter().any(|other| path.ends_with(other)) {
                steps.push((path.display().to_string(), source(&path)));
            }
        }
    }
    steps.sort();
    steps
}

fn points_of(text: &str) -> impl Iterator<Item = String> {
    let calls = text.split("milestone!(\"").skip(1);
    calls.map(|rest| rest.split('"').next().unwrap().to_owned())
}

/// The call that ends at `end`, without its arguments: `deps.core.store.view`.
fn call_before(text: &str, end: usize) -> String {
    let mut depth = 0i32;
    let mut path = String::new();
    for c in text[..end].chars().rev() {
        match c {
            ')' => depth += 1,
            '(' if depth > 0 => depth -= 1,
            c if depth > 0 || c.is_whitespace() && path.is_empty() => {}
            c if c.is_alphanumeric() || "._:".contains(c) => path.insert(0, c),
            // A chain goes on over line ends.
            c if c.is_whitespace() && path.starts_with('.') => {}
            _ => break,
        }
    }
    path
}

/// Whether the call is to one of the steps' own functions, which have milestones of their own.
fn is_own(call: &str, own: &BTreeSet<String>) -> bool {
    let mut words = call.rsplit(['.', ':']);
    let name = words.next().unwrap();
    let is_at_a_door = words.any(|word| DOORS.contains(&word));
    own.contains(name) && !is_at_a_door
}

#[test]
fn every_milestone_is_in_a_story() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let also = ALSO.map(|file| source(&root.join(file)));
    let texts = steps().into_iter().map(|(_, text)| text).chain(also);
    let found: Vec<String> = texts
        .flat_map(|text| points_of(&text).collect::<Vec<_>>())
        .collect();
    let once: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found.len(), once.len(), "a name stands twice: {found:?}");
    let listed: BTreeSet<&str> = POINTS.iter().map(|point| point.name).collect();
    assert_eq!(POINTS.len(), listed.len(), "a name is listed twice");
    assert_eq!(once, listed);
}

#[test]
fn every_await_of_a_step_has_a_milestone_behind_it() {
    let steps = steps();
    let own: BTreeSet<String> = steps
        .iter()
        .flat_map(|(_, text)| text.split("async fn ").skip(1))
        .map(|rest| rest.split(['(', '<']).next().unwrap().to_owned())
        .collect();
    let mut faults = Vec::new();
    let mut marked = 0;
    for (file, text) in &steps {
        for (at, _) in text.match_indices(".await") {
            let call = call_before(text, at);
            let rest = &text[at + ".await".len()..];
            let next = rest.find(".await").unwrap_or(rest.len());
            let end_of_function = rest.find("\n}\n").unwrap_or(rest.len());
            let is_marked = rest[..next.min(end_of_function)].contains("milestone!(");
            let is_exempt = EXEMPT.iter().any(|(name, _)| call == *name);
            marked += usize::from(is_marked);
            if !is_marked && !is_exempt && !is_own(&call, &own) {
                let line = text[..at].lines().count();
                faults.push(format!(
                    "{file}:{line}: {call} is awaited without a milestone"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(marked > 20, "the steps were not read: {marked}");
}

#[test]
fn only_a_binary_with_the_feature_has_milestones() {
    let binary = fs::read(env!("CARGO_BIN_EXE_cofferdam")).unwrap();
    let has = |name: &str| {
        let mut windows = binary.windows(name.len());
        windows.any(|window| window == name.as_bytes())
    };
    for name in ["boot::created", "teardown::closed", "FAILPOINTS"] {
        assert_eq!(has(name), cfg!(feature = "milestones"), "{name}");
    }
}

#[test]
fn a_call_is_found_before_its_await() {
    let text = "let x = core\n    .store\n    .settle(a, b(c), \"d\")\n    .await";
    assert_eq!(call_before(text, text.len() - 6), "core.store.settle");
    let text = "Next::Done(finish(a, &mut b)";
    assert_eq!(call_before(text, text.len()), "finish");
}
