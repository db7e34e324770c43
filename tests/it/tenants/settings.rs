//! What is set for tenants at run time, pausing, and limits on what waits.

use cofferdam::run::outcome::{Outcome, ReasonCode};
use cofferdam::store::acts::Stop;
use cofferdam::store::tenants::{Change, TenantSettings};
use cofferdam::store::wakeups::{Wakeup, Wakeups};
use serde_json::json;

use super::{BLOCK, Lab, ids, request, tenant};

#[tokio::test]
async fn settings_are_kept_changed_one_by_one_and_forgotten() {
    let lab = Lab::new().await;
    let (store, acme) = (&lab.core.store, tenant("acme"));
    let all = [
        Change::MaxInFlight(Some(7)),
        Change::Weight(Some(2.5)),
        Change::Paused(true),
        Change::BacklogMax(Some(100)),
        Change::Budget(Some(3600)),
        Change::ResultsBytes(Some(1 << 20)),
    ];
    store.configure(&acme, &all).await.unwrap();
    let view = store.tenant(&acme, lab.now()).await.unwrap();
    let mut expected = TenantSettings {
        max_in_flight: Some(7),
        weight: Some(2.5),
        paused: true,
        backlog_max: Some(100),
        budget_s: Some(3600),
        results_bytes: Some(1 << 20),
    };
    assert_eq!(view.settings, expected);
    store
        .configure(&acme, &[Change::Weight(None), Change::Paused(false)])
        .await
        .unwrap();
    (expected.weight, expected.paused) = (None, false);
    assert_eq!(
        store.tenants(lab.now()).await.unwrap()[0].settings,
        expected
    );
    let none = [
        Change::MaxInFlight(None),
        Change::BacklogMax(None),
        Change::Budget(None),
        Change::ResultsBytes(None),
    ];
    store.configure(&acme, &none).await.unwrap();
    assert_eq!(store.tenants(lab.now()).await.unwrap(), []);
    for key in ["configured", "settings:acme"] {
        assert!(!lab.raw.exists(key).await, "{key} is still there");
    }
}

#[tokio::test]
async fn a_weight_stays_within_its_bounds() {
    let lab = Lab::new().await;
    let (store, acme) = (&lab.core.store, tenant("acme"));
    for (given, kept) in [(0.0, 0.01), (1e9, 100.0), (0.5, 0.5)] {
        let change = [Change::Weight(Some(given))];
        store.configure(&acme, &change).await.unwrap();
        let view = store.tenant(&acme, lab.now()).await.unwrap();
        assert_eq!(view.settings.weight, Some(kept));
    }
}

#[tokio::test]
async fn tenants_are_listed_with_what_they_have() {
    let lab = Lab::new().await;
    lab.submit_many("b", 3).await;
    let at = lab.now() + 60_000;
    lab.submit(&[json!({"tenant": "a:eu", "not_before_ms": at})])
        .await;
    let flying = lab.claim(1).await;
    let views = lab.core.store.tenants(lab.now()).await.unwrap();
    let told: Vec<_> = views
        .iter()
        .map(|view| {
            (
                view.tenant.as_str(),
                view.waiting,
                view.delayed,
                view.in_flight,
            )
        })
        .collect();
    assert_eq!(told, [("a:eu", 1, 1, 0), ("b", 2, 0, 1)]);
    lab.finish(&flying[0]).await;
    lab.claim(9).await;
    let views = lab.core.store.tenants(lab.now()).await.unwrap();
    assert_eq!(views[1].in_flight, 2, "known by what is in flight alone");
}

#[tokio::test]
async fn a_paused_tenant_boots_nothing_and_loses_nothing() {
    let lab = Lab::new().await;
    let store = &lab.core.store;
    lab.submit_many("a", 2).await;
    lab.submit_many("b", 2).await;
    store
        .configure(&tenant("a"), &[Change::Paused(true)])
        .await
        .unwrap();
    assert_eq!(ids(&lab.claim(9).await), ["b-0", "b-1"]);
    // What comes now waits as well.
    lab.submit(&[request("a", 2)]).await;
    assert!(lab.claim(9).await.is_empty());
    store
        .configure(&tenant("a"), &[Change::Paused(false)])
        .await
        .unwrap();
    let mut wakeups = Wakeups::new(store.clone());
    assert_eq!(wakeups.next(9, BLOCK).await.unwrap(), [Wakeup::Capacity]);
    assert_eq!(ids(&lab.claim(9).await), ["a-0", "a-1", "a-2"]);
}

#[tokio::test]
async fn everything_can_be_paused() {
    let lab = Lab::new().await;
    let store = &lab.core.store;
    lab.submit_many("a", 2).await;
    let flying = lab.claim(1).await;
    store.pause(None, true, None).await.unwrap();
    assert!(store.is_paused().await.unwrap());
    assert_eq!(lab.ask(9).await.stop, Stop::Paused);
    // What runs goes on.
    lab.advance(&flying[0]).await;
    lab.finish(&flying[0]).await;
    assert_eq!(lab.submit(&[request("a", 2)]).await.queued, 1);
    assert!(lab.claim(9).await.is_empty());
    store.pause(None, false, None).await.unwrap();
    assert!(!store.is_paused().await.unwrap());
    let mut wakeups = Wakeups::new(store.clone());
    let calls = wakeups.next(9, BLOCK).await.unwrap();
    assert_eq!(calls.last(), Some(&Wakeup::Capacity));
    assert_eq!(ids(&lab.claim(9).await), ["a-1", "a-2"]);
}

#[tokio::test]
async fn a_tenant_over_its_backlog_is_rejected_and_the_others_are_not() {
    let lab = Lab::with(|runs| runs.tenant_backlog_max = Some(3)).await;
    let store = &lab.core.store;
    let at = lab.now() + 60_000;
    lab.submit(&[json!({"id": "a-late", "tenant": "a", "not_before_ms": at})])
        .await;
    lab.submit_many("a", 2).await;
    let taken = lab
        .submit(&[request("a", 7), request("b", 0), request("a", 8)])
        .await;
    assert_eq!((taken.queued, taken.rejected), (1, 2));
    let results = lab.results().await;
    assert_eq!(results.len(), 2);
    for (result, name) in results.iter().zip(["a-7", "a-8"]) {
        assert_eq!(result["run_id"], name);
        assert_eq!(result["outcome"], "rejected");
        assert_eq!(result["tenant"], "a");
        assert_eq!(result["reason"]["code"], "queue_full");
        let message = result["reason"]["message"].as_str().unwrap();
        assert!(message.contains("this tenant"), "{message}");
    }
    // The same again changes nothing, not even when there is room.
    assert_eq!(lab.claim(9).await.len(), 3);
    assert_eq!(lab.submit(&[request("a", 7)]).await.known, 1);
    assert_eq!(lab.submit(&[request("a", 9)]).await.queued, 1);
    // A limit of its own comes before the usual one.
    store
        .configure(&tenant("a"), &[Change::BacklogMax(Some(0))])
        .await
        .unwrap();
    let many: Vec<_> = (20..30).map(|n| request("a", n)).collect();
    assert_eq!(lab.submit(&many).await.queued, 10);
    lab.raw.check_times_to_live("rejected").await;
    assert_eq!(lab.raw.pending("runs").await, 0);
}

#[tokio::test]
async fn the_backlog_of_all_has_a_limit_that_does_not_count_what_runs() {
    let lab = Lab::with(|runs| runs.backlog_max = Some(4)).await;
    lab.submit_many("a", 2).await;
    lab.submit_many("b", 2).await;
    assert_eq!(lab.submit(&[request("c", 0)]).await.rejected, 1);
    let results = lab.results().await;
    assert_eq!(results[0]["reason"]["message"], "as many runs wait as may");
    lab.claim(3).await;
    let taken = lab
        .submit(&[
            request("c", 1),
            request("c", 2),
            request("c", 3),
            request("c", 4),
        ])
        .await;
    assert_eq!((taken.queued, taken.rejected), (3, 1));
    let view = lab
        .core
        .store
        .record(&super::id("c-0"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(view.outcome, Some(Outcome::Rejected));
    assert_eq!(view.reason.unwrap().code, ReasonCode::QueueFull);
}

#[tokio::test]
async fn requests_that_nobody_has_read_are_counted() {
    let lab = Lab::new().await;
    for n in 0..5 {
        lab.raw
            .add("runs", &[("run", &request("a", n).to_string())])
            .await;
    }
    assert_eq!(lab.core.store.census(lab.now()).await.unwrap().unread, 5);
    lab.submit(&[]).await;
    let census = lab.core.store.census(lab.now()).await.unwrap();
    assert_eq!(
        (census.unread, census.queued, census.tenants_waiting),
        (0, 5, 1)
    );
}
