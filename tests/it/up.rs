//! `cofferdam up`, the real command: one run from end to end, many runs, and every way to end it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cofferdam::config::{self, Secret};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::{Daemon, Ended, cofferdam, ended, fed, is_well};
use crate::support::engine::{groups, mark, marked};
use crate::support::parts::skipped;
use crate::support::raw::Raw;
use crate::support::until::until;

/// An `up` with a state folder of its own.
struct Everything {
    folder: TempDir,
}

impl Everything {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn env(&self) -> [(&'static str, String); 1] {
        [(
            "COFFERDAM_STATE_DIR",
            self.state().to_str().unwrap().to_owned(),
        )]
    }

    async fn up(&self, args: &[&str]) -> Daemon {
        let mut up = self.begin(args);
        up.line("cofferdam is up").await;
        up
    }

    fn begin(&self, args: &[&str]) -> Daemon {
        let [(name, folder)] = self.env();
        let args: Vec<_> = [&["up"], args].concat();
        Daemon::start(&args, &[(name, &folder)])
    }

    fn tool(&self, args: &[&str]) -> Command {
        let mut command = cofferdam(args);
        command.envs(self.env());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        ended(self.tool(args))
    }

    async fn raw(&self) -> Raw {
        let url = self.ready().unwrap()["redis_url"]
            .as_str()
            .unwrap()
            .to_owned();
        Raw::new(&config::Redis {
            url: Secret::new(url.parse().unwrap()),
            namespace: "cofferdam".to_owned(),
            ..config::Redis::nearby()
        })
        .await
    }

    fn ready(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.state().join("up.json")).ok()?).ok()
    }
}

/// The processes whose command line has this path in it.
fn processes_with(path: &Path) -> Vec<String> {
    let wanted = path.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(wanted)).collect()
}

/// Waits until no Redis listens on this socket.
async fn redis_is_gone(ready: &Value) {
    let url = ready["redis_url"].as_str().unwrap();
    let socket = url.strip_prefix("unix://").unwrap().to_owned();
    until(
        "Redis to be gone",
        async || match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => Err("it takes connections".to_owned()),
            Err(_) => Ok(()),
        },
    )
    .await;
}

#[tokio::test]
async fn a_run_goes_in_and_its_result_comes_out() {
    let all = Everything::new();
    let up = all.up(&[]).await;
    let guest = "echo hello; echo aside >&2; exit 3";
    let ended = all.run(&[
        "submit", "--id", "one", "--wait", "--json", "--", "sh", "-c", guest,
    ]);
    assert_eq!(ended.status, 3, "{}{}", ended.stdout, up.said());
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(result["outcome"], "failed");
    assert_eq!(result["reason"]["code"], "exited_without_result");
    assert_eq!(result["exit"]["code"], 3);

    let shown = all.run(&["show", "one", "--json"]).json();
    assert_eq!(shown[0]["result"], result);
    let logs = all.run(&["logs", "one"]);
    assert_eq!((&*logs.stdout, &*logs.stderr), ("hello\n", "aside\n"));
    let text = all.run(&["show", "one"]).done();
    assert!(text.contains("exited_without_result"), "{text}");
    let findings = all.run(&["doctor", "--json"]).json();
    assert!(findings.iter().all(is_well), "{findings:#?}");

    let ready = all.ready().unwrap();
    up.finish().await;
    assert_eq!(all.ready(), None);
    redis_is_gone(&ready).await;
    assert_eq!(processes_with(&all.state()), Vec::<String>::new());
}

/// One command as if it ran here: the first thing that anybody types.
#[tokio::test]
async fn a_command_runs_with_its_folder_and_gives_output_and_exit_code() {
    let all = Everything::new();
    let project = all.folder.path().join("project");
    fs::create_dir_all(project.join("data")).unwrap();
    fs::write(project.join("data/words"), "b\na\n").unwrap();
    std::os::unix::fs::symlink("data/words", project.join("link")).unwrap();
    fs::write(project.join("secret"), "x").unwrap();
    fs::write(project.join(".cofferdamignore"), "secret\n").unwrap();
    let project = project.to_str().unwrap();
    let missing = all.run(&["run", "--", "true"]);
    assert_eq!(missing.status, 125);
    assert!(
        missing.stderr.contains("cofferdam up"),
        "{}",
        missing.stderr
    );
    let up = all.up(&[]).await;
    let ended = all.run(&[
        "run",
        "--image",
        "host",
        "--",
        "sh",
        "-c",
        "echo hi; exit 7",
    ]);
    assert_eq!(
        (ended.status, &*ended.stdout),
        (7, "hi\n"),
        "{}",
        ended.stderr
    );
    let script = "sort link; ls; echo aside >&2; kill -9 $$";
    let ended = all.run(&["run", "--dir", project, "--", "sh", "-c", script]);
    assert_eq!(ended.stdout, "a\nb\ndata\nlink\n");
    assert_eq!(ended.status, 128 + 9);
    assert!(ended.stderr.starts_with("aside\n"), "{}", ended.stderr);
    // Byte for byte, also what comes faster than it is read.
    let long = all.run(&["run", "--", "seq", "1", "60000"]).done();
    let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert!(long == expected, "{} bytes", long.len());
    let built = all.folder.path().join("built");
    let script = "mkdir -p out/deep; echo 1 > out/a; head -c 3000000 /dev/zero > out/deep/b";
    let args = [
        "run",
        "--out",
        built.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(all.run(&args).done(), "");
    assert_eq!(fs::read(built.join("out/a")).unwrap(), b"1\n");
    assert_eq!(
        fs::read(built.join("out/deep/b")).unwrap(),
        vec![0; 3_000_000]
    );
    let late = all.run(&["run", "--timeout", "1", "--", "sleep", "100"]);
    assert_eq!(late.status, 125, "{}", late.stderr);
    let unknown = all.run(&["run", "--image", "nobody:knows", "--", "true"]);
    assert_eq!(unknown.status, 125, "{}", unknown.stderr);
    let wrong = all.run(&["run", "--dir", "/nowhere", "--", "true"]);
    assert_eq!(wrong.status, 2, "{}", wrong.stderr);
    let captured = all.run(&["submit", "--capture", "--wait", "--json", "--", "echo", "x"]);
    assert_eq!(captured.json()[0]["payload"]["stdout"], "x\n");
    up.finish().await;
}

#[tokio::test]
async fn interrupting_a_command_cancels_its_run() {
    let all = Everything::new();
    let up = all.up(&[]).await;
    let command = all
        .tool(&["run", "--", "sh", "-c", "echo begun; sleep 100"])
        .spawn();
    let mut command = command.unwrap();
    until("the command to run", async || {
        let runs = all.run(&["runs", "--state", "running", "--json"]).stdout;
        runs.contains("running").then_some(()).ok_or(runs)
    })
    .await;
    let pid = rustix::process::Pid::from_child(&command);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(command.wait().unwrap().code(), Some(130));
    let runs = all.run(&["runs", "--json"]).json();
    assert_eq!(runs[0]["outcome"], "cancelled");
    up.finish().await;
}

#[tokio::test]
async fn a_batch_is_waited_for_and_counted() {
    let all = Everything::new();
    let up = all.up(&["--simulate", "1"]).await;
    let lines: String = (0..100)
        .map(|n| format!("{{\"id\":\"n{n}\",\"cmd\":[\"true\"]}}\n"))
        .collect();
    let sent = fed(all.tool(&["submit", "-", "--wait", "--json"]), &lines);
    assert!(
        sent.stderr
            .contains("100 requests sent · 100 completed · 0 did not"),
        "{}",
        sent.stderr
    );
    let results = sent.json();
    assert_eq!(results.len(), 100);
    // The same again changes nothing and finds the results that are there.
    let again = fed(all.tool(&["submit", "-", "--wait", "--json"]), &lines).json();
    assert_eq!(again.len(), 100);
    let all_results = all.run(&["results", "--limit", "1000", "--json"]).json();
    assert_eq!(all_results.len(), 100);
    until("every run to be closed", async || {
        let open = all.run(&["runs", "--limit", "1000", "--json"]).json();
        let open = open.iter().filter(|run| run["state"] != "closed").count();
        if open == 0 {
            Ok(())
        } else {
            Err(format!("{open} are not"))
        }
    })
    .await;
    let listed = all
        .run(&["runs", "--state", "closed", "--limit", "30", "--json"])
        .json();
    assert_eq!(listed.len(), 30);
    up.finish().await;
}

/// What real machines take of this computer, in numbers: processes, mounts, groups, files.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    processes: usize,
    mounts: usize,
    groups: usize,
    files: Vec<PathBuf>,
}

impl Taken {
    fn by(up: &Daemon, state: &Path) -> Self {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", up.pid())).unwrap();
        let groups = groups(state);
        let inner = groups.iter().map(|group| fs::read_dir(group).unwrap());
        let inner = inner.flat_map(|entries| entries.filter_map(Result::ok));
        Self {
            processes: marked(state).len(),
            mounts: mounts.lines().count(),
            groups: inner.filter(|entry| entry.path().is_dir()).count(),
            files: files_below(&state.join("engine")),
        }
    }
}

/// Every file and folder below this one, in order.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
    }
    found.sort();
    found
}

/// So many runs of real guests, each of which posts its number: each has one result, and nothing
/// of them is left.
async fn many_runs(count: usize) {
    let all = Everything::new();
    let scratch = tempfile::tempdir().unwrap();
    let [(name, folder)] = all.env();
    let env = [
        (name, folder.as_str()),
        ("TMPDIR", scratch.path().to_str().unwrap()),
    ];
    let mut up = Daemon::start(&["up"], &env);
    up.line("cofferdam is up").await;
    let warm = ["submit", "--wait", "--", "sh", "-c", POST, "sh", "0"];
    all.run(&warm).done();
    let raw = all.raw().await;
    nothing_owed(&raw).await;
    let before = Taken::by(&up, &all.state());

    let lines: String = (0..count)
        .map(|n| json!({"id": format!("n{n}"), "cmd": ["sh", "-c", POST, "sh", n.to_string()]}))
        .map(|request| format!("{request}\n"))
        .collect();
    let sent = fed(all.tool(&["submit", "-", "--wait", "--json"]), &lines);
    assert_eq!(sent.status, 0, "{}{}", sent.stderr, up.said());
    let mut seen: Vec<u64> = Vec::new();
    for result in sent.json() {
        let n = result["payload"]["n"].as_u64().unwrap();
        assert_eq!(result["run_id"], format!("n{n}"), "{result}");
        seen.push(n);
    }
    seen.sort_unstable();
    assert!(
        seen.into_iter().eq(0..count as u64),
        "a result is missing or doubled"
    );
    nothing_owed(&raw).await;
    assert_eq!(raw.length("results").await, count + 1);
    assert_eq!(Taken::by(&up, &all.state()), before);

    let (groups_of, mark) = (all.state(), mark(&all.state()));
    up.finish().await;
    assert_eq!(groups(&groups_of), Vec::<PathBuf>::new());
    assert_eq!(marked(&groups_of), Vec::<u32>::new());
    assert_eq!(processes_with(&groups_of), Vec::<String>::new());
    assert_eq!(files_below(scratch.path()), Vec::<PathBuf>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&mark) && !mounts.contains(groups_of.to_str().unwrap()));
    let in_run = fs::read_dir("/run").unwrap().flatten();
    let in_run: Vec<_> = in_run.map(|entry| entry.file_name()).collect();
    assert!(
        !in_run
            .iter()
            .any(|name| name.to_str().is_some_and(|name| name.contains(&mark)))
    );
}

/// Posts its first argument.
const POST: &str = "exec curl -fsS --oauth2-bearer \"$SANDBOX_RUN_TOKEN\" -d \"{\\\"n\\\": $1}\" \
    \"$SANDBOX_RESULT_URL\"";

/// Waits until nothing is owed for any run and no stream has anything for the workers.
async fn nothing_owed(raw: &Raw) {
    until("every run to be closed", async || {
        let due: usize = raw.say("ZCARD", "due", &[]).await;
        let (left, pending) = (raw.length("runs").await, raw.pending("runs").await);
        if (due, left, pending) == (0, 0, 0) {
            Ok(())
        } else {
            Err(format!("{due} due, {left} unread, {pending} pending"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_hundred_runs_leave_nothing() {
    many_runs(100).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_thousand_runs_leave_nothing() {
    many_runs(1000).await;
}

#[tokio::test]
async fn results_are_followed_as_they_come() {
    let all = Everything::new();
    let up = all.up(&["--simulate", "1"]).await;
    all.run(&["submit", "--id", "before", "--wait", "--", "true"])
        .done();
    let [(name, folder)] = all.env();
    let mut follow = Daemon::start(&["results", "--follow", "--limit", "0"], &[(name, &folder)]);
    // It is there once it has seen one; those before are left out.
    let mut seen = String::new();
    for n in 0.. {
        assert!(n < 100, "nothing is followed: {}", follow.said());
        all.run(&[
            "submit",
            "--wait",
            "--id",
            &format!("after-{n}"),
            "--",
            "true",
        ])
        .done();
        seen = follow.said();
        if seen.contains("after-") {
            break;
        }
    }
    assert!(!seen.contains("before"), "{seen}");
    follow.signal(Signal::KILL);
    follow.ended(Duration::from_secs(10)).await;
    up.finish().await;
}

#[tokio::test]
async fn a_run_is_cancelled() {
    let all = Everything::new();
    let up = all.up(&["--simulate", "60000"]).await;
    all.run(&["submit", "--id", "long", "--", "true"]).done();
    until("the run to have a machine", async || {
        let shown = all.run(&["show", "long", "--json"]);
        match shown.status {
            0 if shown.stdout.contains("\"state\":\"running\"") => Ok(()),
            _ => Err(shown.stdout + &shown.stderr),
        }
    })
    .await;
    assert_eq!(all.run(&["cancel", "long"]).done(), "long is cancelled\n");
    assert_eq!(all.run(&["cancel", "long"]).done(), "long is cancelled\n");
    let result = all.run(&["results", "--json"]).json();
    assert_eq!(result[0]["outcome"], "cancelled");
    up.finish().await;
}

#[tokio::test]
async fn what_was_there_is_there_after_a_kill() {
    let all = Everything::new();
    let mut first = all.up(&["--simulate", "1"]).await;
    all.run(&["submit", "--id", "kept", "--wait", "--", "true"])
        .done();
    let ready = all.ready().unwrap();
    first.signal(Signal::KILL);
    first.ended(Duration::from_secs(10)).await;
    redis_is_gone(&ready).await;
    // What it wrote down is still there, and nobody believes it.
    assert!(all.ready().is_some());
    // Without `up` the usual address is tried, and somebody's Redis may be there.
    if std::net::TcpStream::connect("127.0.0.1:6379").is_ok() {
        skipped("what is told without a Redis: one answers on 127.0.0.1:6379");
    } else {
        let told = all.run(&["show", "kept"]).stderr;
        assert!(told.contains("no `up` is running"), "{told}");
    }

    let second = all.up(&["--simulate", "1"]).await;
    assert_eq!(
        all.run(&["show", "kept", "--json"]).json()[0]["outcome"],
        "completed"
    );
    second.finish().await;
}

#[tokio::test]
async fn one_at_a_time_runs_with_a_state_folder() {
    let all = Everything::new();
    let first = all.up(&["--simulate", "1"]).await;
    let mut second = all.begin(&["--simulate", "1"]);
    let status = second.ended(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        second.said().contains("in use by another `up`"),
        "{}",
        second.said()
    );
    assert_eq!(all.ready().unwrap()["pid"], first.pid());
    first.finish().await;
}

#[tokio::test]
async fn it_ends_when_its_redis_does() {
    let all = Everything::new();
    let mut up = all.up(&["--simulate", "1"]).await;
    let config = all.ready().unwrap();
    let socket = config["redis_url"]
        .as_str()
        .unwrap()
        .strip_prefix("unix://")
        .unwrap()
        .to_owned();
    let mut redis = std::os::unix::net::UnixStream::connect(socket).unwrap();
    std::io::Write::write_all(&mut redis, b"SHUTDOWN NOSAVE\r\n").unwrap();
    let status = up.ended(Duration::from_secs(60)).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        up.said().contains("redis-server ended with"),
        "{}",
        up.said()
    );
    assert_eq!(all.ready(), None);
}

#[test]
fn a_fault_that_is_none_is_wrong_use() {
    let all = Everything::new();
    let ended = all.run(&["up", "--fault", "create: explode"]);
    assert_eq!(ended.status, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("explode"), "{}", ended.stderr);
    assert!(!all.state().exists());
}
