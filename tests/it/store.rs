//! The store against a real Redis: what each act leaves behind, and what it refuses.

use std::collections::HashMap;
use std::time::Duration;

use cofferdam::run::id::{Attempt, RunId};
use cofferdam::run::outcome::{Ending, ReasonCode};
use cofferdam::run::phase::MachineRef;
use cofferdam::stage::Core;
use cofferdam::stage::intake::{IntakeCounts, intake};
use cofferdam::stage::settle::settle;
use cofferdam::store::acts::{
    Claim, Claimed, Entered, FleetLimits, Requeue, Settlement, Stop, Transition, Work,
};
use cofferdam::store::keys::Inbox;
use cofferdam::store::requests::Requests;
use cofferdam::store::wakeups::{Wakeup, Wakeups};
use serde_json::json;

use crate::support::raw::Raw;
use crate::support::until::until;
use crate::support::{parts, redis};

const BLOCK: Duration = Duration::from_millis(50);

/// A namespace of its own: the store through its acts, and Redis itself beside it.
struct Fixture {
    core: Core,
    raw: Raw,
}

impl Fixture {
    async fn new() -> Self {
        let settings = redis::settings();
        let core = parts::core(&settings, parts::runs()).await;
        core.store.ensure_group().await.unwrap();
        Self {
            core,
            raw: Raw::new(&settings).await,
        }
    }

    /// Appends requests as a producer does, and takes them in.
    async fn submit(&self, requests: &[String]) -> IntakeCounts {
        for request in requests {
            self.raw.add("runs", &[("run", request)]).await;
        }
        self.take_in("worker-a").await
    }

    async fn take_in(&self, worker: &str) -> IntakeCounts {
        let mut requests = Requests::new(self.core.store.clone(), worker);
        let entries = requests.next(1000, BLOCK).await.unwrap();
        intake(&self.core, &entries).await.unwrap()
    }

    async fn claim(&self, room: &FleetLimits, want: usize) -> Claim {
        let now = self.core.clock.now_ms();
        self.core
            .store
            .claim(room, want, now, self.core.runs.lease)
            .await
            .unwrap()
    }

    async fn end(&self, id: &RunId, reason: ReasonCode) {
        settle(&self.core, id, None, &Ending::without(reason, "test"))
            .await
            .unwrap();
    }

    /// Ends and closes a run that was claimed, so that its room is free.
    async fn finish(&self, run: &Claimed) {
        self.end(&run.id, ReasonCode::Cancelled).await;
        let now = self.core.clock.now_ms();
        let keep = self.core.runs.retention;
        let closed = self.core.store.close(&run.id, run.boot(), now, keep);
        closed.await.unwrap();
    }
}

fn room(apps: &[&str], max_in_flight: u32) -> FleetLimits {
    FleetLimits {
        apps: apps.iter().map(|app| (*app).to_owned()).collect(),
        max_in_flight,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    }
}

fn request(id: &str) -> String {
    json!({"id": id}).to_string()
}

#[tokio::test]
async fn a_request_is_admitted_once_acknowledged_and_deleted() {
    let fixture = Fixture::new().await;
    let taken = fixture
        .submit(&[request("a"), request("a"), request("b")])
        .await;
    assert_eq!(
        taken,
        IntakeCounts {
            queued: 2,
            known: 1,
            ..IntakeCounts::default()
        }
    );
    let taken = fixture.submit(&[request("a")]).await;
    assert_eq!(
        taken,
        IntakeCounts {
            known: 1,
            ..IntakeCounts::default()
        }
    );
    assert_eq!(fixture.raw.length("runs").await, 0);
    assert_eq!(fixture.raw.pending("runs").await, 0);
}

#[tokio::test]
async fn a_request_without_an_id_gets_its_entrys() {
    let fixture = Fixture::new().await;
    let entry = fixture.raw.add("runs", &[("run", "{}")]).await;
    fixture.take_in("worker-a").await;
    let view = fixture
        .core
        .store
        .record(&entry.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let ms: u64 = entry.split('-').next().unwrap().parse().unwrap();
    assert_eq!(view.submitted_at_ms, Some(ms));
}

#[tokio::test]
async fn every_run_key_has_a_time_to_live_from_its_first_write_to_its_last() {
    let fixture = Fixture::new().await;
    fixture
        .submit(&[request("a"), r#"{"id":"b","cmd":[]}"#.into()])
        .await;
    fixture.raw.check_times_to_live("queued and rejected").await;
    let claimed = fixture.claim(&room(&["app"], 9), 9).await;
    fixture.raw.check_times_to_live("booting").await;
    fixture.finish(&claimed.runs[0]).await;
    fixture.raw.check_times_to_live("closed").await;
}

#[tokio::test]
async fn what_is_no_request_is_set_aside_as_it_came() {
    let fixture = Fixture::new().await;
    let source = fixture
        .raw
        .add("runs", &[("run", "nonsense"), ("x", "y")])
        .await;
    fixture.raw.add("runs", &[("walk", "{}")]).await;
    fixture.raw.add("runs", &[("run", r#"{"id":"a b"}"#)]).await;
    let taken = fixture.take_in("worker-a").await;
    assert_eq!(
        taken,
        IntakeCounts {
            dead: 3,
            ..IntakeCounts::default()
        }
    );
    let dead = fixture.core.store.newest_dead(10).await.unwrap();
    let first: HashMap<_, _> = dead.last().unwrap().fields.iter().cloned().collect();
    let first = |name: &str| first[name.as_bytes()].as_slice();
    assert_eq!(first("run"), b"nonsense");
    assert_eq!(first("x"), b"y");
    assert_eq!(first("source_id"), source.as_bytes());
    assert!(String::from_utf8_lossy(first("reason")).contains("not a JSON object"));
    assert_eq!(fixture.raw.length("runs").await, 0);
}

#[tokio::test]
async fn a_request_that_breaks_a_rule_ends_as_a_rejected_result() {
    let fixture = Fixture::new().await;
    let taken = fixture.submit(&[r#"{"id":"bad","bogus":1}"#.into()]).await;
    assert_eq!(
        taken,
        IntakeCounts {
            rejected: 1,
            ..IntakeCounts::default()
        }
    );
    let results = fixture.core.store.newest_results(10).await.unwrap();
    let result: serde_json::Value = serde_json::from_str(&results[0].result).unwrap();
    assert_eq!(result["run_id"], "bad");
    assert_eq!(result["outcome"], "rejected");
    assert_eq!(result["attempts"], 0);
    assert_eq!(result["reason"]["code"], "invalid_request");
    assert_eq!(
        result["reason"]["message"],
        "bogus: is not a field of a request"
    );
    assert!(result["submitted_at_ms"].is_u64() && result["settled_at_ms"].is_u64());
    // The id is spoken for now: the same request again changes nothing, and another is set aside.
    let again = [r#"{"id":"bad","bogus":1}"#.into(), request("bad")];
    let again = fixture.submit(&again).await;
    assert_eq!((again.known, again.conflicts), (1, 1));
}

#[tokio::test]
async fn what_a_dead_worker_had_read_is_taken_over_by_another() {
    let fixture = Fixture::new().await;
    fixture.raw.add("runs", &[("run", &request("a"))]).await;
    let mut dead = Requests::new(fixture.core.store.clone(), "worker-dead");
    assert_eq!(dead.next(10, BLOCK).await.unwrap().len(), 1);
    let living = Requests::new(fixture.core.store.clone(), "worker-b");
    assert!(
        living
            .take_over(10, Duration::from_secs(60))
            .await
            .unwrap()
            .entries
            .is_empty()
    );
    let entries = living.take_over(10, Duration::ZERO).await.unwrap().entries;
    assert_eq!(intake(&fixture.core, &entries).await.unwrap().queued, 1);
    assert_eq!(fixture.raw.pending("runs").await, 0);
    // The dead one wakes up and admits what it read: nothing is doubled.
    assert_eq!(intake(&fixture.core, &entries).await.unwrap().known, 1);
}

/// Its pending entries would be in nobody's hands: the request would never be admitted.
#[tokio::test]
async fn a_consumer_that_has_pending_entries_is_not_forgotten() {
    let fixture = Fixture::new().await;
    let store = &fixture.core.store;
    fixture.raw.add("runs", &[("run", &request("a"))]).await;
    let mut dead = Requests::new(store.clone(), "worker-dead");
    assert_eq!(dead.next(10, BLOCK).await.unwrap().len(), 1);
    let mut idle = Requests::new(store.clone(), "worker-idle");
    fixture.raw.add("runs", &[("run", &request("b"))]).await;
    let entries = idle.next(10, BLOCK).await.unwrap();
    assert_eq!(intake(&fixture.core, &entries).await.unwrap().queued, 1);
    until("the idle consumer is forgotten", async || {
        let forgotten = store.forget_consumers(Inbox::Runs, Duration::ZERO).await;
        match forgotten.unwrap() {
            0 => Err("none is".to_owned()),
            1 => Ok(()),
            more => Err(format!("{more} are")),
        }
    })
    .await;
    // Nor does it leave by itself.
    dead.leave().await.unwrap();
    assert_eq!(fixture.raw.consumers("runs", "cofferdam").await, 1);
    let living = Requests::new(store.clone(), "worker-b");
    let entries = living.take_over(10, Duration::ZERO).await.unwrap().entries;
    assert_eq!(entries.len(), 1);
}

#[tokio::test]
async fn the_fleet_has_no_more_machines_than_it_may_and_shares_them_among_apps() {
    let fixture = Fixture::new().await;
    let ids: Vec<String> = (0..10).map(|n| request(&format!("r{n}"))).collect();
    fixture.submit(&ids).await;
    let room = room(&["one", "two"], 5);
    let claim = fixture.claim(&room, 100).await;
    assert_eq!((claim.runs.len(), claim.stop), (5, Stop::Full));
    let in_one = claim.runs.iter().filter(|run| run.app == "one").count();
    assert!(
        (2..=3).contains(&in_one),
        "{in_one} of 5 in one of two apps"
    );
    assert_eq!(fixture.claim(&room, 100).await.runs.len(), 0);
    fixture.finish(&claim.runs[0]).await;
    assert_eq!(fixture.claim(&room, 100).await.runs.len(), 1);
}

#[tokio::test]
async fn boots_keep_to_the_rate_of_each_app() {
    let fixture = Fixture::new().await;
    let ids: Vec<String> = (0..10).map(|n| request(&format!("r{n}"))).collect();
    fixture.submit(&ids).await;
    let room = FleetLimits {
        boot_rate: 1.0,
        boot_burst: 3,
        ..room(&["app"], 100)
    };
    let (t0, lease) = (fixture.core.clock.now_ms(), fixture.core.runs.lease);
    let at = async |ms: u64| {
        fixture
            .core
            .store
            .claim(&room, 100, t0 + ms, lease)
            .await
            .unwrap()
    };
    let burst = at(0).await;
    assert_eq!((burst.runs.len(), burst.stop), (3, Stop::Held));
    assert_eq!(burst.wake_at_ms, Some(t0 + 1000));
    assert_eq!(at(999).await.runs.len(), 0);
    assert_eq!(at(1000).await.runs.len(), 1);
    // A worker whose clock is behind gains nothing.
    assert_eq!(at(500).await.runs.len(), 0);
    assert_eq!(at(3000).await.runs.len(), 2);
    fixture
        .core
        .store
        .hold("app", t0 + 60_000, None, t0)
        .await
        .unwrap();
    let held = at(50_000).await;
    assert_eq!((held.runs.len(), held.wake_at_ms), (0, Some(t0 + 60_000)));
    assert_eq!(at(60_000).await.runs.len(), 3);
}

#[tokio::test]
async fn tenants_take_turns_and_each_keeps_its_order() {
    let fixture = Fixture::new().await;
    let of =
        |tenant: &str, n: u32| json!({"id": format!("{tenant}{n}"), "tenant": tenant}).to_string();
    let many: Vec<String> = (0..20).map(|n| of("a", n)).collect();
    fixture.submit(&many).await;
    let room = room(&["app"], 100);
    assert_eq!(fixture.claim(&room, 5).await.runs.len(), 5);
    fixture.submit(&[of("b", 0), of("b", 1), of("b", 2)]).await;
    let order: Vec<String> = fixture
        .claim(&room, 7)
        .await
        .runs
        .iter()
        .map(|run| run.id.to_string())
        .collect();
    let only = |tenant: &str| {
        order
            .iter()
            .filter(|id| id.starts_with(tenant))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(only("a"), ["a5", "a6", "a7", "a8"]);
    assert_eq!(only("b"), ["b0", "b1", "b2"]);
    assert!(order[..2].contains(&"b0".to_owned()), "{order:?}");
}

#[tokio::test]
async fn a_tenant_that_comes_and_goes_gains_no_turns() {
    let fixture = Fixture::new().await;
    let of =
        |tenant: &str, n: u32| json!({"id": format!("{tenant}{n}"), "tenant": tenant}).to_string();
    let many: Vec<String> = (0..40).map(|n| of("a", n)).collect();
    fixture.submit(&many).await;
    let room = room(&["app"], 100);
    let mut turns = HashMap::new();
    for n in 0..40 {
        // It has one run at a time, always a new one.
        fixture.submit(&[of("b", n)]).await;
        let claim = fixture.claim(&room, 1).await;
        *turns.entry(claim.runs[0].tenant.clone()).or_insert(0) += 1;
    }
    assert!((19..=21).contains(&turns["a"]), "{turns:?}");
}

#[tokio::test]
async fn a_refused_run_keeps_its_place_and_has_not_been_tried() {
    let fixture = Fixture::new().await;
    fixture.submit(&[request("a"), request("b")]).await;
    let room = room(&["app"], 100);
    let first = fixture.claim(&room, 1).await;
    let store = &fixture.core.store;
    let view = store.record(&first.runs[0].id).await.unwrap().unwrap();
    let now = fixture.core.clock.now_ms();
    store
        .requeue(&view, view.boot(), Requeue::Refused, Some(now + 5_000), now)
        .await
        .unwrap();
    let next = fixture.claim(&room, 10).await;
    assert_eq!(next.runs.len(), 1, "a is delayed, b is not");
    assert_eq!(next.wake_at_ms, Some(now + 5_000));
    let lease = fixture.core.runs.lease;
    let later = store.claim(&room, 10, now + 5_000, lease).await.unwrap();
    assert_eq!(later.runs[0].id.as_str(), "a");
    let view = store.record(&later.runs[0].id).await.unwrap().unwrap();
    assert_eq!(view.tries(), 1);
    assert_eq!(later.runs[0].refusals, 1);
    assert_eq!(later.runs[0].refused_since_ms, Some(now));
}

/// A boot that lost its lease can be carried on by another worker, whose machine is there when the
/// first one says that it was refused. Were the number given out again, that machine would be the
/// next boot's, and its removal as nobody's would take it from a run that awaits its result.
#[tokio::test]
async fn the_number_of_a_refused_boot_is_never_given_out_again() {
    let fixture = Fixture::new().await;
    fixture.submit(&[request("a")]).await;
    let (store, now) = (&fixture.core.store, fixture.core.clock.now_ms());
    let room = room(&["app"], 1);
    for (turn, why) in [Requeue::Refused, Requeue::Held, Requeue::Failed]
        .into_iter()
        .enumerate()
    {
        let run = fixture.claim(&room, 1).await.runs.remove(0);
        assert_eq!(run.attempt.0 as usize, turn + 1, "before {why:?}");
        let view = store.record(&run.id).await.unwrap().unwrap();
        store
            .requeue(&view, run.boot(), why, None, now)
            .await
            .unwrap();
        let late = MachineRef {
            app: run.app.clone(),
            id: "late".into(),
            instance_id: None,
            region: None,
        };
        // The machine of the other worker, and what its guest posts, come too late for good.
        let act = store.advance(&run.id, run.boot(), &late, now).await;
        assert_eq!(act.unwrap(), Transition::Refused, "after {why:?}");
    }
    let last = fixture.claim(&room, 1).await.runs.remove(0);
    let view = store.record(&last.id).await.unwrap().unwrap();
    assert_eq!((view.attempt, view.tries()), (4, 2));
    fixture.end(&last.id, ReasonCode::Deadline).await;
    let result = &store.newest_results(1).await.unwrap()[0].result;
    let result: serde_json::Value = serde_json::from_str(result).unwrap();
    assert_eq!(result["attempts"], 2);
}

/// The id and the attempt are the same again, the request is not: whoever booted the one of before has
/// nothing to say about it.
#[tokio::test]
async fn after_redis_was_emptied_an_old_worker_changes_nothing_of_the_run_that_came_again() {
    let fixture = Fixture::new().await;
    let (store, room) = (&fixture.core.store, room(&["app"], 1));
    fixture.submit(&[request("a")]).await;
    let old = fixture.claim(&room, 1).await.runs.remove(0);
    for key in fixture.raw.dump().await.keys() {
        fixture.raw.delete(key).await;
    }
    store.ensure_group().await.unwrap();
    fixture.submit(&[request("a")]).await;
    let new = fixture.claim(&room, 1).await.runs.remove(0);
    assert_eq!((&new.id, new.attempt), (&old.id, old.attempt));

    let (id, now) = (&old.id, fixture.core.clock.now_ms());
    let view = store.record(id).await.unwrap().unwrap();
    let ending = Ending::without(ReasonCode::BootFailed, "of the old request");
    let end = Settlement {
        ending: &ending,
        post: None,
        retention: fixture.core.runs.retention,
        lease: fixture.core.runs.lease,
    };
    let requeued = store.requeue(&view, old.boot(), Requeue::Failed, None, now);
    assert_eq!(requeued.await.unwrap(), Transition::Older);
    let settled = store.settle(id, Some(old.boot()), &end, now);
    assert_eq!(settled.await.unwrap(), Transition::Older);
    let refused = store.refuse(id, old.boot(), &end, now);
    assert_eq!(refused.await.unwrap(), Transition::Older);
    // Also when the new one has come as far as the old worker takes it to be.
    fixture.end(id, ReasonCode::Cancelled).await;
    let closed = store.close(id, old.boot(), now, end.retention);
    assert_eq!(closed.await.unwrap().0, Transition::Older);
    let closed = store.close(id, new.boot(), now, end.retention);
    assert_eq!(closed.await.unwrap().0, Transition::Done(Entered::Closed));
}

#[tokio::test]
async fn a_run_that_ends_in_the_queue_leaves_nothing_there() {
    let fixture = Fixture::new().await;
    fixture.submit(&[request("a"), request("b")]).await;
    fixture
        .end(&"a".parse().unwrap(), ReasonCode::Cancelled)
        .await;
    fixture
        .end(&"b".parse().unwrap(), ReasonCode::ExpiredInQueue)
        .await;
    assert_eq!(fixture.claim(&room(&["app"], 9), 9).await.stop, Stop::Empty);
    for key in ["tenants", "due", "delayed", "queue:default", "wakeups"] {
        assert!(!fixture.raw.exists(key).await, "{key} is still there");
    }
    assert_eq!(
        fixture.core.store.newest_results(10).await.unwrap().len(),
        2
    );
}

#[tokio::test]
async fn what_is_overdue_is_leased_to_one_that_asks() {
    let fixture = Fixture::new().await;
    fixture.submit(&[request("a")]).await;
    let claim = fixture.claim(&room(&["app"], 9), 9).await;
    let (id, attempt) = (claim.runs[0].id.clone(), claim.runs[0].attempt);
    let (store, lease) = (&fixture.core.store, fixture.core.runs.lease);
    let now = fixture.core.clock.now_ms();
    assert!(
        store.overdue(now, lease, 10).await.unwrap().runs.is_empty(),
        "it is leased"
    );
    assert!(
        store
            .renew(&[(id.clone(), attempt, Work::Boot)], now + 2_000, lease)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        store
            .overdue(now + 4_000, lease, 10)
            .await
            .unwrap()
            .runs
            .is_empty(),
        "it was renewed"
    );
    let late = store.overdue(now + 6_000, lease, 10).await.unwrap();
    assert_eq!(late.runs[0].id, id);
    assert!(
        store
            .overdue(now + 6_000, lease, 10)
            .await
            .unwrap()
            .runs
            .is_empty(),
        "leased again"
    );
    let other = [(id.clone(), Attempt(2), Work::Duty)];
    assert_eq!(
        store.renew(&other, now, lease).await.unwrap(),
        [id.to_string()]
    );
}

#[tokio::test]
async fn the_bell_calls_one_worker_for_a_settled_run() {
    let fixture = Fixture::new().await;
    fixture.submit(&[request("a")]).await;
    fixture.claim(&room(&["app"], 9), 9).await;
    fixture
        .end(&"a".parse().unwrap(), ReasonCode::Cancelled)
        .await;
    fixture.core.store.notify_capacity().await.unwrap();
    let mut wakeups = Wakeups::new(fixture.core.store.clone());
    let calls = wakeups.next(10, BLOCK).await.unwrap();
    assert_eq!(calls, [Wakeup::Run("a".into()), Wakeup::Capacity]);
    assert!(wakeups.next(10, BLOCK).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_sweeps_at_a_time() {
    let fixture = Fixture::new().await;
    let lease = Duration::from_secs(60);
    assert!(fixture.core.store.lead("one", lease).await.unwrap().leads);
    assert!(!fixture.core.store.lead("two", lease).await.unwrap().leads);
    assert!(
        fixture
            .core
            .store
            .lead("one", Duration::from_millis(1))
            .await
            .unwrap()
            .leads
    );
    crate::support::until::until("the lease ends", || async {
        let leads = fixture.core.store.lead("two", lease).await.unwrap().leads;
        leads.then_some(()).ok_or_else(|| "it is held".into())
    })
    .await;
}

#[tokio::test]
async fn a_flushed_script_cache_goes_unnoticed() {
    let server = redis::Server::start();
    let settings = server.settings();
    let core = parts::core(&settings, parts::runs()).await;
    core.store.ensure_group().await.unwrap();
    let fixture = Fixture {
        raw: Raw::new(&settings).await,
        core,
    };
    assert_eq!(fixture.submit(&[request("a")]).await.queued, 1);
    fixture.raw.flush_scripts().await;
    assert_eq!(
        fixture.submit(&[request("b"), request("c")]).await.queued,
        2
    );
    fixture.raw.flush_scripts().await;
    assert_eq!(fixture.claim(&room(&["app"], 9), 9).await.runs.len(), 3);
}
