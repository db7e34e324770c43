//! Work that is called for while the same process has its run in hand.

#![cfg(feature = "milestones")]

use serde_json::json;

use crate::support::fleet::Fleet;

/// Long beside everything else here: nothing may wait for a lease to end.
const LEASE_S: u64 = 60;

/// One run, by a worker that stays for a while at `point`, with the run in hand, after its tear-down
/// was called for.
async fn is_torn_down_when_let_go(point: &str, behaviour: &str, outcome: &str) {
    let lease = LEASE_S.to_string();
    let settings = [("COFFERDAM_LEASE_S", lease.as_str())];
    let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
    // The first only tells that it was heard.
    let points = format!("wakeups::read=return(delay 1);{point}=return(delay 1500)");
    let (worker, _) = fleet.worker_with(&[("FAILPOINTS", &points)]).await;
    let request = json!({"id": "held", "cmd": ["true"], "timeout_s": 1,
        "env": {"SIMULATED_GUEST": behaviour}});
    let request = request.to_string();
    fleet.raw().await.add("runs", &[("run", &request)]).await;
    let shown = fleet.until_state("held", "closed").await;
    assert_eq!(shown["outcome"], outcome, "{shown}");
    let at = |field: &str| shown[field].as_u64().unwrap();
    let took = at("closed_at_ms") - at("settled_at_ms");
    assert!((1000..LEASE_S * 1000 / 4).contains(&took), "{took} ms");
    let said = worker.said();
    assert!(said.contains("wakeups::read"), "{said}");
    worker.finish().await;
    fleet.finish().await;
}

/// The worker itself ends the run.
#[tokio::test]
async fn a_tear_down_called_for_by_the_deadline_of_a_run_in_hand_waits_for_no_lease() {
    is_torn_down_when_let_go("settle::settled", "hangs", "timed_out").await;
}

/// The guest is faster than the boot.
#[tokio::test]
async fn a_tear_down_called_for_while_the_boot_is_in_hand_waits_for_no_lease() {
    is_torn_down_when_let_go("boot::advanced", "posts", "completed").await;
}
