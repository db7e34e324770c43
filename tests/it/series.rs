//! Every series that a worker and an endpoint tell is moved by what it is about.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam::run::id::Attempt;
use cofferdam::telemetry::Metrics;
use cofferdam::token::Grant;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, ring};
use crate::support::parts;
use crate::support::until::until_within;

const BOUND: Duration = Duration::from_secs(60);

/// Beginnings of series that stay at zero here, and why.
const EXEMPT: &[(&str, &str)] = &[
    (
        "endpoint_responses_total{code=\"408\"}",
        "a body that takes half a minute",
    ),
    (
        "endpoint_responses_total{code=\"503\"}",
        "redis_faults take Redis away",
    ),
    (
        "endpoint_responses_total{code=\"other\"}",
        "there is no other answer",
    ),
    (
        "redis_errors_total{",
        "redis_faults make them; words are in a table of store::error",
    ),
    (
        "redis_data_changes_total{",
        "redis_deployments::data take the data away",
    ),
    (
        "artifact",
        "no artifacts are kept here; artifacts moves them",
    ),
    (
        "endpoint_responses_total{code=\"307\"}",
        "an answer of artifacts",
    ),
    (
        "endpoint_responses_total{code=\"411\"}",
        "an answer of artifacts",
    ),
    (
        "endpoint_responses_total{code=\"501\"}",
        "an answer of artifacts",
    ),
    (
        "endpoint_responses_total{code=\"502\"}",
        "an answer of artifacts",
    ),
    (
        "endpoint_responses_total{code=\"507\"}",
        "an answer of artifacts",
    ),
    (
        "redis_script_duration_seconds",
        "some scripts run when something has failed; the usual ones are looked at",
    ),
    (
        "trace_spans_total{",
        "nobody takes traces here; traces does",
    ),
    ("runs_missing_total", "ids makes runs vanish"),
    ("clock_jumps_total", "times makes the clock jump"),
    (
        "results_past_retention_seconds",
        "results must be older than their retention",
    ),
    (
        "runs_overdue",
        "gauges::what_nobody_has_looked_at counts it; sweeps would have to stop",
    ),
    ("machines_api call=start", "no command starts machines"),
    ("machines_api call=stop", "no command stops machines"),
    (
        "machines_api call=token",
        "doctor asks, which has no metrics",
    ),
    ("machines_api call=app", "doctor asks, which has no metrics"),
    (
        "machines_api call=logs",
        "a page of the console reads, and has none",
    ),
    (
        "machines_api class=not_sent",
        "needs an address where nobody listens; machines_client",
    ),
];

/// The names of series without the namespace's beginning, `_total{…}` and all; those of the
/// Machines API by call and by class, since not every call can end in every way.
fn names(text: &str, is_moved: bool) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        // What every process tells of itself is the library's.
        if series.starts_with("process_") {
            continue;
        }
        let is_part = series.contains("_bucket{") || series.contains("_sum");
        if is_part || (is_moved && value.parse::<f64>().unwrap() == 0.0) {
            continue;
        }
        let series = series.strip_prefix("cofferdam_").unwrap();
        let Some((name, labels)) = series.split_once('{') else {
            names.insert(series.to_owned());
            continue;
        };
        if !name.starts_with("machines_api_") {
            names.insert(series.to_owned());
            continue;
        }
        for label in labels.trim_end_matches('}').split(',') {
            names.insert(format!("machines_api {}", label.replace('"', "")));
        }
    }
    names
}

/// Looks at the metrics of these processes again and again, and notes what has moved.
async fn watch(admins: Vec<String>, moved: Arc<Mutex<BTreeSet<String>>>) {
    let http = parts::http();
    loop {
        for admin in &admins {
            let answer = http.get(format!("http://{admin}/metrics")).send().await;
            let text = answer.unwrap().text().await.unwrap();
            moved.lock().unwrap().append(&mut names(&text, true));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn guest(behaviour: &str) -> Value {
    json!({"cmd": ["true"], "env": {"SIMULATED_GUEST": behaviour}})
}

struct Scene {
    fleet: Fleet,
    moved: Arc<Mutex<BTreeSet<String>>>,
}

impl Scene {
    async fn submit(&self, id: &str, mut request: Value) {
        request["id"] = json!(id);
        let request = request.to_string();
        self.fleet
            .raw()
            .await
            .add("runs", &[("run", &request)])
            .await;
    }

    async fn reaches(&self, id: &str, state: &str) {
        self.fleet.until_state(id, state).await;
    }

    async fn moves(&self, series: &str) {
        until_within(BOUND, series, async || {
            let moved = self.moved.lock().unwrap().clone();
            moved
                .contains(series)
                .then_some(())
                .ok_or_else(|| format!("{moved:?}"))
        })
        .await;
    }

    /// Every way a run ends.
    async fn outcomes(&self) {
        let slow = ["create: delay ms=300", "delete: delay ms=300"];
        self.fleet.put_faults(&slow).await;
        self.submit("completes", json!({"cmd": ["true"]})).await;
        self.submit("fails", guest("exits")).await;
        let mut late = guest("hangs");
        late["timeout_s"] = json!(1);
        self.submit("late", late).await;
        self.submit("refused", json!({"priority": 99})).await;
        self.submit("cancelled", guest("hangs")).await;
        self.reaches("cancelled", "running").await;
        self.submit("cancelled", guest("exits")).await;
        self.moves("id_conflicts_total").await;
        let raw = self.fleet.raw().await;
        raw.add("control", &[("cancel", "cancelled")]).await;
        for id in ["completes", "fails", "late", "refused", "cancelled"] {
            self.reaches(id, "closed").await;
        }
        self.fleet.put_faults(&[]).await;
    }

    /// Every answer that the endpoint gives.
    async fn answers(&self) {
        self.submit("guest", guest("hangs")).await;
        self.reaches("guest", "running").await;
        let token = ring().sign(&Grant {
            run: "guest".parse().unwrap(),
            attempt: Attempt(1),
            expires_s: u64::from(u32::MAX),
            nonce: self.fleet.raw().await.nonce("guest").await,
        });
        let token = token.as_str();
        let tries: [(Method, &str, &str, &str, &str, u16); 8] = [
            (Method::POST, "/results", "none", "", "1", 401),
            (Method::GET, "/nowhere", token, "", "", 404),
            (Method::DELETE, "/results", token, "", "", 405),
            (Method::POST, "/results", token, "", "not JSON", 400),
            (Method::POST, "/results", token, "gzip", "1", 415),
            (Method::POST, "/results", token, "", &"1".repeat(2000), 413),
            (Method::GET, "/input", token, "", "", 200),
            (Method::POST, "/results", token, "", "1", 201),
        ];
        for (method, path, token, encoding, body, status) in tries {
            let url = format!("http://{}{path}", self.fleet.endpoint);
            let mut request = parts::http().request(method, url).bearer_auth(token);
            if !encoding.is_empty() {
                request = request.header("content-encoding", encoding);
            }
            let answer = request.body(body.to_owned()).send().await.unwrap();
            assert_eq!(
                answer.status(),
                StatusCode::from_u16(status).unwrap(),
                "{path} {status}"
            );
        }
        self.reaches("guest", "closed").await;
    }

    /// Every way a call to the Machines API ends.
    async fn calls(&self) {
        let rules = [
            "create times=1: lose",
            "create times=1: refuse status=429 error=\"rate limit exceeded\" retry_after_s=1",
            "create times=1: refuse status=503",
            "create times=1: refuse status=408",
            "create times=1: refuse status=200 body=\"<html>\"",
        ];
        self.fleet.put_faults(&rules).await;
        for n in 0..rules.len() {
            self.submit(&format!("call-{n}"), json!({"cmd": ["true"]}))
                .await;
        }
        for n in 0..rules.len() {
            self.reaches(&format!("call-{n}"), "closed").await;
        }
        let refuses = "create: refuse status=401 error=\"token validation error\"";
        self.fleet.put_faults(&[refuses]).await;
        self.submit("refuses", json!({"cmd": ["true"]})).await;
        self.moves("machines_api_apps_refused").await;
        self.fleet.put_faults(&[]).await;
        self.reaches("refuses", "closed").await;
        // Nobody is there for a while.
        self.fleet.put_faults(&["create: drop"]).await;
        self.submit("silent", json!({"cmd": ["true"]})).await;
        self.moves("circuits_open").await;
        self.fleet.put_faults(&[]).await;
        self.reaches("silent", "closed").await;
    }

    /// What waits, and what stays.
    async fn waits(&self) {
        let raw = self.fleet.raw().await;
        // Paused before the first is read: the two streams are read side by side.
        self.fleet.tool(&["tenants", "pause", "held"]).done();
        let ballast = "x".repeat(40_000);
        let held = json!({"cmd": ["true"], "tenant": "held", "input": ballast});
        for n in 0..2 {
            self.submit(&format!("held-{n}"), held.clone()).await;
        }
        for series in [
            "tenants_blocked",
            "runs_queued",
            "oldest_queued_age_seconds",
            "intake_stopped",
        ] {
            self.moves(series).await;
        }
        for n in 2..4 {
            self.submit(&format!("held-{n}"), held.clone()).await;
        }
        self.moves("requests_unread").await;
        raw.add("control", &[("resume", "held")]).await;
        for n in 0..4 {
            self.reaches(&format!("held-{n}"), "closed").await;
        }
        let stays = "delete name=sandbox-*: refuse status=500";
        self.fleet.put_faults(&[stays]).await;
        self.submit("stays", guest("stays")).await;
        self.moves("teardowns_pending").await;
        self.moves("machines_in_flight").await;
        self.fleet.put_faults(&[]).await;
        self.reaches("stays", "closed").await;
        let orphan = parts::orphan("nobody", &ring());
        self.fleet.make_machine(&orphan).await;
        let foreign = json!({"name": "sandbox-db", "config": {"image": "host",
            "env": {"SIMULATED_GUEST": "hangs"}, "init": {"cmd": ["true"]}}});
        self.fleet.make_machine(&foreign).await;
        self.moves("orphan_machines").await;
        self.moves("orphan_machines_deleted_total").await;
        self.moves("foreign_machines").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_moves() {
    let settings = [
        ("COFFERDAM_SWEEP_S", "1"),
        ("COFFERDAM_LEASE_S", "2"),
        ("COFFERDAM_GRACE_S", "1"),
        ("COFFERDAM_BACKLOG_MAX_BYTES", "60000"),
        ("COFFERDAM_RESULT_MAX_BYTES", "1000"),
    ];
    let fleet = Fleet::start(&["--simulate", "20", "--fault-control"], &settings).await;
    let (worker, admin) = fleet.worker().await;
    let moved = Arc::default();
    let watching = watch(vec![admin, fleet.admin.clone()], Arc::clone(&moved));
    let scene = Scene { fleet, moved };
    let story = async {
        scene.outcomes().await;
        scene.answers().await;
        scene.calls().await;
        scene.waits().await;
    };
    tokio::select! {
        () = watching => unreachable!("nobody ends it"),
        () = story => {}
    }
    let moved = scene.moved.lock().unwrap().clone();
    for script in ["admit", "claim", "advance", "settle", "close", "input"] {
        let series = format!("redis_script_duration_seconds_count{{script=\"{script}\"}}");
        assert!(moved.contains(&series), "{series} stayed at zero");
    }
    let is_exempt = |series: &str| {
        EXEMPT
            .iter()
            .any(|(beginning, _)| series.starts_with(beginning))
    };
    let all = names(&Metrics::new().render(), false);
    let still: Vec<_> = all
        .difference(&moved)
        .filter(|series| !is_exempt(series))
        .collect();
    assert!(still.is_empty(), "stayed at zero: {still:#?}");
    let idle = EXEMPT
        .iter()
        .filter(|(beginning, _)| !all.iter().any(|name| name.starts_with(beginning)));
    assert_eq!(idle.count(), 0, "an exemption of what is not there");
    worker.finish().await;
    scene.fleet.finish().await;
}
