//! The users of `docs/redis.md`, made as it says: with what each may do, all that it does works.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use cofferdam::clock::Clock;
use cofferdam::config::Secret;
use cofferdam::run::id::Attempt;
use cofferdam::token::Grant;
use serde_json::json;

use crate::support::command::{Daemon, cofferdam, ended};
use crate::support::fleet::{Fleet, ring};
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::until::until;

/// The words of each `ACL SETUSER` of the page, for this namespace.
fn lines(namespace: &str) -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md");
    let page = fs::read_to_string(page).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("ACL SETUSER "));
    lines
        .map(|line| {
            let line = line.replace("~cofferdam:", &format!("~{namespace}:"));
            line.split(' ').map(str::to_owned).collect()
        })
        .collect()
}

/// A Redis with these users, and nobody else but who looks after it.
struct Guarded {
    server: Server,
    raw: Raw,
    redis: cofferdam::config::Redis,
}

impl Guarded {
    /// `without` are the words that are left out of every line.
    async fn new(without: &[&str]) -> Self {
        let server = Server::start();
        let redis = server.settings();
        let raw = Raw::new(&redis).await;
        let lines = lines(&redis.namespace);
        assert_eq!(lines.len(), 5);
        for line in lines {
            let words = line.iter().map(String::as_str);
            let words: Vec<&str> = words.filter(|word| !without.contains(word)).collect();
            raw.order(&words).await;
        }
        Self { server, raw, redis }
    }

    /// The address for one of the users.
    fn url(&self, who: &str) -> String {
        let url = self.server.tcp_url();
        url.replace("://", &format!("://cofferdam-{who}:{who}-password@"))
    }

    async fn fleet(&self, settings: &[(&'static str, &str)]) -> (Fleet, Daemon, String) {
        let url = self.url("serve");
        let mut all = vec![("REDIS_URL", url.as_str()), ("COFFERDAM_SWEEP_S", "1")];
        all.extend(settings);
        let redis = self.redis.clone();
        let fleet = Fleet::start_on(redis, &["--simulate", "20"], &all).await;
        let url = self.url("worker");
        let (worker, admin) = fleet.worker_with(&[("REDIS_URL", &url)]).await;
        (fleet, worker, admin)
    }

    /// What was refused, each as `user: command or key`.
    async fn denials(&self) -> Vec<String> {
        let log: Vec<HashMap<String, redis::Value>> = self.raw.answer(&["ACL", "LOG", "128"]).await;
        let text = |entry: &HashMap<String, redis::Value>, field: &str| {
            redis::from_redis_value::<String>(entry[field].clone()).unwrap()
        };
        let told = log
            .iter()
            .map(|entry| format!("{}: {}", text(entry, "username"), text(entry, "object")));
        told.collect()
    }
}

/// What is left when a scenario has ended: nothing that was refused.
#[track_caller]
fn check_none(denials: &[String]) {
    // The client tells its name and version when it connects, and does not mind.
    let grave = denials
        .iter()
        .filter(|told| !told.ends_with("client|setinfo"));
    assert_eq!(grave.collect::<Vec<_>>(), Vec::<&String>::new());
}

async fn until_state(guarded: &Guarded, id: &str, state: &str) {
    until(&format!("{id} to be {state}"), async || {
        let key = format!("run:{id}");
        let now: Option<String> = guarded.raw.say("HGET", &key, &["state"]).await;
        match now {
            Some(now) if now == state => Ok(()),
            other => Err(format!("{other:?}, refused: {:?}", guarded.denials().await)),
        }
    })
    .await;
}

async fn until_closed(guarded: &Guarded, wanted: &[(&str, &str)]) {
    until("every run to be closed", async || {
        let mut seen = Vec::new();
        for (id, outcome) in wanted {
            let words = ["state", "outcome"];
            let now: [Option<String>; 2] =
                guarded.raw.say("HMGET", &format!("run:{id}"), &words).await;
            if now != [Some("closed".to_owned()), Some((*outcome).to_owned())] {
                seen.push((id, now));
            }
        }
        if seen.is_empty() {
            Ok(())
        } else {
            Err(format!("{seen:?}, refused: {:?}", guarded.denials().await))
        }
    })
    .await;
}

#[tokio::test]
async fn each_part_does_its_work_with_the_acl_that_the_documentation_gives_it() {
    let guarded = Guarded::new(&[]).await;
    let (fleet, worker, _) = guarded.fleet(&[("COFFERDAM_MAX_IN_FLIGHT", "4")]).await;
    let user = async |who: &str| {
        let mut redis = guarded.redis.clone();
        redis.url = Secret::new(guarded.url(who).parse().unwrap());
        Raw::new(&redis).await
    };
    let (producer, consumer) = (user("producer").await, user("consumer").await);

    // A request that is none, one that is refused, and those that end in every way.
    producer.add("runs", &[("what", "ever")]).await;
    producer
        .add("runs", &[("run", r#"{"id":"wrong","what":1}"#)])
        .await;
    let hangs = json!({"SIMULATED_GUEST": "hangs"});
    let later = Clock::system().now_ms() + 2000;
    for mut request in [
        json!({"id": "posts", "metadata": {"a": 1}}),
        json!({"id": "posts"}),
        json!({"id": "late", "timeout_s": 1, "env": hangs}),
        json!({"id": "silent", "env": {"SIMULATED_GUEST": "exits"}}),
        json!({"id": "stays", "tenant": "acme", "env": {"SIMULATED_GUEST": "stays"}}),
        json!({"id": "delayed", "not_before_ms": later, "priority": 3}),
        json!({"id": "imageless", "image": "missing"}),
        json!({"id": "stopped", "env": hangs}),
        json!({"id": "globex-1", "tenant": "globex", "env": hangs}),
    ] {
        request["cmd"] = json!(["true"]);
        producer.add("runs", &[("run", &request.to_string())]).await;
    }
    until_closed(&guarded, &[("posts", "completed"), ("late", "timed_out")]).await;
    until_state(&guarded, "globex-1", "running").await;
    // The guests that are played read no input; a real one does.
    let token = ring().sign(&Grant {
        run: "globex-1".parse().unwrap(),
        attempt: Attempt(1),
        expires_s: Clock::system().now_ms() / 1000 + 60,
        nonce: guarded.raw.nonce("globex-1").await,
    });
    let input = parts::http().get(format!("http://{}/input", fleet.endpoint));
    let input = input.bearer_auth(token).send().await.unwrap();
    assert_eq!(input.status(), 200, "{:?}", guarded.denials().await);
    producer.add("control", &[("cancel", "stopped")]).await;
    producer
        .add("control", &[("cancel_tenant", "globex")])
        .await;
    producer.add("control", &[("pause", "acme")]).await;
    producer.add("control", &[("resume", "acme")]).await;
    until_closed(
        &guarded,
        &[
            ("wrong", "rejected"),
            ("silent", "failed"),
            ("stays", "completed"),
            ("delayed", "completed"),
            ("imageless", "failed"),
            ("stopped", "cancelled"),
            ("globex-1", "cancelled"),
        ],
    )
    .await;

    consumer.make_group("results", "billing").await;
    let read = consumer.read_group("results", "billing", 100).await;
    assert_eq!(read.len(), 9);
    for entry in &read {
        consumer.acknowledge("results", "billing", entry).await;
    }

    let tool = |args: &[&str]| {
        let mut command = cofferdam(args);
        let env = fleet
            .env
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        command.envs(env).env("REDIS_URL", guarded.url("operator"));
        ended(command)
    };
    tool(&["submit", "--wait", "--id", "asked", "--", "true"]).done();
    tool(&["show", "asked"]).done();
    tool(&["runs"]).done();
    tool(&["results"]).done();
    tool(&["tenants"]).done();
    tool(&[
        "tenants",
        "set",
        "acme",
        "--weight",
        "2",
        "--budget-s",
        "100",
    ])
    .done();
    tool(&["tenants", "pause", "acme"]).done();
    tool(&["submit", "--id", "waits", "--tenant", "acme", "--", "true"]).done();
    until_state(&guarded, "waits", "queued").await;
    let shown = tool(&["show", "waits"]).done();
    assert!(shown.contains("paused"), "{shown}");
    tool(&["tenants", "show", "acme"]).done();
    tool(&[
        "submit", "--id", "unwanted", "--tenant", "acme", "--", "true",
    ])
    .done();
    tool(&["cancel", "unwanted"]).done();
    tool(&["tenants", "resume", "acme"]).done();
    tool(&["tenants", "resume", "--all"]).done();
    tool(&["usage"]).done();
    tool(&["workers"]).done();
    tool(&["top", "--once"]).done();
    tool(&["runs", "--outcome", "failed", "--since", "1h"]).done();
    tool(&["runs", "--tenant", "acme"]).done();
    tool(&["dead"]).done();
    tool(&["dead", "requeue", "--all"]).done();
    tool(&["doctor"]).done();
    until_closed(
        &guarded,
        &[("waits", "completed"), ("unwanted", "cancelled")],
    )
    .await;
    worker.finish().await;
    fleet.finish().await;
    check_none(&guarded.denials().await);
}

/// What a user must not do: the commands and keys of others.
#[tokio::test]
async fn nobody_may_do_what_is_not_theirs() {
    let guarded = Guarded::new(&[]).await;
    let results = format!("{}:results", guarded.redis.namespace);
    let runs = format!("{}:runs", guarded.redis.namespace);
    let everybody = ["worker", "serve", "producer", "consumer", "operator"];
    let mut refused: Vec<(&str, Vec<&str>)> = Vec::new();
    for who in everybody {
        for words in [
            vec!["FLUSHALL"],
            vec!["CONFIG", "SET", "appendonly", "no"],
            vec!["KEYS", "*"],
            vec!["SET", "somebody-elses", "1"],
            vec!["ACL", "LIST"],
            vec!["SCRIPT", "FLUSH"],
        ] {
            refused.push((who, words));
        }
    }
    refused.push(("producer", vec!["XRANGE", &results, "-", "+"]));
    refused.push(("producer", vec!["XRANGE", &runs, "-", "+"]));
    refused.push(("producer", vec!["XADD", &results, "*", "a", "b"]));
    refused.push(("consumer", vec!["XADD", &results, "*", "a", "b"]));
    refused.push(("consumer", vec!["XTRIM", &results, "MAXLEN", "0"]));
    refused.push(("consumer", vec!["XADD", &runs, "*", "a", "b"]));
    refused.push((
        "serve",
        vec!["XREADGROUP", "GROUP", "g", "c", "STREAMS", &runs, ">"],
    ));
    for (who, words) in refused {
        let client = redis::Client::open(guarded.url(who)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer: redis::RedisResult<redis::Value> = command.query_async(&mut connection).await;
        let error = answer.expect_err(&format!("{who}: {words:?}"));
        assert_eq!(error.code(), Some("NOPERM"), "{who}: {words:?}");
    }
}

/// What only diagnoses may be missing: it is told once, and the work goes on.
#[tokio::test]
async fn a_user_that_may_not_ask_redis_for_its_state_does_its_work() {
    let guarded = Guarded::new(&["+info", "+time", "+config|get"]).await;
    let (fleet, worker, admin) = guarded.fleet(&[]).await;
    for n in 0..20 {
        let request = json!({"id": format!("n{n}"), "cmd": ["true"]}).to_string();
        guarded.raw.add("runs", &[("run", &request)]).await;
    }
    let ids: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    let wanted: Vec<_> = ids.iter().map(|id| (id.as_str(), "completed")).collect();
    until_closed(&guarded, &wanted).await;
    let ready = parts::http().get(format!("http://{admin}/readyz"));
    assert_eq!(ready.send().await.unwrap().status(), 200);
    for process in [&worker, &fleet.serve] {
        let said = process.said();
        assert_eq!(
            said.matches("redis does not tell its version").count(),
            1,
            "{said}"
        );
        assert_eq!(
            said.matches("no permission to read the time of redis")
                .count(),
            1,
            "{said}"
        );
    }
    let mut doctor = cofferdam(["doctor"]);
    let env = fleet
        .env
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    doctor.envs(env).env("REDIS_URL", guarded.url("operator"));
    let doctor = ended(doctor).stdout;
    assert!(doctor.contains("let the user run INFO"), "{doctor}");
    worker.finish().await;
    fleet.finish().await;
    let denials = guarded.denials().await;
    let expected = ["info", "time", "config|get", "client|setinfo"];
    let other = denials
        .iter()
        .filter(|told| !expected.iter().any(|end| told.ends_with(end)));
    assert_eq!(other.collect::<Vec<_>>(), Vec::<&String>::new());
}

/// A wrong password is no missing right.
#[tokio::test]
async fn a_wrong_password_is_an_error_at_the_start() {
    let guarded = Guarded::new(&[]).await;
    let mut serve = cofferdam(["serve"]);
    let url = guarded.url("serve").replace("serve-password", "other");
    serve
        .env("REDIS_URL", url)
        .env("COFFERDAM_SIGNING_KEYS", parts::SIGNING_KEYS);
    serve
        .env("COFFERDAM_LISTEN", "127.0.0.1:0")
        .env("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0");
    let ended = ended(serve);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("does not let this user"),
        "{}",
        ended.stderr
    );
}

/// A command that is used anywhere is in the list of who runs it.
#[test]
fn every_command_of_the_source_is_in_the_lists() {
    let lines = lines("ns");
    let allowed: BTreeSet<String> = lines
        .iter()
        .filter(|line| ["cofferdam-worker", "cofferdam-operator"].contains(&line[2].as_str()))
        .flatten()
        .filter_map(|word| Some(word.strip_prefix('+')?.split('|').next()?.to_owned()))
        .collect();
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut used = BTreeSet::new();
    let mut folders = vec![store];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for before in ["cmd(\"", "redis.call('", "redis.pcall('", "&[\""] {
                let calls = text.split(before).skip(1);
                let names = calls.map(|rest| rest.split(['"', '\'']).next().unwrap());
                let is_name = |name: &&str| {
                    name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_uppercase())
                };
                used.extend(names.filter(is_name).map(str::to_lowercase));
            }
        }
    }
    // Of every connection, and said to sentinels.
    used.remove("ping");
    used.remove("sentinel");
    used.remove("client");
    let missing: Vec<_> = used.difference(&allowed).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(used.len() > 40, "{used:?}");
}
