//! Recorded answers to a create call, each through the whole pipeline; the same file as the table of
//! decisions reads.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;

use crate::support::stack::{APP, Plan, Stack};
use crate::support::until::{until, until_within};

const BOUND: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    about: String,
    status: u16,
    body: String,
    /// To how many create calls it is given.
    times: u32,
    /// What the run comes to: an outcome, a reason's code, or `waits`.
    ends: String,
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_answer_to_a_create_ends_as_it_should() {
    let text = include_str!("../../fixtures/machines/answers.json");
    let recorded: Vec<Recorded> = serde_json::from_str(text).unwrap();
    let tried = stream::iter(recorded).map(check);
    tried.buffer_unordered(6).collect::<Vec<()>>().await;
}

async fn check(answer: Recorded) {
    let Recorded { about, ends, .. } = &answer;
    let body = quoted(answer.body.trim_end());
    let rule = format!(
        "create times={}: refuse status={} body=\"{body}\"",
        answer.times, answer.status
    );
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&[&rule])
        .runs(|runs| runs.refused_max = Duration::from_secs(3))
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    if ends == "waits" {
        waits(&stack, &id, about).await;
    } else {
        let result = stack.result(&id).await;
        let ended = result["reason"]["code"]
            .as_str()
            .or_else(|| result["outcome"].as_str());
        assert_eq!(ended, Some(ends.as_str()), "{about}: {result}");
        stack.settles(&[id], BOUND).await;
    }
    stack.end().await;
}

/// The run is kept, and what the provider said can be read.
async fn waits(stack: &Stack, id: &str, about: &str) {
    let bucket = format!("bucket:{APP}");
    until_within(BOUND, &format!("{about}: a second try"), || async {
        let said: Option<String> = stack.raw.say("HGET", &bucket, &["refused"]).await;
        let seen = stack.faults().await["rules"][0]["seen"].as_u64();
        match (&said, seen) {
            (Some(_), Some(2..)) => Ok(()),
            told => Err(format!("{told:?}")),
        }
    })
    .await;
    assert!(stack.results().await.is_empty(), "{about}");
    assert_eq!(stack.core.metrics.apps_refused.get(), 1, "{about}");
    let view = stack.view(id).await.unwrap();
    assert_eq!(view.refusals, 0, "{about}: {view:?}");
    stack.mend_faults().await;
    stack.settles(&[id.to_owned()], BOUND).await;
    let result = stack.result(id).await;
    assert_eq!(result["outcome"], "completed", "{about}: {result}");
    assert_eq!(stack.core.metrics.apps_refused.get(), 0, "{about}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_refused_for_good_gives_its_place_away_at_once() {
    let text = "failed to get manifest registry.fly.io/a:b: unauthorized";
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&[&format!(
            "create times=4: refuse status=400 error=\"{text}\""
        )])
        // Long beside the bound below: nothing here may wait for the end of a lease.
        .runs(|runs| {
            runs.max_in_flight = 4.try_into().unwrap();
            runs.lease = Duration::from_secs(600);
        })
        .start()
        .await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stack.submit(json!({"cmd": ["true"]})).await);
    }
    for id in &ids {
        let result = stack.result(id).await;
        assert_eq!(result["reason"]["code"], "image_rejected", "{result}");
    }
    let good = json!({"cmd": ["true"], "tenant": "another"});
    let id = stack.submit(good).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    ids.push(id);
    stack.settles(&ids, BOUND).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_that_the_provider_names_is_shown_and_can_be_lifted() {
    let rule =
        "create times=1: refuse status=429 error=\"rate limit exceeded\" retry_after_s=86400";
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&[rule])
        .start()
        .await;
    let began = stack.core.clock.now_ms();
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    let bucket = format!("bucket:{APP}");
    let held_until = until("the hold", || async {
        let until: Option<u64> = stack.raw.say("HGET", &bucket, &["hold_until_ms"]).await;
        until.ok_or_else(|| "none".to_owned())
    })
    .await;
    let now = stack.core.clock.now_ms();
    assert!(
        (began + 590_000..=now + 600_000).contains(&held_until),
        "{began} {held_until}"
    );
    until("the run to wait again", || async {
        let view = stack.view(&id).await.unwrap();
        if view.state == "queued" {
            Ok(())
        } else {
            Err(view.state.to_owned())
        }
    })
    .await;
    stack.core.store.lift_holds().await.unwrap();
    // The run's own wait was set by the same answer.
    let held: Option<u64> = stack.raw.say("HGET", &bucket, &["hold_until_ms"]).await;
    assert_eq!(held, None);
    let other = stack.submit(json!({"cmd": ["true"]})).await;
    let result = stack.result(&other).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    let first = stack.result(&id).await;
    assert_eq!(first["outcome"], "completed", "{first}");
    stack.settles(&[id, other], BOUND).await;
    stack.end().await;
}

/// The pause between two tries grows, and must not carry the last one beyond that time.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_stays_unknown_is_not_waited_for_longer_than_it_is_asked_for() {
    const ASKED_MS: u64 = 15_000;
    let text = "failed to get manifest registry.fly.io/a:b: manifest unknown";
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&[&format!("create: refuse status=400 error=\"{text}\"")])
        .start()
        .await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    until_within(BOUND, "the run to end", || async {
        let ready: Option<f64> = stack.raw.say("ZSCORE", "delayed:default", &[&id]).await;
        let view = stack.view(&id).await;
        let since = view.as_ref().and_then(|view| view.refused_since_ms);
        if let (Some(ready), Some(since)) = (ready, since) {
            assert!(ready <= (since + ASKED_MS) as f64, "{ready} {since}");
        }
        let is_over = view.as_ref().is_some_and(|view| view.outcome.is_some());
        is_over.then_some(()).ok_or_else(|| format!("{view:?}"))
    })
    .await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "image_rejected", "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}
