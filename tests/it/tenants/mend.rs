//! Somebody changed keys by hand: the sweep makes them agree with the runs again.

use super::{Lab, request};

async fn mend(lab: &Lab) -> u64 {
    let (mut mended, mut from) = (0, 0);
    loop {
        let pass = lab.core.store.mend(from, 50, lab.now()).await.unwrap();
        mended += pass.0;
        from = pass.1;
        if from == 0 {
            return mended;
        }
    }
}

/// A tenant with three machines, all it may have, and five runs that wait.
async fn full() -> Lab {
    let mut lab = Lab::new().await;
    lab.room.tenant_max_in_flight = Some(3);
    lab.submit_many("a", 8).await;
    assert_eq!(lab.claim(9).await.len(), 3);
    lab
}

#[tokio::test]
async fn what_is_as_it_should_be_is_left_alone() {
    let lab = full().await;
    assert_eq!(mend(&lab).await, 0);
    assert!(lab.claim(9).await.is_empty());
}

#[tokio::test]
async fn machines_that_were_struck_from_a_list_are_counted_again() {
    let lab = full().await;
    lab.raw.delete("busy:a").await;
    assert_eq!(mend(&lab).await, 3);
    assert!(lab.claim(9).await.is_empty(), "the cap holds");
    lab.raw.delete("inflight:app").await;
    assert_eq!(mend(&lab).await, 3);
    assert_eq!(lab.core.store.census(lab.now()).await.unwrap().in_flight, 3);
    assert!(lab.claim(9).await.is_empty());
    assert_eq!(mend(&lab).await, 0);
}

#[tokio::test]
async fn machines_that_are_none_take_up_no_room() {
    let mut lab = full().await;
    lab.room.tenant_max_in_flight = Some(5);
    let runs = ["a-6", "nobody", "not an id"];
    let _: i64 = lab.raw.say("SADD", "busy:a", &runs[..2]).await;
    let _: i64 = lab
        .raw
        .say("HSET", "inflight:app", &["ghost", "1 a", "a-7", "1 a"])
        .await;
    assert!(lab.claim(9).await.is_empty(), "they take up the room");
    assert!(mend(&lab).await >= 4);
    assert_eq!(lab.claim(9).await.len(), 2);
    assert_eq!(lab.core.store.census(lab.now()).await.unwrap().in_flight, 5);
    assert_eq!(mend(&lab).await, 0);
}

#[tokio::test]
async fn a_tenant_held_up_by_nothing_but_what_was_written_by_hand_goes_on() {
    let mut lab = Lab::new().await;
    lab.room.tenant_max_in_flight = Some(1);
    let _: i64 = lab.raw.say("SADD", "busy:a", &["nobody"]).await;
    lab.submit(&[request("a", 0)]).await;
    assert!(lab.claim(9).await.is_empty());
    assert_eq!(mend(&lab).await, 1);
    assert_eq!(lab.claim(9).await.len(), 1);
}

#[tokio::test]
async fn runs_that_were_struck_from_their_queue_wait_in_it_again() {
    let lab = full().await;
    lab.raw.delete("queue:a").await;
    lab.raw.delete("tenants").await;
    lab.raw.delete("parked").await;
    assert_eq!(mend(&lab).await, 5);
    let view = lab.core.store.tenants(lab.now()).await.unwrap();
    assert_eq!((view[0].waiting, view[0].in_flight), (5, 3));
}

#[tokio::test]
async fn runs_in_flight_that_nobody_would_look_at_are_due_again() {
    let lab = full().await;
    let _: i64 = lab.raw.say("ZREM", "due", &["a-0", "a-1"]).await;
    assert_eq!(mend(&lab).await, 2);
    let left: usize = lab.raw.say("ZCARD", "due", &[]).await;
    assert_eq!(left, 8);
}
