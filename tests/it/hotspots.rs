//! The example guest, outside a machine: its own scripts, a real repository, real HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::stack::Plan;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hotspots");
const TOKEN: &str = "the-token";
/// Far enough away for any machine, in seconds since the Unix epoch.
const DEADLINE: &str = "9999999999";

/// Two branches, so a complexity of 3.
const PROGRAM: &str =
    "def f(a):\n    if a:\n        return 1\n    if a is None:\n        return 2\n";

/// A repository that is written commit by commit.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Self { folder };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn git(&self, words: &[&str]) {
        let output = git().current_dir(self.path()).args(words).output().unwrap();
        assert!(output.status.success(), "git {words:?}: {output:?}");
    }

    fn commit(&self, path: &str, contents: &[u8]) {
        std::fs::write(self.path().join(path), contents).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", path]);
    }
}

/// Git with an author, and without the settings of this computer.
fn git() -> Command {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=Test", "-c", "user.email=test@localhost"]);
    git
}

fn pack(repository: &Path, to: &Path, most_bytes: &str) -> Output {
    Command::new(Path::new(EXAMPLE).join("pack"))
        .args([repository, to])
        .arg(most_bytes)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap()
}

/// The analyser that `scripts/setup` downloads; says so if it is not there.
#[expect(
    clippy::print_stderr,
    reason = "a test that cannot run says why out loud"
)]
fn wheels() -> Option<Vec<PathBuf>> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let entries = std::fs::read_dir(cache?.join("cofferdam/wheels"));
    let wheels: Vec<_> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    if wheels.is_empty() {
        eprintln!("skipped: the analyser is not here; scripts/setup downloads it");
        return None;
    }
    Some(wheels)
}

/// Packs a repository, runs the guest on it, and gives what it posted.
fn run_guest(repository: &Repository, most_bytes: &str) -> Option<Value> {
    let wheels = wheels()?;
    let place = tempfile::tempdir().unwrap();
    let packed = pack(repository.path(), place.path(), most_bytes);
    assert!(packed.status.success(), "{packed:?}");
    for wheel in wheels {
        std::fs::copy(&wheel, place.path().join(wheel.file_name().unwrap())).unwrap();
    }
    let shallow = place.path().join("shallow");
    if shallow.metadata().unwrap().len() == 0 {
        std::fs::remove_file(shallow).unwrap();
    }
    let guest = place.path().join("guest.py");
    std::fs::copy(Path::new(EXAMPLE).join("guest.py"), &guest).unwrap();
    let input = std::fs::read(place.path().join("input.json")).unwrap();
    let (url, posts) = serve(input);
    let output = Command::new("python3")
        .arg(guest)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("SANDBOX_RUN_TOKEN", TOKEN)
        .env("SANDBOX_INPUT_URL", format!("{url}/input"))
        .env("SANDBOX_RESULT_URL", format!("{url}/results"))
        .env("SANDBOX_DEADLINE", DEADLINE)
        // Nobody listens there: a guest that asked a proxy would fail.
        .env("http_proxy", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let [refused, accepted] = [(); 2].map(|()| posts.recv().unwrap());
    assert_eq!(refused, accepted, "the same bytes are posted again");
    Some(serde_json::from_slice(&accepted).unwrap())
}

/// Answers as the endpoint does: the input, and 503 to the first post. Gives the bodies posted.
fn serve(input: Vec<u8>) -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, posts) = mpsc::channel();
    std::thread::spawn(move || {
        let mut before = 0;
        for stream in listener.incoming() {
            let (method, body) = read_request(stream.as_ref().unwrap());
            let (status, answer) = match method.as_str() {
                "GET" => ("200 OK", input.clone()),
                _ if before == 0 => ("503 Service Unavailable", b"{}".to_vec()),
                _ => ("201 Created", br#"{"status":"OK"}"#.to_vec()),
            };
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let mut stream = stream.unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
            if method == "POST" {
                before += 1;
                if sender.send(body).is_err() || before == 2 {
                    return;
                }
            }
        }
    });
    (url, posts)
}

fn read_request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    assert!(lines.contains(&format!("Authorization: Bearer {TOKEN}")));
    let length = lines.iter().find_map(|line| {
        let length = line.to_lowercase();
        length.strip_prefix("content-length: ")?.parse().ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let method = lines[0].split(' ').next().unwrap().to_owned();
    (method, body)
}

#[test]
fn the_score_is_churn_times_complexity_and_renames_are_followed() {
    let repository = Repository::new();
    repository.commit("old name.py", PROGRAM.as_bytes());
    repository.git(&["mv", "old name.py", "new\tname.py"]);
    repository.commit("new\tname.py", PROGRAM.replace('2', "3").as_bytes());
    repository.git(&["checkout", "--quiet", "-b", "side"]);
    repository.commit("binary.bin", &[0, 255, 0, 1]);
    repository.commit("simple.py", b"def g():\n    pass\n");
    repository.git(&["checkout", "--quiet", "main"]);
    repository.commit("README.md", b"# Words\n");
    repository.git(&["merge", "--quiet", "--message", "merge", "side"]);
    let Some(posted) = run_guest(&repository, "1000000") else {
        return;
    };
    assert_eq!(
        posted["hotspots"],
        json!([
            {"path": "new\tname.py", "churn": 7, "commits": 2, "complexity": 3, "functions": 1, "score": 21},
            {"path": "simple.py", "churn": 2, "commits": 1, "complexity": 1, "functions": 1, "score": 2},
        ])
    );
    assert_eq!(posted["commits"], 5);
    assert_eq!(posted["cut"], Value::Null);
    assert_eq!(posted["skipped"]["other_language"], 2);
    let name = repository.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(posted["repository"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_machine_the_guest_finds_the_same() {
    let Some(wheels) = wheels() else {
        return;
    };
    let repository = Repository::new();
    repository.commit("program.py", PROGRAM.as_bytes());
    let place = tempfile::tempdir().unwrap();
    let packed = pack(repository.path(), place.path(), "1000000");
    assert!(packed.status.success(), "{packed:?}");
    let mut sources = wheels;
    sources.push(Path::new(EXAMPLE).join("guest.py"));
    sources.push(place.path().join("history.bundle"));
    let files: Vec<Value> = sources
        .iter()
        .map(|source| {
            let name = source.file_name().unwrap().to_str().unwrap();
            let bytes = STANDARD.encode(std::fs::read(source).unwrap());
            json!({"guest_path": format!("/workspace/hotspots/{name}"), "raw_value": bytes})
        })
        .collect();
    let input = std::fs::read(place.path().join("input.json")).unwrap();
    let input: Value = serde_json::from_slice(&input).unwrap();

    let state = tempfile::tempdir().unwrap();
    let plan = Plan::sandboxed(state.path()).runs(|runs| runs.request_max_bytes = 16 << 20);
    let stack = plan.start().await;
    let id = stack
        .submit(json!({
            "image": "host",
            "cmd": ["/usr/bin/python3", "/workspace/hotspots/guest.py"],
            "input": input,
            "files": files,
        }))
        .await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    assert_eq!(
        result["payload"]["hotspots"],
        json!([
            {"path": "program.py", "churn": 5, "commits": 1, "complexity": 3, "functions": 1, "score": 15},
        ])
    );
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[test]
fn a_history_that_is_too_large_is_cut_and_its_first_commit_counts_for_nothing() {
    let repository = Repository::new();
    repository.commit("early.py", PROGRAM.as_bytes());
    let mut noise: u64 = 1;
    for _ in 0..14 {
        let mut data = Vec::new();
        for _ in 0..20_000 {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            data.push(noise.to_be_bytes()[0]);
        }
        repository.commit("data.bin", &data);
    }
    repository.commit("late.py", PROGRAM.as_bytes());
    let Some(posted) = run_guest(&repository, "250000") else {
        return;
    };
    assert_eq!(posted["cut"], "the newest commits, 10 deep");
    assert_eq!(posted["commits"], 9);
    let churn = |at: usize| &posted["hotspots"][at]["churn"];
    assert_eq!((churn(0), churn(1)), (&json!(5), &json!(0)));

    let place = tempfile::tempdir().unwrap();
    let refused = pack(repository.path(), place.path(), "100000");
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("a request holds 0.1 MiB"), "{why}");
}

#[test]
fn what_is_no_repository_or_has_no_commit_is_refused_with_a_reason() {
    let place = tempfile::tempdir().unwrap();
    let refused = pack(place.path(), place.path(), "1000");
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("no git repository"), "{why}");
    let repository = Repository::new();
    let refused = pack(repository.path(), place.path(), "1000");
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("no commit yet"), "{why}");
}

#[test]
fn a_report_lets_nothing_through_to_the_terminal() {
    let run = json!({
        "submitted_at_ms": 1000, "booting_at_ms": 1010, "running_at_ms": null,
        "settled_at_ms": 1500, "closed_at_ms": 1600,
        "result": {"payload": {
            "repository": "name\u{1b}[2J", "head": "abc", "commits": 3, "cut": null, "files": 1,
            "definition": "score", "skipped": {"other_language": 4, "too_large": 0},
            "hotspots": [{"path": "a\u{7}\nb", "churn": 2, "complexity": 3, "score": 6}],
        }},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    std::fs::write(&path, run.to_string()).unwrap();
    let output = Command::new("python3")
        .arg(Path::new(EXAMPLE).join("report.py"))
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("name?[2J at abc"), "{text}");
    assert!(text.contains("6         2           3  a??b"), "{text}");
    assert!(text.contains("Not analysed: 4 other language\n"), "{text}");
    assert!(text.contains("gone    600 ms"), "{text}");
    let odd = |letter: char| letter.is_control() && letter != '\n';
    assert!(!text.contains(odd), "{text}");
}
