//! Panics: a task that panics lets go of its run, a loop that panics ends its process.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The loops of each command.
const LOOPS: &[(&str, &[&str])] = &[
    (
        "worker",
        &[
            "intake",
            "control",
            "dispatch",
            "wakeups",
            "renew",
            "overdue",
            "reconcile",
            "housekeeping",
            "repair",
            "artifacts",
            "census",
            "traces",
            "keys",
            "admin",
        ],
    ),
    ("console", &["console", "clock"]),
    ("serve", &["endpoint", "keys", "admin"]),
    ("machines", &["machines"]),
    // One of each of its parts.
    ("up", &["dispatch", "census", "endpoint", "machines"]),
];

/// What names follow these words in the source.
fn names_after(folder: &Path, words: &str, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_after(&path, words, names);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        // A call may go over several lines.
        let flat: String = code.split_whitespace().collect();
        let calls = flat.split(words).skip(1);
        names.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
}

#[test]
fn every_loop_is_tried_here() {
    let mut found = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    names_after(&folder, "spawn_loop(\"", &mut found);
    let listed = LOOPS.iter().flat_map(|(_, loops)| *loops);
    let listed: BTreeSet<String> = listed.map(|name| (*name).to_owned()).collect();
    assert_eq!(found, listed);
}

#[cfg(feature = "milestones")]
mod armed {
    use std::time::Duration;

    use futures_util::{StreamExt as _, stream};

    use super::LOOPS;
    use crate::support::command::Daemon;
    use crate::support::fleet::Fleet;
    use crate::support::parts;
    use crate::support::until::until;

    const BOUND: Duration = Duration::from_secs(60);

    /// It says so in its log, hands back what it has, and ends as one that failed.
    async fn ends_broken(mut process: Daemon, name: &str) {
        let status = process.ended(BOUND).await;
        let said = process.said();
        assert_eq!(status.code(), Some(1), "{name}: {said}");
        let told = said
            .lines()
            .find(|line| line.contains("ERROR") && line.contains("has failed"));
        let why = format!("the loop {name} panicked: milestone loop::{name}");
        assert!(told.is_some_and(|line| line.contains(&why)), "{said}");
    }

    #[tokio::test]
    async fn a_process_one_of_whose_loops_panics_says_so_and_ends_with_1() {
        let fleet = &Fleet::start(&["--simulate", "1"], &[]).await;
        let all = LOOPS
            .iter()
            .flat_map(|(command, loops)| loops.iter().map(move |name| (*command, *name)));
        let tried = stream::iter(all).map(|(command, name)| async move {
            let state = tempfile::tempdir().unwrap();
            let point = format!("loop::{name}=return(panic)");
            // `up` has a Machines server of its own.
            let api = [("FLY_API_URL", "")];
            let console = [
                ("COFFERDAM_CONSOLE_LISTEN", "127.0.0.1:0"),
                (
                    "COFFERDAM_CONSOLE_KEYS",
                    "viewer:0123456789abcdef0123456789abcdef",
                ),
            ];
            // Nobody listens there, which is no reason to end.
            let traces = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
            let other = match command {
                "up" => &api[..],
                "worker" => &traces,
                "console" => &console,
                _ => &[],
            };
            let settings = [&[("FAILPOINTS", point.as_str())], other].concat();
            let process = fleet.process(command, state.path(), &settings);
            ends_broken(process, name).await;
        });
        tried.buffer_unordered(4).collect::<Vec<()>>().await;
    }

    async fn in_hand(admin: &str) -> String {
        let answer = parts::http().get(format!("http://{admin}/metrics"));
        let text = answer.send().await.unwrap().text().await.unwrap();
        let lines = text.lines();
        let lines = lines.filter(|line| line.starts_with("cofferdam_worker_tasks{"));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn a_boot_and_a_tear_down_that_panic_let_go_of_their_run_and_are_done_again() {
        let settings = [("COFFERDAM_LEASE_S", "2"), ("COFFERDAM_SWEEP_S", "1")];
        let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
        for point in [
            "boot::created",
            "boot::advanced",
            "teardown::waited",
            "teardown::deleted",
        ] {
            let panics = format!("{point}=1*return(panic)");
            let (worker, admin) = fleet.worker_with(&[("FAILPOINTS", &panics)]).await;
            let id = point.replace("::", "-");
            fleet.tool(&["submit", "--id", &id, "--", "true"]).done();
            let shown = fleet.until_state(&id, "closed").await;
            assert_eq!(shown["outcome"], "completed", "{point}: {shown}");
            until("nothing to be in hand", async || {
                let seen = in_hand(&admin).await;
                seen.lines()
                    .all(|line| line.ends_with(" 0"))
                    .then_some(())
                    .ok_or(seen)
            })
            .await;
            let said = worker.said();
            let told = said.lines().filter(|line| line.contains("a task panicked"));
            assert_eq!(told.count(), 1, "{point}: {said}");
            worker.finish().await;
        }
        assert!(fleet.machines_left().await.is_empty());
        fleet.finish().await;
    }

    /// The machine of the first attempt is nobody's when its keeper has panicked.
    #[tokio::test]
    async fn a_keeper_that_panics_ends_its_machine_and_the_run_is_tried_again() {
        let settings = [
            ("COFFERDAM_LEASE_S", "2"),
            ("COFFERDAM_SWEEP_S", "1"),
            ("FAILPOINTS", "keeper::started=1*return(panic)"),
        ];
        let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
        let (worker, _) = fleet.worker().await;
        fleet.tool(&["submit", "--id", "kept", "--", "true"]).done();
        let shown = fleet.until_state("kept", "closed").await;
        assert_eq!(shown["outcome"], "completed", "{shown}");
        assert_eq!(shown["attempt"], 2, "{shown}");
        let said = fleet.machines.said();
        let told = said.lines().filter(|line| line.contains("ERROR"));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 1, "{said}");
        assert!(
            told[0].contains("the keeper of a machine panicked"),
            "{said}"
        );
        assert!(fleet.machines_left().await.is_empty());
        worker.finish().await;
        fleet.finish().await;
    }
}
