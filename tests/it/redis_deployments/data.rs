//! Data that are others than before, and data of another version.

use serde_json::json;

use crate::redis_faults::scene::settings;
use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::until::{until, until_within};

/// Heartbeats come every ten seconds.
const BOUND: std::time::Duration = std::time::Duration::from_secs(40);

async fn shows(fleet: &Fleet, kind: &str) {
    let line = format!("cofferdam_redis_data_changes_total{{kind=\"{kind}\"}} 1");
    until_within(BOUND, &line, async || {
        let asked = parts::http().get(format!("http://{}/metrics", fleet.admin));
        let text = asked.send().await.unwrap().text().await.unwrap();
        if text.lines().any(|found| found == line) {
            Ok(())
        } else {
            Err(fleet.serve.said())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_its_data_is_told_in_the_log_the_metrics_and_by_doctor() {
    let mut server = Server::start();
    let settings = settings(&server);
    let raw = Raw::new(&settings).await;
    let fleet = Fleet::start_on(settings.clone(), &["--simulate", "1"], &[]).await;
    let epoch = async |raw: &Raw| {
        until_within(BOUND, "an epoch", async || {
            let epoch: Option<String> = raw.say("HGET", "meta", &["epoch"]).await;
            epoch.ok_or_else(|| fleet.serve.said())
        })
        .await
    };
    let first = epoch(&raw).await;
    let copy = server.copy();
    let doctor = || fleet.tool(&["doctor"]).stdout;
    assert!(!doctor().contains("redis data"), "{}", doctor());

    // Emptied: a new epoch, which names the one before.
    raw.order(&["FLUSHALL"]).await;
    shows(&fleet, "emptied").await;
    let second = epoch(&raw).await;
    assert_ne!(first, second);
    assert!(fleet.serve.said().contains("redis has lost its data"));
    until("doctor to tell", async || {
        let said = doctor();
        if said.contains("were emptied") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;

    // An older copy, with the epoch of before: to this process it is another's.
    drop(raw);
    server.restore(&copy);
    shows(&fleet, "foreign").await;
    // And one of the same epoch.
    let copy = server.copy();
    let raw = Raw::new(&settings).await;
    let beats: u64 = raw.say("HGET", "meta", &["beats"]).await;
    until_within(BOUND, "two heartbeats", async || {
        let now: u64 = raw.say("HGET", "meta", &["beats"]).await;
        if now >= beats + 2 {
            Ok(())
        } else {
            Err(now.to_string())
        }
    })
    .await;
    drop(raw);
    server.restore(&copy);
    shows(&fleet, "set_back").await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_newer_version_are_not_written_to() {
    let server = Server::start();
    let settings = settings(&server);
    let raw = Raw::new(&settings).await;
    let mut fleet = Fleet::start_on(settings.clone(), &["--simulate", "1"], &[]).await;
    raw.say::<redis::Value>("HSET", "meta", &["schema", "999"])
        .await;
    // One that runs ends, and says why.
    let status = fleet.serve.ended(BOUND).await;
    assert_eq!(status.code(), Some(1), "{}", fleet.serve.said());
    assert!(
        fleet
            .serve
            .said()
            .contains("the data of a newer cofferdam (schema 999")
    );
    // One that starts does not.
    for args in [&["submit", "--", "true"][..], &["runs"], &["worker"]] {
        let refused = fleet.tool(args);
        assert_eq!(refused.status, 1, "{args:?}: {refused:?}");
        assert!(refused.stderr.contains("a newer cofferdam"), "{refused:?}");
    }
    assert_eq!(raw.length("runs").await, 0);
}

/// What the version before wrote has no version: it is taken over as it is.
#[tokio::test(flavor = "multi_thread")]
async fn data_of_the_version_before_are_taken_over() {
    let server = Server::start();
    let settings = settings(&server);
    let raw = Raw::new(&settings).await;
    let fleet = Fleet::start_on(settings.clone(), &["--simulate", "1"], &[]).await;
    let request = |id: &str| json!({"id": id, "cmd": ["true"]}).to_string();
    raw.add("runs", &[("run", &request("of-before"))]).await;
    raw.say::<redis::Value>("DEL", "meta", &[]).await;
    let (worker, _) = fleet.worker().await;
    fleet.until_state("of-before", "closed").await;
    until_within(BOUND, "a version", async || {
        let schema: Option<String> = raw.say("HGET", "meta", &["schema"]).await;
        schema
            .filter(|schema| schema == "1")
            .ok_or_else(|| "none".to_owned())
    })
    .await;
    worker.finish().await;
    fleet.finish().await;
}
