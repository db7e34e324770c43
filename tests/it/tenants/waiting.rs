//! Why is it waiting? One typed answer for each thing that can hold a run.

use cofferdam::run::wait::{WaitReason, Waiting};
use cofferdam::store::tenants::Change;
use serde_json::json;

use super::{Lab, id, request, tenant};

/// As the default has it.
const REFUSED_MAX: std::time::Duration = std::time::Duration::from_secs(900);

async fn why(lab: &Lab, run: &str) -> Option<Waiting> {
    let store = &lab.core.store;
    store.announce(&lab.room, REFUSED_MAX).await.unwrap();
    store.why_waiting(&id(run), lab.now()).await.unwrap()
}

async fn held(lab: &Lab, run: &str) -> Vec<WaitReason> {
    why(lab, run).await.expect("it waits").held_by
}

#[tokio::test]
async fn a_run_knows_its_place() {
    let lab = Lab::new().await;
    lab.submit_many("b", 2).await;
    lab.submit_many("a", 3).await;
    lab.claim(1).await;
    let waiting = why(&lab, "b-1").await.unwrap();
    assert_eq!(waiting.held_by, []);
    assert_eq!(
        waiting.runs_before.unwrap() + waiting.tenants_before.unwrap(),
        1
    );
    let last = why(&lab, "a-2").await.unwrap();
    assert!(last.runs_before.unwrap() >= 1, "{last:?}");
    // A run that does not wait, and one that is not there.
    let flying = lab.claim(9).await;
    assert_eq!(why(&lab, flying[0].id.as_str()).await, None);
    assert_eq!(why(&lab, "nobody").await, None);
}

#[tokio::test]
async fn each_hold_is_told() {
    let mut lab = Lab::new().await;
    let store = lab.core.store.clone();
    lab.submit_many("a", 3).await;
    store.pause(None, true, None).await.unwrap();
    assert_eq!(held(&lab, "a-0").await, [WaitReason::Paused]);
    store.pause(None, false, None).await.unwrap();

    let a = tenant("a");
    store.configure(&a, &[Change::Paused(true)]).await.unwrap();
    assert_eq!(held(&lab, "a-0").await, [WaitReason::TenantPaused]);
    // Also once a claim has set the tenant aside.
    assert!(lab.claim(9).await.is_empty());
    let waiting = why(&lab, "a-1").await.unwrap();
    assert_eq!(waiting.held_by, [WaitReason::TenantPaused]);
    assert_eq!(
        (waiting.runs_before, waiting.tenants_before),
        (Some(1), None)
    );
    store.configure(&a, &[Change::Paused(false)]).await.unwrap();

    lab.room.tenant_max_in_flight = Some(1);
    lab.claim(9).await;
    let cap = WaitReason::TenantCap {
        max: 1,
        in_flight: 1,
    };
    assert_eq!(held(&lab, "a-1").await, [cap]);

    lab.room.tenant_max_in_flight = None;
    lab.room.max_in_flight = 1;
    let cap = WaitReason::FleetCap {
        max: 1,
        in_flight: 1,
    };
    assert_eq!(held(&lab, "a-1").await, [cap]);

    lab.room.max_in_flight = 10;
    lab.room.app_max_in_flight = Some(1);
    assert_eq!(held(&lab, "a-1").await, [WaitReason::AppCap { max: 1 }]);

    lab.room.app_max_in_flight = None;
    let until_ms = lab.now() + 60_000;
    store.hold("app", until_ms, None, lab.now()).await.unwrap();
    assert_eq!(held(&lab, "a-1").await, [WaitReason::Limiter { until_ms }]);
}

#[tokio::test]
async fn the_limiters_next_boot_is_told() {
    let mut lab = Lab::new().await;
    (lab.room.boot_rate, lab.room.boot_burst) = (0.5, 1);
    lab.submit_many("a", 2).await;
    let claim = lab.ask(9).await;
    let wake = claim.wake_at_ms.unwrap();
    let holds = held(&lab, "a-1").await;
    let [WaitReason::Limiter { until_ms }] = holds.as_slice() else {
        panic!("{holds:?}");
    };
    assert!(until_ms.abs_diff(wake) <= 2, "{until_ms} {wake}");
}

#[tokio::test]
async fn a_start_time_and_a_spent_budget_are_told() {
    let lab = Lab::new().await;
    let until_ms = lab.now() + 60_000;
    lab.submit(&[json!({"id": "late", "tenant": "a", "not_before_ms": until_ms})])
        .await;
    let waiting = why(&lab, "late").await.unwrap();
    assert_eq!(waiting.held_by, [WaitReason::NotBefore { until_ms }]);
    assert_eq!(waiting.runs_before, None);
    let a = tenant("a");
    let store = &lab.core.store;
    store
        .configure(&a, &[Change::Budget(Some(0))])
        .await
        .unwrap();
    lab.submit(&[request("a", 0)]).await;
    let holds = held(&lab, "a-0").await;
    assert!(
        matches!(
            holds.as_slice(),
            [WaitReason::Budget {
                budget_s: 0,
                used_s: 0,
                ..
            }]
        ),
        "{holds:?}"
    );
    assert!(lab.claim(9).await.is_empty());
}

#[tokio::test]
async fn that_no_worker_is_there_is_told() {
    let lab = Lab::new().await;
    lab.submit(&[request("a", 0)]).await;
    let waiting = lab.core.store.why_waiting(&id("a-0"), lab.now()).await;
    assert_eq!(waiting.unwrap().unwrap().held_by, [WaitReason::NoWorker]);
    let left: i64 = {
        lab.core
            .store
            .announce(&lab.room, REFUSED_MAX)
            .await
            .unwrap();
        lab.raw.say("PTTL", "fleet", &[]).await
    };
    assert!((1..=30_000).contains(&left), "{left}");
}
