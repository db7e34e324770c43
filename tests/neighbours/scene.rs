//! The processes that both tenants share, with default sizes, on the memory that the deployment files
//! give: Redis with 512 MB, a worker, an endpoint, and the local Machines server with real sandboxes.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::args::Args;
use crate::link::Link;
use crate::process::Process;

const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Memory that the endpoint may have, as in fly.toml.
const SERVE_BYTES: u64 = 512 * 1024 * 1024;
/// How long everything may take to be there.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that the tenants share.
pub(crate) struct Scene {
    /// In the order in which they end.
    processes: Vec<Process>,
    pub(crate) link: Link,
    pub(crate) command: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) async fn start(args: &Args) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("cofferdam-neighbours-")
            .tempdir()
            .unwrap();
        let [redis_port, machines_port, serve_port] = free_ports();
        let redis_url = format!("redis://127.0.0.1:{redis_port}");
        let command = args.command.clone();
        let command = command.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cofferdam")));
        let endpoint = format!("127.0.0.1:{serve_port}");
        let env = settings(folder.path(), &redis_url, machines_port, &endpoint);
        let word = |word: &str| vec![word.to_owned()];
        let mut serve = vec![format!("--data={SERVE_BYTES}")];
        serve.extend([command.display().to_string(), "serve".to_owned()]);
        let mut processes = vec![
            Process::new("worker", &command, &word("worker"), &env, folder.path()),
            Process::new("machines", &command, &word("machines"), &env, folder.path()),
            Process::new("serve", Path::new("prlimit"), &serve, &env, folder.path()),
            redis(redis_port, folder.path()),
        ];
        for process in processes.iter_mut().rev() {
            process.start();
        }
        let mut scene = Self {
            processes,
            link: Link::new(&redis_url, 0),
            command,
            folder,
        };
        scene.submit("first", "victim", "true", &Value::Null).await;
        scene.wait("first", START_TIMEOUT).await.unwrap();
        scene
    }

    /// Appends a request for a shell script, with `more` in it.
    pub(crate) async fn submit(&mut self, id: &str, tenant: &str, script: &str, more: &Value) {
        let mut request = serde_json::json!({
            "id": id,
            "tenant": tenant,
            "cmd": ["sh", "-c", script],
            "guest": {"cpus": 1, "memory_mb": 256},
        });
        if let (Some(fields), Some(more)) = (request.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        let request = request.to_string();
        let words = ["XADD", "cofferdam:runs", "*", "run", request.as_str()];
        let _: String = self.link.ask(&words).await;
    }

    /// Waits for a run's outcome, which is written with its result.
    ///
    /// # Errors
    /// What was seen last, when it does not come in time.
    pub(crate) async fn wait(&mut self, id: &str, bound: Duration) -> Result<String, String> {
        let until = Instant::now() + bound;
        let key = format!("cofferdam:run:{id}");
        loop {
            let outcome: Option<String> = self.link.ask(&["HGET", &key, "outcome"]).await;
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
            if Instant::now() > until {
                let moments = self.moments(id).await;
                let logs: Vec<String> = ["worker", "machines", "serve"]
                    .map(|name| self.last(name))
                    .into();
                let (trouble, logs) = (self.trouble(), logs.join("\n"));
                return Err(format!("{id} has no outcome; {moments}; {trouble}\n{logs}"));
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// What a process said last.
    fn last(&self, name: &str) -> String {
        let log = self.folder.path().join(format!("{name}.log"));
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        format!("{name}: {lines:?}")
    }

    /// When what happened to a run, in ms since it was asked for.
    pub(crate) async fn moments(&mut self, id: &str) -> String {
        let key = format!("cofferdam:run:{id}");
        let fields: BTreeMap<String, String> = self.link.ask(&["HGETALL", &key]).await;
        let moment = |field: &String| fields.get(field)?.parse::<u64>().ok();
        let first = moment(&"submitted_at_ms".to_owned()).unwrap_or(0);
        let names = fields.keys().filter(|name| name.ends_with("_at_ms"));
        let mut moments: Vec<_> = names
            .filter_map(|name| Some((moment(name)?.saturating_sub(first), name.clone())))
            .collect();
        moments.sort_unstable();
        let told = moments.iter().map(|(ms, name)| format!("{name} {ms}"));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Waits until a run has its machine.
    pub(crate) async fn wait_running(&mut self, id: &str) {
        let until = Instant::now() + START_TIMEOUT;
        let key = format!("cofferdam:run:{id}");
        loop {
            let state: Option<String> = self.link.ask(&["HGET", &key, "state"]).await;
            if matches!(state.as_deref(), Some("running" | "settled" | "closed")) {
                return;
            }
            assert!(
                Instant::now() < until,
                "{id} is {state:?}; {}",
                self.trouble()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Processes that ended by themselves; they are not started again.
    pub(crate) fn trouble(&mut self) -> String {
        let died = self.processes.iter_mut().filter_map(Process::died);
        format!("{:?}", died.collect::<Vec<_>>())
    }

    /// Adds a process that ends with the scene.
    pub(crate) fn add(&mut self, mut process: Process) {
        process.start();
        self.processes.insert(0, process);
    }

    /// Ends everything: the Machines server by a signal, so that it ends its machines.
    pub(crate) fn end(mut self) {
        let trouble = self.trouble();
        assert_eq!(trouble, "[]", "a process ended by itself");
        for mut process in std::mem::take(&mut self.processes) {
            let Some(mut leaving) = process.leave() else {
                continue;
            };
            while leaving.ended().is_none() && leaving.age() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn settings(
    folder: &Path,
    redis_url: &str,
    machines_port: u16,
    endpoint: &str,
) -> Vec<(String, String)> {
    let machines = format!("127.0.0.1:{machines_port}");
    let settings = [
        ("REDIS_URL", redis_url.to_owned()),
        ("FLY_API_URL", format!("http://{machines}/v1")),
        ("FLY_API_TOKEN", "token-of-the-neighbours".to_owned()),
        ("COFFERDAM_APPS", "sandboxes".to_owned()),
        ("COFFERDAM_SIGNING_KEYS", KEYS.to_owned()),
        ("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080".to_owned()),
        ("COFFERDAM_IMAGE", "host".to_owned()),
        ("COFFERDAM_LISTEN", endpoint.to_owned()),
        ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("COFFERDAM_MACHINES_LISTEN", machines),
        ("COFFERDAM_MACHINES_ENDPOINT", endpoint.to_owned()),
        (
            "COFFERDAM_STATE_DIR",
            folder.join("state").display().to_string(),
        ),
        (
            "COFFERDAM_ARTIFACTS",
            format!("file://{}", folder.join("artifacts").display()),
        ),
        ("COFFERDAM_GUEST_PROGRAM", "/.cofferdam-guest".to_owned()),
        ("COFFERDAM_BOOT_RATE", "0".to_owned()),
        ("COFFERDAM_SWEEP_S", "2".to_owned()),
        ("COFFERDAM_DRAIN_S", "2".to_owned()),
        ("COFFERDAM_LOG", "warn".to_owned()),
    ];
    settings
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn redis(port: u16, folder: &Path) -> Process {
    let port = port.to_string();
    let folder_name = folder.to_str().unwrap();
    let words = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--maxmemory",
        "512mb",
        "--maxmemory-policy",
        "noeviction",
        "--dir",
        folder_name,
    ];
    let words = words.map(str::to_owned);
    Process::new("redis", Path::new("redis-server"), &words, &[], folder)
}

/// Ports that are free now.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
