//! Runs that have ended, as Redis has them by index: pages, counts of a minute, requests that are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use cofferdam::run::id::RunId;
use cofferdam::run::outcome::{Ending, Outcome, ReasonCode};
use cofferdam::stage::Core;
use cofferdam::store::acts::{Entered, Settlement, Transition};
use cofferdam::store::ended::EndedFilter;
use cofferdam::store::fleet::Prioritised;
use serde_json::{Value, json};

use crate::support::raw::Raw;
use crate::support::stack::Plan;
use crate::support::{parts, redis};

/// Admits a run and ends it while it waits.
async fn end(core: &Core, request: &Value, code: ReasonCode) {
    parts::admit(core, &[request.to_string()]).await;
    let id: RunId = request["id"].as_str().unwrap().parse().unwrap();
    let ending = Ending::without(code, "for the test");
    let settlement = Settlement {
        ending: &ending,
        post: None,
        retention: Duration::from_secs(600),
        lease: Duration::from_secs(3),
    };
    let now = core.clock.now_ms();
    let act = core
        .store
        .settle(&id, None, &settlement, now)
        .await
        .unwrap();
    assert_eq!(act, Transition::Done(Entered::Closed));
}

async fn ids(core: &Core, filter: &EndedFilter) -> Vec<String> {
    let page = core.store.ended(filter, None, 1000).await.unwrap();
    assert_eq!(page.older, None);
    let runs = page.runs.into_iter();
    runs.map(|run| run.record.id.to_string()).collect()
}

#[tokio::test]
async fn ended_runs_are_found_by_index_page_by_page() {
    let settings = redis::settings();
    let core = parts::core(&settings, parts::runs()).await;
    let image = format!("registry.example/sandboxes@sha256:{}", "ab".repeat(32));
    for n in 0..450 {
        let code = match n % 3 {
            0 => ReasonCode::Cancelled,
            1 => ReasonCode::ExpiredInQueue,
            _ => ReasonCode::NoCapacity,
        };
        let image = if n % 10 == 0 { &image } else { "host" };
        let tenant = if n % 2 == 0 { "even" } else { "odd" };
        let request = json!({"id": format!("n{n}"), "tenant": tenant, "image": image});
        end(&core, &request, code).await;
    }
    let everything = EndedFilter::default();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = core.store.ended(&everything, before.as_deref(), 70).await;
        let page = page.unwrap();
        assert!(page.runs.len() <= 70);
        seen.extend(page.runs.iter().map(|run| run.record.id.to_string()));
        before = page.older;
        if before.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (0..450).rev().map(|n| format!("n{n}")).collect();
    assert_eq!(seen, expected);

    let all = EndedFilter::default;
    let cancelled = EndedFilter {
        outcome: Some(Outcome::Cancelled),
        ..all()
    };
    assert_eq!(ids(&core, &cancelled).await.len(), 150);
    let lost = EndedFilter {
        reason: Some(ReasonCode::NoCapacity),
        tenant: Some("even".parse().unwrap()),
        ..all()
    };
    let found = ids(&core, &lost).await;
    assert_eq!(found.len(), 75);
    assert!(found.contains(&"n2".to_owned()) && !found.contains(&"n5".to_owned()));
    let pinned = EndedFilter {
        tenant: Some("even".parse().unwrap()),
        image: Some(image.clone()),
        ..all()
    };
    assert_eq!(ids(&core, &pinned).await.len(), 45);
    let completed = EndedFilter {
        outcome: Some(Outcome::Completed),
        ..all()
    };
    assert_eq!(ids(&core, &completed).await, Vec::<String>::new());
    let later = EndedFilter {
        since_ms: Some(core.clock.now_ms() + 60_000),
        ..all()
    };
    assert_eq!(ids(&core, &later).await, Vec::<String>::new());

    let minutes = core.store.minutes(3, core.clock.now_ms()).await.unwrap();
    let ended: u64 = minutes.iter().flat_map(|minute| minute.outcomes).sum();
    assert_eq!(ended, 450);
    let raw = Raw::new(&settings).await;
    for (key, (_, left_ms, _)) in raw.dump().await {
        if key.starts_with("ended") || key.starts_with("minute") || key.starts_with("kept_req") {
            assert!(left_ms > 0, "{key} stays for ever");
        }
    }
}

#[tokio::test]
async fn a_run_that_completes_is_counted_with_its_times_and_its_request_is_gone() {
    let stack = Plan::simulated(Duration::from_millis(300)).start().await;
    let id = stack.submit(json!({"cmd": ["true"]})).await;
    stack.reaches(&id, "closed").await;
    let now = stack.core.clock.now_ms();
    let minutes = stack.core.store.minutes(2, now).await.unwrap();
    let of = |outcome: usize| {
        minutes
            .iter()
            .map(|minute| minute.outcomes[outcome])
            .sum::<u64>()
    };
    assert_eq!((of(0), of(1)), (1, 0));
    let minute = minutes
        .iter()
        .find(|minute| minute.run.total() == 1)
        .unwrap();
    assert_eq!((minute.wait.total(), minute.boot.total()), (1, 1));
    let ran = minute.run.quantile_ms(0.5).unwrap();
    assert!((200..60_000).contains(&ran), "{ran} ms");
    assert!(!stack.raw.exists(&format!("request:{id}")).await);
    let page = stack
        .core
        .store
        .ended(&EndedFilter::default(), None, 10)
        .await;
    assert_eq!(page.unwrap().runs[0].image.as_deref(), Some("host"));
    stack.end().await;
}

/// Whoever may fail may not fill Redis with requests.
#[tokio::test]
async fn requests_of_failed_runs_are_kept_within_bounds() {
    let settings = redis::settings();
    let core = parts::core(&settings, parts::runs()).await;
    let raw = Raw::new(&settings).await;
    let request = |tenant: &str, n: usize, bytes: usize| json!({"id": format!("{tenant}-{n}"), "tenant": tenant, "input": "x".repeat(bytes)});
    end(&core, &request("large", 0, 70_000), ReasonCode::NoCapacity).await;
    assert!(!raw.exists("request:large-0").await);
    for n in 0..80 {
        end(&core, &request("greedy", n, 60_000), ReasonCode::NoCapacity).await;
    }
    let mut kept = BTreeSet::new();
    for n in 0..80 {
        if raw.exists(&format!("request:greedy-{n}")).await {
            kept.insert(n);
        }
    }
    assert_eq!(kept, (0..69).collect::<BTreeSet<_>>());
    end(&core, &request("modest", 0, 100), ReasonCode::NoCapacity).await;
    assert!(raw.exists("request:modest-0").await);
    // Nine tenants more than there is room for: the oldest give way.
    for tenant in 0..8 {
        for n in 0..69 {
            let name = format!("t{tenant}");
            end(&core, &request(&name, n, 60_000), ReasonCode::NoCapacity).await;
        }
    }
    assert!(!raw.exists("request:greedy-0").await);
    assert!(raw.exists("request:t7-68").await);
    let sum: Option<u64> = raw.say("HGET", "kept_requests_bytes", &[""]).await;
    assert!(sum.unwrap() <= 32 << 20, "{sum:?}");
}

#[tokio::test]
async fn a_waiting_run_goes_before_others_when_it_is_made_more_urgent() {
    let settings = redis::settings();
    let core = parts::core(&settings, parts::runs()).await;
    let raw = Raw::new(&settings).await;
    for id in ["a", "b", "c"] {
        parts::admit(&core, &[json!({"id": id}).to_string()]).await;
    }
    let id = |text: &str| text.parse::<RunId>().unwrap();
    let done = core.store.prioritise(&id("c"), 1).await.unwrap();
    assert_eq!(done, Prioritised::Done);
    let order: Vec<String> = raw.say("ZRANGE", "queue:default", &["0", "-1"]).await;
    assert_eq!(order, ["c", "a", "b"]);
    // Back among its equals it has the place that it had.
    core.store.prioritise(&id("c"), 5).await.unwrap();
    core.store.prioritise(&id("a"), 9).await.unwrap();
    let order: Vec<String> = raw.say("ZRANGE", "queue:default", &["0", "-1"]).await;
    assert_eq!(order, ["b", "c", "a"]);
    let unknown = core.store.prioritise(&id("nobody"), 1).await.unwrap();
    assert_eq!(unknown, Prioritised::Unknown);
    end(&core, &json!({"id": "over"}), ReasonCode::Cancelled).await;
    let over = core.store.prioritise(&id("over"), 1).await.unwrap();
    assert_eq!(over, Prioritised::NotWaiting);
}
