//! `worker`, `serve` and `machines` as processes of their own, as they are deployed.

use cofferdam::config;
use cofferdam::token::KeyRing;
use serde_json::Value;

use crate::support::command::{Daemon, Ended, cofferdam, ended};
use crate::support::faults;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis;
use crate::support::until::until;

/// What the services sign with, as a setting.
pub(crate) const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The same keys.
pub(crate) fn ring() -> KeyRing {
    let key: Vec<u8> = (0..32).collect();
    KeyRing::new([("k1".to_owned(), key)]).unwrap()
}

/// The services on the shared Redis, in a namespace of their own. Workers are started one by one.
pub(crate) struct Fleet {
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) redis: config::Redis,
    pub(crate) serve: Daemon,
    pub(crate) machines: Daemon,
    pub(crate) endpoint: String,
    /// Where the endpoint's metrics are.
    pub(crate) admin: String,
    state: tempfile::TempDir,
}

impl Fleet {
    /// An endpoint, and a Machines server that is started with `args`.
    pub(crate) async fn start(args: &[&str], settings: &[(&'static str, &str)]) -> Self {
        Self::start_on(redis::settings(), args, settings).await
    }

    /// The same, on a Redis of the test's own.
    pub(crate) async fn start_on(
        redis: config::Redis,
        args: &[&str],
        settings: &[(&'static str, &str)],
    ) -> Self {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().to_str().unwrap();
        let fixed = [
            ("REDIS_URL", redis.url.expose().as_str()),
            ("COFFERDAM_NAMESPACE", redis.namespace.as_str()),
            ("COFFERDAM_SIGNING_KEYS", KEYS),
            ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0"),
            ("COFFERDAM_LISTEN", "127.0.0.1:0"),
            ("COFFERDAM_MACHINES_LISTEN", "127.0.0.1:0"),
            ("COFFERDAM_STATE_DIR", folder),
            ("COFFERDAM_APPS", "sandboxes"),
            ("COFFERDAM_IMAGE", "host"),
            ("COFFERDAM_BOOT_RATE", "0"),
            ("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080"),
            ("FLY_API_TOKEN", "token-of-the-test"),
        ];
        let all = fixed.iter().chain(settings);
        let mut env: Vec<_> = all
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let mut serve = start(&["serve"], &env);
        let mut addresses = serve.addresses(2).await;
        let (endpoint, admin) = (addresses.remove(0), addresses.remove(0));
        env.push(("COFFERDAM_MACHINES_ENDPOINT", endpoint.clone()));
        let args: Vec<_> = ["machines"].iter().chain(args).copied().collect();
        let mut machines = start(&args, &env);
        let line = machines.line("/v1").await;
        let api = line.split_whitespace().next().unwrap().to_owned();
        env.push(("FLY_API_URL", api));
        Self {
            env,
            redis,
            serve,
            machines,
            endpoint,
            admin,
            state,
        }
    }

    /// A worker, and the address of its metrics.
    pub(crate) async fn worker(&self) -> (Daemon, String) {
        self.worker_with(&[]).await
    }

    /// A worker with other settings than its fellows.
    pub(crate) async fn worker_with(&self, settings: &[(&'static str, &str)]) -> (Daemon, String) {
        let other = settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let env: Vec<_> = self.env.iter().cloned().chain(other).collect();
        let mut worker = start(&["worker"], &env);
        let admin = worker.addresses(1).await.remove(0);
        (worker, admin)
    }

    /// The settings, with a state folder of its own and others in place of them.
    fn env_with(
        &self,
        state: &std::path::Path,
        settings: &[(&'static str, &str)],
    ) -> Vec<(&'static str, String)> {
        let folder = ("COFFERDAM_STATE_DIR", state.to_str().unwrap().to_owned());
        let other = settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        self.env
            .iter()
            .cloned()
            .chain([folder])
            .chain(other)
            .collect()
    }

    /// A process of this command with a state folder of its own, whatever becomes of it.
    #[cfg(feature = "milestones")]
    pub(crate) fn process(
        &self,
        command: &str,
        state: &std::path::Path,
        settings: &[(&'static str, &str)],
    ) -> Daemon {
        start(&[command], &self.env_with(state, settings))
    }

    /// Another Machines server with other settings, and its address.
    pub(crate) async fn machines_with(
        &self,
        args: &[&str],
        settings: &[(&'static str, &str)],
    ) -> (Daemon, String) {
        let state = tempfile::tempdir_in(self.state.path()).unwrap().keep();
        let env = self.env_with(&state, settings);
        let args: Vec<_> = ["machines"].iter().chain(args).copied().collect();
        let mut machines = start(&args, &env);
        let line = machines.line("/v1").await;
        let api = line.split_whitespace().next().unwrap().to_owned();
        (machines, api)
    }

    /// Runs a tool to its end.
    pub(crate) fn tool(&self, args: &[&str]) -> Ended {
        let mut command = cofferdam(args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        ended(command)
    }

    /// What `show` tells of a run.
    pub(crate) fn show(&self, run: &str) -> Result<Value, String> {
        let shown = self.tool(&["show", run, "--json"]);
        if shown.status == 0 {
            Ok(shown.json().remove(0))
        } else {
            Err(shown.stdout + &shown.stderr)
        }
    }

    /// Waits until a run is in this state.
    pub(crate) async fn until_state(&self, run: &str, state: &str) -> Value {
        until(&format!("{run} to be {state}"), async || {
            let shown = self.show(run)?;
            if shown["state"] == state {
                Ok(shown)
            } else {
                Err(format!("{shown} {}", self.machines.said()))
            }
        })
        .await
    }

    fn setting(&self, wanted: &str) -> &str {
        let mut found = self.env.iter();
        &found.find(|(name, _)| *name == wanted).unwrap().1
    }

    /// Where the provider's machines are.
    fn machines_url(&self) -> String {
        let (api, app) = (self.setting("FLY_API_URL"), self.setting("COFFERDAM_APPS"));
        format!("{api}/apps/{app}/machines")
    }

    /// Names of the machines that the provider lists.
    pub(crate) async fn machines_left(&self) -> Vec<String> {
        let asked = parts::http().get(self.machines_url());
        let asked = asked.bearer_auth(self.setting("FLY_API_TOKEN"));
        let listed: Vec<Value> = asked.send().await.unwrap().json().await.unwrap();
        let names = listed
            .iter()
            .map(|machine| machine["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    /// Where the Machines server takes rules to misbehave by.
    fn control(&self) -> (&str, &str) {
        let api = self.setting("FLY_API_URL");
        (api.trim_end_matches("/v1"), self.setting("FLY_API_TOKEN"))
    }

    /// The Machines server misbehaves by these rules from now on.
    pub(crate) async fn put_faults(&self, rules: &[&str]) {
        let (api, token) = self.control();
        faults::put(api, token, rules).await;
    }

    /// How often each rule was met.
    pub(crate) async fn faults(&self) -> Value {
        let (api, token) = self.control();
        faults::counts(api, token).await
    }

    /// Names of the machines that there really are, whatever the provider answers.
    pub(crate) async fn machines_named(&self) -> Value {
        self.faults().await["machines"]["names"].take()
    }

    /// Makes a machine as somebody else would.
    pub(crate) async fn make_machine(&self, body: &Value) {
        let asked = parts::http().post(self.machines_url()).json(body);
        let answer = asked
            .bearer_auth(self.setting("FLY_API_TOKEN"))
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }

    /// Redis as others meet it.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::new(&self.redis).await
    }

    /// Ends what is left.
    pub(crate) async fn finish(self) {
        self.machines.finish().await;
        self.serve.finish().await;
    }
}

fn start(args: &[&str], env: &[(&'static str, String)]) -> Daemon {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Daemon::start(args, &env)
}
