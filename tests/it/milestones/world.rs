//! A Redis namespace and a Machines server with simulated guests, and the real processes that
//! live and die in it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cofferdam::run::artifact::Artifact;
use cofferdam::store::artifacts::COUNTED_MIN_BYTES;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use super::points::{Point, Role};
use super::stories::rules;
use crate::support::command::Daemon;
use crate::support::parts;
use crate::support::relay::Relay;
use crate::support::stack::{APP, Plan, Stack, TOKEN};
use crate::support::until::until_within;

/// Far longer than any step takes on a computer that does many worlds at once.
const BOUND: Duration = Duration::from_secs(120);
/// What a guest puts.
pub(super) const ARTIFACT: &str = "the bytes of an artifact";
/// Between two looks at a process.
const PAUSE: Duration = Duration::from_millis(30);
/// After how many looks one that went on after a stop will not die any more.
const IDLE_LOOKS: u32 = 100;

pub(super) struct World {
    pub(super) stack: Stack,
    relay: Relay,
    /// Runs that were asked for, and how each must end.
    asked: Mutex<Vec<(String, Option<&'static str>)>>,
    /// Whether the process is there that is to come to its milestone.
    is_manned: AtomicBool,
    /// Where artifacts are kept.
    artifacts: tempfile::TempDir,
}

/// A process with a milestone that it does not survive, and its company.
pub(super) struct Doomed {
    point: Point,
    process: Daemon,
    /// The worker beside a doomed endpoint.
    _company: Option<Daemon>,
}

/// How far a process that stopped was overtaken by another.
#[derive(Debug)]
enum Overtaking {
    NotYet,
    By(Box<Daemon>),
    Done,
}

/// What became of a doomed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Died,
    /// Nothing was left to do.
    Idle,
}

impl World {
    /// A world in which nobody works yet. Its endpoint is in this process, until another takes
    /// its place.
    pub(super) async fn new() -> Self {
        let relay = Relay::start().await;
        let mut plan = Plan::simulated(Duration::from_millis(20)).workers(0);
        plan.faults = rules();
        plan.endpoint = Some(relay.address.to_string());
        let stack = plan.start().await;
        let world = Self {
            stack,
            relay,
            asked: Mutex::default(),
            is_manned: AtomicBool::new(false),
            artifacts: tempfile::tempdir().unwrap(),
        };
        world.endpoint_here();
        world
    }

    /// The endpoint of this process serves the guests.
    pub(super) fn endpoint_here(&self) {
        let url = &self.stack.endpoint;
        let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
        self.relay.lead_to(Some(format!("{host}:{port}")));
    }

    pub(super) async fn submit(&self, request: Value, outcome: Option<&'static str>) {
        let id = self.stack.submit(request).await;
        self.asked.lock().unwrap().push((id, outcome));
    }

    /// Waits until a run is in `state`, or past it, or the process that was to bring it there has
    /// died.
    pub(super) async fn comes_to(&self, id: &str, state: &str) {
        let death = until_within(BOUND, "a death", async || {
            if self.is_manned.load(Ordering::SeqCst) {
                Err(format!("{id} is not yet {state}"))
            } else {
                Ok(())
            }
        });
        tokio::select! {
            () = death => {}
            _ = self.stack.reaches(id, state) => {}
        }
    }

    /// Posts a large body that is no JSON as a run's guest would; the endpoint may die over it.
    pub(super) async fn post_large(&self, token: &str) {
        let url = format!("http://{}/results", self.relay.address);
        let post = parts::http().post(url).bearer_auth(token);
        let _ = post.body("x".repeat(100_000)).send().await;
    }

    /// Asks for a run's input as its guest would; the endpoint may die over it.
    pub(super) async fn ask_for_input(&self, token: &str) {
        let url = format!("http://{}/input", self.relay.address);
        let _ = parts::http().get(url).bearer_auth(token).send().await;
    }

    /// Puts [`ARTIFACT`] as a run's guest would; the endpoint may die over it.
    pub(super) async fn put(&self, token: &str) -> Option<StatusCode> {
        let url = format!("http://{}/artifacts/out/a", self.relay.address);
        let put = parts::http().put(url).bearer_auth(token).body(ARTIFACT);
        put.send().await.ok().map(|answer| answer.status())
    }

    /// Posts a piece of output as a run's guest would; the endpoint may die over it.
    pub(super) async fn post_log(&self, token: &str) -> Option<StatusCode> {
        let url = format!("http://{}/log", self.relay.address);
        let post = parts::http().post(url).bearer_auth(token).body("a piece");
        post.send().await.ok().map(|answer| answer.status())
    }

    /// The artifacts that are listed for a run.
    pub(super) async fn artifacts(&self, id: &str) -> Vec<Artifact> {
        let nonce = self.stack.raw.nonce(id).await.unwrap();
        let store = &self.stack.core.store;
        store.artifacts(&id.parse().unwrap(), &nonce).await.unwrap()
    }

    /// How many files there are, whole or not.
    pub(super) fn kept_artifacts(&self) -> u64 {
        let mut folders = vec![self.artifacts.path().to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => files += 1,
                }
            }
        }
        files
    }

    /// How many small ones are counted.
    pub(super) async fn counted_artifacts(&self) -> u64 {
        let bytes = self.stack.core.store.artifact_bytes().await.unwrap();
        bytes / COUNTED_MIN_BYTES
    }

    /// A `serve` that comes to no harm, to which guests are led.
    pub(super) async fn serve(&self) -> Daemon {
        let mut process = self.process("serve", "");
        let address = process.addresses(2).await.remove(0);
        self.relay.lead_to(Some(address));
        process
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        [
            ("REDIS_URL", crate::support::redis::shared().url()),
            ("COFFERDAM_NAMESPACE", self.namespace()),
            ("COFFERDAM_SIGNING_KEYS", parts::SIGNING_KEYS.to_owned()),
            ("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080".to_owned()),
            ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("COFFERDAM_LISTEN", "127.0.0.1:0".to_owned()),
            ("COFFERDAM_APPS", APP.to_owned()),
            ("COFFERDAM_IMAGE", "host".to_owned()),
            // Never reached, and yet asked after.
            ("COFFERDAM_BOOT_RATE", "1000".to_owned()),
            ("COFFERDAM_BOOT_BURST", "1000".to_owned()),
            ("COFFERDAM_CONCURRENCY", "2".to_owned()),
            ("COFFERDAM_IMAGE_PULL_TIMEOUT_S", "2".to_owned()),
            ("COFFERDAM_BOOT_TIMEOUT_S", "2".to_owned()),
            ("COFFERDAM_RUN_TIMEOUT_S", "100".to_owned()),
            ("COFFERDAM_LEASE_S", "1".to_owned()),
            ("COFFERDAM_GRACE_S", "1".to_owned()),
            ("COFFERDAM_SWEEP_S", "1".to_owned()),
            (
                "COFFERDAM_ARTIFACTS",
                format!("file://{}", self.artifacts.path().display()),
            ),
            ("FLY_API_URL", self.stack.api.clone()),
            ("FLY_API_TOKEN", TOKEN.to_owned()),
        ]
        .into()
    }

    fn namespace(&self) -> String {
        self.stack.core.store.keys().namespace().to_owned()
    }

    fn process(&self, command: &str, failpoints: &str) -> Daemon {
        let mut env = self.env();
        env.push(("FAILPOINTS", failpoints.to_owned()));
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
        Daemon::start(&[command], &env)
    }

    /// A worker that comes to no harm.
    pub(super) fn worker(&self) -> Daemon {
        self.process("worker", "")
    }

    /// A worker that stops at a point, once.
    pub(super) fn stopping(&self, point: &Point) -> Daemon {
        self.is_manned.store(true, Ordering::SeqCst);
        self.process("worker", &point.stopping())
    }

    /// Starts a process that dies at a point, and what it needs beside it.
    pub(super) async fn doomed(&self, point: &Point) -> Doomed {
        self.is_manned.store(true, Ordering::SeqCst);
        match point.role() {
            Role::Worker => Doomed {
                point: *point,
                process: self.process("worker", &point.deadly()),
                _company: None,
            },
            Role::Endpoint => {
                let mut process = self.process("serve", &point.deadly());
                let address = process.addresses(2).await.remove(0);
                self.relay.lead_to(Some(address));
                Doomed {
                    point: *point,
                    process,
                    _company: Some(self.worker()),
                }
            }
        }
    }

    /// Begins the point's story, up to where the doomed process comes in. Who is to stay for the
    /// rest of it is answered.
    pub(super) async fn before(&self, point: &Point, n: &str) -> Option<Daemon> {
        let Some(name) = point.story.death_before() else {
            return point.story.begin(self, n).await;
        };
        let first = Point {
            name,
            story: point.story,
        };
        let mut doomed = self.doomed(&first).await;
        point.story.tell(self, n).await;
        doomed.dies(self).await;
        None
    }

    /// The rest of the point's story.
    pub(super) async fn tell(&self, point: &Point, n: &str) {
        if point.story.death_before().is_none() {
            point.story.tell(self, n).await;
        }
    }

    /// What is left to do.
    async fn left(&self) -> Option<String> {
        let stack = &self.stack;
        let census = stack.core.store.census(stack.core.clock.now_ms()).await;
        let census = census.unwrap();
        let (results, asked) = (
            stack.raw.length("results").await,
            self.asked.lock().unwrap().len(),
        );
        let open = census.queued + census.in_flight + census.unread + census.orders;
        if open > 0 || results < asked {
            return Some(format!("{census:?}, {results} results of {asked}"));
        }
        let machines = stack.live_machines().await;
        (!machines.is_empty()).then(|| format!("{machines:?}"))
    }

    /// Waits until nothing is left to do.
    pub(super) async fn idle(&self, who: &[&Daemon]) {
        until_within(BOUND, "all to be done", async || match self.left().await {
            None => Ok(()),
            Some(left) => {
                let said: Vec<_> = who.iter().map(|daemon| daemon.said()).collect();
                Err(format!("{left}\n{}", said.join("\n")))
            }
        })
        .await;
    }

    /// Two workers do what is left. Then every run has one result, as it must, and there is no
    /// machine.
    pub(super) async fn ends_well(self) {
        self.endpoint_here();
        let workers = [self.worker(), self.worker()];
        self.idle(&[&workers[0], &workers[1]]).await;
        drop(workers);
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let ids: Vec<String> = asked.iter().map(|(id, _)| id.clone()).collect();
        self.stack.settles(&ids, BOUND).await;
        for (id, outcome) in asked {
            let result = self.stack.result(&id).await;
            if let Some(outcome) = outcome {
                assert_eq!(result["outcome"], outcome, "{result}");
            }
        }
        self.stack.end().await;
    }
}

impl Doomed {
    /// Waits until it has died where it must.
    pub(super) async fn dies(&mut self, world: &World) {
        let fate = self.fate(world, false).await;
        assert_eq!(fate, Fate::Died);
    }

    /// Waits until it has died where it must, or nothing is left to do.
    pub(super) async fn dies_or_idles(&mut self, world: &World) -> Fate {
        self.fate(world, true).await
    }

    async fn fate(&mut self, world: &World, may_idle: bool) -> Fate {
        let deadline = Instant::now() + BOUND;
        let mut overtaking = Overtaking::NotYet;
        // What it does after a stop may be something else than was meant.
        let mut idle_looks = 0;
        loop {
            if let Some(status) = self.process.has_ended() {
                self.check_death(status);
                world.is_manned.store(false, Ordering::SeqCst);
                if self.point.role() == Role::Endpoint {
                    world.relay.lead_to(None);
                }
                return Fate::Died;
            }
            let left = world.left().await;
            overtaking = match overtaking {
                Overtaking::NotYet if self.process.is_stopped() => {
                    Overtaking::By(Box::new(world.worker()))
                }
                Overtaking::By(other) if left.is_none() => {
                    drop(other);
                    self.process.signal(Signal::CONT);
                    Overtaking::Done
                }
                Overtaking::NotYet if left.is_none() && may_idle => return Fate::Idle,
                Overtaking::Done if left.is_none() && may_idle => {
                    idle_looks += 1;
                    if idle_looks > IDLE_LOOKS {
                        return Fate::Idle;
                    }
                    Overtaking::Done
                }
                other => other,
            };
            assert!(
                Instant::now() < deadline,
                "no death at {} after {overtaking:?}; left is {left:?}\n{}",
                self.point.name,
                self.process.said()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn check_death(&self, status: ExitStatus) {
        let said = self.process.said();
        let name = format!("\"name\":\"{}\",\"action\":\"Die\"", self.point.name);
        let is_there = said.contains(&name);
        let killed = Some(Signal::KILL.as_raw());
        assert!(
            status.signal() == killed && is_there,
            "{status} instead of a death at {}\n{said}",
            self.point.name
        );
    }
}
