//! Artifacts, by the real endpoint as a process: put, listed, fetched, bounded, gone with their results.

mod agent;
mod bucket;
mod ends;
mod puts;
mod s3;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam::artifacts::ArtifactStore;
use cofferdam::clock::Clock;
use cofferdam::config::ArtifactPlace;
use cofferdam::run::digest::sha256;
use cofferdam::run::id::Attempt;
use cofferdam::stage::Core;
use cofferdam::token::Grant;
use serde_json::{Value, json};

use crate::support::command::Daemon;
use crate::support::fleet::{Fleet, ring};
use crate::support::parts;
use crate::support::raw::Raw;

/// The services, with a run whose guest does nothing by itself: the test plays it.
struct Scene {
    fleet: Fleet,
    _worker: Daemon,
    raw: Raw,
    run: String,
    token: String,
    folder: tempfile::TempDir,
}

impl Scene {
    /// Artifacts are kept in a folder, with these settings.
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("file://{}", folder.path().display());
        let mut all = vec![("COFFERDAM_ARTIFACTS", place.as_str())];
        all.extend(settings);
        Self::of(folder, &all).await
    }

    /// With these settings and no others.
    async fn of(folder: tempfile::TempDir, settings: &[(&'static str, &str)]) -> Self {
        let fleet = Fleet::start(&["--simulate", "10", "--fault-control"], settings).await;
        let (worker, _) = fleet.worker().await;
        let raw = fleet.raw().await;
        let mut scene = Self {
            fleet,
            _worker: worker,
            raw,
            run: String::new(),
            token: String::new(),
            folder,
        };
        (scene.run, scene.token) = scene.guest("pr-17", "default").await;
        scene
    }

    /// A run of a tenant, with its token.
    async fn guest(&self, id: &str, tenant: &str) -> (String, String) {
        let env = json!({"SIMULATED_GUEST": "hangs"});
        let request = json!({"id": id, "tenant": tenant, "cmd": ["true"], "env": env});
        self.raw.add("runs", &[("run", &request.to_string())]).await;
        self.fleet.until_state(id, "running").await;
        (id.to_owned(), self.token_of(id, 1, 60).await)
    }

    async fn token_of(&self, id: &str, attempt: u32, lives_s: i64) -> String {
        let now_s = Clock::system().now_ms() / 1000;
        ring().sign(&Grant {
            run: id.parse().unwrap(),
            attempt: Attempt(attempt),
            expires_s: now_s.saturating_add_signed(lives_s),
            nonce: self.raw.nonce(id).await,
        })
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/artifacts/{name}", self.fleet.endpoint)
    }

    async fn put(&self, name: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.put_by(&self.token, name, body).await
    }

    async fn put_by(
        &self,
        token: &str,
        name: &str,
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        let put = parts::http().put(self.url(name)).bearer_auth(token);
        let response = put.body(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn post_result(&self) {
        let url = format!("http://{}/results", self.fleet.endpoint);
        let post = parts::http().post(url).bearer_auth(&self.token).body("1");
        assert_eq!(post.send().await.unwrap().status(), 201);
    }

    /// What `cofferdam artifacts` lists.
    fn listed(&self, run: &str) -> Vec<Value> {
        self.fleet.tool(&["artifacts", run, "--json"]).json()
    }

    fn names(&self) -> Vec<String> {
        let listed = self.listed(&self.run);
        let names = listed
            .iter()
            .map(|it| it["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    /// Every file below the folder in which artifacts are kept.
    fn files(&self) -> Vec<PathBuf> {
        files_below(self.folder.path())
    }

    /// Where artifacts are kept, opened by the test itself.
    fn kept(&self) -> ArtifactStore {
        let place = ArtifactPlace::Folder(self.folder.path().to_owned());
        ArtifactStore::open(&place).unwrap()
    }

    /// What the sweeper of a worker has, with results that are kept for so long.
    async fn core(&self, retention: Duration) -> Core {
        let runs = cofferdam::config::Runs {
            results_retention: retention,
            ..parts::runs()
        };
        parts::core(&self.fleet.redis, runs).await
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// So many bytes that compress badly and are the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut noise = vec![0; bytes];
    random.fill(&mut noise);
    noise
}

/// What was answered is what was put.
#[track_caller]
fn check_told(told: &(u16, Value), name: &str, bytes: &[u8]) {
    let (status, json) = told;
    assert_eq!(*status, 201, "{json}");
    assert_eq!(json["name"], name);
    assert_eq!(json["bytes"], bytes.len());
    assert_eq!(json["sha256"], sha256(bytes).as_str());
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = line.unwrap().split_whitespace().next().unwrap();
    words.parse().unwrap()
}
