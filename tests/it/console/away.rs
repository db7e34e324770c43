//! What the console says while Redis is away, and what it keeps live.

use std::time::Duration;

use cofferdam::clock::Clock;
use reqwest::header::COOKIE;
use serde_json::json;

use super::scene::{Client, OPERATOR, Scene, console_of};
use crate::support::parts;
use crate::support::redis::Server;
use crate::support::until::until;

#[tokio::test]
async fn while_redis_is_away_it_says_since_when_and_shows_what_was_seen() {
    let mut server = Server::start();
    let redis = server.settings();
    let env = [
        ("REDIS_URL", redis.url.expose().as_str().to_owned()),
        ("COFFERDAM_NAMESPACE", redis.namespace.clone()),
    ];
    let (console, address) = console_of(&env).await;
    let mut client = Client::new(&address);
    assert_eq!(client.log_in(OPERATOR).await, 303);
    let page = client.page("/").await;
    assert!(page.contains("No worker is running"), "{page}");
    server.stop();
    let page = client.until_page("/", "Redis has not answered since").await;
    assert!(page.contains("What follows was seen at"), "{page}");
    assert!(page.contains("No worker is running"), "{page}");
    let page = client.page("/tenants").await;
    assert!(
        page.contains("This page has not been seen before"),
        "{page}"
    );
    let said = client.act("pause", &[("tenant", "acme")]).await;
    assert!(said.starts_with("Not done: "), "{said}");
    server.resume();
    until("redis to be back", async || {
        let page = client.page("/tenants").await;
        (!page.contains("Redis has not answered"))
            .then_some(())
            .ok_or(page)
    })
    .await;
    console.finish().await;
}

#[tokio::test]
async fn data_that_redis_lost_are_told_on_the_overview_for_a_week() {
    let scene = Scene::start().await;
    let client = scene.operator().await;
    assert!(!client.page("/").await.contains("Redis lost data"));
    let raw = scene.fleet.raw().await;
    let lost = async |ago_ms: u64| {
        let at = (Clock::system().now_ms() - ago_ms).to_string();
        let words = ["lost", "set_back", "lost_at_ms", &at];
        raw.say::<u64>("HSET", "meta", &words).await;
    };
    lost(3_600_000).await;
    let page = client.until_page("/", "Redis lost data").await;
    assert!(page.contains("1 h 0 min ago"), "{page}");
    lost(8 * 24 * 3_600_000).await;
    until("it to be old", async || {
        let page = client.page("/").await;
        (!page.contains("Redis lost data"))
            .then_some(())
            .ok_or(page)
    })
    .await;
    scene.end().await;
}

/// Reads events until one has these words.
async fn until_event(client: &Client, topic: &str, words: &str) -> String {
    let call = parts::http().get(format!("{}/live?topic={topic}", client.base));
    let answer = call
        .header(COOKIE, client.cookie.as_ref().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers().get("content-type").unwrap(),
        "text/event-stream"
    );
    let mut answer = answer;
    let mut seen = String::new();
    let reading = async {
        while let Some(piece) = answer.chunk().await.unwrap() {
            seen.push_str(&String::from_utf8_lossy(&piece));
            if seen.contains(words) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(
        in_time.is_ok() && seen.contains(words),
        "{topic}: no {words:?} in {seen}"
    );
    seen
}

#[tokio::test]
async fn a_run_is_followed_live_and_streams_have_a_bound() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let hangs = json!({"SIMULATED_GUEST": "hangs"});
    scene
        .submit(&json!({"id": "stuck", "cmd": ["true"], "env": hangs}))
        .await;
    let seen = until_event(&operator, "/runs/stuck", ">running<").await;
    assert!(seen.starts_with("data: "), "{seen}");
    // Live pieces are shared, and bear nobody's token.
    assert!(!seen.contains(&operator.csrf().await), "{seen}");
    let (followed, _) = tokio::join!(
        until_event(&operator, "/runs/stuck", ">cancelled<"),
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            operator.act("cancel", &[("run", "stuck")]).await
        }
    );
    assert!(followed.contains("data: "));
    // Pages that are looked at have a bound, whoever looks.
    let mut open = Vec::new();
    let mut refused = 0;
    for n in 0..80 {
        let call = parts::http().get(format!("{}/live?topic=/runs/r{n}", operator.base));
        let answer = call
            .header(COOKIE, operator.cookie.as_ref().unwrap())
            .send()
            .await
            .unwrap();
        match answer.status().as_u16() {
            200 => open.push(answer),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(
        (50..=64).contains(&open.len()) && refused >= 16,
        "{} {refused}",
        open.len()
    );
    drop(open);
    // Who has gone makes room.
    until("room for another page", async || {
        let call = parts::http().get(format!("{}/live?topic=/runs/another", operator.base));
        let answer = call
            .header(COOKIE, operator.cookie.as_ref().unwrap())
            .send()
            .await
            .unwrap();
        (answer.status() == 200)
            .then_some(())
            .ok_or_else(|| answer.status().to_string())
    })
    .await;
    scene.end().await;
}
