//! Orders: cancel, pause, resume, through the control stream.

use cofferdam::run::outcome::{Outcome, ReasonCode};
use cofferdam::stage::Core;
use cofferdam::stage::control::{self, OpenOrder, Progress, cancel};
use cofferdam::store::acts::{Entered, Transition};
use cofferdam::store::keys::Inbox;
use cofferdam::store::requests::{Entry, Requests};
use serde_json::json;

use super::{BLOCK, Lab, id, ids, request, tenant};

/// Appends an order as a producer does and reads it as a worker does.
async fn order(lab: &Lab, fields: &[(&str, &str)]) -> Entry {
    let mut orders = Requests::of(Inbox::Control, lab.core.store.clone(), "worker");
    lab.raw.add("control", fields).await;
    let mut entries = orders.next(10, BLOCK).await.unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

/// Obeys an entry for as many steps as it goes on.
async fn carry_out(core: &Core, entry: &Entry) -> Result<Progress, cofferdam::stage::Error> {
    let mut task = OpenOrder::new(entry.clone());
    loop {
        match control::carry_out(core, &mut task).await? {
            Progress::More => {}
            obeyed => return Ok(obeyed),
        }
    }
}

async fn obeyed(lab: &Lab, fields: &[(&str, &str)]) -> Progress {
    let entry = order(lab, fields).await;
    carry_out(&lab.core, &entry).await.unwrap()
}

async fn outcome(lab: &Lab, run: &str) -> (&'static str, Option<Outcome>) {
    let view = lab.core.store.record(&id(run)).await.unwrap().unwrap();
    (view.state, view.outcome)
}

#[tokio::test]
async fn a_run_is_cancelled_wherever_it_stands() {
    let lab = Lab::new().await;
    let at = lab.now() + 60_000;
    lab.submit(&[request("a", 0), request("a", 1), request("a", 2)])
        .await;
    lab.submit(&[json!({"id": "late", "tenant": "a", "not_before_ms": at})])
        .await;
    let flying = lab.claim(2).await;
    lab.advance(&flying[1]).await;
    let cancelled = Some(Outcome::Cancelled);
    for (run, state) in [
        ("a-0", "settled"),
        ("a-1", "settled"),
        ("a-2", "closed"),
        ("late", "closed"),
    ] {
        assert_eq!(obeyed(&lab, &[("cancel", run)]).await, Progress::Done);
        assert_eq!(outcome(&lab, run).await, (state, cancelled), "{run}");
    }
    let results = lab.results().await;
    assert_eq!(results.len(), 4);
    assert!(results.iter().all(|result| result["outcome"] == "cancelled"
        && result["reason"]["code"] == "cancelled"
        && result["tenant"] == "a"));
    for key in ["tenants", "delayed", "delayed:a", "queue:a", "control"] {
        let is_there = key != "control" && lab.raw.exists(key).await;
        assert!(!is_there, "{key} is still there");
    }
    assert_eq!(lab.raw.length("control").await, 0);
    assert_eq!(lab.raw.pending("control").await, 0);
}

#[tokio::test]
async fn cancelling_what_has_ended_changes_nothing() {
    let lab = Lab::new().await;
    lab.submit_many("a", 1).await;
    let run = lab.claim(1).await.remove(0);
    lab.finish(&run).await;
    let before = lab.core.store.record(&run.id).await.unwrap().unwrap();
    assert_eq!(cancel(&lab.core, &run.id).await.unwrap(), Transition::Over);
    assert_eq!(obeyed(&lab, &[("cancel", "a-0")]).await, Progress::Done);
    let after = lab.core.store.record(&run.id).await.unwrap().unwrap();
    assert_eq!(after, before);
    assert_eq!(lab.results().await.len(), 1);
}

#[tokio::test]
async fn an_order_waits_for_the_request_that_was_there_before_it() {
    let lab = Lab::new().await;
    lab.raw
        .add("runs", &[("run", &request("a", 0).to_string())])
        .await;
    let entry = order(&lab, &[("cancel", "a-0"), ("pause", "b")]).await;
    assert_eq!(
        carry_out(&lab.core, &entry).await.unwrap(),
        Progress::NotYet
    );
    assert_eq!(lab.raw.pending("control").await, 1);
    lab.submit(&[]).await;
    assert_eq!(carry_out(&lab.core, &entry).await.unwrap(), Progress::Done);
    assert_eq!(outcome(&lab, "a-0").await.1, Some(Outcome::Cancelled));
    let b = lab
        .core
        .store
        .tenant(&tenant("b"), lab.now())
        .await
        .unwrap();
    assert!(b.settings.paused);
    assert_eq!(lab.raw.length("control").await, 0);
}

/// The worker that had the first of two orders died or stood still, and another obeys it later.
#[tokio::test]
async fn an_order_that_was_overtaken_changes_nothing() {
    let lab = Lab::new().await;
    for scope in ["a", "*"] {
        let pause = order(&lab, &[("pause", scope)]).await;
        let resume = order(&lab, &[("resume", scope)]).await;
        for entry in [&resume, &pause] {
            assert_eq!(carry_out(&lab.core, entry).await.unwrap(), Progress::Done);
        }
    }
    assert!(!lab.core.store.is_paused().await.unwrap());
    lab.submit_many("a", 1).await;
    assert_eq!(ids(&lab.claim(1).await), ["a-0"]);
    // What is set by hand comes after every order on the stream.
    let late = order(&lab, &[("resume", "a")]).await;
    let (store, a) = (&lab.core.store, tenant("a"));
    store.pause(Some(&a), true, None).await.unwrap();
    assert_eq!(carry_out(&lab.core, &late).await.unwrap(), Progress::Done);
    assert!(store.tenant(&a, lab.now()).await.unwrap().settings.paused);
}

#[tokio::test]
async fn the_orders_of_one_entry_are_obeyed_in_turn_each_of_them() {
    let lab = Lab::new().await;
    lab.submit_many("a", 3).await;
    // As many of one kind as there are, and the last word on the tenant is the last one.
    let mut words = vec![("cancel", "a-0"), ("cancel", "a-1"), ("cancel", "a-2")];
    words.extend([("pause", "b"), ("resume", "b")].repeat(4));
    words.push(("pause", "b"));
    words.push(("resume", "c"));
    words.push(("pause", "c"));
    assert_eq!(obeyed(&lab, &words).await, Progress::Done);
    for run in ["a-0", "a-1", "a-2"] {
        assert_eq!(
            outcome(&lab, run).await.1,
            Some(Outcome::Cancelled),
            "{run}"
        );
    }
    for name in ["b", "c"] {
        let view = lab.core.store.tenant(&tenant(name), lab.now()).await;
        assert!(view.unwrap().settings.paused, "{name}");
    }
}

#[tokio::test]
async fn an_order_for_a_run_that_nobody_asked_for_is_done_with() {
    let lab = Lab::new().await;
    assert_eq!(obeyed(&lab, &[("cancel", "nobody")]).await, Progress::Done);
    // A request that comes after it is not meant.
    lab.submit(&[json!({"id": "nobody"})]).await;
    assert_eq!(outcome(&lab, "nobody").await.0, "queued");
}

#[tokio::test]
async fn what_is_no_order_is_set_aside_and_the_rest_goes_on() {
    let lab = Lab::new().await;
    assert_eq!(obeyed(&lab, &[("abolish", "x")]).await, Progress::Done);
    let dead = lab.core.store.newest_dead(10).await.unwrap();
    let field = |name: &str| {
        let (_, value) = dead[0]
            .fields
            .iter()
            .find(|(field, _)| field == name.as_bytes())
            .unwrap();
        String::from_utf8(value.clone()).unwrap()
    };
    assert_eq!(field("abolish"), "x");
    assert_eq!(field("reason"), "\"abolish\" is not an order");
    assert_eq!(lab.raw.pending("control").await, 0);
}

/// Its answer was lost, or the worker that did it was thought dead: it is done again.
#[tokio::test]
async fn what_is_set_aside_again_is_there_once() {
    let lab = Lab::new().await;
    let entry = order(&lab, &[("abolish", "x")]).await;
    for _ in 0..2 {
        assert_eq!(carry_out(&lab.core, &entry).await.unwrap(), Progress::Done);
    }
    assert_eq!(lab.raw.length("dead").await, 1);
    let many = vec![("abolish", "x"); 10_000];
    assert_eq!(obeyed(&lab, &many).await, Progress::Done);
    let dead = lab.core.store.newest_dead(1).await.unwrap();
    let (_, reason) = &dead[0].fields[3000];
    assert_eq!(
        String::from_utf8_lossy(reason),
        "\"abolish\" is not an order (7000 of its fields are left out)"
    );
}

#[tokio::test]
async fn an_order_of_a_dead_worker_is_taken_over() {
    let lab = Lab::new().await;
    lab.submit_many("a", 1).await;
    order(&lab, &[("cancel", "a-0")]).await;
    let living = Requests::of(Inbox::Control, lab.core.store.clone(), "another");
    let entries = living
        .take_over(10, std::time::Duration::ZERO)
        .await
        .unwrap()
        .entries;
    assert_eq!(entries.len(), 1);
    assert_eq!(
        carry_out(&lab.core, &entries[0]).await.unwrap(),
        Progress::Done
    );
    assert_eq!(outcome(&lab, "a-0").await.1, Some(Outcome::Cancelled));
}

#[tokio::test]
async fn a_tenants_runs_are_cancelled_and_nobody_elses() {
    let lab = Lab::new().await;
    lab.submit_many("a", 700).await;
    lab.submit_many("b", 3).await;
    let at = lab.now() + 60_000;
    lab.submit(&[json!({"id": "late", "tenant": "a", "not_before_ms": at})])
        .await;
    let flying = lab.claim(20).await;
    assert!(flying.iter().any(|run| run.tenant == "a"));
    assert_eq!(
        obeyed(&lab, &[("cancel_tenant", "a")]).await,
        Progress::Done
    );
    let results = lab.results().await;
    assert_eq!(results.len(), 701);
    assert!(results.iter().all(|result| result["tenant"] == "a"));
    let view = lab
        .core
        .store
        .tenant(&tenant("a"), lab.now())
        .await
        .unwrap();
    assert_eq!(view.waiting, 0);
    for run in flying.iter().filter(|run| run.tenant == "a") {
        lab.close(run).await;
    }
    // What the tenant asks for afterwards is not meant.
    lab.core.clock.shift(10);
    lab.submit(&[json!({"id": "after", "tenant": "a"})]).await;
    assert_eq!(ids(&lab.claim(9).await), ["after"]);
}

#[tokio::test]
async fn what_was_asked_for_later_is_not_cancelled_with_its_tenant() {
    let lab = Lab::new().await;
    lab.submit_many("a", 5).await;
    let times = lab.core.store.records(&[id("a-4")]).await.unwrap();
    let until = times[0].as_ref().unwrap().submitted_at_ms.unwrap();
    let order = Entry {
        id: format!("{}-0", until - 1),
        fields: vec![(b"cancel_tenant".to_vec(), b"a".to_vec())],
        unread_bytes: None,
    };
    carry_out(&lab.core, &order).await.unwrap();
    let kept = 5 - lab.results().await.len();
    assert!(kept >= 1, "the last one at least");
    assert_eq!(lab.claim(9).await.len(), kept);
}

#[tokio::test]
async fn a_cancelled_boot_is_torn_down_when_its_machine_is_known() {
    let lab = Lab::new().await;
    lab.submit_many("a", 1).await;
    let run = lab.claim(1).await.remove(0);
    assert_eq!(
        lab.end(&run.id, ReasonCode::Cancelled).await,
        Transition::Done(Entered::Settled)
    );
    // The run takes up its tenant's room until the machine is gone for sure.
    let view = lab
        .core
        .store
        .tenant(&tenant("a"), lab.now())
        .await
        .unwrap();
    assert_eq!(view.in_flight, 1);
    lab.close(&run).await;
    let view = lab
        .core
        .store
        .tenant(&tenant("a"), lab.now())
        .await
        .unwrap();
    assert_eq!(view.in_flight, 0);
}

#[tokio::test]
async fn everything_is_paused_and_resumed_by_orders() {
    let lab = Lab::new().await;
    obeyed(&lab, &[("pause", "*")]).await;
    assert!(lab.core.store.is_paused().await.unwrap());
    obeyed(&lab, &[("resume", "*")]).await;
    assert!(!lab.core.store.is_paused().await.unwrap());
}

/// However many runs it cancels, the orders after it are obeyed between its steps.
#[tokio::test]
async fn a_pause_waited_behind_the_cancellation_of_a_large_tenant() {
    let lab = Lab::new().await;
    lab.submit_many("a", 1500).await;
    let mut cancels = OpenOrder::new(order(&lab, &[("cancel_tenant", "a")]).await);
    let mut steps = 0;
    while control::carry_out(&lab.core, &mut cancels).await.unwrap() == Progress::More {
        steps += 1;
        let left: usize = lab.raw.say("ZCARD", "queue:a", &[]).await;
        let cancelled = 1500 - left;
        assert!(cancelled <= steps * 700, "{cancelled} in {steps} steps");
        if steps == 1 {
            assert_eq!(obeyed(&lab, &[("pause", "*")]).await, Progress::Done);
            assert!(lab.core.store.is_paused().await.unwrap());
        }
    }
    assert!(steps > 3, "{steps}");
    assert_eq!(lab.raw.length("control").await, 0);
    assert!(!lab.raw.exists("queue:a").await);
}

/// An order that takes longer than a lease is not begun again by another worker.
#[tokio::test]
async fn an_order_in_hand_for_long_was_repeated_by_another_worker() {
    let lab = Lab::new().await;
    let mut mine = Requests::of(Inbox::Control, lab.core.store.clone(), "worker");
    lab.raw.add("control", &[("cancel_tenant", "a")]).await;
    let entries = mine.next(10, BLOCK).await.unwrap();
    let other = Requests::of(Inbox::Control, lab.core.store.clone(), "another");
    let idle = std::time::Duration::from_secs(60);
    // As if it had been read a minute ago.
    let aged = ["cofferdam", "worker", "0", &entries[0].id, "IDLE", "60000"];
    let _: redis::Value = lab.raw.say("XCLAIM", "control", &aged).await;
    mine.hold(entries.iter()).await.unwrap();
    let taken = other.take_over(10, idle).await.unwrap();
    assert!(taken.entries.is_empty(), "{taken:?}");
    let _: redis::Value = lab.raw.say("XCLAIM", "control", &aged).await;
    let taken = other.take_over(10, idle).await.unwrap();
    assert_eq!(taken.entries.len(), 1);
    assert!(!taken.has_more);
}
