//! Apps, tokens, unknown and missing routes.

use reqwest::Method;
use serde_json::json;

use super::server::{APP, TOKEN, machine, machines, shell, simulated};

#[tokio::test]
async fn only_the_token_opens_the_server() {
    let server = simulated(|_| {}).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/v1/apps/{APP}", server.base);
    for (header, expected) in [
        (Some(format!("Bearer {TOKEN}")), 200),
        (Some(format!("FlyV1 {TOKEN}")), 200),
        (Some("Bearer fm2_other".to_owned()), 401),
        (None, 401),
    ] {
        let mut request = http.get(&url);
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{header:?}");
        assert!(answer.headers().contains_key("fly-request-id"));
        if expected == 401 {
            let body = answer.text().await.unwrap();
            assert_eq!(body, r#"{"error":"Authenticate: token validation error"}"#);
        }
    }
    let token = server.client.current_token().await.unwrap();
    assert_eq!(token.tokens[0].org_slug, "personal");
    server.end().await;
}

#[tokio::test]
async fn a_server_without_a_token_does_not_open() {
    let state = tempfile::tempdir().unwrap();
    for token in ["", " ", "Bearer "] {
        let settings = cofferdam::local::ServerSettings::new(token.into(), state.path().into());
        let shutdown = cofferdam::shutdown::Shutdown::new();
        let opened = cofferdam::local::LocalServer::open(settings, &shutdown).await;
        assert!(matches!(opened, Err(cofferdam::local::Error::NoToken)));
    }
}

#[tokio::test]
async fn apps_are_made_shown_listed_and_deleted() {
    let server = simulated(|_| {}).await;
    let made = server
        .post("/v1/apps", json!({"name": "one", "org_slug": "personal"}))
        .await;
    let made = made.expect(201);
    assert!(
        made["id"].is_string() && made["created_at"].is_u64(),
        "{made}"
    );
    server
        .post("/v1/apps", json!({"app_name": "two", "network": "own"}))
        .await
        .expect(201);
    let taken = server
        .post("/v1/apps", json!({"app_name": "one"}))
        .await
        .expect(422);
    assert_eq!(taken["status"], "name_taken");
    assert_eq!(
        taken["error"],
        "Validation failed: Name has already been taken"
    );
    server
        .post("/v1/apps", json!({"name": "Not_Good"}))
        .await
        .expect(422);

    let keyed = json!({"name": "three", "idempotency_key": "k"});
    let first = server.post("/v1/apps", keyed.clone()).await.expect(201);
    assert_eq!(server.post("/v1/apps", keyed).await.expect(201), first);
    let other = json!({"name": "four", "idempotency_key": "k"});
    server.post("/v1/apps", other).await.expect(422);

    let app = server.client.app("two").await.unwrap();
    assert_eq!(
        (app.name.as_str(), app.network.as_deref()),
        ("two", Some("own"))
    );
    let all = server.get("/v1/apps?org_slug=personal").await.expect(200);
    assert_eq!(all["total_apps"], 4);
    assert_eq!(all["apps"][0]["name"], APP);
    let page = server
        .get("/v1/apps?org_slug=personal&limit=3")
        .await
        .expect(200);
    let next = page["next_cursor"].as_str().unwrap().to_owned();
    let rest = server
        .get(&format!("/v1/apps?limit=3&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(rest["apps"].as_array().unwrap().len(), 1);
    assert_eq!(
        server.get("/v1/apps?org_slug=other").await.expect(200)["total_apps"],
        0
    );

    server.delete("/v1/apps/two").await.expect(202);
    server.get("/v1/apps/two").await.expect(404);
    server.delete("/v1/apps/two").await.expect(404);
    server.end().await;
}

#[tokio::test]
async fn an_app_takes_its_machines_with_it() {
    let server = simulated(|_| {}).await;
    let id = server.create(shell("sleep 100")).await;
    server.reach(&id, "started").await;
    server
        .delete(&format!("/v1/apps/{APP}?force=true"))
        .await
        .expect(202);
    server.get(&machines("")).await.expect(404);
    server
        .post("/v1/apps", json!({"name": APP}))
        .await
        .expect(201);
    crate::support::until::until("the machine to be gone", || async {
        match server.get(&machine(&id, "")).await.status {
            404 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let left = server
        .get(&machines("?include_deleted=true"))
        .await
        .expect(200);
    assert_eq!(left, json!([]));
    server.end().await;
}

#[tokio::test]
async fn unknown_and_missing_routes_are_told_apart() {
    let server = simulated(|_| {}).await;
    let unknown = server.get("/v1/nonsense").await;
    assert_eq!(
        (unknown.status, unknown.body),
        (404, json!("404 page not found\n"))
    );
    for (method, path, name) in [
        (
            Method::POST,
            format!("/v1/apps/{APP}/volumes"),
            "Volumes_create",
        ),
        (
            Method::POST,
            format!("/v1/apps/{APP}/ip_assignments"),
            "App_IPAssignments_create",
        ),
        (Method::GET, machine("m", "/memory"), "Machines_get_memory"),
    ] {
        let answer = server.call(method, &path, None).await;
        assert_eq!(answer.status, 501, "{path}");
        assert!(answer.refusal().contains(name), "{}", answer.refusal());
    }
    server
        .call(Method::PUT, &machines(""), None)
        .await
        .expect(404);
    server.get("/_faults").await.expect(404);
    let regions = server.get("/v1/platform/regions").await.expect(200);
    assert_eq!(regions["regions"][0]["code"], "local");
    server.end().await;
}

/// Clients read all of an app, and there is nothing to it but machines.
#[tokio::test]
async fn what_an_app_never_has_is_an_empty_list() {
    let server = simulated(|_| {}).await;
    for (path, expected) in [
        ("volumes", json!([])),
        ("ip_assignments", json!({"ips": []})),
        ("secrets", json!({"secrets": []})),
        ("secretkeys", json!({"secret_keys": []})),
    ] {
        let found = server.get(&format!("/v1/apps/{APP}/{path}")).await;
        assert_eq!(found.expect(200), expected, "{path}");
        server
            .get(&format!("/v1/apps/none/{path}"))
            .await
            .expect(404);
    }
    let volumes = server.get("/v1/orgs/personal/volumes").await.expect(200);
    assert_eq!(volumes, json!({"volumes": []}));
    let placed = server
        .post("/v1/platform/placements", json!({"org_slug": "personal"}))
        .await
        .expect(200);
    assert_eq!(placed, json!({"regions": []}));
    server
        .post(&format!("/v1/apps/{APP}/volumes"), json!({"name": "v"}))
        .await
        .expect(501);
}

#[tokio::test]
async fn a_region_is_shown_with_all_that_clients_read() {
    let server = simulated(|settings| settings.regions = vec!["ams".into()]).await;
    let shown = server.get("/v1/platform/regions").await.expect(200);
    assert_eq!(shown["nearest"], "ams");
    let region = shown["regions"][0].as_object().unwrap();
    let fields: Vec<&str> = region.keys().map(String::as_str).collect();
    let expected = [
        "code",
        "deprecated",
        "gateway_available",
        "geo_region",
        "latitude",
        "longitude",
        "name",
        "requires_paid_plan",
    ];
    let mut fields = fields;
    fields.sort_unstable();
    assert_eq!(fields, expected);
}
