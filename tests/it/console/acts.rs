//! What an operator does at the console is done, and recorded.

use serde_json::json;

use super::scene::Scene;
use crate::support::until::until;

#[tokio::test]
async fn an_operator_cancels_reruns_pauses_and_puts_back() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let hangs = json!({"SIMULATED_GUEST": "hangs", "API_KEY": "hidden-value"});
    scene
        .submit(&json!({"id": "stuck", "cmd": ["true"], "env": hangs}))
        .await;
    operator.until_page("/runs/stuck", "running").await;
    let page = operator.page("/runs/stuck").await;
    assert!(
        page.contains("API_KEY") && !page.contains("hidden-value"),
        "{page}"
    );
    assert_eq!(
        operator.act("cancel", &[("run", "stuck")]).await,
        "stuck is cancelled"
    );
    let page = operator.until_page("/runs/stuck", "cancelled").await;
    assert!(page.contains("cofferdam rerun stuck"), "{page}");

    let said = operator.act("rerun", &[("run", "stuck")]).await;
    let new = said
        .strip_prefix("stuck is asked for again as ")
        .unwrap()
        .to_owned();
    operator
        .until_page(&format!("/runs/{new}"), "running")
        .await;
    operator.act("cancel", &[("run", &new)]).await;
    let said = operator
        .act("cancel", &[("run", "stuck"), ("run", "nobody")])
        .await;
    assert!(
        said.contains("1 of 2 cancelled; run nobody is not known"),
        "{said}"
    );

    assert_eq!(
        operator.act("pause", &[("tenant", "acme")]).await,
        "acme is paused"
    );
    for n in 0..2 {
        scene
            .submit(&json!({"id": format!("waits-{n}"), "tenant": "acme", "cmd": ["true"]}))
            .await;
    }
    let page = operator
        .until_page("/runs/waits-1", "its tenant is paused")
        .await;
    assert!(page.contains("action=\"/acts/priority\""), "{page}");
    let said = operator
        .act("priority", &[("run", "waits-1"), ("priority", "0")])
        .await;
    assert_eq!(said, "waits-1 has priority 0");
    let order: Vec<String> = scene
        .fleet
        .raw()
        .await
        .say("ZRANGE", "queue:acme", &["0", "-1"])
        .await;
    assert_eq!(order, ["waits-1", "waits-0"]);
    let page = operator.page("/").await;
    assert!(page.contains("tenant is paused"), "{page}");
    let said = operator
        .act(
            "tenant",
            &[("tenant", "acme"), ("max_in_flight", "5"), ("weight", "2")],
        )
        .await;
    assert_eq!(said, "acme is changed");
    let said = operator
        .act("tenant", &[("tenant", "acme"), ("weight", "1000")])
        .await;
    assert!(said.starts_with("Not done: "), "{said}");
    let page = operator.page("/tenants").await;
    assert!(page.contains("acme") && page.contains("paused"), "{page}");
    let said = operator
        .act("cancel-tenant", &[("tenant", "acme"), ("sure", "acm")])
        .await;
    assert!(said.starts_with("Not done: "), "{said}");
    operator
        .act("cancel-tenant", &[("tenant", "acme"), ("sure", "acme")])
        .await;
    operator.until_page("/runs/waits-0", "cancelled").await;
    assert_eq!(
        operator.act("resume", &[("tenant", "acme")]).await,
        "acme is resumed"
    );

    let page = operator.page("/audit").await;
    for part in [
        "cancel",
        "run=stuck",
        "priority",
        "tenant=acme",
        "127.0.0.1",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let length: usize = scene.fleet.raw().await.length("audit").await;
    assert_eq!(length, 11);
    scene.end().await;
}

#[tokio::test]
async fn dead_letters_are_put_back_edited_and_deleted() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let raw = scene.fleet.raw().await;
    for n in 0..3 {
        let run = format!("{{\"id\":\"letter-{n}\",\"cmd\":[\"true\"]");
        raw.add("runs", &[("run", &run)]).await;
    }
    let page = operator.until_page("/dead", "3 in all").await;
    let ids: Vec<&str> = page.split("href=\"/dead/").skip(1).collect();
    let ids: Vec<String> = ids
        .iter()
        .map(|rest| rest.split('"').next().unwrap().replace("%2D", "-"))
        .collect();
    assert_eq!(ids.len(), 3);
    let letter = operator.page(&format!("/dead/{}", ids[0])).await;
    assert!(
        letter.contains("letter-2") && letter.contains("textarea"),
        "{letter}"
    );
    let fixed = json!({"id": "letter-2", "cmd": ["true"]}).to_string();
    let said = operator
        .act("dead-edit", &[("entry", &ids[0]), ("run", "{")])
        .await;
    assert!(said.starts_with("Not done: "), "{said}");
    operator
        .act("dead-edit", &[("entry", &ids[0]), ("run", &fixed)])
        .await;
    operator.until_page("/runs/letter-2", "completed").await;
    let said = operator.act("dead-delete", &[("entry", &ids[1])]).await;
    assert!(said.ends_with("is deleted"), "{said}");
    operator.act("dead-requeue", &[("entry", &ids[2])]).await;
    // As it came: it is set aside again, as another entry.
    until("the letter to come back", async || {
        let page = operator.page("/dead").await;
        let is_back = page.contains("1 in all") && !page.contains(&ids[2].replace('-', "%2D"));
        is_back.then_some(()).ok_or(page)
    })
    .await;
    scene.end().await;
}

#[tokio::test]
async fn a_worker_is_made_quiet_and_works_again() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let page = operator.until_page("/workers", "worker-").await;
    let name = page.split("worker-").nth(1).unwrap();
    let name = format!("worker-{}", name.split('<').next().unwrap());
    let said = operator.act("quiet", &[("worker", &name)]).await;
    assert!(said.contains("takes no more work"), "{said}");
    operator
        .until_page("/workers", "quiet: takes no more work")
        .await;
    // Whoever reads a request now is not this worker, and there is no other.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    scene.submit(&json!({"id": "waits", "cmd": ["true"]})).await;
    operator.until_page("/runs/waits", "not known").await;
    let said = operator.act("unquiet", &[("worker", &name)]).await;
    assert!(said.contains("takes work again"), "{said}");
    operator.until_page("/runs/waits", "completed").await;
    let said = operator.act("quiet", &[("worker", "nobody")]).await;
    assert!(said.starts_with("Not done: "), "{said}");
    scene.end().await;
}

#[tokio::test]
async fn runs_are_found_by_what_they_are() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    for n in 0..60 {
        scene
            .submit(&json!({"id": format!("ok-{n}"), "tenant": "many", "cmd": ["true"]}))
            .await;
    }
    let exits = json!({"SIMULATED_GUEST": "exits"});
    scene
        .submit(&json!({"id": "bad", "cmd": ["true"], "env": exits}))
        .await;
    operator
        .until_page("/runs/bad", "exited_without_result")
        .await;
    operator
        .until_page("/runs?outcome=failed", "href=\"/runs/bad\"")
        .await;
    let page = operator
        .page("/runs?reason=exited_without_result&since=1h")
        .await;
    assert!(
        page.contains("href=\"/runs/bad\"") && !page.contains("ok%2D"),
        "{page}"
    );
    let page = operator.page("/runs?by=reason").await;
    assert!(page.contains("exited_without_result"), "{page}");
    let first = operator
        .until_page("/runs?tenant=many&outcome=completed", "rel=\"next\"")
        .await;
    let next = first
        .split("href=\"/runs?")
        .find(|part| part.contains("before="))
        .unwrap();
    let next = next.split('"').next().unwrap().replace("&amp;", "&");
    until("all sixty to have ended", async || {
        let second = operator.page(&format!("/runs?{next}")).await;
        let count = |page: &str| page.matches("name=\"run\" value=\"ok-").count();
        let whole = count(&first) + count(&second);
        (count(&first) == 50 && whole >= 50)
            .then_some(())
            .ok_or(second)
    })
    .await;
    assert_eq!(operator.get("/runs?id=bad").await.status(), 303);
    assert_eq!(operator.get("/runs?outcome=fine").await.status(), 400);
    assert_eq!(operator.get("/runs/%0a").await.status(), 400);
    assert_eq!(operator.get("/nowhere").await.status(), 404);
    let page = operator.page("/").await;
    assert!(
        page.contains("role=\"img\"") && page.contains("p95"),
        "{page}"
    );
    let machines = operator.page("/machines").await;
    assert!(machines.contains("sandboxes"), "{machines}");
    scene.end().await;
}
