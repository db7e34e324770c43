//! Traces: real processes, a real receiver that decodes what it gets.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::collector::{Collector, Seen};
use crate::support::fleet::Fleet;
use crate::support::parts::skipped;
use crate::support::until::{until, until_within};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A fleet whose traces go to `endpoint`; its guests are played, or real where `guest_ms` is `None`.
async fn fleet(endpoint: &str, guest_ms: Option<u64>) -> Fleet {
    let delay = guest_ms.map(|ms| ms.to_string());
    let args: Vec<&str> = match &delay {
        Some(delay) => vec!["--simulate", delay, "--fault-control"],
        None => Vec::new(),
    };
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k%201"),
        ("OTEL_SERVICE_NAME", "sandboxes-of-the-test"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
        ("COFFERDAM_ALLOW_WEAK_LIMITS", "true"),
        ("COFFERDAM_GUEST_PROGRAM", "/.cofferdam-guest"),
        ("COFFERDAM_GRACE_S", "1"),
        ("COFFERDAM_LEASE_S", "2"),
        ("COFFERDAM_SWEEP_S", "1"),
    ];
    Fleet::start(&args, &settings).await
}

async fn submit(fleet: &Fleet, mut request: Value, id: &str) {
    request["id"] = json!(id);
    let raw = fleet.raw().await;
    raw.add("runs", &[("run", &request.to_string())]).await;
}

fn one<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let mut found = spans.iter().filter(|span| span.name == name);
    let first = found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
    assert!(found.next().is_none(), "more than one {name}: {spans:#?}");
    first
}

fn of_attempt<'a>(spans: &'a [Seen], name: &str, attempt: &str) -> &'a Seen {
    let mut found = spans.iter();
    let found = found.find(|span| span.name == name && span.is("cofferdam.attempt", attempt));
    found.unwrap_or_else(|| panic!("no {name} of attempt {attempt} in {spans:#?}"))
}

/// The outline of a run that completed at this attempt, whoever told it: each part once, all of one trace,
/// each within the whole.
#[track_caller]
fn check_outline(spans: &[Seen], attempt: &str) {
    let whole = one(spans, "cofferdam.run");
    assert_eq!(whole.kind, 5);
    assert_eq!(whole.failed, None);
    assert!(whole.is("cofferdam.outcome", "completed"), "{whole:?}");
    assert!(whole.is("messaging.system", "redis"), "{whole:?}");
    let boot = of_attempt(spans, "boot", attempt);
    let parts = [
        of_attempt(spans, "queued", attempt),
        boot,
        of_attempt(spans, "run", attempt),
        one(spans, "report"),
        one(spans, "tear-down"),
    ];
    let mut since = 0;
    for part in parts {
        assert_eq!(part.trace, whole.trace, "{part:?}");
        assert_eq!(part.parent, whole.id, "{part:?}");
        assert_eq!(part.kind, 1);
        assert!(
            part.begun_ns >= since && part.ended_ns >= part.begun_ns,
            "{spans:#?}"
        );
        assert!(part.ended_ns <= whole.ended_ns, "{part:?} {whole:?}");
        since = part.begun_ns;
    }
    for name in ["cofferdam.machine.id", "cofferdam.app"] {
        assert!(boot.attributes.contains_key(name), "{boot:?}");
    }
}

#[tokio::test]
async fn a_run_is_one_trace_below_that_of_its_producer_and_above_that_of_its_guest() {
    let collector = Collector::start().await;
    let fleet = fleet(&collector.endpoint(), None).await;
    let (worker, _) = fleet.worker().await;
    let request = json!({"cmd": ["printenv", "TRACEPARENT"], "capture": true, "tenant": "acme",
        "traceparent": traceparent("01")});
    submit(&fleet, request, "traced").await;
    let shown = fleet.until_state("traced", "closed").await;
    assert_eq!(shown["outcome"], "completed", "{shown}");
    let spans = until("the calls of the tear-down", async || {
        let spans = collector.of("traced");
        let has = |name: &str| spans.iter().any(|span| span.name.starts_with(name));
        let all = has("cofferdam.run") && has("POST") && has("DELETE");
        all.then_some(spans).ok_or_else(|| "not all".to_owned())
    })
    .await;
    check_outline(&spans, "1");
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let whole = one(&spans, "cofferdam.run");
    assert_eq!(whole.parent, PARENT);
    assert!(whole.is("cofferdam.tenant", "acme"), "{whole:?}");
    assert!(whole.is("container.image.name", "host"), "{whole:?}");
    assert_eq!(whole.resource["service.name"], "sandboxes-of-the-test");
    assert_eq!(whole.resource["deployment.environment.name"], "test");
    assert!(collector.keys().iter().all(|key| key == "k 1"));

    let create = one(&spans, "POST /v1/apps/{app}/machines");
    assert_eq!(create.parent, one(&spans, "boot").id);
    assert_eq!(create.kind, 3);
    assert!(create.is("http.request.method", "POST"), "{create:?}");
    assert!(create.is("http.response.status_code", "200"), "{create:?}");
    assert!(create.is("server.address", "127.0.0.1"), "{create:?}");
    let delete = one(&spans, "DELETE /v1/apps/{app}/machines/{machine}");
    assert_eq!(delete.parent, one(&spans, "tear-down").id);
    assert!(delete.failed.is_none(), "{delete:?}");

    // What the guest had in its environment is the span of its run.
    let results = fleet.tool(&["results", "--json"]).json();
    let result = results.iter().find(|result| result["run_id"] == "traced");
    let printed = result.unwrap()["payload"]["stdout"].as_str().unwrap();
    let run = one(&spans, "run");
    assert_eq!(printed.trim(), format!("00-{TRACE}-{}-01", run.id));
    // The guest ended before its result was accepted.
    assert!(run.ended_ns <= one(&spans, "report").ended_ns);
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_parent_in_the_metadata_counts_and_one_that_is_unsound_is_told() {
    let collector = Collector::start().await;
    let fleet = fleet(&collector.endpoint(), Some(10)).await;
    let (worker, _) = fleet.worker().await;
    let command = json!(["true"]);
    submit(
        &fleet,
        json!({"cmd": command, "metadata": {"traceparent": traceparent("01")}}),
        "in-metadata",
    )
    .await;
    submit(
        &fleet,
        json!({"cmd": command, "metadata": {"traceparent": "mine"}}),
        "of-its-own",
    )
    .await;
    submit(
        &fleet,
        json!({"cmd": command, "traceparent": "mine"}),
        "unsound",
    )
    .await;
    submit(
        &fleet,
        json!({"cmd": command, "traceparent": traceparent("00")}),
        "not-recorded",
    )
    .await;
    submit(&fleet, json!({"cmd": command}), "last").await;
    let spans = collector.told("in-metadata").await;
    assert_eq!(one(&spans, "cofferdam.run").parent, PARENT);
    let spans = collector.told("of-its-own").await;
    check_outline(&spans, "1");
    let whole = one(&spans, "cofferdam.run");
    assert_eq!(whole.parent, "");
    assert_ne!(whole.trace, TRACE);
    let spans = collector.told("unsound").await;
    let whole = one(&spans, "cofferdam.run");
    assert!(whole.is("cofferdam.outcome", "rejected"), "{whole:?}");
    assert!(whole.is("error.type", "invalid_request"), "{whole:?}");
    let why = whole.failed.as_deref().unwrap();
    assert!(
        why.contains("traceparent: is not of the form 00-TRACE-SPAN-FLAGS"),
        "{why}"
    );
    assert!(spans.iter().all(|span| span.name != "boot"));
    fleet.until_state("not-recorded", "closed").await;
    collector.told("last").await;
    fleet.until_state("last", "closed").await;
    worker.finish().await;
    assert!(collector.of("not-recorded").is_empty());
    fleet.finish().await;
}

#[tokio::test]
async fn a_boot_that_came_to_nothing_and_the_next_are_parts_of_one_trace() {
    let collector = Collector::start().await;
    let fleet = fleet(&collector.endpoint(), Some(10)).await;
    fleet.put_faults(&["create times=1: no-capacity"]).await;
    let (mut worker, _) = fleet.worker().await;
    submit(&fleet, json!({"cmd": ["true"]}), "twice").await;
    fleet.until_state("twice", "closed").await;
    // Whoever is asked to end tells first.
    worker.signal(Signal::TERM);
    worker.ended(Duration::from_secs(20)).await;
    let spans = collector.of("twice");
    check_outline(&spans, "2");
    let (first, second) = (
        of_attempt(&spans, "boot", "1"),
        of_attempt(&spans, "boot", "2"),
    );
    assert_eq!(first.failed.as_deref(), Some("refused"));
    assert_eq!(second.failed, None);
    assert_ne!(first.id, second.id);
    let waited = of_attempt(&spans, "queued", "2");
    assert_eq!(waited.begun_ns, first.ended_ns);
    assert_eq!(waited.ended_ns, second.begun_ns);
    let calls: Vec<&Seen> = spans
        .iter()
        .filter(|span| span.name.starts_with("POST"))
        .collect();
    let parents: Vec<&str> = calls.iter().map(|call| call.parent.as_str()).collect();
    assert_eq!(parents, [&first.id, &second.id]);
    assert!(
        calls[0].failed.is_some() && calls[1].failed.is_none(),
        "{calls:#?}"
    );
    fleet.finish().await;
}

#[tokio::test]
async fn the_outline_of_a_run_outlives_the_worker_that_booted_it() {
    let collector = Collector::start().await;
    let fleet = fleet(&collector.endpoint(), Some(1000)).await;
    let (mut first, _) = fleet.worker().await;
    submit(&fleet, json!({"cmd": ["true"]}), "orphan").await;
    fleet.until_state("orphan", "running").await;
    first.signal(Signal::KILL);
    first.ended(Duration::from_secs(10)).await;
    let (second, _) = fleet.worker().await;
    let spans = collector.told("orphan").await;
    check_outline(&spans, "1");
    second.finish().await;
    fleet.finish().await;
}

/// It had closed the run, and nobody had taken its trace.
#[tokio::test]
async fn the_outline_of_a_run_outlives_the_worker_that_closed_it() {
    let collector = Collector::start().await;
    collector.answers(503);
    let fleet = fleet(&collector.endpoint(), Some(10)).await;
    let (mut first, _) = fleet.worker().await;
    submit(&fleet, json!({"cmd": ["true"]}), "closed").await;
    fleet.until_state("closed", "closed").await;
    until("it to have tried", async || {
        let said = first.said();
        said.contains("traces are not taken")
            .then_some(())
            .ok_or(said)
    })
    .await;
    first.signal(Signal::KILL);
    first.ended(Duration::from_secs(10)).await;
    assert!(collector.of("closed").is_empty());
    collector.answers(200);
    let (second, _) = fleet.worker().await;
    until_within(Duration::from_secs(90), "another to tell", async || {
        let told = collector.of("closed");
        let is_told = told.iter().any(|span| span.name == "cofferdam.run");
        is_told.then_some(()).ok_or_else(|| second.said())
    })
    .await;
    check_outline(&collector.of("closed"), "1");
    second.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn runs_go_on_without_a_collector_and_are_told_when_it_is_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let fleet = fleet(&format!("http://{address}"), Some(10)).await;
    let (worker, admin) = fleet.worker().await;
    let ids: Vec<String> = (0..60).map(|n| format!("away-{n}")).collect();
    for id in &ids {
        submit(&fleet, json!({"cmd": ["true"]}), id).await;
    }
    for id in &ids {
        fleet.until_state(id, "closed").await;
    }
    until("it to be told", async || {
        let said = worker.said();
        said.contains("traces are not taken")
            .then_some(())
            .ok_or(said)
    })
    .await;
    let collector = Collector::on(&address).await;
    until_within(Duration::from_secs(90), "all to be told", async || {
        let is_told = |id: &&String| {
            let spans = collector.of(id);
            spans.iter().any(|span| span.name == "cofferdam.run")
        };
        let untold = ids.len() - ids.iter().filter(is_told).count();
        (untold == 0)
            .then_some(())
            .ok_or_else(|| format!("{untold} are not"))
    })
    .await;
    for id in &ids {
        check_outline(&collector.of(id), "1");
    }
    let said = worker.said();
    assert_eq!(said.matches("traces are not taken").count(), 1, "{said}");
    let metrics = crate::support::parts::http();
    let metrics = metrics
        .get(format!("http://{admin}/metrics"))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let sent = metrics
        .lines()
        .find_map(|line| line.strip_prefix("cofferdam_trace_spans_total{fate=\"sent\"} "));
    assert!(sent.unwrap().parse::<f64>().unwrap() >= 300.0, "{metrics}");
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn what_the_collector_refuses_for_what_it_is_is_not_sent_again() {
    let collector = Collector::start().await;
    collector.answers(400);
    let fleet = fleet(&collector.endpoint(), Some(10)).await;
    let (worker, _) = fleet.worker().await;
    submit(&fleet, json!({"cmd": ["true"]}), "refused").await;
    until("it to have been sent", async || {
        let sent = collector.refused() > 0 && fleet.show("refused")?["state"] == "closed";
        sent.then_some(()).ok_or_else(|| worker.said())
    })
    .await;
    // What is sent from here on has the outline: its calls were sent before, or come with it.
    let before = collector.refused();
    until("it to be refused once more, or given up", async || {
        let said = worker.said();
        let is_told = said.contains("the collector answered 400");
        (is_told || collector.refused() > before)
            .then_some(())
            .ok_or(said)
    })
    .await;
    worker.finish().await;
    collector.answers(200);
    let (worker, _) = fleet.worker().await;
    submit(&fleet, json!({"cmd": ["true"]}), "next").await;
    check_outline(&collector.told("next").await, "1");
    worker.finish().await;
    assert!(collector.of("refused").is_empty());
    fleet.finish().await;
}

/// Ends with the test.
struct Prometheus(std::process::Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn prometheus_reads_which_trace_a_bucket_is_of() {
    let has_it = std::process::Command::new("prometheus")
        .arg("--version")
        .output();
    if has_it.is_err() {
        skipped("prometheus is not installed: apt install prometheus");
        return;
    }
    let collector = Collector::start().await;
    let fleet = fleet(&collector.endpoint(), Some(10)).await;
    let (worker, admin) = fleet.worker().await;
    submit(
        &fleet,
        json!({"cmd": ["true"], "traceparent": traceparent("01")}),
        "exemplary",
    )
    .await;
    fleet.until_state("exemplary", "closed").await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n- job_name: cofferdam\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['{admin}']\n"
    );
    std::fs::write(&config, text).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let _prometheus = Prometheus(
        std::process::Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "prometheus"])
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let http = crate::support::parts::http();
    for name in ["boot", "result", "teardown", "machines_api"] {
        let series = format!("cofferdam_{name}_duration_seconds_bucket");
        let url = format!(
            "http://{address}/api/v1/query_exemplars?query={series}&start=0&end=9999999999"
        );
        until(&series, async || {
            let answer = http
                .get(&url)
                .send()
                .await
                .map_err(|error| error.to_string())?;
            let answer = answer.text().await.map_err(|error| error.to_string())?;
            answer.contains(TRACE).then_some(()).ok_or(answer)
        })
        .await;
    }
    // The other series are there too, under their names.
    let url = format!("http://{address}/api/v1/query?query=cofferdam_runs_admitted_total");
    let answer = http.get(&url).send().await.unwrap().text().await.unwrap();
    assert!(
        answer.contains("\"cofferdam_runs_admitted_total\""),
        "{answer}"
    );
    worker.finish().await;
    fleet.finish().await;
}
