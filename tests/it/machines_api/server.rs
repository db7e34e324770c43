//! A Machines server of its own for each test, and raw calls on it.

use std::time::Duration;

use cofferdam::local::{Bounds, FaultSettings, Guests, LocalServer, Rule, ServerSettings};
use cofferdam::machines::client::Client;
use cofferdam::machines::settings::{ClientSettings, Token};
use cofferdam::shutdown::Shutdown;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::until::until;

/// The token of every server here.
pub(super) const TOKEN: &str = "fm2_test";
/// The app of every server here.
pub(super) const APP: &str = "boxes";

/// A running server. Its end is awaited with [`Server::end`].
pub(super) struct Server {
    pub(super) base: String,
    pub(super) client: Client,
    pub(super) report: String,
    http: reqwest::Client,
    shutdown: Shutdown,
    /// Removed with the server.
    _state: TempDir,
}

/// What came back of a raw call.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) headers: reqwest::header::HeaderMap,
}

impl Answer {
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The text under `error`, with the status in front.
    pub(super) fn refusal(&self) -> String {
        let text = self.body["error"].as_str().or(self.body.as_str());
        format!("{} {}", self.status, text.unwrap_or_default())
    }
}

/// Sandboxes, or `None` with the reason printed where this host cannot make them.
pub(super) async fn sandboxed() -> Option<Server> {
    sandboxed_with(|_| {}).await
}

/// As [`sandboxed`], with other settings.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(super) async fn sandboxed_with(change: impl FnOnce(&mut ServerSettings)) -> Option<Server> {
    match Server::open(change).await {
        Ok(server) => Some(server),
        Err(cofferdam::local::Error::Engine(cofferdam_sandbox::Error::Unavailable {
            reason,
            ..
        })) => {
            eprintln!("skipped: machines cannot be run here: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// No processes: for what is about the server alone.
pub(super) async fn simulated(change: impl FnOnce(&mut ServerSettings)) -> Server {
    let opened = Server::open(|settings| {
        settings.guests = Guests::Simulated(Duration::from_secs(3600));
        change(settings);
    });
    opened.await.unwrap()
}

/// The same with fault rules, and the control route open.
pub(super) async fn with_faults(rules: &[&str]) -> Server {
    let rules = rules.iter().map(|rule| rule.parse::<Rule>().unwrap());
    let faults = FaultSettings {
        rules: rules.collect(),
        control: true,
        documented_limits: false,
    };
    simulated(|settings| settings.faults = faults).await
}

impl Server {
    async fn open(
        change: impl FnOnce(&mut ServerSettings),
    ) -> Result<Self, cofferdam::local::Error> {
        let state = tempfile::tempdir().unwrap();
        let mut settings = ServerSettings::new(TOKEN.to_owned(), state.path().to_owned());
        settings.apps = vec![APP.to_owned()];
        settings.bounds = Bounds {
            drain: Duration::from_secs(30),
            ..Bounds::default()
        };
        if let Guests::Sandboxed(engine) = &mut settings.guests {
            engine.require_limits = false;
        }
        change(&mut settings);
        let shutdown = Shutdown::new();
        let machines = LocalServer::open(settings, &shutdown).await?;
        let report = machines.report().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        shutdown.spawn(machines.serve(listener));
        let settings = ClientSettings::new(base.parse().unwrap(), Token::new(TOKEN));
        let client = Client::new(settings).unwrap();
        Ok(Self {
            base,
            client,
            report,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            shutdown,
            _state: state,
        })
    }

    /// Ends the server and with it every machine.
    pub(super) async fn end(self) {
        assert!(
            self.shutdown.finish(Duration::from_secs(60)).await,
            "the server ends by itself"
        );
    }

    /// Begins the end, without waiting for it.
    pub(super) fn shutdown_now(&self) {
        self.shutdown.begin();
    }

    /// A call on any path, as JSON.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.with_nonce(method, path, body, None).await
    }

    /// The same with a lease's nonce.
    pub(super) async fn with_nonce(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        nonce: Option<&str>,
    ) -> Answer {
        answer(self.send(method, path, body, nonce).await.unwrap()).await
    }

    /// A call that may come to nothing.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        nonce: Option<&str>,
    ) -> Result<Response, reqwest::Error> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let mut request = request.header("authorization", format!("Bearer {TOKEN}"));
        if let Some(nonce) = nonce {
            request = request.header("fly-machine-lease-nonce", nonce);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        request.send().await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    /// Creates a machine that must be taken, and gives its id.
    pub(super) async fn create(&self, body: Value) -> String {
        let made = self.post(&machines(""), body).await.expect(200);
        made["id"].as_str().unwrap().to_owned()
    }

    /// Waits for a state, and gives the machine as it is then.
    pub(super) async fn reach(&self, id: &str, state: &str) -> Value {
        until(&format!("machine {id} to be {state}"), || async {
            let seen = self.get(&machine(id, "")).await;
            match seen.body["state"].as_str() {
                Some(found) if found == state => Ok(seen.body),
                _ => Err(format!("{} {}", seen.status, seen.body)),
            }
        })
        .await
    }

    /// Waits for a machine's `n`th exit event, counted from the first, and gives its `exit_event`.
    pub(super) async fn exit(&self, id: &str, n: usize) -> Value {
        until(&format!("exit {n} of machine {id}"), || async {
            let events = self.get(&machine(id, "/events?limit=50")).await.body;
            let exits: Vec<_> = events
                .as_array()
                .into_iter()
                .flatten()
                .filter(|event| event["type"] == "exit")
                .collect();
            match exits.len().checked_sub(n) {
                Some(at) => Ok(exits[at]["request"].clone()),
                None => Err(events.to_string()),
            }
        })
        .await
    }

    /// Waits for a line in a machine's log.
    pub(super) async fn logged(&self, id: &str, line: &str) {
        until(&format!("{line:?} in the log of {id}"), || async {
            let lines = self.log(id).await;
            match lines.iter().any(|found| found == line) {
                true => Ok(()),
                false => Err(format!("{lines:?}")),
            }
        })
        .await;
    }

    /// All lines of a machine's log.
    pub(super) async fn log(&self, id: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut token = None;
        loop {
            let page = self
                .client
                .logs(APP, Some(id), token.as_deref())
                .await
                .unwrap();
            if page.data.is_empty() {
                return lines;
            }
            lines.extend(page.data.into_iter().map(|entry| entry.attributes.message));
            token = page.meta.next_token;
        }
    }
}

async fn answer(response: Response) -> Answer {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    Answer {
        status,
        headers,
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    }
}

/// A path below the app's machines.
pub(super) fn machines(rest: &str) -> String {
    format!("/v1/apps/{APP}/machines{rest}")
}

/// A path below one machine.
pub(super) fn machine(id: &str, rest: &str) -> String {
    machines(&format!("/{id}{rest}"))
}

/// A machine on the host's own image that runs a line of shell, and is not started again.
pub(super) fn shell(line: &str) -> Value {
    json!({"config": {
        "image": "host",
        "init": {"exec": ["/bin/sh", "-c", line]},
        "restart": {"policy": "no"},
        "stop_config": {"signal": "SIGTERM", "timeout": "20s"}
    }})
}

/// The same with more in its configuration.
pub(super) fn shell_with(line: &str, config: Value) -> Value {
    let mut body = shell(line);
    for (name, value) in config.as_object().unwrap() {
        body["config"][name] = value.clone();
    }
    body
}
