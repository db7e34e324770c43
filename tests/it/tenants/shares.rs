//! Caps, turns and weights.

use std::collections::HashMap;

use cofferdam::store::acts::{Requeue, Stop};
use cofferdam::store::tenants::Change;

use super::{Lab, ids, of, tenant};
use crate::support::redis;

pub(super) async fn set(lab: &Lab, name: &str, changes: &[Change]) {
    lab.core
        .store
        .configure(&tenant(name), changes)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_tenant_has_no_more_machines_than_it_may_and_the_others_take_the_room() {
    let mut lab = Lab::new().await;
    lab.room.tenant_max_in_flight = Some(3);
    lab.submit_many("a", 20).await;
    lab.submit_many("b", 20).await;
    set(&lab, "b", &[Change::MaxInFlight(Some(5))]).await;
    let claim = lab.ask(100).await;
    assert_eq!(claim.stop, Stop::Empty, "both are at their cap");
    let turns: Vec<_> = claim.runs.iter().map(|run| run.tenant.clone()).collect();
    assert_eq!((of(&turns, "a"), of(&turns, "b")), (3, 5));
    assert!(!lab.raw.exists("tenants").await, "nobody's turn comes");
    // One of a's is gone: one of a's goes.
    let gone = claim.runs.iter().find(|run| run.tenant == "a").unwrap();
    lab.finish(gone).await;
    let next = lab.claim(100).await;
    assert_eq!(ids(&next), ["a-3"]);
    assert!(lab.claim(100).await.is_empty());
}

#[tokio::test]
async fn a_limit_of_zero_is_none() {
    let mut lab = Lab::new().await;
    lab.room.tenant_max_in_flight = Some(1);
    set(&lab, "a", &[Change::MaxInFlight(Some(0))]).await;
    lab.submit_many("a", 5).await;
    assert_eq!(lab.claim(100).await.len(), 5);
}

/// 120 sleepers in a fleet of 50 made another tenant wait until one of them ended.
#[tokio::test]
async fn one_tenants_sleepers_leave_slots_to_others_without_any_setting() {
    let mut lab = Lab::new().await;
    lab.room.max_in_flight = 50;
    lab.submit_many("a", 120).await;
    let sleepers = lab.claim(200).await;
    assert_eq!(sleepers.len(), 45);
    lab.submit_many("b", 20).await;
    let of_b = lab.claim(200).await;
    assert_eq!(ids(&of_b), ["b-0", "b-1", "b-2", "b-3"]);
    lab.submit_many("c", 20).await;
    assert_eq!(ids(&lab.claim(200).await), ["c-0"]);
    // No slot is free, and each that will be goes to whoever has the fewest machines for it.
    lab.finish(&sleepers[0]).await;
    assert_eq!(lab.claim(200).await.len(), 0);
    lab.submit_many("d", 20).await;
    assert_eq!(ids(&lab.claim(200).await), ["d-0"]);
    lab.finish(&of_b[0]).await;
    lab.finish(&sleepers[1]).await;
    let next = lab.claim(200).await;
    assert_eq!(next.len(), 1, "the last is for a tenant with none");
    assert_ne!(next[0].tenant, "a");
    // Who wants a tenant to have all of it says so.
    set(&lab, "a", &[Change::MaxInFlight(Some(0))]).await;
    assert_eq!(ids(&lab.claim(200).await), ["a-45"]);
}

#[tokio::test]
async fn a_fleet_of_less_than_ten_is_one_tenants_to_fill() {
    let mut lab = Lab::new().await;
    lab.room.max_in_flight = 9;
    lab.submit_many("a", 20).await;
    assert_eq!(lab.claim(200).await.len(), 9);
}

#[tokio::test]
async fn a_boot_that_came_to_nothing_frees_its_tenants_slot() {
    let mut lab = Lab::new().await;
    lab.room.tenant_max_in_flight = Some(1);
    lab.submit_many("a", 2).await;
    let first = lab.claim(9).await.remove(0);
    let (store, now) = (&lab.core.store, lab.now());
    let view = store.record(&first.id).await.unwrap().unwrap();
    store
        .requeue(
            &view,
            first.boot(),
            Requeue::Refused,
            Some(now + 60_000),
            now,
        )
        .await
        .unwrap();
    assert_eq!(ids(&lab.claim(9).await), ["a-1"]);
}

#[tokio::test]
async fn an_app_has_no_more_machines_than_it_may() {
    let mut lab = Lab::new().await;
    lab.room.apps = vec!["one".into(), "two".into()];
    lab.room.app_max_in_flight = Some(2);
    lab.submit_many("a", 9).await;
    let claim = lab.ask(9).await;
    assert_eq!((claim.runs.len(), claim.stop), (4, Stop::Full));
    lab.finish(&claim.runs[0]).await;
    let next = lab.claim(9).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].app, claim.runs[0].app);
}

#[tokio::test]
async fn weights_share_out_turns_and_no_turn_is_lost() {
    let lab = Lab::new().await;
    set(&lab, "a", &[Change::Weight(Some(3.0))]).await;
    lab.submit_many("a", 400).await;
    lab.submit_many("b", 400).await;
    lab.submit_many("c", 10).await;
    let turns = lab.turns(300).await;
    assert_eq!(turns.len(), 300, "work conserving");
    assert_eq!(of(&turns, "c"), 10, "all of c's, which are few");
    let (a, b) = (of(&turns, "a"), of(&turns, "b"));
    assert!((3 * b).abs_diff(a) <= 6, "{a} : {b}");
    // Whoever is alone gets everything.
    let rest = lab.turns(600).await;
    assert_eq!(of(&rest, "a") + a, 400);
    assert_eq!(of(&rest, "b") + b, 400);
}

#[tokio::test]
async fn a_newcomer_catches_up_with_its_share_of_what_is_in_flight() {
    let mut lab = Lab::new().await;
    lab.room.max_in_flight = 10;
    lab.room.tenant_max_in_flight = Some(10);
    lab.submit_many("a", 500).await;
    let mut flying = lab.claim(100).await;
    assert_eq!(flying.len(), 10);
    // A full house: each slot that becomes free is taken at once.
    let mut next = async |lab: &Lab| {
        lab.finish(&flying.remove(0)).await;
        let run = lab.claim(1).await.remove(0);
        flying.push(run.clone());
        run.tenant
    };
    for _ in 0..50 {
        assert_eq!(next(&lab).await, "a");
    }
    lab.submit_many("b", 40).await;
    let mut turns = Vec::new();
    for _ in 0..40 {
        turns.push(next(&lab).await);
    }
    // b, who had nothing, catches up with the ten that a had; then they take turns.
    assert_eq!(of(&turns[..10], "b"), 10, "{turns:?}");
    assert!((14..=16).contains(&of(&turns[10..], "b")), "{turns:?}");
}

#[tokio::test]
async fn nobody_starves_however_many_come_and_go() {
    let lab = Lab::new().await;
    lab.submit_many("patient", 20).await;
    let mut turns: HashMap<String, usize> = HashMap::new();
    for round in 0..100 {
        for name in ["x", "y", "z"] {
            lab.submit(&[super::request(name, round)]).await;
        }
        for run in lab.claim(2).await {
            *turns.entry(run.tenant.clone()).or_default() += 1;
            lab.finish(&run).await;
        }
    }
    assert_eq!(turns["patient"], 20, "{turns:?}");
}

#[tokio::test]
async fn ever_new_tenants_do_not_starve_one_that_had_its_turn() {
    let mut lab = Lab::new().await;
    lab.room.max_in_flight = 6;
    // All that is in flight is newcomers', and newcomers always wait.
    let mut next = 0;
    let mut newcomers = async |lab: &Lab, count: usize| {
        for _ in 0..count {
            lab.submit(&[super::request(&format!("new{next}"), 0)])
                .await;
            next += 1;
        }
    };
    lab.submit_many("patient", 20).await;
    newcomers(&lab, 10).await;
    let mut flying = lab.claim(100).await;
    let (mut turns, mut claims) = (0, 0);
    while turns < 20 {
        lab.finish(&flying.remove(0)).await;
        let run = lab.claim(1).await.remove(0);
        if run.tenant == "patient" {
            turns += 1;
        } else {
            newcomers(&lab, 1).await;
        }
        flying.push(run);
        claims += 1;
        // It is one of six or so that wait.
        assert!(claims < 240, "{turns} of 20 in {claims}");
    }
    let remembered: usize = lab.raw.say("ZCARD", "idle", &[]).await;
    assert!(remembered < 50, "{remembered} are remembered of {claims}");
}

#[tokio::test]
async fn a_tenant_that_waited_for_its_own_cap_gains_no_turns_by_it() {
    let mut lab = Lab::new().await;
    lab.room.max_in_flight = 4;
    set(&lab, "a", &[Change::MaxInFlight(Some(1))]).await;
    lab.submit_many("a", 300).await;
    lab.submit_many("b", 300).await;
    let mut flying = lab.claim(9).await;
    for _ in 0..100 {
        lab.finish(&flying.remove(0)).await;
        flying.extend(lab.claim(9).await);
    }
    // Its cap is lifted: from now on it gets its half, and not what it did without.
    set(&lab, "a", &[Change::MaxInFlight(None)]).await;
    let mut turns = Vec::new();
    for _ in 0..60 {
        lab.finish(&flying.remove(0)).await;
        let run = lab.claim(1).await.remove(0);
        turns.push(run.tenant.clone());
        flying.push(run);
    }
    let a = of(&turns, "a");
    assert!((30..=36).contains(&a), "{a} of 60");
}

#[tokio::test]
async fn tenants_that_may_not_go_cost_a_claim_nothing() {
    let server = redis::Server::start();
    let mut lab = Lab::on(&server.settings(), |_| {}).await;
    let mut spent = Vec::new();
    for blocked in [0, 500] {
        lab.room.tenant_max_in_flight = Some(1);
        lab.room.max_in_flight = 100_000;
        let requests: Vec<_> = (0..blocked)
            .flat_map(|n| (0..2).map(move |k| super::request(&format!("t{n}"), k)))
            .collect();
        lab.submit(&requests).await;
        while lab.ask(256).await.stop == Stop::Wanted {}
        let parked: usize = lab.raw.say("ZCARD", "parked", &[]).await;
        assert_eq!(parked, blocked);
        lab.submit_many(&format!("free-{blocked}"), 1).await;
        let before = lab.raw.commands().await;
        assert_eq!(lab.claim(1).await.len(), 1);
        spent.push(lab.raw.commands().await - before);
    }
    assert!(spent[1] <= spent[0], "commands for one claim: {spent:?}");
}
