//! What strangers append to the streams: bytes until they are judged. What is bad is set aside as
//! it came, and its neighbours go on.

use std::time::Duration;

use cofferdam::store::Store;
use cofferdam::store::keys::Inbox;
use cofferdam::store::requests::{Entry, Requests};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::raw::Raw;
use crate::support::stack::Plan;
use crate::support::until::until;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn fields(pairs: &[(&[u8], &[u8])]) -> Fields {
    pairs
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

/// Appends bad entries to a stream, each between good requests; all good ones get their result and
/// all bad ones are dead, byte for byte.
async fn check_set_aside(stream: &str, bad: &[Fields]) {
    let stack = Plan::simulated(Duration::ZERO).start().await;
    let mut ids = Vec::new();
    let mut sources = Vec::new();
    for entry in bad {
        let id = format!("good-{}", ids.len());
        ids.push(stack.submit(json!({"id": id})).await);
        sources.push(stack.raw.add_bytes(stream, entry).await);
    }
    ids.push(stack.submit(json!({"id": "last"})).await);
    until("every bad entry to be dead", || async {
        match stack.raw.length("dead").await {
            n if n == bad.len() => Ok(()),
            n => Err(format!("{n} of {}", bad.len())),
        }
    })
    .await;
    let dead = stack.core.store.newest_dead(bad.len()).await.unwrap();
    for (entry, source) in bad.iter().zip(&sources) {
        let of_source = dead.iter().find(|dead| {
            dead.fields
                .contains(&(b"source_id".to_vec(), source.clone().into_bytes()))
        });
        let kept = &of_source.expect("each bad entry is dead").fields;
        assert!(kept.starts_with(entry), "{kept:?} is not {entry:?}");
    }
    stack.settles(&ids, Duration::from_secs(60)).await;
    assert_eq!(stack.raw.length(stream).await, 0, "{stream}");
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_name_that_is_not_text_stopped_all_requests() {
    let bad = [
        fields(&[(b"\xff", b"x")]),
        fields(&[(b"run", b"\xff\xfe")]),
        fields(&[(b"", b"")]),
        fields(&[(b"run\xff", b"{}"), (b"a\0b", b"\r\n")]),
    ];
    check_set_aside("runs", &bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_name_that_is_not_text_stopped_all_orders() {
    let bad = [
        fields(&[(b"\xff", b"x")]),
        fields(&[(b"cancel", b"\xff\xfe")]),
        fields(&[(b"", b"")]),
        fields(&[(b"cancel\xff", b"good-0"), (b"pause", b"\xff")]),
    ];
    check_set_aside("control", &bad).await;
}

/// Entries that are neither a request nor an order: no name is a word of ours.
fn any_bad() -> impl Strategy<Value = Fields> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let name = bytes(12).prop_map(|mut name| {
        name.insert(0, b'!');
        name
    });
    let usual = prop::collection::vec((name, bytes(40)), 1..6);
    let large = (bytes(8), Just(vec![0xff; 300_000])).prop_map(|(mut name, value)| {
        name.insert(0, b'?');
        vec![(name, value)]
    });
    let many = Just((0..2500u32).map(|n| (n.to_le_bytes().to_vec(), Vec::new())));
    let no_text = bytes(30).prop_map(|mut value| {
        value.push(0xfe);
        vec![(b"run".to_vec(), value)]
    });
    prop_oneof![8 => usual, 1 => large, 1 => many.prop_map(Iterator::collect), 4 => no_text]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_in_an_entry_stop_its_neighbours() {
    for stream in ["runs", "control"] {
        let mut runner = TestRunner::new(Config::default());
        let many = prop::collection::vec(any_bad(), 40);
        let bad = many.new_tree(&mut runner).unwrap().current();
        check_set_aside(stream, &bad).await;
    }
}

async fn lab() -> (Store, Raw) {
    let settings = crate::support::redis::settings();
    let store = Store::connect(&settings).await.unwrap();
    (store, Raw::new(&settings).await)
}

async fn read(store: &Store, inbox: Inbox) -> Vec<Entry> {
    let mut reader = Requests::of(inbox, store.clone(), "worker");
    reader.next(10, Duration::from_millis(50)).await.unwrap()
}

#[tokio::test]
async fn a_dead_entry_was_put_back_on_another_stream_than_its_own() {
    let (store, raw) = lab().await;
    let entry = fields(&[(b"\xffcancel", b"\0\xfe"), (b"source_stream", b"runs")]);
    for (inbox, stream) in [(Inbox::Runs, "runs"), (Inbox::Control, "control")] {
        raw.add_bytes(stream, &entry).await;
        let came = read(&store, inbox).await.remove(0);
        store.dead_letter(inbox, &came, "a reason").await.unwrap();
        store.dead_letter(inbox, &came, "a reason").await.unwrap();
        let dead = store.newest_dead(10).await.unwrap();
        assert_eq!(dead.len(), 1, "set aside once: {dead:?}");
        assert_eq!(
            (raw.pending(stream).await, raw.length(stream).await),
            (0, 0)
        );
        store.revive(&dead[0].id).await.unwrap().unwrap();
        assert_eq!(
            read(&store, inbox).await.remove(0).fields,
            entry,
            "{stream}"
        );
        assert_eq!(raw.length("dead").await, 0);
    }
}

#[tokio::test]
async fn a_dead_entry_of_an_older_version_goes_back_by_what_it_says() {
    let (store, raw) = lab().await;
    for (name, inbox) in [
        ("pause", Inbox::Control),
        ("run", Inbox::Runs),
        ("x", Inbox::Runs),
    ] {
        let fields = [(name, "v"), ("reason", "r"), ("source_id", "1-1")];
        let id = raw.add("dead", &fields).await;
        store.revive(&id).await.unwrap().unwrap();
        let back = read(&store, inbox).await.remove(0).fields;
        assert_eq!(back, [(name.as_bytes().to_vec(), b"v".to_vec())]);
    }
}

#[tokio::test]
async fn one_index_entry_that_is_not_text_failed_every_listing() {
    let (store, raw) = lab().await;
    let bytes = |text: &[u8]| text.to_vec();
    let ids = raw
        .add_bytes("results", &[(bytes(b"\xff"), bytes(b"x"))])
        .await;
    raw.add(
        "results",
        &[("run_id", "a"), ("outcome", "failed"), ("result", "{}")],
    )
    .await;
    let results = store.newest_results(10).await.unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(
        (results[0].entry.as_str(), results[0].run_id.as_str()),
        (ids.as_str(), "")
    );
    assert_eq!(results[1].run_id, "a");
    let read = store
        .results_after("0-0".into())
        .next(Duration::from_millis(50))
        .await;
    assert_eq!(read.unwrap(), results);

    raw.say_bytes("SADD", "apps", &[b"\xff", b"app"]).await;
    raw.say_bytes(
        "HSET",
        "inflight:app",
        &[b"\xfe", b"1 t", b"good", b"1 t", b"odd", b"\xff"],
    )
    .await;
    let mut flying = Vec::new();
    for app in store.apps().await.unwrap() {
        let each = |run: cofferdam::run::id::RunId, _, _| flying.push(run.to_string());
        store.each_in_flight(&app, each).await.unwrap();
    }
    assert_eq!(flying, ["good"]);

    raw.say_bytes(
        "ZADD",
        "due",
        &[b"1", b"\xff", b"1", b"torn", b"1", b"whole"],
    )
    .await;
    raw.say_bytes("HSET", "run:torn", &[b"state", b"\xff", b"attempt", b"1"])
        .await;
    let whole: [&[u8]; 6] = [b"state", b"queued", b"attempt", b"0", b"region", b"\xff"];
    raw.say_bytes("HSET", "run:whole", &whole).await;
    let now = store.time().await.unwrap();
    let overdue = store
        .overdue(now, Duration::from_secs(1), 10)
        .await
        .unwrap();
    let ids: Vec<_> = overdue.runs.iter().map(|view| view.id.as_str()).collect();
    assert_eq!(ids, ["whole"]);
    store.mend(0, 100, now).await.unwrap();
    store.tenants(now).await.unwrap();
}

/// What is refused is told to whose it is, and counted as theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_lost_its_tenant_and_metadata() {
    let plan = Plan::simulated(Duration::ZERO).runs(|runs| runs.tenant_backlog_max = Some(1));
    let stack = plan.start().await;
    let later = stack.core.clock.now_ms() + 3_600_000;
    let told = |id: &str| json!({"id": id, "tenant": "acme", "metadata": {"k": [1]}, "not_before_ms": later});
    let mut bad = told("bad");
    bad["bogus"] = json!(1);
    let mut seconds = told("seconds");
    seconds["not_before_ms"] = json!(later / 1000);
    stack.submit(told("waits")).await;
    stack.reaches("waits", "queued").await;
    for (request, code) in [
        (bad, "invalid_request"),
        (seconds, "invalid_request"),
        (told("crowded"), "queue_full"),
    ] {
        let id = stack.submit(request).await;
        let result = stack.result(&id).await;
        assert_eq!(result["reason"]["code"], code, "{result}");
        assert_eq!(
            (&result["tenant"], &result["metadata"]["k"][0]),
            (&json!("acme"), &json!(1))
        );
    }
    // Of what cannot be read nothing is made up.
    let odd = json!({"id": "odd", "tenant": "a b", "metadata": 7, "bogus": 1});
    let result = stack.result(&stack.submit(odd).await).await;
    assert_eq!(result["outcome"], "rejected", "{result}");
    let day = cofferdam::run::day::Day::of(stack.core.clock.now_ms());
    let key = format!("usage:{day}:acme");
    let rejected: u64 = stack.raw.say("HGET", &key, &["runs:rejected"]).await;
    assert_eq!(rejected, 3);
    let left: i64 = stack.raw.say("PTTL", "run:crowded", &[]).await;
    assert!((1..=60_000).contains(&left), "a minute at most: {left}");
    let left: i64 = stack.raw.say("PTTL", "run:bad", &[]).await;
    assert!(left > 60_000, "as long as is set: {left}");
    stack.raw.add("control", &[("cancel", "waits")]).await;
    let ids = ["waits", "bad", "seconds", "crowded", "odd"].map(str::to_owned);
    stack.settles(&ids, Duration::from_secs(30)).await;
    stack.end().await;
}
