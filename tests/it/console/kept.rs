//! Running a run again that completed.

use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::until::until;

#[tokio::test]
async fn a_run_that_completed_is_asked_for_again_where_its_request_is_kept() {
    for keeps in ["true", "false"] {
        let settings = [("COFFERDAM_KEEP_REQUESTS", keeps)];
        let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
        let (worker, _) = fleet.worker().await;
        let raw = fleet.raw().await;
        let request = json!({"id": "done", "cmd": ["true"], "metadata": {"a": 1}});
        raw.add("runs", &[("run", &request.to_string())]).await;
        fleet.until_state("done", "closed").await;
        let again = fleet.tool(&["rerun", "done"]);
        match keeps {
            "true" => {
                let new = again.done();
                let shown = fleet.until_state(new.trim(), "closed").await;
                assert_eq!(shown["outcome"], "completed", "{shown}");
            }
            _ => {
                assert_eq!(again.status, 1, "{again:?}");
                assert!(
                    again.stderr.contains("COFFERDAM_KEEP_REQUESTS"),
                    "{again:?}"
                );
                assert!(!raw.exists("kept_requests").await);
            }
        }
        worker.finish().await;
        fleet.finish().await;
    }
}

/// Prints what a kept request costs; `--nocapture` shows it.
#[tokio::test]
async fn what_a_kept_request_costs_is_measured() {
    const RUNS: usize = 400;
    let settings = [("COFFERDAM_KEEP_REQUESTS", "true")];
    let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
    let (worker, _) = fleet.worker().await;
    let raw = fleet.raw().await;
    let mut bytes = 0;
    for n in 0..RUNS {
        let request =
            json!({"id": format!("run-{n:06}"), "cmd": ["true"], "input": "x".repeat(145)});
        let request = request.to_string();
        bytes = request.len();
        raw.add("runs", &[("run", &request)]).await;
    }
    until("every run to have ended", async || {
        let kept = raw.length("kept_requests").await;
        (kept == RUNS).then_some(()).ok_or_else(|| kept.to_string())
    })
    .await;
    let usage = async |key: &str| {
        let key = format!("{}:{key}", fleet.redis.namespace);
        let words = ["MEMORY", "USAGE", &key, "SAMPLES", "0"];
        raw.answer::<usize>(&words).await
    };
    let (request, index) = (
        usage("request:run-000007").await,
        usage("kept_requests").await,
    );
    println!(
        "a request of {bytes} bytes that is kept: {request}, and in the index {}",
        index / RUNS
    );
    let all = request + index / RUNS;
    assert!((bytes..bytes + 400).contains(&all), "{request} {index}");
    worker.finish().await;
    fleet.finish().await;
}
