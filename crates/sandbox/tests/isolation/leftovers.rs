//! What is left when it is over: nothing, however it ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam_sandbox::{Engine, Error};

use super::lab::{Lab, Output, groups, mark, settings, sh, spec, until};

/// Tells the server process below where to work.
const STATE_DIR: &str = "COFFERDAM_TEST_STATE_DIR";
const MACHINES: usize = 3;

/// Processes whose command line contains this word.
fn running(word: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    };
    pids.filter(has).collect()
}

/// Processes with this engine's mark, which is the device and inode of its folder.
fn marked(state_dir: &Path) -> Vec<u32> {
    let mark = format!("COFFERDAM_ENGINE={}", mark(state_dir));
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&mark)
    };
    pids.filter(has).collect()
}

/// Children of this process that have ended and were not reaped.
fn zombies() -> Vec<u32> {
    let us = std::process::id();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_zombie = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            return false;
        };
        let mut fields = rest.split(' ');
        fields.next() == Some("Z") && fields.next() == Some(us.to_string().as_str())
    };
    pids.filter(is_zombie).collect()
}

/// Not a test: the server that the test after it kills. It runs only when it is asked for.
#[tokio::test]
#[ignore = "runs as the server that another test kills"]
async fn a_server_to_be_killed() {
    let Some(dir) = std::env::var_os(STATE_DIR) else {
        return;
    };
    let word = Path::new(&dir)
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let (engine, _) = Engine::open(settings(Path::new(&dir))).await.unwrap();
    let mut machines = Vec::new();
    for _ in 0..MACHINES {
        // One that resists, with children of its own that have left its session.
        let script = format!(
            "trap '' TERM INT HUP; setsid sh -c 'sleep 1000; : {word}' & sleep 1000; : {word}"
        );
        machines.push(
            engine
                .start(sh(&script), Output::default().sink())
                .await
                .unwrap(),
        );
    }
    eprintln!("SERVING");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_of_a_killed_server_outlives_it() {
    let dir = tempfile::Builder::new().prefix("killed").tempdir().unwrap();
    let word = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args([
            "a_server_to_be_killed",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(STATE_DIR, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("SERVING")),
        "the server did not come up"
    );
    // The control: everything is there as long as the server is.
    until(|| match running(&word).len() {
        count if count >= 2 * MACHINES => Ok(()),
        count => Err(count),
    })
    .await;
    assert!(marked(dir.path()).len() >= 2 * MACHINES);
    let locked = Engine::open(settings(dir.path())).await.unwrap_err();
    assert!(matches!(&locked, Error::Locked { state_dir } if state_dir == dir.path()));
    let had_groups = !groups(dir.path()).is_empty();

    server.kill().unwrap();
    server.wait().unwrap();
    until(|| match running(&word) {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    })
    .await;
    assert_eq!(
        !groups(dir.path()).is_empty(),
        had_groups,
        "groups are for the next server"
    );
    let (engine, _) = Engine::open(settings(dir.path())).await.unwrap();
    assert!(marked(dir.path()).is_empty());
    let output = Output::default();
    let running = engine.start(sh("echo on"), output.sink()).await.unwrap();
    assert_eq!(running.wait().await.code, Some(0));
    engine.close().await;
    assert_eq!(groups(dir.path()), Vec::<PathBuf>::new());
    assert!(
        !Path::new("/run")
            .join(format!("cofferdam-{}", mark(dir.path())))
            .exists()
    );
}

/// A bubblewrap that nothing ties to a server any more is found by its mark.
#[tokio::test]
async fn strays_of_an_earlier_server_are_ended_and_others_left_alone() {
    let (dir, other) = (tempfile::tempdir().unwrap(), Lab::open().await);
    let (engine, _) = Engine::open(settings(dir.path())).await.unwrap();
    engine.close().await;
    drop(engine);
    let mut stray = Command::new("/bin/sleep")
        .arg("1000")
        .env("COFFERDAM_ENGINE", mark(dir.path()))
        .spawn()
        .unwrap();
    let (neighbour, output) = other.start(sh("echo up; sleep 1000")).await;
    output.says("up").await;
    let (engine, _) = Engine::open(settings(dir.path())).await.unwrap();
    // Only a signal ends it before its time.
    assert!(
        !stray.try_wait().is_ok_and(|status| status.is_none()),
        "the stray still runs"
    );
    assert_eq!(neighbour.handle().processes().unwrap().len(), 2);
    engine.close().await;
    drop(neighbour);
    other.close().await;
}

/// Not a test: it runs alone in a process, so that all that is left in there is its own doing.
#[tokio::test]
#[ignore = "runs in a process of its own for another test"]
async fn a_server_that_counts_what_is_left() {
    let lab = Lab::open().await;
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let round = async || {
        let runs = (0..10).map(|n| {
            // Some that end well, some that end early, some that do not even start.
            let argv: &[&str] = match n % 3 {
                0 => &["true"],
                1 => &["sh", "-c", "kill -9 2"],
                _ => &["no-such-program"],
            };
            let start = lab.engine.start(spec(argv), Output::default().sink());
            async move {
                if let Ok(running) = start.await {
                    running.wait().await;
                }
            }
        });
        futures_util::future::join_all(runs).await;
    };
    // The first round makes what stays for good, such as threads.
    round().await;
    let before = descriptors();
    for _ in 0..10 {
        round().await;
    }
    until(|| match descriptors() {
        now if now <= before => Ok(()),
        now => Err((before, now)),
    })
    .await;
    assert_eq!(zombies(), Vec::<u32>::new());
    assert_eq!(marked(lab.dir.path()), Vec::<u32>::new());
    let machines = groups(lab.dir.path())
        .iter()
        .flat_map(|group| fs::read_dir(group).unwrap().flatten())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.path())
        .collect::<Vec<_>>();
    assert!(machines.is_empty(), "{machines:?}");
    let path = lab.dir.path().to_owned();
    lab.engine.close().await;
    assert_eq!(groups(&path), Vec::<PathBuf>::new());
    eprintln!("COUNTED");
}

#[test]
fn a_hundred_starts_leave_no_process_descriptor_or_group() {
    let counted = Command::new(std::env::current_exe().unwrap())
        .args([
            "a_server_that_counts",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&counted.stderr);
    assert!(
        counted.status.success() && said.contains("COUNTED"),
        "{said}"
    );
}

#[tokio::test]
async fn closing_ends_every_machine_and_starts_no_more() {
    let lab = Lab::open().await;
    let mut machines = Vec::new();
    for _ in 0..5 {
        machines.push(lab.start(sh("trap '' TERM; sleep 1000")).await.0);
    }
    lab.engine.close().await;
    for machine in machines {
        assert_eq!(machine.wait().await.signal, Some(9));
    }
    assert_eq!(marked(lab.dir.path()), Vec::<u32>::new());
    let refused = lab.refused(sh("true")).await;
    assert!(matches!(refused, Error::Busy(_)), "{refused:?}");
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing() {
    let lab = Lab::open().await;
    for _ in 0..20 {
        // Dropped somewhere on the way, wherever that is this time.
        let start = lab.engine.start(sh("sleep 1000"), Output::default().sink());
        let _ = tokio::time::timeout(std::time::Duration::from_millis(2), start).await;
    }
    let path = lab.dir.path().to_owned();
    lab.engine.close().await;
    assert_eq!(marked(&path), Vec::<u32>::new());
    assert_eq!(groups(&path), Vec::<PathBuf>::new());
}

/// Removing a folder that is mounted on elsewhere takes the mount away too.
#[tokio::test]
async fn a_server_survives_that_its_folder_in_run_is_removed() {
    let lab = Lab::open().await;
    let view = Path::new("/run").join(format!("cofferdam-{}", mark(lab.dir.path())));
    if !super::lab::is_root() {
        eprintln!("skipped: only a server that is root has such a folder");
        return lab.close().await;
    }
    assert_eq!(lab.sh("echo before").await, "before");
    fs::remove_dir(&view).unwrap();
    assert_eq!(lab.sh("echo after").await, "after");
    lab.close().await;
    assert!(!view.exists());
}
