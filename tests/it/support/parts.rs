//! The parts that tests put together: settings with short times, a core, requests.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::config::{self, Results, Runs};
use cofferdam::run::id::{Attempt, Nonce, RunId, machine_name};
use cofferdam::run::request::CaptureLimits;
use cofferdam::stage::Core;
use cofferdam::stage::intake::intake;
use cofferdam::store::Store;
use cofferdam::store::requests::Requests;
use cofferdam::telemetry::{GroupLag, Metrics};
use cofferdam::token::{Grant, KeyRing};
use serde_json::{Value, json};

/// Settings of runs as tests want them: the defaults, with shorter times.
pub(crate) fn runs() -> Runs {
    let n = |n: u32| NonZeroU32::new(n).unwrap();
    Runs {
        image: Some("host".into()),
        region: None,
        max_in_flight: n(50),
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        backlog_max: None,
        backlog_max_bytes: None,
        tenant_backlog_max: None,
        boot_rate: 0.0,
        boot_burst: n(3),
        run_timeout: Duration::from_secs(60),
        image_pull_timeout: Duration::from_secs(20),
        boot_timeout: Duration::from_secs(20),
        refused_max: Duration::from_secs(900),
        max_attempts: n(3),
        lease: Duration::from_secs(3),
        grace: Duration::from_secs(2),
        concurrency: n(16),
        retention: Duration::from_secs(600),
        results_retention: Duration::from_secs(3600),
        results_hard_cap: None,
        request_max_bytes: 1024 * 1024,
        max_cpus: 8,
        max_memory_mb: 16384,
        capture: CaptureLimits {
            output_bytes: 64 << 10,
            output_max_bytes: 256 << 10,
            has_image_commands: true,
            is_plain_http: true,
        },
        sweep: Duration::from_secs(1),
    }
}

/// How an endpoint accepts results of such runs.
pub(crate) fn results(runs: &Runs) -> Results {
    Results {
        max_bytes: 64 * 1024,
        kept_bytes: 256 << 20,
        tenant_kept_bytes: 128 << 20,
        kept_for: runs.results_retention,
        log_bytes: 256 << 10,
        logs_bytes: 64 << 20,
        tenant_logs_bytes: 32 << 20,
        retention: runs.retention,
        lease: runs.lease,
        notes_posts: false,
        keeps_requests: false,
    }
}

/// A core on `redis`.
pub(crate) async fn core(redis: &config::Redis, runs: Runs) -> Core {
    let (store, metrics) = (Store::connect(redis).await.unwrap(), Metrics::new());
    store.measure(&metrics);
    Core {
        store,
        clock: Clock::system(),
        metrics: Arc::new(metrics),
        runs: Arc::new(runs),
    }
}

/// Every series that a process can tell, as text.
pub(crate) fn all_series() -> String {
    let metrics = Metrics::new();
    let lag = GroupLag {
        group: "group".into(),
        unread: Some(0),
        unacknowledged: 0,
    };
    metrics.set_result_groups(vec![lag]);
    metrics.render()
}

/// What creates a machine that bears all signs of one of ours, for a run that is not known, and
/// whose deadline is long past: its guest neither posts nor exits.
pub(crate) fn orphan(run: &str, ring: &KeyRing) -> Value {
    let (run, attempt): (RunId, _) = (run.parse().unwrap(), Attempt(1));
    let nonce: Option<Nonce> = Some("0".repeat(Nonce::LENGTH).parse().unwrap());
    let name = machine_name(&run, attempt, nonce.as_ref());
    let token = ring.sign(&Grant {
        run,
        attempt,
        expires_s: 1_700_000_000,
        nonce,
    });
    json!({
        "name": name,
        "config": {
            "image": "host",
            "init": {"cmd": ["true"]},
            "env": {"SIMULATED_GUEST": "hangs", "SANDBOX_RUN_TOKEN": token},
        },
    })
}

/// The keys of [`ring`], as a setting.
pub(crate) const SIGNING_KEYS: &str = "test:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// The keys that tests sign with.
pub(crate) fn ring() -> KeyRing {
    KeyRing::new([("test".to_owned(), [7; 32])]).unwrap()
}

/// Appends requests as a producer does, and takes them in as a worker does.
pub(crate) async fn admit(core: &Core, requests: &[String]) {
    core.store.submit(requests).await.unwrap();
    let mut reader = Requests::new(core.store.clone(), "worker");
    let mut queued = 0;
    while queued < requests.len() {
        let entries = reader.next(500, Duration::from_secs(1)).await.unwrap();
        let taken = intake(core, &entries).await.unwrap();
        assert_eq!(taken.queued, entries.len());
        queued += taken.queued;
    }
}

/// A plain HTTP client.
pub(crate) fn http() -> reqwest::Client {
    // Another test may have been faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// Says that a test, or a part of one, cannot run here.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}
