//! The agent against an endpoint that takes everything and writes it down.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says aloud what it does not try"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// One call that the agent made.
#[derive(Clone, Debug)]
struct Call {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// An endpoint, and the calls it got.
struct Endpoint {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Endpoint {
    /// Answers the first calls of a result with `first`, and everything else with 201.
    fn new(first: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&calls);
        let first = Arc::new(Mutex::new(first.to_vec()));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, first) = (Arc::clone(&kept), Arc::clone(&first));
                thread::spawn(move || serve(stream, &kept, &first));
            }
        });
        Self { url, calls }
    }

    fn calls(&self, path: &str) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        let of = |call: &&Call| call.path.starts_with(path);
        calls.iter().filter(of).cloned().collect()
    }

    /// The one result that was posted.
    #[track_caller]
    fn result(&self) -> Value {
        let calls = self.calls("/results");
        let [call] = &calls[..] else {
            panic!("one result, not {calls:?}");
        };
        serde_json::from_slice(&call.body).unwrap()
    }

    /// Runs `command` under the agent in `folder`.
    fn run(
        &self,
        folder: &std::path::Path,
        timeout_s: u64,
        capture: &Value,
        command: &[&str],
    ) -> Output {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // Rounded up, so that the command has all of the time.
        let deadline = (now + Duration::from_millis(timeout_s * 1000 + 999)).as_secs();
        Command::new(env!("CARGO_BIN_EXE_cofferdam-guest"))
            .arg("--")
            .args(command)
            .current_dir(folder)
            .env("SANDBOX_RUN_TOKEN", "the-token")
            .env("SANDBOX_RESULT_URL", format!("{}/results", self.url))
            .env("SANDBOX_LOG_URL", format!("{}/log", self.url))
            .env("SANDBOX_ARTIFACT_URL", format!("{}/artifacts", self.url))
            .env("SANDBOX_DEADLINE", deadline.to_string())
            .env("SANDBOX_CAPTURE", capture.to_string())
            .output()
            .unwrap()
    }
}

/// Calls of one connection, one after another.
fn serve(mut stream: TcpStream, calls: &Mutex<Vec<Call>>, first: &Mutex<Vec<u16>>) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            read(&mut stream, &mut bytes)?;
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let mut lines = text.lines();
        let mut words = lines.next()?.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while bytes.len() < head + length {
            read(&mut stream, &mut bytes)?;
        }
        let body = bytes[head..head + length].to_vec();
        bytes.drain(..head + length);
        let status = if path == "/results" {
            first.lock().unwrap().pop().unwrap_or(201)
        } else {
            201
        };
        if status < 300 {
            calls.lock().unwrap().push(Call {
                method,
                path: path.clone(),
                headers,
                body,
            });
        }
        let answer = format!(r#"{{"name":"{path}"}}"#);
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 65536];
    let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
    bytes.extend_from_slice(&piece[..read]);
    Some(())
}

fn bounds(stdout_bytes: usize) -> Value {
    serde_json::json!({"stdout_bytes": stdout_bytes, "stderr_bytes": 1000})
}

#[test]
fn output_exit_code_and_times_come_back_and_the_token_does_not_go_in() {
    let endpoint = Endpoint::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let script = "echo out; echo err >&2; env | grep -c SANDBOX_; tr '\\0' ' ' < /proc/$PPID/environ; exit 7";
    let output = endpoint.run(folder.path(), 20, &bounds(1000), &["sh", "-c", script]);
    let result = endpoint.result();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(result["exit_code"], 7);
    assert_eq!(result["signal"], Value::Null);
    assert_eq!(result["timed_out"], false);
    assert!(
        result["stdout"].as_str().unwrap().starts_with("out\n0\n"),
        "{result}"
    );
    assert!(
        result["stderr"].as_str().unwrap().starts_with("err\n"),
        "{result}"
    );
    // Root may read every process; everybody else is kept from the agent's.
    if nix::unistd::geteuid().is_root() {
        println!("whether the token can be read is not tried: this is root");
    } else {
        assert!(!result.to_string().contains("the-token"), "{result}");
    }
    for number in ["wall_ms", "cpu_ms", "peak_bytes"] {
        assert!(result[number].is_u64(), "{number} of {result}");
    }
    let posts = endpoint.calls("/log");
    assert!(
        posts
            .iter()
            .all(|post| post.headers["authorization"] == "Bearer the-token")
    );
    let told: Vec<u8> = posts.iter().flat_map(|post| post.body.clone()).collect();
    assert!(String::from_utf8_lossy(&told).contains("out\n"));
}

#[test]
fn a_command_that_left_something_running_ends_at_once_and_takes_it_along() {
    let endpoint = Endpoint::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let script =
        "setsid sh -c 'echo $$ > pid; sleep 100' & while ! [ -s pid ]; do :; done; echo done";
    endpoint.run(folder.path(), 60, &bounds(1000), &["sh", "-c", script]);
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(endpoint.result()["stdout"], "done\n");
    let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[test]
fn a_command_past_its_time_is_ended_and_its_output_so_far_is_told() {
    let endpoint = Endpoint::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; echo early; sleep 100";
    endpoint.run(folder.path(), 3, &bounds(1000), &["sh", "-c", script]);
    let result = endpoint.result();
    assert_eq!(
        (&result["timed_out"], &result["exit_code"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert_eq!(result["stdout"], "early\n");
}

#[test]
fn head_and_tail_of_a_flood_are_kept_and_the_rest_is_counted() {
    let endpoint = Endpoint::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let script = "echo first; yes | head -c 10000000; echo last";
    endpoint.run(folder.path(), 60, &bounds(1000), &["sh", "-c", script]);
    let result = endpoint.result();
    let stdout = result["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("first\n") && stdout.ends_with("last\n"));
    assert_eq!(stdout.len(), 1000);
    assert_eq!(result["dropped"]["stdout"], 10_000_000 + 6 + 5 - 1000);
}

#[test]
fn what_is_not_text_comes_in_base64_and_what_cannot_run_is_told_as_a_shell_does() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::new(&[]);
    endpoint.run(folder.path(), 20, &bounds(1000), &["printf", r"\377\000"]);
    let result = endpoint.result();
    assert_eq!(
        (&result["stdout"], &result["stdout_base64"]),
        (&Value::Null, &"/wA=".into())
    );
    for (program, code) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let endpoint = Endpoint::new(&[]);
        endpoint.run(folder.path(), 20, &bounds(1000), &[program]);
        let result = endpoint.result();
        assert_eq!(result["exit_code"], code, "{program}");
        assert!(
            result["stderr"].as_str().unwrap().contains(program),
            "{result}"
        );
    }
}

#[test]
fn a_result_is_posted_again_while_the_endpoint_is_busy() {
    let endpoint = Endpoint::new(&[503, 429]);
    let folder = tempfile::tempdir().unwrap();
    endpoint.run(folder.path(), 20, &bounds(1000), &["echo", "x"]);
    assert_eq!(endpoint.result()["stdout"], "x\n");
    let endpoint = Endpoint::new(&[401]);
    let output = endpoint.run(folder.path(), 20, &bounds(1000), &["echo", "x"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("401"),
        "{output:?}"
    );
}

#[test]
fn input_is_fed_and_artifacts_are_put_within_their_bound() {
    let endpoint = Endpoint::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    fs::write(&input, "fed").unwrap();
    let capture = serde_json::json!({"stdout_bytes": 100, "stderr_bytes": 100, "stdin": input,
        "artifacts": ["out/**"], "artifact_bytes": 5});
    let script =
        "mkdir out; cat > 'out/a b'; echo much too long > out/long; ln -s /etc/passwd out/p";
    endpoint.run(folder.path(), 20, &capture, &["sh", "-c", script]);
    let puts = endpoint.calls("/artifacts");
    let found: Vec<_> = puts
        .iter()
        .map(|put| (put.method.as_str(), put.path.as_str(), put.body.as_slice()))
        .collect();
    assert_eq!(found, [("PUT", "/artifacts/out/a%20b", &b"fed"[..])]);
    let result = endpoint.result();
    let told = result["artifacts"].as_array().unwrap();
    assert_eq!(told[0]["name"], "/artifacts/out/a%20b");
    assert_eq!(told[1]["name"], "out/long");
    assert!(
        told[1]["error"].as_str().unwrap().contains("bound"),
        "{result}"
    );
    assert_eq!(told.len(), 2);
}

#[test]
fn the_program_for_machines_is_small_and_needs_nothing_of_its_image() {
    let program = cofferdam_guest::PROGRAM;
    assert!(program.len() <= 2 << 20, "{} bytes", program.len());
    // Of the segments of this ELF file (elf(5)) none names an interpreter: nothing else is loaded.
    let number = |at: usize| usize::from(program[at]) + (usize::from(program[at + 1]) << 8);
    let (headers, size, count) = (number(0x20), number(0x36), number(0x38));
    let kinds: Vec<usize> = (0..count)
        .map(|index| number(headers + index * size))
        .collect();
    assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    fs::write(&path, program).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, mode).unwrap();
    let output = Command::new(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
}
