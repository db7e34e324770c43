//! Guests that are not there: for load and chaos tests of everything but the sandbox.
//!
//! No process runs and nothing is isolated. The server plays the guest itself: after a delay it
//! posts a small JSON value to the path of `SANDBOX_RESULT_URL`, at the configured endpoint, with
//! the machine's own token, and the machine exits with 0. A machine without that variable exits
//! with 0 after the delay.
//!
//! A guest can be one that behaves otherwise, by the variable `SIMULATED_GUEST`: `exits` (posts
//! nothing and exits with 3), `stays` (posts and never exits), `hangs` (neither), `hostile` (posts
//! JSON that ordinary readers cannot read, one after the other, and then its result).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use cofferdam_sandbox::{Exit, OutputSink, Spec, Stream};

use crate::local::guest_call::GuestCall;

/// How often a guest tries to post its result before it gives up and exits with 1.
const TRIES: u32 = 10;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one try may take.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// The variable that says how a guest behaves.
const BEHAVIOUR: &str = "SIMULATED_GUEST";
/// What a guest exits with that posts nothing.
const SILENT: i32 = 3;

/// Plays guests.
#[derive(Clone, Debug)]
pub(crate) struct Simulated {
    /// How long a guest works before it posts.
    pub(crate) delay: Duration,
    /// `host:port` of the endpoint.
    pub(crate) endpoint: Option<Arc<str>>,
}

/// A guest that is about to play.
pub(crate) struct Running {
    delay: Duration,
    endpoint: Option<Arc<str>>,
    env: BTreeMap<String, String>,
    output: OutputSink,
    signals: mpsc::Receiver<i32>,
    handle: Handle,
}

/// Reaches a guest that plays.
#[derive(Clone, Debug)]
pub(crate) struct Handle(mpsc::Sender<i32>);

impl Simulated {
    /// Begins to play a guest.
    pub(crate) fn start(&self, spec: Spec, output: OutputSink) -> Running {
        let (sender, signals) = mpsc::channel(8);
        Running {
            delay: self.delay,
            endpoint: self.endpoint.clone(),
            env: spec.env,
            output,
            signals,
            handle: Handle(sender),
        }
    }
}

impl Handle {
    /// Ends the guest with that signal. Further signals find it ended already.
    pub(crate) fn signal(&self, signal: i32) {
        let _ = self.0.try_send(signal);
    }
}

impl Running {
    /// Reaches the guest from elsewhere.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Plays the guest to its end.
    pub(crate) async fn wait(mut self) -> Exit {
        let mut signals = std::mem::replace(&mut self.signals, mpsc::channel(1).1);
        let ended_by = async {
            match signals.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            signal = ended_by => Exit { signal: Some(signal), ..Exit::default() },
            code = self.behave() => Exit { code: Some(code), ..Exit::default() },
        }
    }

    async fn behave(&self) -> i32 {
        match self.env.get(BEHAVIOUR).map(String::as_str) {
            Some("exits") => {
                tokio::time::sleep(self.delay).await;
                SILENT
            }
            Some("stays") => {
                self.play().await;
                std::future::pending().await
            }
            Some("hangs") => std::future::pending().await,
            Some("hostile") => {
                for body in hostile() {
                    self.post(&body, 1).await;
                }
                self.play().await
            }
            _ => self.play().await,
        }
    }

    async fn play(&self) -> i32 {
        tokio::time::sleep(self.delay).await;
        let run = self.env.get("SANDBOX_RUN_ID").map_or("", String::as_str);
        let body = serde_json::json!({ "simulated": true, "run_id": run }).to_string();
        self.post(&body, TRIES).await
    }

    /// Posts a body up to `tries` times, and answers what its guest exits with.
    async fn post(&self, body: &str, tries: u32) -> i32 {
        let endpoint = self.endpoint.as_ref();
        let call =
            endpoint.and_then(|endpoint| GuestCall::new(endpoint, &self.env, "SANDBOX_RESULT_URL"));
        let Some(call) = call else {
            return 0;
        };
        for attempt in 1..=tries {
            let seen = match timeout(
                POST_TIMEOUT,
                call.post("", "application/json", body.as_bytes()),
            )
            .await
            {
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            let line = format!("simulated guest: try {attempt}: {seen}\n");
            (self.output)(Stream::Stdout, Bytes::from(line));
            match seen.as_str() {
                "200" | "201" => return 0,
                "400" | "401" | "404" | "405" | "413" => return 1,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        1
    }
}

/// JSON, and nearly JSON, that breaks its readers.
fn hostile() -> [String; 4] {
    const DEPTH: usize = 5000;
    [
        "[".repeat(DEPTH) + &"]".repeat(DEPTH),
        "9".repeat(DEPTH),
        r#"{"a":"\ud800"}"#.to_owned(),
        r#"{"\ud800":1}"#.to_owned(),
    ]
}
