//! The real command, told to end: what it has in hand, what it leaves, and how long it takes.

use std::collections::HashSet;
use std::time::Duration;

use cofferdam::run::id::Attempt;
use cofferdam::token::Grant;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::fleet::{Fleet, ring};
use crate::support::parts;
use crate::support::until::{until, until_within};

/// Longer than any drain here, and shorter than the call that hangs.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_idle_worker_ends_and_leaves_its_groups() {
    let fleet = Fleet::start(&["--simulate", "1"], &[]).await;
    let (worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--wait", "--", "true"]).done();
    worker.finish().await;
    let raw = fleet.raw().await;
    for stream in ["runs", "control"] {
        assert_eq!(raw.consumers(stream, "cofferdam").await, 0, "{stream}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn a_boot_in_hand_is_finished() {
    let slow = ["--simulate", "60000", "--fault", "create: delay ms=2000"];
    let fleet = Fleet::start(&slow, &[]).await;
    let (mut worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--id", "slow", "--", "true"]).done();
    fleet.until_state("slow", "booting").await;
    worker.signal(Signal::TERM);
    let status = worker.ended(BOUND).await;
    assert!(status.success(), "{}", worker.said());
    // Nobody else is there who could have done it.
    assert_eq!(fleet.show("slow").unwrap()["state"], "running");
    fleet.finish().await;
}

#[tokio::test]
async fn a_boot_that_hangs_is_left_to_another_worker() {
    let hangs = ["--simulate", "1", "--fault", "create times=1: hang"];
    let settings = [
        ("COFFERDAM_DRAIN_S", "1"),
        ("COFFERDAM_LEASE_S", "2"),
        ("COFFERDAM_SWEEP_S", "1"),
    ];
    let fleet = Fleet::start(&hangs, &settings).await;
    let (mut worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--id", "left", "--", "true"]).done();
    fleet.until_state("left", "booting").await;
    worker.signal(Signal::TERM);
    worker.ended(BOUND).await;
    assert!(
        worker.said().contains("left to other workers"),
        "{}",
        worker.said()
    );
    assert_eq!(fleet.show("left").unwrap()["state"], "booting");

    let (worker, _) = fleet.worker().await;
    let shown = fleet.until_state("left", "closed").await;
    assert_eq!(shown["outcome"], "completed", "{shown}");
    assert_eq!(fleet.raw().await.length("results").await, 1);
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn told_twice_it_ends_at_once() {
    let hangs = ["--simulate", "1", "--fault", "create: hang"];
    let fleet = Fleet::start(&hangs, &[("COFFERDAM_DRAIN_S", "600")]).await;
    let (mut worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--id", "left", "--", "true"]).done();
    fleet.until_state("left", "booting").await;
    worker.signal(Signal::TERM);
    until("the first word to be heard", async || {
        let said = worker.said();
        if said.contains("finishing work in progress") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    worker.signal(Signal::TERM);
    worker.ended(BOUND).await;
    assert!(
        worker.said().contains("stopping at once"),
        "{}",
        worker.said()
    );
    fleet.finish().await;
}

/// How much of one kind of work a worker has in hand.
async fn in_hand(admin: &str, work: &str) -> u64 {
    let url = format!("http://{admin}/metrics");
    let answer = parts::http().get(url).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let name = format!("cofferdam_worker_tasks{{kind=\"{work}\"}} ");
    let told = text.lines().find_map(|line| line.strip_prefix(&name));
    told.unwrap().parse().unwrap()
}

/// Ends a worker that has boots and tear-downs in hand, each call of which takes `delay_ms`.
async fn ends_under_load(delay_ms: u64, drain_s: u64) -> String {
    const RUNS: usize = 120;
    let slow = format!("*: delay ms={delay_ms}");
    let drain = drain_s.to_string();
    let settings = [
        ("COFFERDAM_DRAIN_S", drain.as_str()),
        ("COFFERDAM_LEASE_S", "3"),
        ("COFFERDAM_SWEEP_S", "1"),
        ("COFFERDAM_CONCURRENCY", "8"),
    ];
    let args = ["--simulate", "50", "--fault-control", "--fault", &slow];
    let fleet = Fleet::start(&args, &settings).await;
    let (mut worker, admin) = fleet.worker().await;
    let raw = fleet.raw().await;
    for n in 0..RUNS {
        let request = json!({"id": format!("n{n}"), "cmd": ["true"]}).to_string();
        raw.add("runs", &[("run", &request)]).await;
    }
    until("boots and tear-downs in hand", async || {
        let (boots, teardowns) = (
            in_hand(&admin, "boot").await,
            in_hand(&admin, "teardown").await,
        );
        if boots >= 4 && teardowns >= 4 {
            Ok(())
        } else {
            Err(format!("{boots} {teardowns}"))
        }
    })
    .await;
    worker.signal(Signal::TERM);
    let status = worker.ended(Duration::from_secs(drain_s) + BOUND).await;
    assert!(status.success(), "{}", worker.said());
    let said = worker.said();
    assert!(raw.length("results").await < RUNS, "it was not under load");

    fleet.put_faults(&[]).await;
    let (another, _) = fleet.worker().await;
    until_within(
        Duration::from_secs(90),
        "every run to be closed",
        async || {
            let (due, results): (usize, usize) = (
                raw.say("ZCARD", "due", &[]).await,
                raw.length("results").await,
            );
            if (due, results) == (0, RUNS) {
                Ok(())
            } else {
                Err(format!("{due} due, {results} results: {}", another.said()))
            }
        },
    )
    .await;
    let results = fleet.tool(&["results", "--limit", "1000", "--json"]).json();
    let ids: HashSet<_> = results
        .iter()
        .map(|result| result["run_id"].to_string())
        .collect();
    assert_eq!(ids.len(), RUNS, "a run has two results");
    let other = results
        .iter()
        .filter(|result| result["outcome"] != "completed");
    assert_eq!(other.count(), 0, "{results:#?}");
    assert_eq!(fleet.machines_left().await, Vec::<String>::new());
    assert_eq!(raw.pending("runs").await, 0);
    another.finish().await;
    fleet.finish().await;
    said
}

#[tokio::test]
async fn a_loaded_worker_finishes_what_it_has_in_hand_within_its_drain_deadline() {
    let said = ends_under_load(700, 30).await;
    assert!(!said.contains("left to other workers"), "{said}");
}

#[tokio::test]
async fn a_loaded_worker_that_cannot_finish_in_time_leaves_the_rest_to_another() {
    let said = ends_under_load(1500, 1).await;
    assert!(said.contains("left to other workers"), "{said}");
}

/// A guest in the middle of its post when the endpoint is told to end.
#[tokio::test]
async fn a_post_under_way_is_answered() {
    let fleet = Fleet::start(&["--simulate", "60000"], &[]).await;
    let (worker, _) = fleet.worker().await;
    fleet
        .tool(&["submit", "--id", "posts", "--", "true"])
        .done();
    let shown = fleet.until_state("posts", "running").await;
    let grant = Grant {
        run: "posts".parse().unwrap(),
        attempt: Attempt(1),
        expires_s: shown["deadline_ms"].as_u64().unwrap() / 1000,
        nonce: fleet.raw().await.nonce("posts").await,
    };
    let mut guest = TcpStream::connect(&fleet.endpoint).await.unwrap();
    let head = format!(
        "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 2\r\n\r\n4",
        ring().sign(&grant)
    );
    guest.write_all(head.as_bytes()).await.unwrap();
    // An answer on another connection says that the endpoint has had time to read that.
    fleet.tool(&["doctor"]);

    let Fleet { mut serve, .. } = fleet;
    serve.signal(Signal::TERM);
    until(
        "new connections to be refused",
        async || match TcpStream::connect(&fleet.endpoint).await {
            Ok(_) => Err("it takes connections".to_owned()),
            Err(_) => Ok(()),
        },
    )
    .await;
    guest.write_all(b"2").await.unwrap();
    let mut answer = Vec::new();
    guest.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let status = serve.ended(BOUND).await;
    assert!(status.success(), "{}", serve.said());
    worker.finish().await;
    fleet.machines.finish().await;
}

#[tokio::test]
async fn a_guest_that_never_finishes_its_post_does_not_hold_up_the_end() {
    let fleet = Fleet::start(&["--simulate", "60000"], &[("COFFERDAM_DRAIN_S", "1")]).await;
    let mut guest = TcpStream::connect(&fleet.endpoint).await.unwrap();
    guest
        .write_all(b"POST /results HTTP/1.1\r\n")
        .await
        .unwrap();
    let Fleet {
        mut serve,
        machines,
        ..
    } = fleet;
    serve.signal(Signal::TERM);
    serve.ended(BOUND).await;
    machines.finish().await;
}
