//! A server that misbehaves when told to, and what a client then sees.

use std::time::Duration;

use cofferdam::local::FaultSettings;
use cofferdam::machines::{Call, Certainty, Decision, Force, judge};
use reqwest::Method;
use serde_json::{Value, json};

use super::server::{APP, Server, machine, machines, shell, simulated, with_faults};

fn named(name: &str) -> Value {
    let mut body = shell("x");
    body["name"] = json!(name);
    body
}

async fn names(server: &Server) -> Vec<String> {
    let listed = server.get(&machines("")).await.expect(200);
    let names = listed.as_array().unwrap().iter();
    names
        .map(|m| m["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_lost_answer_leaves_the_machine_behind() {
    let server = with_faults(&["create name=a times=1: lose", "create name=b times=1: drop"]).await;
    for name in ["a", "b"] {
        let sent = server
            .send(Method::POST, &machines(""), Some(named(name)), None)
            .await;
        assert!(sent.is_err(), "the connection is closed");
    }
    assert_eq!(names(&server).await, ["a"]);
    server.post(&machines(""), named("a")).await.expect(409);
    server.post(&machines(""), named("b")).await.expect(200);
    server.end().await;
}

#[tokio::test]
async fn a_cut_answer_declares_all_of_its_body() {
    let server = with_faults(&["create times=1: cut"]).await;
    let request = serde_json::from_value(named("a")).unwrap();
    let error = server.client.create(APP, &request).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::Unknown);
    assert_eq!(names(&server).await, ["a"]);
    server.end().await;
}

#[tokio::test]
async fn refusals_are_as_the_rule_says_and_end_with_it() {
    let server = with_faults(&[
        r#"create times=1: refuse status=503 error="try again" code=unknown retry_after_s=3"#,
        r#"list times=1: refuse status=200 body="not json""#,
    ])
    .await;
    let refused = server.post(&machines(""), named("a")).await;
    assert_eq!(refused.headers["retry-after"], "3");
    assert_eq!(
        refused.expect(503),
        json!({"error": "try again", "status": "unknown"})
    );
    assert_eq!(
        server.get(&machines("")).await.expect(200),
        json!("not json")
    );
    server.post(&machines(""), named("a")).await.expect(200);
    server.end().await;
}

#[tokio::test]
async fn shortages_are_worded_as_the_service_words_them() {
    for (kind, expected) in [
        ("region", "422 could not find a candidate host"),
        (
            "memory",
            "409 aborted: could not reserve resource for machine: insufficient memory",
        ),
        (
            "cpus",
            "409 aborted: could not reserve resource for machine: insufficient CPUs",
        ),
        (
            "resources",
            "409 aborted: insufficient resources available to fulfill request",
        ),
        (
            "ips",
            "409 aborted: insufficient IPs available to fulfill request",
        ),
        (
            "volume",
            "412 insufficient resources to create new machine with existing volume",
        ),
        (
            "quota",
            "403 the requested machine would put the organization over the allowed quota",
        ),
        ("governor", "503 governor policy blocked start"),
    ] {
        let server = with_faults(&[&format!("create times=1: no-capacity kind={kind}")]).await;
        let answer = server.post(&machines(""), named("a")).await;
        assert!(
            answer.refusal().starts_with(expected),
            "{kind}: {}",
            answer.refusal()
        );
        assert!(names(&server).await.is_empty());
        server.end().await;
    }
}

#[tokio::test]
async fn a_full_region_gives_way_to_the_next_one_asked_for() {
    let server = simulated(|settings| {
        settings.regions = vec!["ams".into(), "fra".into()];
        settings.faults.rules = vec!["create region=ams: no-capacity".parse().unwrap()];
    })
    .await;
    let mut body = shell("x");
    body["region"] = json!("ams,fra");
    let placed = server.post(&machines(""), body.clone()).await.expect(200);
    assert_eq!(placed["region"], "fra");
    body["region"] = json!("ams");
    server.post(&machines(""), body).await.expect(422);
    server.end().await;
}

#[tokio::test]
async fn a_newborn_is_hidden_and_its_name_is_taken() {
    let server = with_faults(&["create: hide ms=3600000"]).await;
    let id = server.create(named("a")).await;
    server.get(&machine(&id, "")).await.expect(404);
    server
        .get(&machine(&id, "/wait?timeout=1"))
        .await
        .expect(404);
    assert!(names(&server).await.is_empty());
    let twin = server.post(&machines(""), named("a")).await;
    assert!(twin.refusal().contains(&id), "{}", twin.refusal());
    server.client.delete(APP, &id, Force::Yes).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_forgotten_machine_never_was() {
    let server = with_faults(&["create name=a: forget", "get nth=2: forget"]).await;
    let lost = server.create(named("a")).await;
    server.get(&machine(&lost, "")).await.expect(404);
    server.create(named("a")).await;
    let id = server.create(named("b")).await;
    server.get(&machine(&id, "")).await.expect(404);
    assert!(names(&server).await.is_empty());
    server.end().await;
}

#[tokio::test]
async fn machines_stick_where_they_are_told_to() {
    for (rule, state) in [
        ("create: stick state=created", "created"),
        ("create: slow-pull ms=3600000", "created"),
        ("create: stick state=starting", "starting"),
    ] {
        let server = with_faults(&[rule]).await;
        let id = server.create(shell("x")).await;
        server.reach(&id, state).await;
        let late = server.get(&machine(&id, "/wait?timeout=1")).await;
        assert!(
            late.refusal().ends_with(&format!("currently {state}")),
            "{}",
            late.refusal()
        );
        // As the real service: what was never started needs no force.
        if state == "starting" {
            server.delete(&machine(&id, "")).await.expect(412);
            let forced = server.delete(&machine(&id, "?force=true")).await;
            forced.expect(200);
        } else {
            server.delete(&machine(&id, "")).await.expect(200);
        }
        server.reach(&id, "destroyed").await;
        server.end().await;
    }
    let server = with_faults(&["create: stick state=stopping"]).await;
    let id = server.create(shell("x")).await;
    server.reach(&id, "started").await;
    server
        .post(&machine(&id, "/stop"), json!({"timeout": "1ms"}))
        .await
        .expect(200);
    let late = server
        .get(&machine(&id, "/wait?state=stopped&timeout=1"))
        .await;
    assert!(
        late.refusal().ends_with("currently stopping"),
        "{}",
        late.refusal()
    );
    server.end().await;
}

#[tokio::test]
async fn a_machine_can_stick_for_a_while_on_its_way_out() {
    let server = with_faults(&["delete: stick state=destroying ms=300"]).await;
    let id = server.create(shell("x")).await;
    server.reach(&id, "started").await;
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);
    server.reach(&id, "destroying").await;
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);
    server.reach(&id, "destroyed").await;
    server.end().await;
}

#[tokio::test]
async fn a_host_that_does_not_answer_shows_in_reads_and_fails_changes() {
    let server = with_faults(&["create: unreachable"]).await;
    let id = server.create(shell("x")).await;
    let shown = server.get(&machine(&id, "")).await.expect(200);
    assert_eq!(shown["host_status"], "unreachable");
    assert!(shown.get("config").is_none() && shown["incomplete_config"].is_object());
    let refused = server.delete(&machine(&id, "?force=true")).await;
    assert!(
        refused.refusal().starts_with("408 deadline_exceeded"),
        "{}",
        refused.refusal()
    );
    server.end().await;
}

#[tokio::test]
async fn the_documented_limits_hold_when_asked_for() {
    let server = simulated(|settings| {
        settings.faults = FaultSettings {
            documented_limits: true,
            ..FaultSettings::default()
        };
    })
    .await;
    let mut refused = None;
    for n in 0..20 {
        let answer = server.post(&machines(""), named(&format!("a{n}"))).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        answer.expect(200);
    }
    assert_eq!(refused.unwrap().refusal(), "429 rate limit exceeded");
    server.end().await;
}

#[tokio::test]
async fn rules_are_changed_and_counted_over_http() {
    let server = with_faults(&[]).await;
    let rules = json!([
        "create nth=2: rate-limit per_s=0 burst=1",
        "create: delay ms=1"
    ]);
    let put = |body: Value| server.call(Method::PUT, "/_faults", Some(body));
    put(rules).await.expect(200);
    server.create(named("a")).await;
    let counts = server.get("/_faults").await.expect(200);
    assert_eq!(counts["rules"][0]["seen"], 1);
    assert_eq!(counts["rules"][1]["fired"], 1);
    let unsound = put(json!(["create: explode"])).await;
    assert!(
        unsound.refusal().contains("no action 'explode'"),
        "{}",
        unsound.refusal()
    );
    assert_eq!(
        server.get("/_faults").await.expect(200)["rules"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(counts["machines"], json!({"names": ["a"], "most": 1}));
    server.delete("/_faults").await.expect(200);
    let counts = server.get("/_faults").await.expect(200);
    assert_eq!(counts["rules"], json!([]));
    assert_eq!(counts["fired"], 1, "what gone rules did still counts");
    server.end().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_left_by_its_client_and_ends_in_time() {
    let server = with_faults(&["get: hang"]).await;
    let id = server.create(shell("x")).await;
    let path = machine(&id, "");
    let call = server.get(&path);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), call)
            .await
            .is_err()
    );
    server.end().await;
}

#[tokio::test]
async fn the_client_judges_each_shortage_as_it_is_meant() {
    for (rule, expected) in [
        ("create: no-capacity", Decision::OtherRegion),
        ("create: no-capacity kind=memory", Decision::OtherHost),
        ("create: no-capacity kind=quota", Decision::Quota),
        (
            "create: rate-limit per_s=0 burst=1",
            Decision::RateLimited { retry_after: None },
        ),
        ("create nth=2: drop", Decision::LookUp),
        ("create nth=2: lose", Decision::LookUp),
    ] {
        let server = with_faults(&[rule]).await;
        let mut decision = None;
        for name in ["a", "b"] {
            let request = serde_json::from_value(named(name)).unwrap();
            if let Err(error) = server.client.create(APP, &request).await {
                decision = Some(judge(Call::Create, &error));
            }
        }
        assert_eq!(decision, Some(expected), "{rule}");
        server.end().await;
    }
}

#[tokio::test]
async fn the_client_adopts_a_twin_and_gives_up_an_image_that_is_not_there() {
    let server = with_faults(&[]).await;
    let machine_id = server.create(named("a")).await;
    let twin = serde_json::from_value(named("a")).unwrap();
    let error = server.client.create(APP, &twin).await.unwrap_err();
    let decision = judge(Call::Create, &error);
    assert_eq!(decision, Decision::Adopt { machine_id });
    let mut body = named("b");
    body["config"]["image"] = json!("registry.fly.io/none:v1");
    let request = serde_json::from_value(body).unwrap();
    let error = server.client.create(APP, &request).await.unwrap_err();
    let decision = judge(Call::Create, &error);
    assert!(
        matches!(
            decision,
            Decision::ImageRejected { .. } | Decision::ImageUnknown { .. }
        ),
        "{decision:?}"
    );
    server.end().await;
}
