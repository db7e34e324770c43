//! What the client sends and what it reads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam::http::reply::{self, Body};
use cofferdam::machines::wire::{CreateMachine, MachineState, StopRequest};
use cofferdam::machines::{
    Call, Certainty, Class, Client, ClientSettings, Error, Force, ListFilter, Observer, Wait,
};
use hyper::header::{HeaderName, HeaderValue, SET_COOKIE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Server, TOKEN, Then, answer_raw, impatient, machine, ok, raw, settings};

#[tokio::test]
async fn a_create_is_sent_as_it_is_described() {
    let server = Server::new(|_, _| {
        let recorded = include_bytes!("../../fixtures/machines/create.json");
        reply::with_type(
            StatusCode::OK,
            "application/json",
            Bytes::from_static(recorded),
        )
    })
    .await;
    let client = server.client();
    let mut create = CreateMachine {
        name: Some("sandbox-r1-1".into()),
        ..Default::default()
    };
    create.config.image = Some("ubuntu".into());
    let machine = client.create("sandboxes", &create).await.unwrap();
    assert_eq!(machine.id, "1857156b526dd8");
    assert_eq!(machine.state, MachineState::Created);
    assert_eq!(machine.version_id(), Some("01HEPA330HZ37A78TK080NAK1M"));

    let seen = server.seen().remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.uri.as_str()),
        ("POST", "/v1/apps/sandboxes/machines")
    );
    assert_eq!(seen.authorization, TOKEN);
    assert_eq!(seen.content_type.as_deref(), Some("application/json"));
    let sent: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(
        sent,
        json!({ "name": "sandbox-r1-1", "config": { "image": "ubuntu" } })
    );
    server.end().await;
}

#[tokio::test]
async fn each_call_goes_where_the_api_has_it() {
    let server = Server::new(|_, seen| match seen.uri.as_str() {
        uri if uri.contains("/wait") => ok(&json!({ "ok": true, "state": "destroyed" })),
        uri if uri.contains("/tokens/") => ok(&json!({ "tokens": [{ "org_slug": "personal" }] })),
        uri if uri.contains("/logs") => ok(&json!({
            "data": [{ "id": "1", "attributes": { "message": "hi", "instance": "m1" } }],
            "meta": { "next_token": "t2" }
        })),
        uri if uri.ends_with("/apps/a") => ok(&json!({ "name": "a", "network": "sand" })),
        uri if uri.ends_with("/stop") || uri.contains("force") => ok(&json!({ "ok": true })),
        _ => ok(&machine("m1", "n", "started")),
    })
    .await;
    let client = server.client();
    assert_eq!(
        client.get("a", "m1").await.unwrap().state,
        MachineState::Started
    );
    client.start("a", "m1").await.unwrap();
    client
        .stop("a", "m1", &StopRequest::default())
        .await
        .unwrap();
    client.delete("a", "m1", Force::No).await.unwrap();
    client.delete("a", "m1", Force::Yes).await.unwrap();
    assert_eq!(
        client.app("a").await.unwrap().network.as_deref(),
        Some("sand")
    );
    assert_eq!(
        client.current_token().await.unwrap().tokens[0].org_slug,
        "personal"
    );
    let page = client.logs("a", Some("m1"), Some("t1")).await.unwrap();
    assert_eq!(page.data[0].attributes.message, "hi");
    assert_eq!(page.meta.next_token.as_deref(), Some("t2"));
    let states = [MachineState::Stopped, MachineState::Destroyed];
    let wait = Wait {
        states: &states,
        version: Some("01H"),
        timeout: Duration::from_secs(300),
    };
    let answer = client.wait("a", "m1", &wait).await.unwrap();
    assert_eq!(answer.state, Some(MachineState::Destroyed));

    let seen: Vec<String> = server
        .seen()
        .iter()
        .map(|seen| format!("{} {}", seen.method, seen.uri))
        .collect();
    let expected = [
        "GET /v1/apps/a/machines/m1",
        "POST /v1/apps/a/machines/m1/start",
        "POST /v1/apps/a/machines/m1/stop",
        "DELETE /v1/apps/a/machines/m1",
        "DELETE /v1/apps/a/machines/m1?force=true",
        "GET /v1/apps/a",
        "GET /v1/tokens/current",
        "GET /api/v1/apps/a/logs?instance=m1&next_token=t1",
        "GET /v1/apps/a/machines/m1/wait?state=stopped&state=destroyed&version=01H\
         &instance_id=01H&timeout=60",
    ];
    assert_eq!(seen, expected);
    server.end().await;
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::new(|_, _| ok(&machine("m1", "n", "started"))).await;
    let client = server.client();
    for _ in 0..5 {
        client.get("a", "m1").await.unwrap();
    }
    let peers: std::collections::HashSet<_> = server.seen().iter().map(|seen| seen.peer).collect();
    assert_eq!(peers.len(), 1);
    server.end().await;
}

fn with_cursor(mut response: Response<Body>, cursor: &'static str) -> Response<Body> {
    let name = HeaderName::from_static("fly-next-cursor");
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(cursor));
    response
}

#[tokio::test]
async fn a_listing_follows_its_pages_even_empty_ones() {
    let server = Server::new(|number, _| match number {
        0 => with_cursor(ok(&json!([machine("m1", "a", "started")])), "c1"),
        1 => with_cursor(ok(&json!([])), "c2"),
        2 => with_cursor(ok(&Value::Null), "c3"),
        _ => ok(&json!([machine("m2", "b", "hibernating")])),
    })
    .await;
    let client = server.client();
    let filter = ListFilter {
        states: vec![MachineState::Created, MachineState::Started],
        region: Some("ams".into()),
        metadata: vec![("owner".into(), "me & you".into())],
        include_deleted: true,
        ..ListFilter::default()
    };
    let machines = client.list("a", &filter).await.unwrap();
    let ids: Vec<_> = machines.iter().map(|machine| machine.id.as_str()).collect();
    assert_eq!(ids, ["m1", "m2"]);
    assert_eq!(
        machines[1].state,
        MachineState::Unknown("hibernating".into())
    );
    let first = "/v1/apps/a/machines?state=created%2Cstarted&region=ams\
                 &metadata.owner=me+%26+you&include_deleted=true&limit=500";
    let uris: Vec<_> = server.seen().into_iter().map(|seen| seen.uri).collect();
    let with = |cursor| format!("{first}&cursor={cursor}");
    assert_eq!(uris, [first.to_owned(), with("c1"), with("c2"), with("c3")]);
    server.end().await;
}

#[tokio::test]
async fn a_listing_that_never_ends_is_given_up() {
    let server = Server::new(|_, _| with_cursor(ok(&json!([])), "again")).await;
    let client = server.client();
    let error = client.list("a", &ListFilter::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    assert_eq!(server.seen().len(), 200);
    server.end().await;
}

#[tokio::test]
async fn a_name_finds_the_living_machine() {
    let server = Server::new(|_, _| {
        ok(&json!([
            machine("m1", "other", "started"),
            machine("m2", "mine", "destroyed"),
            machine("m3", "mine", "starting"),
            machine("m4", "mine", "destroying"),
            machine("m5", "gone", "destroyed"),
        ]))
    })
    .await;
    let client = server.client();
    let found = client
        .find_by_name("a", "mine", &ListFilter::default())
        .await
        .unwrap();
    assert_eq!(found.unwrap().id, "m3");
    assert_eq!(
        client
            .find_by_name("a", "gone", &ListFilter::default())
            .await
            .unwrap(),
        None
    );
    let with_gone = ListFilter {
        include_deleted: true,
        ..ListFilter::default()
    };
    let found = client.find_by_name("a", "gone", &with_gone).await.unwrap();
    assert_eq!(found.unwrap().id, "m5");
    let found = client.find_by_name("a", "mine", &with_gone).await.unwrap();
    assert_eq!(found.unwrap().id, "m3");
    assert!(server.seen()[0].uri.contains("summary=true"));
    server.end().await;
}

#[tokio::test]
async fn a_name_that_is_none_is_not_sent() {
    let server = Server::new(|_, _| ok(&machine("m1", "n", "started"))).await;
    let client = server.client();
    for id in [
        "",
        ".",
        "..",
        "m1/../../other",
        "m1?force=true",
        "m 1",
        &"m".repeat(200),
    ] {
        let error = client.delete("a", id, Force::Yes).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{id:?}: {error}");
        assert_eq!(error.certainty(), Certainty::NothingSent);
    }
    assert!(server.seen().is_empty());
    server.end().await;
}

#[tokio::test]
async fn every_call_is_counted_by_how_it_ended() {
    let statuses = [200, 404, 403, 408, 429, 503];
    let server = Server::new(move |number, _| {
        let status = StatusCode::from_u16(statuses[number % statuses.len()]).unwrap();
        reply::json(status, &machine("m1", "n", "started"))
    })
    .await;
    let counted = Arc::new(Mutex::new(Vec::new()));
    let counts = Arc::clone(&counted);
    let observer =
        Observer::new(move |call| counts.lock().unwrap().push((call.request.call, call.class)));
    let client = Client::new(ClientSettings {
        observer,
        ..settings(&server.url)
    })
    .unwrap();
    for status in statuses {
        assert_eq!(client.get("a", "m1").await.is_ok(), status == 200);
    }
    let classes = [
        Class::Ok,
        Class::Gone,
        Class::Refused,
        Class::TimedOut,
        Class::RateLimited,
        Class::ServerError,
    ];
    assert_eq!(
        *counted.lock().unwrap(),
        classes.map(|class| (Call::Get, class))
    );
    server.end().await;
}

/// Whose read must see whose write is told by a cookie.
#[tokio::test]
async fn a_cookie_that_the_api_gives_comes_back_with_the_calls_that_follow() {
    let server = Server::new(|number, _| {
        let mut answer = reply::json(StatusCode::OK, &machine("m1", "n", "started"));
        let cookie = HeaderValue::from_str(&format!("written={number}; Max-Age=60")).unwrap();
        if number != 2 {
            answer.headers_mut().insert(SET_COOKIE, cookie);
        } else {
            *answer.status_mut() = StatusCode::NOT_FOUND;
        }
        answer
    })
    .await;
    let client = server.client();
    // Calls of one app, a clone's among them; then those of another.
    for app in ["a", "a", "a", "a", "b"] {
        let _ = client.clone().get(app, "m1").await;
    }
    let seen = server.seen();
    let sent: Vec<_> = seen.iter().map(|seen| seen.cookie.as_deref()).collect();
    let expected = [
        None,
        Some("written=0"),
        Some("written=1"),
        Some("written=1"),
        None,
    ];
    assert_eq!(sent, expected);
    server.end().await;
}

#[tokio::test]
async fn a_wait_may_take_as_long_as_it_asked_for() {
    let late = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (url, mut server) = raw(move |stream| async move {
        // Longer than the client gives any other call, shorter than the wait asks for.
        tokio::time::sleep(Duration::from_millis(600)).await;
        answer_raw(stream, late, Then::Close).await;
    })
    .await;
    let states = [MachineState::Started];
    let wait = Wait {
        states: &states,
        version: None,
        timeout: Duration::ZERO,
    };
    let answer = impatient(&url).wait("a", "m1", &wait).await.unwrap();
    assert!(answer.ok);
    server.join_next().await.unwrap().unwrap();
}
