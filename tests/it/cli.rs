//! The command: its help texts, what it refuses and how, and what the tools print over a real
//! Redis.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::command::{Ended, cofferdam, ended, fed};
use crate::support::redis;

/// Every command that has a help text of its own.
const COMMANDS: &[&str] = &[
    "",
    "up",
    "worker",
    "serve",
    "machines",
    "images",
    "images import",
    "images list",
    "images remove",
    "run",
    "submit",
    "show",
    "logs",
    "artifacts",
    "runs",
    "results",
    "cancel",
    "rerun",
    "priority",
    "workers",
    "workers list",
    "workers quiet",
    "workers resume",
    "top",
    "console",
    "tenants",
    "tenants list",
    "tenants show",
    "tenants set",
    "tenants pause",
    "tenants resume",
    "usage",
    "dead",
    "dead list",
    "dead requeue",
    "dead show",
    "dead delete",
    "doctor",
    "completions",
];

fn fixture(command: &str) -> PathBuf {
    let name = format!("cofferdam {command}").trim().replace(' ', "-");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/help");
    folder.join(format!("{name}.txt"))
}

/// Set it to write the fixtures anew; look at the difference before it is committed.
fn is_blessing() -> bool {
    std::env::var_os("BLESS").is_some()
}

#[test]
fn help_texts_are_as_they_were() {
    let mut changed = Vec::new();
    for command in COMMANDS {
        let help = ended(cofferdam(command.split_whitespace().chain(["--help"]))).done();
        let path = fixture(command);
        if is_blessing() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &help).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != help {
            changed.push(path);
        }
    }
    assert!(changed.is_empty(), "BLESS=1 writes them anew: {changed:#?}");
}

/// Commands came without a fixture of their help.
#[test]
fn every_command_that_a_help_text_lists_is_held() {
    let mut missing = Vec::new();
    for command in COMMANDS {
        let help = fs::read_to_string(fixture(command)).unwrap();
        let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
        let listed = listed.lines().take_while(|line| !line.is_empty());
        let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        for name in names.filter(|name| !name.is_empty() && *name != "help") {
            let full = format!("{command} {name}");
            if !COMMANDS.contains(&full.trim()) {
                missing.push(full);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_help_text_has_an_example_or_belongs_to_one_that_has() {
    for command in COMMANDS
        .iter()
        .filter(|command| !command.contains(' ') && !command.is_empty())
    {
        let help = fs::read_to_string(fixture(command)).unwrap();
        let example = format!("cofferdam {command}");
        assert!(
            help.matches(&example).count() >= 2,
            "{command} has no example"
        );
    }
}

#[test]
fn secrets_in_the_environment_are_not_shown_by_help() {
    let mut command = cofferdam(["worker", "--help"]);
    command
        .env("FLY_API_TOKEN", "hush-hush")
        .env("REDIS_URL", "redis://:hush-hush@host");
    assert!(!ended(command).done().contains("hush-hush"));
}

/// Wrong words or settings: exit status 2, and the fault is named.
#[track_caller]
fn check_wrong_use(args: &[&str], expected: &str) {
    let ended = ended(cofferdam(args));
    assert_eq!(ended.status, 2, "{args:?}: {}", ended.stderr);
    assert!(
        ended.stderr.contains(expected),
        "{args:?}: {}",
        ended.stderr
    );
    assert_eq!(ended.stdout, "", "{args:?}");
}

#[test]
fn wrong_use_exits_with_2_and_names_the_fault() {
    check_wrong_use(&["sumbit"], "submit");
    check_wrong_use(&["worker", "--laese-s", "1"], "--lease-s");
    check_wrong_use(&["submit", "--env", "A"], "--env \"A\" has no '='");
    check_wrong_use(&["submit", "-", "--image", "host"], "cannot be used with");
    check_wrong_use(&["submit", "--cpus", "many"], "--cpus");
    check_wrong_use(&["show", "a b"], "\"a b\" is no run's id");
    check_wrong_use(&["show"], "<RUN>");
    check_wrong_use(
        &["runs", "--state", "lost"],
        "queued, booting, running, settled, closed",
    );
    check_wrong_use(&["dead", "requeue"], "<ENTRY>");
    check_wrong_use(
        &["dead", "requeue", "yesterday"],
        "\"yesterday\" is no entry's id",
    );
    check_wrong_use(&["show", "x", "--redis-url", "http://a"], "REDIS_URL");
    check_wrong_use(
        &["logs", "x", "--json", "--timestamps"],
        "cannot be used with",
    );
    check_wrong_use(&["run"], "<COMMAND>");
    check_wrong_use(&["worker", "--lease-s", "-1"], "COFFERDAM_LEASE_S");
}

#[test]
fn every_fault_in_the_settings_is_told_at_once() {
    for (command, names) in [
        (
            "worker",
            &[
                "FLY_API_TOKEN",
                "COFFERDAM_APPS",
                "COFFERDAM_SIGNING_KEYS",
                "COFFERDAM_GUEST_URL",
            ][..],
        ),
        ("serve", &["COFFERDAM_SIGNING_KEYS"]),
        ("machines", &["FLY_API_TOKEN", "COFFERDAM_STATE_DIR"]),
        ("up", &["COFFERDAM_STATE_DIR"]),
    ] {
        let mut process = cofferdam([command]);
        process.env("COFFERDAM_DRAIN_S", "soon");
        let ended = ended(process);
        assert_eq!(ended.status, 2, "{command}: {}", ended.stderr);
        for name in names.iter().chain(&["COFFERDAM_DRAIN_S"]) {
            assert!(
                ended.stderr.contains(name),
                "{command} and {name}: {}",
                ended.stderr
            );
        }
    }
}

#[test]
fn a_redis_that_is_not_there_is_told_with_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("unix://{}/none.sock", folder.path().display());
    let ended = ended(cofferdam(["show", "x", "--redis-url", &url]));
    assert_eq!(ended.status, 1);
    assert!(
        ended
            .stderr
            .contains(&format!("connect to {url}: redis is not")),
        "{}",
        ended.stderr
    );
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ended(cofferdam(["completions", shell])).done();
        assert!(
            script.contains("cofferdam") && script.contains("requeue"),
            "{shell}"
        );
    }
}

/// A namespace of its own on the shared Redis.
struct Tools {
    redis: cofferdam::config::Redis,
}

impl Tools {
    fn new() -> Self {
        Self {
            redis: redis::settings(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = cofferdam(args);
        command.env("REDIS_URL", self.redis.url.expose().as_str());
        command.env("COFFERDAM_NAMESPACE", &self.redis.namespace);
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args))
    }
}

#[test]
fn a_request_is_sent_and_waits_for_a_worker() {
    let tools = Tools::new();
    let sent = tools.run(&["submit", "--id", "pr-17", "--json"]).json();
    assert_eq!(sent[0]["run_id"], "pr-17");
    let entry = tools
        .run(&["submit", "--image", "host", "--", "true"])
        .done();
    assert!(entry.trim().split_once('-').is_some(), "{entry}");
    let shown = tools.run(&["runs"]);
    assert!(
        shown.stderr.contains("2 requests not read yet"),
        "{}",
        shown.stderr
    );
    let waited = tools.run(&["submit", "--wait", "--wait-timeout", "1"]);
    assert_eq!(waited.status, 1);
    assert!(waited.stderr.contains("it goes on"), "{}", waited.stderr);
}

#[test]
fn lines_are_sent_and_bad_ones_are_told_by_number() {
    let tools = Tools::new();
    let lines = "{\"id\":\"a\"}\n\n{\"id\":1}\n{\"timeout_s\":0}\nnonsense\n{\"id\":\"b\"}";
    let ended = fed(tools.command(&["submit", "-"]), lines);
    assert_eq!(ended.status, 1);
    assert_eq!(ended.stdout, "a\nb\n");
    for told in [
        "line 3 is refused: id",
        "line 4 is refused: timeout_s",
        "line 5 is refused",
    ] {
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
    assert!(
        ended.stderr.contains("2 requests sent · 3 lines refused"),
        "{}",
        ended.stderr
    );
}

#[test]
fn what_is_not_known_is_told_by_name() {
    let tools = Tools::new();
    for command in ["show", "cancel", "logs"] {
        let ended = tools.run(&[command, "nobody"]);
        assert_eq!(ended.status, 1, "{command}");
        assert!(
            ended.stderr.contains("run nobody is not known"),
            "{}",
            ended.stderr
        );
    }
    let ended = tools.run(&["dead", "requeue", "1-1"]);
    assert_eq!(ended.status, 1);
    assert!(
        ended.stderr.contains("there is no dead entry 1-1"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_group_of_commands_lists_when_no_word_is_given() {
    let tools = Tools::new();
    tools
        .run(&["submit", "--tenant", "acme", "--", "true"])
        .done();
    tools
        .run(&["tenants", "set", "acme", "--weight", "3"])
        .done();
    let tenants = tools.run(&["tenants", "--json"]).json();
    assert_eq!(tenants[0]["tenant"], "acme", "{tenants:?}");
    assert_eq!(tools.run(&["tenants", "list", "--json"]).json(), tenants);
    let none = tools.run(&["dead"]);
    assert_eq!(none.status, 0);
    assert!(none.stderr.contains("no dead entries"), "{}", none.stderr);
}

#[test]
fn doctor_finds_what_could_lose_runs() {
    let tools = Tools::new();
    let findings = tools.run(&["doctor", "--json"]).json();
    let verdict = |what: &str| {
        let found = findings.iter().find(|finding| finding["what"] == what);
        found
            .map(|finding| finding["verdict"].clone())
            .unwrap_or_default()
    };
    assert_eq!(verdict("redis"), json!("ok"));
    assert_eq!(verdict("redis persistence"), json!("ok"));
    assert_eq!(verdict("redis eviction"), json!("ok"));
    assert_eq!(verdict("redis clock"), json!("ok"));
    assert_eq!(verdict("signing keys"), json!("warn"));
    let mut broken = tools.command(&["doctor"]);
    broken
        .env("COFFERDAM_GUEST_URL", "nowhere")
        .env("REDIS_URL", "unix:///nowhere/redis.sock");
    let broken = ended(broken);
    assert_eq!(broken.status, 1);
    assert!(
        broken.stdout.contains("fail  COFFERDAM_GUEST_URL"),
        "{}",
        broken.stdout
    );
    assert!(broken.stdout.contains("fail  redis"), "{}", broken.stdout);
}

#[test]
fn doctor_runs_a_machine_where_it_is_asked_to() {
    let tools = Tools::new();
    let folder = tempfile::tempdir().unwrap();
    let find = |findings: &[Value], what: &str| {
        let found = findings.iter().find(|finding| finding["what"] == what);
        found.cloned().unwrap_or_default()
    };
    let findings = tools.run(&["doctor", "--json"]).json();
    assert!(find(&findings, "sandbox").is_null(), "{findings:#?}");

    let mut asked = tools.command(&["doctor", "--sandbox", "--json"]);
    asked.env("COFFERDAM_STATE_DIR", folder.path());
    let findings = ended(asked).json();
    let sandbox = find(&findings, "sandbox");
    assert_eq!(sandbox["verdict"], "ok", "{findings:#?}");
    let limits = find(&findings, "sandbox limits");
    let found = limits["found"].as_str().unwrap();
    assert!(found.starts_with("limits="), "{found}");
    let holds = !["=none", "=process"].iter().any(|no| found.contains(no));
    assert_eq!(limits["verdict"], if holds { "ok" } else { "warn" });

    // A host on which no machine can be run.
    let mut broken = tools.command(&["doctor", "--sandbox"]);
    broken.env("COFFERDAM_STATE_DIR", "/dev/null");
    let broken = ended(broken);
    assert_eq!(broken.status, 1, "{}", broken.stdout);
    assert!(broken.stdout.contains("fail  sandbox"), "{}", broken.stdout);
}
