//! Requests in, results out: what drives a stack, and what it used meanwhile.

use std::sync::Arc;
use std::time::Duration;

use redis::streams::StreamReadReply;
use tokio::time::{Instant, sleep, timeout};

use crate::stack::{Stack, System};
use crate::standin::Guests;
use crate::times::Times;
use crate::wire::{now_ns, spawn};

/// Requests sent in one go.
const BATCH: usize = 200;
/// The longest that a measurement may stand still.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first number of the runs that do not count.
const WARM: usize = 90_000_000;

/// About 200 bytes, as a small request is.
fn json(number: usize, tenants: usize) -> String {
    let tenant = number % tenants;
    format!(
        r#"{{"id":"b-{number:08}","image":"registry.fly.io/checks:v1","cmd":["check","--all"],"input":{{"repository":"https://git.example/acme/widgets","commit":"4f2a9c","depth":50}},"tenant":"t{tenant}"}}"#
    )
}

/// What processes had used at a moment.
#[derive(Clone, Copy, Debug)]
struct Used {
    at: Instant,
    worker_s: f64,
    endpoint_s: f64,
    redis_s: f64,
}

/// What a run cost, on average.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) worker_ms: f64,
    pub(crate) endpoint_ms: f64,
    pub(crate) redis_ms: f64,
    pub(crate) runs_per_s: f64,
}

impl Cost {
    /// Of the worker and the endpoint.
    pub(crate) fn own_ms(&self) -> f64 {
        self.worker_ms + self.endpoint_ms
    }

    pub(crate) fn all_ms(&self) -> f64 {
        self.own_ms() + self.redis_ms
    }
}

impl Stack {
    fn used(&self) -> Used {
        Used {
            at: Instant::now(),
            worker_s: self.workers.iter().map(|worker| worker.cpu_s()).sum(),
            endpoint_s: self.endpoint.cpu_s(),
            redis_s: self.redis.process.cpu_s(),
        }
    }

    fn cost_since(&self, before: Used, runs: usize) -> Cost {
        let now = self.used();
        let per_run = |now: f64, before: f64| (now - before) * 1000.0 / runs as f64;
        Cost {
            worker_ms: per_run(now.worker_s, before.worker_s),
            endpoint_ms: per_run(now.endpoint_s, before.endpoint_s),
            redis_ms: per_run(now.redis_s, before.redis_s),
            runs_per_s: runs as f64 / (now.at - before.at).as_secs_f64(),
        }
    }

    /// Sends requests with these numbers, of tenants in turn.
    pub(crate) async fn submit(&self, numbers: std::ops::Range<usize>, tenants: usize) {
        let mut connection = self.redis.connection.clone();
        for first in numbers.clone().step_by(BATCH) {
            let mut pipe = redis::pipe();
            for number in first..numbers.end.min(first + BATCH) {
                self.request(&mut pipe, number, tenants);
            }
            pipe.query_async::<()>(&mut connection).await.unwrap();
        }
    }

    fn request(&self, pipe: &mut redis::Pipeline, number: usize, tenants: usize) {
        let json = json(number, tenants);
        if self.system == System::Peer {
            let job = serde_json::json!({
                "class": "RunJob", "args": [format!("b-{number:08}"), json], "retry": true,
                "queue": "runs", "jid": format!("{number:024x}"), "created_at": 1.7e9, "enqueued_at": 1.7e9,
            });
            pipe.cmd("LPUSH")
                .arg("queue:runs")
                .arg(job.to_string())
                .ignore();
        } else {
            pipe.cmd("XADD")
                .arg(&["cofferdam:runs", "*", "run", &json])
                .ignore();
        }
    }

    /// Reads every result and drops it.
    pub(crate) async fn consume(&self, times: Arc<Times>) {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.redis.port)).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap();
        spawn(async move {
            let mut last = "0".to_owned();
            loop {
                let mut command = redis::cmd("XREAD");
                command.arg(&[
                    "COUNT",
                    "1000",
                    "BLOCK",
                    "0",
                    "STREAMS",
                    "cofferdam:results",
                    &last,
                ]);
                let reply = command.query_async::<Option<StreamReadReply>>(&mut connection);
                // The stack was ended.
                let Ok(Some(reply)) = reply.await else { return };
                for entry in reply.keys.into_iter().flat_map(|stream| stream.ids) {
                    times.seen(&entry.get::<String>("run_id").unwrap());
                    last = entry.id;
                }
            }
        });
    }

    pub(crate) async fn until_deleted(&self, count: usize) {
        while self.api.deleted() < count {
            let before = self.api.deleted();
            let waited = timeout(PATIENCE, self.api.gone.notified()).await;
            let deleted = self.api.deleted();
            assert!(
                waited.is_ok() || deleted > before,
                "{:?}: {deleted} of {count} machines are gone, and no more go",
                self.system
            );
        }
    }

    pub(crate) async fn until_created(&self, count: usize) {
        let began = Instant::now();
        while self.api.created() < count {
            assert!(
                began.elapsed() < PATIENCE * 10,
                "{} of {count}",
                self.api.created()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs that do not count: scripts are loaded, connections opened, pools filled.
    pub(crate) async fn warm(&self, runs: usize, delay: Duration) {
        self.api
            .begin(Guests::After(delay), Arc::new(Times::new(0)));
        self.submit(WARM..WARM + runs, 1).await;
        self.until_deleted(runs).await;
    }

    /// All requests at once; the time until the last machine is gone. A fifth as many go before.
    pub(crate) async fn burst(&self, runs: usize, delay: Duration) -> Cost {
        self.warm((runs / 5).max(50), delay).await;
        let times = Arc::new(Times::new(0));
        self.api.begin(Guests::After(delay), times.clone());
        self.consume(times).await;
        let before = self.used();
        self.submit(0..runs, 1).await;
        self.until_deleted(runs).await;
        let cost = self.cost_since(before, runs);
        self.check(runs);
        cost
    }

    /// One request for every run that ends, so that what waits and what flies stays as much as it
    /// is; the cost of `runs` of them, after a tenth as many to warm up.
    pub(crate) async fn steady(&self, from: usize, runs: usize, tenants: usize) -> Cost {
        let (start, warm) = (self.api.deleted(), runs / 10);
        let mut sent = 0;
        let mut before = self.used();
        let mut is_warm = false;
        while self.api.deleted() < start + warm + runs {
            let done = self.api.deleted() - start;
            if !is_warm && done >= warm {
                (before, is_warm) = (self.used(), true);
            }
            if done > sent {
                self.submit(from + sent..from + done, tenants).await;
                sent = done;
            } else {
                self.until_deleted(start + done + 1).await;
            }
        }
        self.cost_since(before, runs)
    }

    /// `rate` requests a second, evenly, whether or not the ones before have been served. What a
    /// request waits is counted from when it was due, so that a slow moment counts for all that
    /// came in it.
    pub(crate) async fn offer(&self, rate: f64, runs: usize, delay: Duration) -> Arc<Times> {
        let times = Arc::new(Times::new(runs));
        self.api.begin(Guests::After(delay), times.clone());
        self.consume(times.clone()).await;
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.redis.port)).unwrap();
        let requests: Vec<String> = (0..runs).map(|number| json(number, 1)).collect();
        let noted = times.clone();
        // A thread of its own: the runtime's timers are no finer than a millisecond.
        let sender = tokio::task::spawn_blocking(move || {
            let mut connection = client.get_connection().unwrap();
            let began = now_ns() + 10_000_000;
            for (number, json) in requests.iter().enumerate() {
                let due = began + (number as f64 * 1e9 / rate) as u64;
                let early = due.saturating_sub(now_ns());
                if early > 0 {
                    std::thread::sleep(Duration::from_nanos(early));
                }
                noted.submitted(number, due);
                noted.sent(number);
                let mut command = redis::cmd("XADD");
                command.arg(&["cofferdam:runs", "*", "run", json]);
                command.query::<String>(&mut connection).unwrap();
            }
        });
        sender.await.unwrap();
        self.until_deleted(runs).await;
        times
    }

    pub(crate) fn check(&self, runs: usize) {
        let failed = self
            .api
            .calls
            .failed
            .load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(
            failed, 0,
            "posts of {:?} were not answered with 201",
            self.system
        );
        assert_eq!(self.api.created(), runs, "creates of {:?}", self.system);
    }
}
