//! The results stream: old results go once every consumer group has done with them, and it is told
//! which group keeps them.

use std::time::Duration;

use cofferdam::store::Store;
use cofferdam::store::results::{KeptBack, Trimmed};

use crate::support::command::{cofferdam, ended};
use crate::support::raw::Raw;
use crate::support::redis;

const KEEP: Duration = Duration::from_secs(1);

/// A results stream of entries that were published at 1 s, 2 s, …
struct Stream {
    settings: cofferdam::config::Redis,
    store: Store,
    raw: Raw,
}

impl Stream {
    async fn of(entries: u64) -> Self {
        let settings = redis::settings();
        let store = Store::connect(&settings).await.unwrap();
        let raw = Raw::new(&settings).await;
        for n in 1..=entries {
            let id = format!("{}-0", n * 1000);
            let _: String = raw.say("XADD", "results", &[&id, "result", "{}"]).await;
        }
        Self {
            settings,
            store,
            raw,
        }
    }

    async fn group(&self, name: &str) {
        self.raw.make_group("results", name).await;
    }

    async fn read(&self, group: &str, count: usize) -> Vec<String> {
        self.raw.read_group("results", group, count).await
    }

    async fn acknowledge(&self, group: &str, ids: &[String]) {
        for id in ids {
            self.raw.acknowledge("results", group, id).await;
        }
    }

    async fn delete(&self, ids: &[String]) {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let _: usize = self.raw.say("XDEL", "results", &ids).await;
    }

    async fn trim(&self, now_s: u64) -> Trimmed {
        let trimmed = self.store.trim_results(now_s * 1000, KEEP, None).await;
        trimmed.unwrap()
    }
}

fn kept(group: &str, since_s: u64, over_s: u64) -> KeptBack {
    KeptBack {
        group: group.into(),
        since_ms: since_s * 1000,
        over: Duration::from_secs(over_s),
    }
}

#[tokio::test]
async fn results_are_trimmed_by_age_but_not_before_every_group_has_read_them() {
    let stream = Stream::of(3).await;
    stream.group("consumers").await;
    let untouched = Trimmed {
        removed: 0,
        kept_back: vec![kept("consumers", 1, 8)],
    };
    assert_eq!(stream.trim(10).await, untouched, "nobody has read");
    let first = stream.read("consumers", 1).await;
    assert_eq!(stream.trim(10).await, untouched, "read, not acknowledged");
    stream.acknowledge("consumers", &first).await;
    let trimmed = stream.trim(10).await;
    assert_eq!(trimmed.removed, 1);
    assert_eq!(trimmed.kept_back, [kept("consumers", 2, 7)]);
    let capped = stream.store.trim_results(10_000, KEEP, Some(1)).await;
    assert_eq!(capped.unwrap().removed, 1, "the hard cap");
    assert_eq!(stream.raw.length("results").await, 1);
}

#[tokio::test]
async fn what_is_young_is_kept_for_nobody() {
    let stream = Stream::of(3).await;
    stream.group("consumers").await;
    assert_eq!(stream.trim(2).await, Trimmed::default());
    assert_eq!(stream.trim(3).await.kept_back, [kept("consumers", 1, 1)]);
}

#[tokio::test]
async fn a_result_that_was_deleted_and_not_acknowledged_kept_all_after_it() {
    let stream = Stream::of(1500).await;
    stream.group("consumers").await;
    let read = stream.read("consumers", 1400).await;
    // More than one look passes over, and in two places.
    stream.delete(&read[..1100]).await;
    stream.acknowledge("consumers", &read[1100..1200]).await;
    stream.delete(&read[1200..1300]).await;
    stream.acknowledge("consumers", &read[1300..]).await;
    let left = stream.raw.pending_of("results", "consumers").await;
    assert_eq!(left, 1200);
    for _ in 0..3 {
        stream.trim(10_000).await;
    }
    assert_eq!(stream.raw.length("results").await, 100, "what was not read");
    stream.read("consumers", 100).await;
    stream.delete(&[String::from("1401000-0")]).await;
    let trimmed = stream.trim(10_000).await;
    assert_eq!(
        trimmed.kept_back,
        [kept("consumers", 1402, 10_000 - 1 - 1402)]
    );
}

#[tokio::test]
async fn each_group_that_keeps_results_is_named_and_no_other() {
    let stream = Stream::of(5).await;
    for group in ["forgotten", "slow", "well"] {
        stream.group(group).await;
    }
    let read = stream.read("slow", 5).await;
    stream.acknowledge("slow", &read[1..]).await;
    let read = stream.read("well", 5).await;
    stream.acknowledge("well", &read).await;
    let mut kept_back = stream.trim(10).await.kept_back;
    kept_back.sort_by(|one, other| one.group.cmp(&other.group));
    assert_eq!(kept_back, [kept("forgotten", 1, 8), kept("slow", 1, 8)]);
    let told = stream.store.results_kept_back(10_000, KEEP).await.unwrap();
    assert_eq!(told.len(), 2);
}

/// Its name is bytes: it stops no trimming, and is not passed over either.
#[tokio::test]
async fn a_group_whose_name_is_not_text_lost_its_results() {
    let stream = Stream::of(2).await;
    stream.raw.make_group("results", b"\xff\n").await;
    let trimmed = stream.trim(10).await;
    assert_eq!(trimmed.removed, 0);
    assert_eq!(trimmed.kept_back[0].since_ms, 1000);
}

#[tokio::test]
async fn doctor_names_the_group_that_keeps_results() {
    let stream = Stream::of(2).await;
    stream.group("forgotten").await;
    let mut doctor = cofferdam(["doctor"]);
    doctor.env("REDIS_URL", stream.settings.url.expose().as_str());
    doctor.env("COFFERDAM_NAMESPACE", &stream.settings.namespace);
    let said = ended(doctor).stdout;
    let told = "beyond their retention for the consumer group forgotten";
    assert!(said.contains(told), "{said}");
    assert!(said.contains("COFFERDAM_RESULTS_HARD_CAP"), "{said}");
}
