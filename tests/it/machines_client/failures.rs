//! What the client makes of everything that goes wrong.

use std::time::Duration;

use cofferdam::http::reply;
use cofferdam::machines::wire::{CreateMachine, Env, File};
use cofferdam::machines::{Call, Certainty, Decision, Error, Force, judge};
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Server, Then, answer_raw, client, impatient, machine, ok, raw};

#[tokio::test]
async fn a_refusal_keeps_what_a_person_needs_and_no_secrets() {
    let server = Server::new(|_, seen| {
        // A service that repeats all it was sent: body, header, file.
        let echo = String::from_utf8_lossy(&seen.body).into_owned();
        let error = format!("invalid_argument: {} with {}", seen.authorization, echo);
        let body = json!({ "error": error, "status": "unknown" });
        let mut response = reply::json(StatusCode::BAD_REQUEST, &body);
        let headers = response.headers_mut();
        headers.insert("fly-request-id", HeaderValue::from_static("01J-ams"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("9"));
        response
    })
    .await;
    let client = server.client();
    let mut create = CreateMachine::default();
    create.config.env = Env::from_iter([("A", "tell \"nobody\""), ("B", "hidden-token")]);
    create.config.files = vec![File {
        raw_value: Some("aGlkZGVuIGZpbGU=".into()),
        ..File::default()
    }];
    let error = client.create("a", &create).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(
        (refusal.status, refusal.code.as_deref()),
        (400, Some("unknown"))
    );
    assert_eq!(refusal.request_id.as_deref(), Some("01J-ams"));
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(9)));
    assert_eq!(
        (refusal.request.method, refusal.request.path.as_str()),
        ("POST", "/v1/apps/a/machines")
    );
    for shown in [
        format!("{error:?}"),
        error.to_string(),
        format!("{client:?}"),
    ] {
        for secret in ["nobody", "hidden-token", "aGlkZGVu", "verysecret"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
    assert!(
        refusal
            .text
            .starts_with("invalid_argument: FlyV1 [redacted] with {"),
        "{refusal}"
    );
    server.end().await;
}

#[tokio::test]
async fn a_wrong_address_is_not_taken_for_a_machine_that_is_gone() {
    let server =
        Server::new(|_, _| reply::text(StatusCode::NOT_FOUND, "404 page not found\n")).await;
    let client = server.client();
    let error = client.delete("a", "m1", Force::Yes).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().text, "404 page not found");
    let decision = judge(Call::Delete, &error);
    assert!(
        matches!(decision, Decision::Misconfigured { .. }),
        "{decision:?}"
    );
    server.end().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_gets_no_token() {
    let other = Server::new(|_, _| ok(&machine("m1", "n", "started"))).await;
    let target = format!("{}/v1/apps/a/machines/m1", other.url);
    let server = Server::new(move |_, _| {
        let mut response = reply::empty(StatusCode::TEMPORARY_REDIRECT);
        response
            .headers_mut()
            .insert(LOCATION, target.parse().unwrap());
        response
    })
    .await;
    let client = server.client();
    let error = client.get("a", "m1").await.unwrap_err();
    assert_eq!(error.refusal().unwrap().status, 307);
    assert!(other.seen().is_empty());
    server.end().await;
    other.end().await;
}

#[track_caller]
fn check_lost(error: &Error) {
    assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    assert_eq!(error.certainty(), Certainty::Unknown);
    assert_eq!(judge(Call::Create, error), Decision::LookUp);
}

#[tokio::test]
async fn an_answer_that_never_comes_leaves_the_matter_open() {
    let (url, mut server) = raw(|stream| answer_raw(stream, b"", Then::StaySilent)).await;
    let client = impatient(&url);
    check_lost(
        &client
            .create("a", &CreateMachine::default())
            .await
            .unwrap_err(),
    );
    drop(client);
    server.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_stalls_does_not_hang_the_call() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":\"m";
    let (url, mut server) = raw(|stream| answer_raw(stream, half, Then::StaySilent)).await;
    let client = impatient(&url);
    check_lost(
        &client
            .create("a", &CreateMachine::default())
            .await
            .unwrap_err(),
    );
    drop(client);
    server.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_cut_short_is_no_answer_whatever_its_status() {
    let good: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":\"m1\"}";
    let bad: &[u8] = b"HTTP/1.1 409 Conflict\r\ncontent-length: 100\r\n\r\n{\"error\":\"al";
    for half in [good, bad] {
        let (url, mut server) = raw(move |stream| answer_raw(stream, half, Then::Close)).await;
        check_lost(
            &client(&url)
                .create("a", &CreateMachine::default())
                .await
                .unwrap_err(),
        );
        server.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reset_leaves_the_matter_open() {
    // Closing with the request unread makes the kernel reset the connection.
    let (url, mut server) = raw(|stream| async move { stream.readable().await.unwrap() }).await;
    check_lost(
        &client(&url)
            .create("a", &CreateMachine::default())
            .await
            .unwrap_err(),
    );
    server.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_connection_means_nothing_happened() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&url)
        .create("a", &CreateMachine::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
    assert_eq!(error.certainty(), Certainty::NothingSent);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_under_https() {
    let server = Server::new(|_, _| ok(&machine("m1", "n", "started"))).await;
    let client = client(&server.url.replace("http:", "https:"));
    let error = client.get("a", "m1").await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
    assert!(server.seen().is_empty());
    server.end().await;
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_yes_that_cannot_be_read() {
    let server = Server::new(|number, _| match number {
        0 => reply::text(StatusCode::OK, "<html>hello</html>"),
        1 => ok(&json!({ "state": "created" })),
        2 => reply::text(StatusCode::OK, &" ".repeat(2 << 20)),
        _ => reply::text(StatusCode::BAD_GATEWAY, &"x".repeat(2 << 20)),
    })
    .await;
    let client = server.client();
    for _ in 0..3 {
        let error = client
            .create("a", &CreateMachine::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Unreadable { status: 200, .. }),
            "{error}"
        );
        assert_eq!(judge(Call::Create, &error), Decision::LookUp);
    }
    let error = client
        .create("a", &CreateMachine::default())
        .await
        .unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.status, 502);
    assert!(refusal.body.len() < 4096);
    server.end().await;
}
