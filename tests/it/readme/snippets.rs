//! The documented producers, consumers, guests and commands, run as they stand there.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use cofferdam::config::{self, Secret};
use cofferdam::run::outcome::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::{Daemon, Ended, cofferdam, ended};
use crate::support::parts::skipped;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::until::until;

/// A language that the pages have snippets in.
#[derive(Clone, Copy, Debug)]
enum Language {
    Shell,
    Python,
    Ruby,
}

impl Language {
    /// The word behind the fence.
    fn fence(self) -> &'static str {
        match self {
            Self::Shell => "sh",
            Self::Python => "python",
            Self::Ruby => "ruby",
        }
    }

    /// A command line that runs `program`.
    fn line(self, program: &str) -> [String; 3] {
        let (interpreter, flag) = match self {
            Self::Shell => ("/bin/sh", "-euc"),
            Self::Python => ("/usr/bin/python3", "-c"),
            Self::Ruby => ("/usr/bin/ruby", "-e"),
        };
        [interpreter.into(), flag.into(), program.into()]
    }

    /// Whether this computer has its interpreter and its client for Redis; says so if not.
    fn is_here(self) -> bool {
        let needs = match self {
            Self::Shell => "command -v redis-cli && command -v curl && command -v jq",
            Self::Python => "import redis",
            Self::Ruby => "require 'redis'",
        };
        let [program, flag, text] = self.line(needs);
        let tried = Command::new(program).args([flag, text]).output();
        let is_here = tried.is_ok_and(|tried| tried.status.success());
        if !is_here {
            skipped(&format!(
                "the snippets in {self:?} need what is not here: {needs}"
            ));
        }
        is_here
    }

    /// The snippet with one that dies between reading and acknowledging.
    fn dying(self, consumer: &str) -> String {
        let (before, death) = match self {
            Self::Shell => unreachable!("it acknowledges nothing"),
            Self::Python => ("r.xack(", "__import__('os')._exit(9); r.xack("),
            Self::Ruby => ("redis.xack(", "exit!(9); redis.xack("),
        };
        assert!(consumer.contains(before), "{consumer}");
        consumer.replace(before, death)
    }

    /// The snippet with the Redis of this test in the place of the one on the usual port.
    fn on(self, socket: &str, snippet: &str) -> String {
        match self {
            Self::Shell => {
                let there = format!("redis-cli -s {socket} ");
                assert!(snippet.contains("redis-cli "), "{snippet}");
                snippet.replace("redis-cli ", &there)
            }
            Self::Python => {
                let there = format!("redis.Redis(unix_socket_path={socket:?}, ");
                assert!(snippet.contains("redis.Redis("), "{snippet}");
                snippet.replace("redis.Redis(", &there)
            }
            // Its client reads REDIS_URL.
            Self::Ruby => format!("$stdout.sync = true\n{snippet}"),
        }
    }
}

/// A heading, and the page that it stands on.
type Heading<'a> = (&'a str, &'a str);

const PRODUCER: Heading = ("docs/requests-and-results.md", "A producer in a few lines");
const CONSUMER: Heading = ("docs/requests-and-results.md", "A consumer in a few lines");
const GUEST: Heading = ("docs/guests.md", "A guest in a few lines");
const TENANTS: Heading = ("docs/tenants.md", "Commands for tenants");
const FIRST_RUN: Heading = (super::README, "A first run");

/// What stands under a heading.
fn section((page, heading): Heading) -> String {
    let text = super::read(page);
    let (_, rest) = text
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("{page} has no section {heading:?}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The first snippet in `language` under a heading.
fn snippet(place: Heading, language: &str) -> String {
    let section = section(place);
    let (_, rest) = section
        .split_once(&format!("\n```{language}\n"))
        .unwrap_or_else(|| panic!("no {language} under {place:?}"));
    rest.split("\n```").next().unwrap().to_owned()
}

/// An `up` with real sandboxes, and its Redis.
struct Place {
    folder: TempDir,
    up: Daemon,
    socket: String,
    url: String,
    raw: Raw,
}

impl Place {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut up = Daemon::start(&["up"], &[("COFFERDAM_STATE_DIR", state.to_str().unwrap())]);
        up.line("cofferdam is up").await;
        let ready: Value =
            serde_json::from_slice(&fs::read(state.join("up.json")).unwrap()).unwrap();
        let url = ready["redis_url"].as_str().unwrap().to_owned();
        Self {
            socket: url.strip_prefix("unix://").unwrap().to_owned(),
            raw: Raw::new(&config::Redis {
                url: Secret::new(url.parse().unwrap()),
                namespace: "cofferdam".to_owned(),
                ..config::Redis::nearby()
            })
            .await,
            url,
            up,
            folder,
        }
    }

    fn tool(&self, args: &[&str]) -> Ended {
        let mut command = cofferdam(args);
        command.env("COFFERDAM_STATE_DIR", self.folder.path().join("state"));
        ended(command)
    }

    /// A program with this test's Redis and cofferdam at hand.
    fn program(&self, [program, flag, text]: &[String; 3]) -> Command {
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_cofferdam"));
        let path = format!("{}:/usr/bin:/bin", bin.parent().unwrap().display());
        let mut command = Command::new(program);
        command.args([flag, text]);
        command
            .env_clear()
            .env("PATH", path)
            .env("REDIS_URL", &self.url)
            .env("PYTHONUNBUFFERED", "1");
        // The commands find `up` through its folder and not through the address of its Redis.
        if program == "/bin/sh" {
            command.env_remove("REDIS_URL");
        }
        command
            .env("COFFERDAM_STATE_DIR", self.folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Waits until this many runs have been closed, and their machine time counted.
    async fn result_count(&self, wanted: usize) {
        until("runs to be closed", async || {
            let closed = self.tool(&["runs", "--state", "closed", "--json"]).json();
            if closed.len() == wanted {
                Ok(())
            } else {
                Err(format!("{closed:?}"))
            }
        })
        .await;
    }

    /// Waits for the result of a run.
    async fn result(&self, run: &str) -> Value {
        until(&format!("the result of {run}"), async || {
            let shown = self.tool(&["show", run, "--json"]);
            let said = shown.stdout.clone() + &shown.stderr;
            if shown.status != 0 {
                return Err(said);
            }
            let shown = shown.json().remove(0);
            match &shown["result"] {
                Value::Null => Err(said),
                result => Ok(result.clone()),
            }
        })
        .await
    }
}

/// A program that goes on until the test has seen enough.
struct Running {
    child: Child,
    folder: TempDir,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let said = File::create(folder.path().join("said")).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said);
        Self {
            child: command.spawn().unwrap(),
            folder,
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guest, the producer and the consumer of one language, in a stack of their own.
async fn work(language: Language) {
    if !language.is_here() {
        return;
    }
    let place = Place::start().await;
    let fence = language.fence();

    let guest = language.line(&snippet(GUEST, fence));
    let words = [
        "submit",
        "--id",
        "guest",
        "--input",
        "{\"n\":[1,2]}",
        "--wait",
        "--json",
        "--",
    ];
    let line: Vec<&str> = words
        .into_iter()
        .chain(guest.iter().map(String::as_str))
        .collect();
    let result = place.tool(&line).json().remove(0);
    assert_eq!(
        result["payload"],
        json!({"echo": {"n": [1, 2]}}),
        "{result}"
    );

    let producer = language.on(&place.socket, &snippet(PRODUCER, fence));
    ended(place.program(&language.line(&producer))).done();
    let result = place.result("pr-17").await;
    if let Language::Shell = language {
        assert_eq!(result["payload"], 42, "{result}");
    } else {
        // That image is not on this computer.
        assert_eq!(result["reason"]["code"], "image_rejected", "{result}");
        assert_eq!(result["tenant"], "acme", "{result}");
    }

    let consumer = language.on(&place.socket, &snippet(CONSUMER, fence));
    let consumer = Running::start(place.program(&language.line(&consumer)));
    until("both results to be read", async || {
        let said = consumer.said();
        let is_read = ["guest", "pr-17", "completed"]
            .iter()
            .all(|word| said.contains(word));
        is_read.then_some(()).ok_or(said)
    })
    .await;
    // The shell's only reads; the others acknowledge what they have printed.
    if !matches!(language, Language::Shell) {
        until("both to be acknowledged", async || {
            match place.raw.pending_of("results", "reviews").await {
                0 => Ok(()),
                left => Err(format!("{left} are not: {}", consumer.said())),
            }
        })
        .await;
    }
    drop(consumer);
    place.up.finish().await;
}

/// A consumer dies between reading and acknowledging, and what it had read waits among entries that
/// nobody can read: its successor prints it, and goes on.
async fn crash(language: Language) {
    if !language.is_here() {
        return;
    }
    let server = Server::start();
    let redis = config::Redis {
        namespace: "cofferdam".to_owned(),
        ..server.settings()
    };
    let raw = Raw::new(&redis).await;
    let socket = server.url().strip_prefix("unix://").unwrap().to_owned();
    let consumer = language.on(&socket, &snippet(CONSUMER, language.fence()));
    let start = |snippet: &str| {
        let [program, flag, text] = language.line(snippet);
        let mut command = Command::new(program);
        command.args([flag, text]).stdin(Stdio::null());
        command.env("REDIS_URL", redis.url.expose().as_str());
        command.env("PYTHONUNBUFFERED", "1");
        Running::start(command)
    };
    let result =
        |id: &str| json!({"run_id": id, "outcome": "completed", "payload": id}).to_string();
    raw.add("results", &[("result", &result("first"))]).await;
    raw.add("results", &[("result", "{\"run_id\":")]).await;
    raw.add("results", &[("other", "field")]).await;
    let bytes = (b"result".to_vec(), b"\"\xff\xfe\"".to_vec());
    raw.add_bytes("results", &[bytes]).await;
    let deep = "[".repeat(100_000);
    raw.add("results", &[("result", &deep)]).await;
    let gone = raw.add("results", &[("result", &result("gone"))]).await;
    raw.add("results", &[("result", &result("second"))]).await;

    let mut dying = start(&language.dying(&consumer));
    until("the consumer to die", || {
        let status = dying.child.try_wait().unwrap();
        std::future::ready(status.ok_or_else(|| dying.said()))
    })
    .await;
    assert_eq!(
        raw.pending_of("results", "reviews").await,
        7,
        "{}",
        dying.said()
    );
    raw.say::<i64>("XDEL", "results", &[&gone]).await;

    let again = start(&consumer);
    until("all to be read and acknowledged", async || {
        let said = again.said();
        let is_read = ["first", "second"].iter().all(|id| said.contains(id));
        let left = raw.pending_of("results", "reviews").await;
        if is_read && left == 0 {
            Ok(())
        } else {
            Err(format!("{left} left: {said}"))
        }
    })
    .await;
    raw.add("results", &[("result", &result("third"))]).await;
    until("the next to be read", async || match again.said() {
        said if said.contains("third") => Ok(()),
        said => Err(said),
    })
    .await;
}

#[tokio::test]
async fn the_consumer_in_python_goes_on_after_a_crash() {
    crash(Language::Python).await;
}

#[tokio::test]
async fn the_consumer_in_ruby_goes_on_after_a_crash() {
    crash(Language::Ruby).await;
}

#[tokio::test]
async fn the_snippets_in_shell_work() {
    work(Language::Shell).await;
}

#[tokio::test]
async fn the_snippets_in_python_work() {
    work(Language::Python).await;
}

#[tokio::test]
async fn the_snippets_in_ruby_work() {
    work(Language::Ruby).await;
}

#[tokio::test]
async fn the_commands_for_tenants_work() {
    let place = Place::start().await;
    // Two runs that wait, for the commands to speak of.
    for run in ["pr-17", "pr-18"] {
        place
            .tool(&[
                "submit",
                "--id",
                run,
                "--tenant",
                "acme",
                "--not-before",
                "+3600",
                "--",
                "true",
            ])
            .done();
    }
    let commands = snippet(TENANTS, "sh");
    let said = ended(place.program(&Language::Shell.line(&commands))).done();
    assert!(said.contains("pr-17 is cancelled"), "{said}");
    for run in ["pr-17", "pr-18"] {
        let result = place.result(run).await;
        assert_eq!(result["outcome"], Outcome::Cancelled.as_str(), "{result}");
    }
    place.up.finish().await;
}

/// Those that need another computer, or this one's ports, are only read by the shell.
#[test]
fn every_shell_snippet_is_one() {
    let mut count = 0;
    for page in super::pages() {
        for rest in super::read(&page).split("\n```sh\n").skip(1) {
            let snippet = rest.split("\n```").next().unwrap();
            let [program, flag, text] = Language::Shell.line(snippet);
            let checked = Command::new(program)
                .args(["-n", &flag, &text])
                .output()
                .unwrap();
            assert!(checked.status.success(), "{page}: {snippet}\n{checked:?}");
            for script in snippet
                .split_whitespace()
                .filter(|word| word.starts_with("scripts/"))
            {
                assert!(super::path(script).is_file(), "{page}: {script}");
            }
            count += 1;
        }
    }
    assert!(count >= 6, "{count} snippets");
}

#[tokio::test]
async fn the_first_run_of_the_readme_prints_what_it_says() {
    if !Language::Shell.is_here() {
        return;
    }
    let place = Place::start().await;
    let command = Language::Shell.line(&snippet(FIRST_RUN, "sh"));
    let said = ended(place.program(&command)).done();
    assert_eq!(said.trim(), snippet(FIRST_RUN, "text").trim(), "{said}");
    place.up.finish().await;
}

/// What the README shows of a producer, a consumer and a guest is run where it stands on the pages.
#[test]
fn the_readme_shows_the_snippets_of_the_pages() {
    let readme = super::read(super::README);
    for heading in [PRODUCER, CONSUMER, GUEST] {
        let snippet = snippet(heading, "sh");
        assert!(readme.contains(&snippet), "{heading:?}: {snippet}");
    }
}

/// The example of a result has the fields of a real one.
#[tokio::test]
async fn the_example_of_a_result_is_one() {
    let place = Place::start().await;
    let ended = place.tool(&["submit", "--capture", "--wait", "--json", "--", "true"]);
    let real: Value = serde_json::from_str(&ended.stdout).unwrap();
    let example: Value = serde_json::from_str(&snippet(CONSUMER, "json")).unwrap();
    let fields = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(fields(&example), fields(&real));
    assert_eq!(fields(&example["machine"]), fields(&real["machine"]));
    place.up.finish().await;
}

/// The lines of a text that begin like this, without that, lines that go on joined.
fn commands(text: &str, begin: &str) -> Vec<String> {
    let joined = text.replace("\\\n#", "");
    let lines = joined.lines().filter_map(|line| line.split_once(begin));
    lines.map(|(_, rest)| rest.trim().to_owned()).collect()
}

/// What the compose file tells people to type after it is up, without the container around it.
#[tokio::test]
async fn the_example_of_the_compose_file_completes() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read_to_string(root.join("docker-compose.yml")).unwrap();
    let found = commands(&file, "docker compose exec serve ");
    assert_eq!(found.len(), 1, "{found:?}");
    let place = Place::start().await;
    let said = ended(place.program(&Language::Shell.line(&found[0])));
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.stdout.contains("42"), "{said:?}");
    place.up.finish().await;
}

/// A path into JSON that is wrong prints `null` and no error.
#[tokio::test]
async fn what_help_texts_pipe_into_jq_finds_something() {
    let jq = Command::new("/usr/bin/jq").arg("--version").output();
    if !jq.is_ok_and(|tried| tried.status.success()) {
        skipped("what help texts pipe into jq needs /usr/bin/jq, which is not here");
        return;
    }
    let place = Place::start().await;
    let guest = "curl -fsS --oauth2-bearer $SANDBOX_RUN_TOKEN -d 42 $SANDBOX_RESULT_URL";
    let submit = ["submit", "--wait", "--id", "pr-17", "--", "sh", "-c", guest];
    place.tool(&submit).done();
    place.result_count(1).await;
    let mut count = 0;
    for sub in ["runs", "results", "usage", "show", "dead", "tenants"] {
        let help = place.tool(&[sub, "--help"]).done();
        for line in help.lines().filter(|line| line.contains("| jq")) {
            let line = line.trim();
            assert!(line.starts_with("cofferdam "), "{line}");
            let said = ended(place.program(&Language::Shell.line(line))).done();
            assert!(
                !said.trim().is_empty() && !said.contains("null"),
                "{line}: {said}"
            );
            count += 1;
        }
    }
    assert!(count >= 2, "{count} lines with jq");
    place.up.finish().await;
}
