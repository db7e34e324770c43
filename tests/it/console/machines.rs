//! The page of machines: what it reads has a bound.

use serde_json::json;

use super::scene::{Client, OPERATOR, console_of};
use crate::support::fleet::Fleet;
use crate::support::redis::Server;

/// It went through every run in flight.
#[tokio::test]
async fn the_page_of_machines_reads_no_more_however_many_runs_are_in_flight() {
    // Nobody else counts here.
    let redis = Server::start();
    let fleet = Fleet::start_on(redis.settings(), &["--simulate", "20"], &[]).await;
    let (worker, _) = fleet.worker().await;
    let raw = fleet.raw().await;
    // The id of the second cannot stand in the name of a machine.
    for id in ["plain", "Not_Plain"] {
        let env = json!({"SIMULATED_GUEST": "hangs"});
        let request = json!({"id": id, "cmd": ["true"], "env": env});
        raw.add("runs", &[("run", &request.to_string())]).await;
        fleet.until_state(id, "running").await;
    }
    worker.finish().await;
    let (console, address) = console_of(&fleet.env).await;
    let mut operator = Client::new(&address);
    operator.log_in(OPERATOR).await;
    let page = operator.page("/machines").await;
    for id in ["plain", "Not_Plain"] {
        assert!(page.contains(&format!(">{id}</a>")), "{id}: {page}");
    }

    let nonce = "0".repeat(32);
    let fakes = (0..40_000).map(|n| [format!("fake-{n}"), format!("1 default {nonce}")]);
    let fakes: Vec<[String; 2]> = fakes.collect();
    for chunk in fakes.chunks(4000) {
        let words: Vec<&str> = chunk.iter().flatten().map(String::as_str).collect();
        raw.say::<i64>("HSET", "inflight:sandboxes", &words).await;
    }
    raw.order(&["CONFIG", "RESETSTAT"]).await;
    let page = operator.page("/machines").await;
    let stats = raw.info("commandstats").await;
    let line = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_hscan:"));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    let calls: u64 = calls.unwrap().parse().unwrap();
    assert!((1..=3).contains(&calls), "{stats}");
    assert!(page.contains(">plain</a>"), "{page}");
    // Whether the other was among those that were gone through is chance; it is never told as one that no
    // run has.
    assert!(!page.contains("class=\"bad\""), "{page}");
    console.finish().await;
    fleet.finish().await;
}
