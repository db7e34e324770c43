//! The calls that need no real process: names, leases, metadata, listings, events, waits.

use cofferdam::clock::Clock;
use cofferdam::machines::ListFilter;
use reqwest::Method;
use serde_json::{Value, json};

use super::server::{APP, machine, machines, shell, shell_with, simulated};

#[tokio::test]
async fn a_name_is_taken_as_long_as_its_machine_lives() {
    let server = simulated(|_| {}).await;
    let mut body = shell("x");
    body["name"] = json!("sandbox-a-1");
    let id = server.create(body.clone()).await;
    let again = server.post(&machines(""), body.clone()).await;
    assert_eq!(
        again.refusal(),
        format!(
            "409 already_exists: unique machine name violation, \
             machine ID {id} already exists with name \"sandbox-a-1\""
        )
    );
    let found = server
        .client
        .find_by_name(APP, "sandbox-a-1", &ListFilter::default())
        .await
        .unwrap();
    assert_eq!(found.unwrap().id, id);
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);
    server.reach(&id, "destroyed").await;
    assert_ne!(server.create(body).await, id);
    let unnamed = server.create(shell("x")).await;
    let shown = server.get(&machine(&unnamed, "")).await.expect(200);
    assert!(!shown["name"].as_str().unwrap().is_empty());
    server.end().await;
}

#[tokio::test]
async fn leases_keep_others_from_changing_a_machine() {
    let server = simulated(|_| {}).await;
    let id = server.create(shell("x")).await;
    server.reach(&id, "started").await;
    server.get(&machine(&id, "/lease")).await.expect(404);
    let wanted = json!({"ttl": 60, "description": "mine"});
    let taken = server
        .post(&machine(&id, "/lease"), wanted)
        .await
        .expect(201);
    assert_eq!(taken["status"], "success");
    let nonce = taken["data"]["nonce"].as_str().unwrap().to_owned();
    let held = server.get(&machine(&id, "/lease")).await.expect(200);
    assert_eq!(held["data"]["description"], "mine");
    let by_query = server
        .call(Method::POST, &machine(&id, "/lease?ttl=5"), None)
        .await;
    let message = by_query.expect(409)["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with(&format!("machine ID {id} lease currently held by ")),
        "{message}"
    );
    for (method, path) in [
        (Method::POST, machine(&id, "/stop")),
        (Method::POST, machine(&id, "/restart")),
        (Method::POST, machine(&id, "/cordon")),
        (Method::DELETE, machine(&id, "?force=true")),
    ] {
        server.call(method, &path, None).await.expect(409);
    }
    server.post(&machine(&id, ""), shell("y")).await.expect(409);
    let stripped = server
        .get(&machine(&id, "?include_leases=true"))
        .await
        .expect(200);
    assert_eq!(stripped["lease"]["description"], "mine");
    assert!(stripped["lease"].get("nonce").is_none() && stripped.get("nonce").is_none());
    let path = machine(&id, "/lease?ttl=120");
    let refreshed = server
        .with_nonce(Method::POST, &path, None, Some(&nonce))
        .await
        .expect(201);
    assert_eq!(refreshed["data"]["nonce"], nonce.as_str());
    server.delete(&machine(&id, "/lease")).await.expect(400);
    let path = machine(&id, "/lease");
    let released = server
        .with_nonce(Method::DELETE, &path, None, Some(&nonce))
        .await;
    released.expect(200);
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);

    let mut body = shell("x");
    body["lease_ttl"] = json!(60);
    let made = server.post(&machines(""), body).await.expect(200);
    let (id, nonce) = (
        made["id"].as_str().unwrap(),
        made["nonce"].as_str().unwrap(),
    );
    server.delete(&machine(id, "?force=true")).await.expect(409);
    let path = machine(id, "?force=true");
    server
        .with_nonce(Method::DELETE, &path, None, Some(nonce))
        .await
        .expect(200);
    server.end().await;
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    let clock = Clock::skewed(0);
    let server = simulated(|settings| settings.clock = clock.clone()).await;
    let id = server.create(shell("x")).await;
    server
        .post(&machine(&id, "/lease"), json!({"ttl": 60}))
        .await
        .expect(201);
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(409);
    clock.shift(61_000);
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);
    server.end().await;
}

#[tokio::test]
async fn metadata_changes_without_a_new_version() {
    let server = simulated(|_| {}).await;
    let id = server
        .create(shell_with("x", json!({"metadata": {"a": "1"}})))
        .await;
    let before = server.reach(&id, "started").await;
    server
        .post(&machine(&id, "/metadata/b"), json!({"value": "2"}))
        .await
        .expect(204);
    let one = server.get(&machine(&id, "/metadata/b")).await.expect(200);
    assert_eq!(one, json!({"value": "2"}));
    let all = machine(&id, "/metadata");
    let change = |method, body: Value| server.call(method, &all, Some(body));
    change(Method::PATCH, json!({"metadata": {"a": null, "c": "3"}}))
        .await
        .expect(204);
    let stale = json!({"metadata": {"c": "4"}, "machine_version": "01HEPA330HZ37A78TK080NAK1M"});
    change(Method::PATCH, stale).await.expect(412);
    change(Method::PUT, json!({"metadata": {"d": "5"}}))
        .await
        .expect(204);
    server
        .delete(&machine(&id, "/metadata/b"))
        .await
        .expect(204);
    server.get(&machine(&id, "/metadata/b")).await.expect(404);
    let all = server.get(&all).await.expect(200);
    assert_eq!(
        (&all["a"], &all["c"], &all["d"]),
        (&Value::Null, &json!("3"), &json!("5"))
    );
    let own = machine(&id, "/metadata/cofferdam_isolation");
    server.post(&own, json!({"value": "vm"})).await.expect(400);
    let after = server.get(&machine(&id, "")).await.expect(200);
    assert_eq!(after["version"], before["version"]);
    assert_eq!(after["config"]["metadata"], all);
    assert_eq!(all["cofferdam_isolation"], "none (simulated)");
    server.end().await;
}

#[tokio::test]
async fn listings_are_filtered_and_paged() {
    let server = simulated(|settings| settings.regions = vec!["local".into(), "ams".into()]).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let mut body = shell_with(
            "x",
            json!({"metadata": {"n": n.to_string(), "odd": (n % 2).to_string()}}),
        );
        body["region"] = json!(if n < 3 { "ams" } else { "local" });
        ids.push(server.create(body).await);
    }
    for id in &ids {
        server.reach(id, "started").await;
    }
    server
        .post(&machine(&ids[6], "/stop"), json!({}))
        .await
        .expect(200);
    server.reach(&ids[6], "stopped").await;
    for (query, expected) in [
        ("", "0123456"),
        ("?region=ams", "012"),
        ("?metadata.odd=1", "135"),
        ("?metadata.odd=1&metadata.n=3", "3"),
        ("?metadata.none=1", ""),
        ("?state=stopped", "6"),
        ("?state=started,stopped&region=local", "3456"),
    ] {
        let listed = server.get(&machines(query)).await.expect(200);
        let found: String = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["config"]["metadata"]["n"].as_str().unwrap())
            .collect();
        assert_eq!(found, expected, "{query}");
    }
    let first = server.get(&machines("?limit=3&summary=true")).await;
    assert!(first.body[0].get("config").is_none() && first.body[0].get("events").is_none());
    let next = first.headers["fly-next-cursor"]
        .to_str()
        .unwrap()
        .to_owned();
    let rest = server
        .get(&machines(&format!("?limit=1000&cursor={next}")))
        .await;
    assert!(!rest.headers.contains_key("fly-next-cursor"));
    assert_eq!(rest.body.as_array().unwrap().len(), 4);
    server.get(&machines("?limit=0")).await.expect(400);
    server.get(&machines("?cursor=x")).await.expect(400);
    server.get(&machines("?limit=3&cursor=x")).await.expect(400);
    let filter = ListFilter {
        metadata: vec![("odd".into(), "0".into())],
        ..ListFilter::default()
    };
    assert_eq!(server.client.list(APP, &filter).await.unwrap().len(), 4);
    let org = server
        .get("/v1/orgs/personal/machines?region=ams")
        .await
        .expect(200);
    assert_eq!(org["machines"].as_array().unwrap().len(), 3);
    assert_eq!(org["machines"][0]["app_name"], APP);
    let none = server
        .get("/v1/orgs/personal/machines?updated_after=2999-01-01T00:00:00Z")
        .await;
    assert_eq!(none.expect(200)["machines"], json!([]));
    server
        .get("/v1/orgs/personal/machines?updated_after=now")
        .await
        .expect(400);
    server.end().await;
}

#[tokio::test]
async fn destroyed_machines_are_forgotten_in_time() {
    let clock = Clock::skewed(0);
    let server = simulated(|settings| settings.clock = clock.clone()).await;
    let id = server.create(shell("x")).await;
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);
    server.reach(&id, "destroyed").await;
    let events = server
        .get(&machine(&id, "/events?limit=1"))
        .await
        .expect(200);
    assert_eq!(events[0]["status"], "destroyed");
    clock.shift(301_000);
    server.get(&machine(&id, "")).await.expect(404);
    let deleted = server
        .get(&machines("?include_deleted=true"))
        .await
        .expect(200);
    assert_eq!(deleted, json!([]));
    server.end().await;
}

#[tokio::test]
async fn many_wait_for_one_machine() {
    let server = simulated(|_| {}).await;
    let id = server.create(shell("x")).await;
    let path = machine(&id, "/wait?state=stopped&state=destroyed&timeout=60");
    let waits = futures_util::future::join_all((0..200).map(|_| server.get(&path)));
    let (answers, ()) = tokio::join!(waits, async {
        server.reach(&id, "started").await;
        server
            .post(&machine(&id, "/stop"), json!({}))
            .await
            .expect(200);
    });
    for answer in answers {
        let body = answer.expect(200);
        assert_eq!(
            (&body["ok"], &body["state"]),
            (&json!(true), &json!("stopped"))
        );
        assert_eq!(body["event_id"].as_str().unwrap().len(), 26);
    }
    let started = server.get(&machine(&id, "/wait?timeout=1")).await;
    assert_eq!(
        started.refusal(),
        "408 deadline_exceeded: machine failed to reach desired state, started, currently stopped"
    );
    server
        .get(&machine(&id, "/wait?state=settled"))
        .await
        .expect(200);
    let none = server.get(&machine("00000000000000", "/wait")).await;
    assert_eq!(none.refusal(), "404 not_found: machine not found");
    let long = server.get(&machine(&id, "/wait?timeout=61")).await;
    assert_eq!(
        long.refusal(),
        "400 invalid_argument: invalid WaitMachineRequest.Timeout: \
         value must be inside range [1s, 1m0s]"
    );
    server.end().await;
}

#[tokio::test]
async fn cordons_are_shown_and_suspend_is_refused_by_name() {
    let server = simulated(|_| {}).await;
    let id = server.create(shell("x")).await;
    server.reach(&id, "started").await;
    server
        .post(&machine(&id, "/cordon"), json!({}))
        .await
        .expect(200);
    assert_eq!(
        server.get(&machine(&id, "")).await.expect(200)["cordoned"],
        true
    );
    server
        .post(&machine(&id, "/uncordon"), json!({}))
        .await
        .expect(200);
    assert!(
        server
            .get(&machine(&id, ""))
            .await
            .expect(200)
            .get("cordoned")
            .is_none()
    );
    let suspend = server.post(&machine(&id, "/suspend"), json!({})).await;
    assert_eq!(suspend.status, 501);
    assert!(suspend.refusal().contains("Machines_suspend"));
    server.end().await;
}

#[tokio::test]
async fn a_machine_that_was_never_there_is_not_found_by_any_call() {
    let server = simulated(|_| {}).await;
    let id = "00000000000000";
    for (method, rest, body) in [
        (Method::GET, "", None),
        (Method::POST, "", Some(shell("x"))),
        (Method::DELETE, "?force=true", None),
        (Method::POST, "/start", None),
        (Method::POST, "/stop", None),
        (Method::POST, "/restart", None),
        (Method::POST, "/signal", Some(json!({"signal": "SIGKILL"}))),
        (Method::POST, "/exec", Some(json!({"command": ["true"]}))),
        (Method::POST, "/lease", None),
        (Method::GET, "/lease", None),
        (Method::GET, "/metadata", None),
        (Method::GET, "/events", None),
        (Method::GET, "/versions", None),
        (Method::GET, "/ps", None),
        (Method::POST, "/cordon", None),
    ] {
        let answer = server.call(method.clone(), &machine(id, rest), body).await;
        assert_eq!(
            answer.refusal(),
            "404 not_found: machine not found",
            "{method} {rest}"
        );
    }
    server.get("/v1/apps/none/machines").await.expect(404);
    server
        .post("/v1/apps/none/machines", shell("x"))
        .await
        .expect(404);
    server.end().await;
}

/// Clients of the real service send the codes that they know; the example of the README is one.
#[tokio::test]
async fn any_plausible_region_is_taken_and_echoed_unless_a_setting_narrows_it() {
    let server = simulated(|_| ()).await;
    let placed = |region: &str| {
        let mut body = shell_with("x", json!({}));
        body["region"] = json!(region);
        body
    };
    for (asked, expected) in [
        ("ams,eu", "ams"),
        ("iad", "iad"),
        ("LHR", "lhr"),
        ("eu", "local"),
    ] {
        let id = server.create(placed(asked)).await;
        let made = server.get(&machine(&id, "")).await.expect(200);
        assert_eq!(made["region"], expected, "{asked}");
    }
    server.end().await;
    let narrowed = simulated(|settings| settings.regions = vec!["ams".into()]).await;
    narrowed
        .post(&machines(""), placed("fra"))
        .await
        .expect(400);
    narrowed.end().await;
}
