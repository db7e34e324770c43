//! What the settings become, and how faults are told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Doctor, Faults, LogFormat, MachinesServer, Redis, Serve, Tool, Up, Worker};

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Settings as a map, with what each command requires already there.
struct Env(BTreeMap<&'static str, String>);

impl Env {
    fn sound() -> Self {
        Self::empty()
            .with("FLY_API_TOKEN", "FlyV1 token")
            .with("COFFERDAM_APPS", "sandboxes")
            .with("COFFERDAM_SIGNING_KEYS", KEY)
            .with("COFFERDAM_GUEST_URL", "http://cofferdam.internal:8080")
            .with("HOME", "/home/someone")
    }

    fn empty() -> Self {
        Self(BTreeMap::new())
    }

    fn with(mut self, name: &'static str, text: &str) -> Self {
        self.0.insert(name, text.to_owned());
        self
    }

    fn parse<T>(
        &self,
        parse: impl Fn(&dyn Fn(&str) -> Option<String>) -> Result<T, Faults>,
    ) -> Result<T, Faults> {
        parse(&|name| self.0.get(name).cloned())
    }
}

#[test]
fn defaults_are_as_the_table_says() {
    let worker = Env::sound().parse(Worker::parse).unwrap();
    assert_eq!(worker.redis.url.expose().as_str(), "redis://127.0.0.1:6379");
    assert_eq!(worker.redis.namespace, "cofferdam");
    assert_eq!(
        worker.machines.api_url.as_str(),
        "http://_api.internal:4280/v1"
    );
    assert_eq!(worker.runs.max_in_flight.get(), 50);
    assert_eq!(worker.runs.boot_rate, 1.0);
    assert_eq!(worker.runs.boot_timeout, Duration::from_secs(60));
    assert_eq!(worker.runs.results_hard_cap, None);
    assert_eq!(worker.daemon.log_format, LogFormat::Text);
    let serve = Env::sound().parse(Serve::parse).unwrap();
    assert_eq!(serve.endpoint.listen.to_string(), "[::]:8080");
    assert_eq!(serve.endpoint.keys[0].kid, "k1");
    let machines = Env::sound().parse(MachinesServer::parse).unwrap();
    assert_eq!(
        machines.local.state_dir.to_str(),
        Some("/home/someone/.local/state/cofferdam")
    );
    assert_eq!(machines.local.endpoint, "127.0.0.1:8080");
}

#[test]
fn every_fault_is_reported_at_once_and_by_name() {
    let faults = Env::empty()
        .with("REDIS_URL", "http://127.0.0.1")
        .with("COFFERDAM_LEASE_S", "soon")
        .with("COFFERDAM_MAX_IN_FLIGHT", "0")
        .with("COFFERDAM_LOG_FORMAT", "xml")
        .parse(Worker::parse)
        .unwrap_err();
    let names: Vec<_> = faults.0.iter().map(|fault| fault.name).collect();
    assert_eq!(
        names,
        [
            "REDIS_URL",
            "FLY_API_TOKEN",
            "COFFERDAM_APPS",
            "COFFERDAM_MAX_IN_FLIGHT",
            "COFFERDAM_LEASE_S",
            "COFFERDAM_GUEST_URL",
            "COFFERDAM_SIGNING_KEYS",
            "COFFERDAM_LOG_FORMAT",
        ]
    );
    let told = faults.to_string();
    assert!(
        told.starts_with("8 faults in the settings:\n  REDIS_URL: "),
        "{told}"
    );
    assert!(
        told.contains("\"soon\" is not a whole number of seconds"),
        "{told}"
    );
}

#[test]
fn empty_text_counts_as_unset() {
    let worker = Env::sound()
        .with("COFFERDAM_LEASE_S", " ")
        .parse(Worker::parse)
        .unwrap();
    assert_eq!(worker.runs.lease, Duration::from_secs(15));
    let refused = Env::sound()
        .with("FLY_API_TOKEN", "")
        .parse(Worker::parse)
        .unwrap_err();
    assert_eq!(refused.0.len(), 1);
    assert_eq!(refused.0[0].problem, "required, but not set");
}

#[test]
fn secrets_are_shown_neither_in_faults_nor_for_debugging() {
    let env = Env::sound()
        .with("REDIS_URL", "redis://:hush@host")
        .with("FLY_API_TOKEN", "hush")
        .with("COFFERDAM_SIGNING_KEYS", "a:hush");
    let faults = env.parse(Worker::parse).unwrap_err();
    assert!(!faults.to_string().contains("hush"), "{faults}");
    let env = env.with("COFFERDAM_SIGNING_KEYS", KEY);
    let shown = format!("{:?}", env.parse(Worker::parse).unwrap());
    assert!(
        !shown.contains("hush") && !shown.contains("AAECAw"),
        "{shown}"
    );
}

#[test]
fn up_alone_needs_nothing_but_a_home() {
    let up = Env::empty()
        .with("HOME", "/home/someone")
        .parse(Up::parse)
        .unwrap();
    assert_eq!(up.apps, ["sandboxes"]);
    assert_eq!(up.guest_url.as_str(), "http://127.0.0.1:4281/");
    assert_eq!(up.runs.image.as_deref(), Some("host"));
    assert_eq!(up.runs.boot_rate, 0.0);
    assert!(up.redis_url.is_none() && up.api_url.is_none() && up.token.is_none());
}

#[test]
fn up_with_somebody_elses_api_needs_what_a_worker_needs() {
    let env = Env::empty()
        .with("HOME", "/home/someone")
        .with("FLY_API_URL", "https://api.machines.dev/v1");
    let faults = env.parse(Up::parse).unwrap_err();
    let names: Vec<_> = faults.0.iter().map(|fault| fault.name).collect();
    assert_eq!(
        names,
        ["FLY_API_TOKEN", "COFFERDAM_APPS", "COFFERDAM_GUEST_URL"]
    );
}

#[test]
fn tools_take_what_is_given_and_require_nothing() {
    let tool = Env::empty().parse(Tool::parse).unwrap();
    assert!(tool.redis_url.is_none() && tool.state_dir.is_none());
    assert_eq!(Redis::nearby().namespace, "cofferdam");
    let (doctor, faults) = Doctor::examine(&|name| match name {
        "COFFERDAM_APPS" => Some("Not An App".to_owned()),
        "REDIS_URL" => Some("unix:///run/redis.sock".to_owned()),
        _ => None,
    });
    assert!(doctor.tool.redis_url.is_some());
    assert_eq!(faults[0].name, "COFFERDAM_APPS");
}

#[test]
fn a_relative_xdg_state_home_is_ignored() {
    let env = Env::sound().with("XDG_STATE_HOME", "relative");
    let up = env.parse(Up::parse).unwrap();
    assert!(up.state_dir.starts_with("/home/someone"));
    let up = env
        .with("XDG_STATE_HOME", "/var/lib/state")
        .parse(Up::parse)
        .unwrap();
    assert_eq!(up.state_dir.to_str(), Some("/var/lib/state/cofferdam"));
}

#[test]
fn namespaces_may_stand_in_braces() {
    for sound in ["cofferdam", "{cofferdam}", "a.b-c_9"] {
        assert!(
            Env::sound()
                .with("COFFERDAM_NAMESPACE", sound)
                .parse(Worker::parse)
                .is_ok()
        );
    }
    for unsound in ["a:b", "{a", "a b", "{}", "a{b}"] {
        assert!(
            Env::sound()
                .with("COFFERDAM_NAMESPACE", unsound)
                .parse(Worker::parse)
                .is_err()
        );
    }
}

#[test]
fn a_secret_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let env = Env::empty()
        .with("COFFERDAM_APPS", "sandboxes")
        .with("COFFERDAM_GUEST_URL", "http://cofferdam.internal:8080")
        .with("REDIS_URL_FILE", &path("redis", "redis://:hush@host:1\n"))
        .with("FLY_API_TOKEN_FILE", &path("token", "FlyV1 token\n"))
        .with("COFFERDAM_SIGNING_KEYS_FILE", &path("keys", KEY));
    let worker = env.parse(Worker::parse).unwrap();
    assert_eq!(worker.redis.url.expose().as_str(), "redis://:hush@host:1");
    assert_eq!(worker.machines.token.expose(), "FlyV1 token");
    assert_eq!(worker.guests.keys[0].kid, "k1");

    let env = env
        .with("REDIS_URL", "redis://other")
        .with("FLY_API_TOKEN_FILE", "/nowhere/at-all")
        .with("COFFERDAM_SIGNING_KEYS_FILE", &path("short", "k1:hush"));
    let told = env.parse(Worker::parse).unwrap_err().to_string();
    let expected = [
        "3 faults in the settings:",
        "  REDIS_URL: set twice, here and by REDIS_URL_FILE",
        "  FLY_API_TOKEN_FILE: /nowhere/at-all: No such file or directory",
        "  COFFERDAM_SIGNING_KEYS: key 1: has 3 bytes",
    ];
    for (line, expected) in told.lines().zip(expected) {
        assert!(line.starts_with(expected), "{told}");
    }
    assert_eq!(told.lines().count(), expected.len(), "{told}");
    assert!(!told.contains("hush"), "{told}");

    let empty = Env::sound().with("REDIS_URL_FILE", &path("empty", "\n"));
    let told = empty.parse(Worker::parse).unwrap_err().to_string();
    assert!(
        told.contains("REDIS_URL_FILE") && told.ends_with("is empty"),
        "{told}"
    );
}

#[test]
fn only_names_are_allowed_as_hosts() {
    let hosts = |text| {
        let serve = Env::sound().with("COFFERDAM_ALLOWED_HOSTS", text);
        serve.parse(Serve::parse).map(|serve| serve.allowed_hosts)
    };
    assert_eq!(
        hosts("Metrics.example.com, b.example").unwrap(),
        ["metrics.example.com", "b.example"]
    );
    for unsound in ["*.example.com", "a b", "10.0.0.1", "a,"] {
        assert!(hosts(unsound).is_err(), "{unsound}");
    }
}
