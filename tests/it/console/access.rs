//! Who comes in, as what, and what the headers are.

use std::time::Duration;

use reqwest::header::LOCATION;
use tokio::time::Instant;

use super::scene::{Client, OPERATOR, Scene, VIEWER};
use crate::support::command::{cofferdam, ended};
use crate::support::parts;

#[tokio::test]
async fn nobody_comes_in_without_a_key_and_a_wrong_one_waits() {
    let scene = Scene::start().await;
    let mut client = scene.client();
    let answer = client.get("/runs").await;
    assert_eq!(answer.status(), 303);
    assert_eq!(answer.headers().get(LOCATION).unwrap(), "/login");
    assert_eq!(client.get("/live?topic=/").await.status(), 401);
    assert_eq!(
        client.send("/acts/pause", &[("all", "1")]).await.status(),
        401
    );
    let begun = Instant::now();
    assert_eq!(
        client.log_in("operator-key-0123456789abcdefghijkm").await,
        401
    );
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(client.cookie.is_none());
    for path in ["/healthz", "/style.css", "/live.js", "/icon.svg", "/login"] {
        assert_eq!(client.get(path).await.status(), 200, "{path}");
    }
    let answer = client.get("/login/0123456789abcdef").await;
    assert_eq!(answer.status(), 401);
    scene.end().await;
}

#[tokio::test]
async fn a_key_opens_what_its_role_may_see_and_do() {
    let scene = Scene::start().await;
    let mut viewer = scene.client();
    assert_eq!(viewer.log_in(VIEWER).await, 303);
    for path in [
        "/",
        "/runs",
        "/runs/nobody",
        "/tenants",
        "/tenants/acme",
        "/workers",
        "/machines",
        "/dead",
        "/doctor",
        "/audit",
    ] {
        let page = viewer.page(path).await;
        assert!(
            !page.contains("action=\"/acts/pause") && !page.contains("class=\"danger\""),
            "{path}: {page}"
        );
    }
    let csrf = viewer.csrf().await;
    let answer = viewer
        .send("/acts/pause", &[("all", "1"), ("csrf", &csrf)])
        .await;
    assert_eq!(answer.status(), 403);
    let operator = scene.operator().await;
    assert!(operator.page("/").await.contains("Pause everything"));
    // A script sends its key with each request, and needs no token of a form.
    let http = parts::http();
    let act = |key: &str| {
        let call = http.post(format!("http://{}/acts/pause", scene.address));
        let call = call
            .bearer_auth(key)
            .header("content-type", "application/x-www-form-urlencoded");
        call.body("tenant=acme").send()
    };
    assert_eq!(act(VIEWER).await.unwrap().status(), 403);
    let answer = act(OPERATOR).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "acme is paused\n");
    let begun = Instant::now();
    assert_eq!(act("wrong").await.unwrap().status(), 401);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    scene.end().await;
}

#[tokio::test]
async fn a_form_of_another_page_does_nothing() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let other = scene.operator().await;
    for token in [None, Some(String::new()), Some(other.csrf().await)] {
        let mut form = vec![("all", "1")];
        form.extend(token.as_ref().map(|token| ("csrf", token.as_str())));
        let answer = operator.send("/acts/pause", &form).await;
        assert_eq!(answer.status(), 403, "{token:?}");
    }
    assert!(!operator.page("/").await.contains("Everything is paused"));
    // Logging out is an act too.
    assert_eq!(operator.send("/logout", &[]).await.status(), 403);
    scene.end().await;
}

#[tokio::test]
async fn every_answer_has_a_strict_policy_and_the_cookie_is_kept_from_scripts() {
    let scene = Scene::start().await;
    let client = scene.client();
    let answer = client.send("/login", &[("key", OPERATOR)]).await;
    let cookie = answer
        .headers()
        .get("set-cookie")
        .unwrap()
        .to_str()
        .unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let operator = scene.operator().await;
    for path in [
        "/",
        "/runs",
        "/nowhere",
        "/style.css",
        "/live?topic=/nowhere",
    ] {
        let answer = operator.get(path).await;
        let policy = answer.headers().get("content-security-policy");
        let policy = policy.unwrap_or_else(|| panic!("{path}")).to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            answer.headers().get("x-content-type-options").unwrap(),
            "nosniff"
        );
        let body = answer.text().await.unwrap();
        for inline in ["<script>", " style=", " onclick", "javascript:"] {
            assert!(!body.contains(inline), "{path}: {inline}");
        }
    }
    // A page of somebody else's name does not get at it (DNS rebinding).
    let http = parts::http();
    let call = http
        .get(format!("http://{}/login", scene.address))
        .header("host", "evil.example.com");
    assert_eq!(call.send().await.unwrap().status(), 403);
    scene.end().await;
}

#[test]
fn it_does_not_start_without_keys_or_with_short_ones() {
    for (keys, part) in [
        (None, "COFFERDAM_CONSOLE_KEYS"),
        (Some("operator:short"), "has 5 characters"),
        (
            Some("root:0123456789012345678901234567890123456789"),
            "neither viewer nor operator",
        ),
    ] {
        let mut command = cofferdam(["console"]);
        if let Some(keys) = keys {
            command.env("COFFERDAM_CONSOLE_KEYS", keys);
        }
        let ended = ended(command);
        assert_eq!(ended.status, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
        assert!(
            !ended.stderr.contains("0123456789012345"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn keys_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("viewer:{VIEWER}\n")).unwrap();
    let redis = crate::support::redis::settings();
    let env = [
        ("REDIS_URL", redis.url.expose().as_str()),
        ("COFFERDAM_NAMESPACE", redis.namespace.as_str()),
        ("COFFERDAM_CONSOLE_LISTEN", "127.0.0.1:0"),
        ("COFFERDAM_CONSOLE_KEYS_FILE", file.to_str().unwrap()),
    ];
    let mut console = crate::support::command::Daemon::start(&["console"], &env);
    let address = console.addresses(1).await.remove(0);
    let mut client = Client::new(&address);
    assert_eq!(client.log_in(VIEWER).await, 303);
    console.finish().await;
}
