//! A token that the service takes no more, and then takes again: a real worker and its log.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::stack::Plan;
use crate::support::until::until;

const RUNS: usize = 20;

/// Lines of a process' log, of this level or with this message.
fn lines(said: &str, field: &str, value: &str) -> Vec<Value> {
    said.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line[field] == value)
        .collect()
}

/// Waits until readiness answers this status, and says what it says.
async fn readiness(admin: &str, status: u16) -> String {
    let url = format!("http://{admin}/readyz");
    until(&format!("readiness to be {status}"), async || {
        let answer = parts::http().get(&url).send().await.unwrap();
        let (seen, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        if seen == status {
            Ok(text)
        } else {
            Err(format!("{seen} {text}"))
        }
    })
    .await
}

#[tokio::test]
async fn a_refused_token_stops_booting_keeps_requests_is_told_once_and_ends_by_itself() {
    let args = ["--simulate", "20", "--fault-control"];
    let fleet = Fleet::start(&args, &[("COFFERDAM_SWEEP_S", "1")]).await;
    let refuse = r#"*: refuse status=401 error="Authenticate: token validation error""#;
    fleet.put_faults(&[refuse]).await;
    let (worker, admin) = fleet.worker().await;
    readiness(&admin, 200).await;
    let raw = fleet.raw().await;
    for n in 0..RUNS {
        let request = json!({"id": format!("n{n}"), "cmd": ["true"]}).to_string();
        raw.add("runs", &[("run", &request)]).await;
    }
    let why = readiness(&admin, 503).await;
    assert!(why.contains("refuses us in sandboxes"), "{why}");
    // It has tried again since, after the pause that a refusal brings: once and again refused.
    let create = r#"create: refuse status=401 error="Authenticate: token validation error""#;
    fleet.put_faults(&[create, refuse]).await;
    until("two more rounds of refusals", async || {
        let seen = fleet.faults().await["rules"][0]["fired"].as_u64().unwrap();
        if seen > RUNS as u64 {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    })
    .await;
    assert_eq!(raw.length("results").await, 0, "no run may end by it");
    assert_eq!(fleet.machines_named().await, json!([]));

    fleet.put_faults(&[]).await;
    until("every run to end", async || {
        let results = raw.length("results").await;
        if results == RUNS {
            Ok(())
        } else {
            Err(format!("{results} results: {}", worker.said()))
        }
    })
    .await;
    let results = fleet.tool(&["results", "--limit", "100", "--json"]).json();
    assert!(
        results
            .iter()
            .all(|result| result["outcome"] == "completed"),
        "{results:#?}"
    );
    readiness(&admin, 200).await;
    let said = worker.said();
    let errors = lines(&said, "level", "ERROR");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let text = errors[0].to_string();
    assert!(text.contains("token validation error"), "{text}");
    let again = "the Machines API accepts our calls again";
    assert_eq!(lines(&said, "message", again).len(), 1, "{said}");
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_refuses_us_is_told_while_another_takes_every_run() {
    let rule = "create app=wrong: refuse status=403 error=\"not authorized to access this app\"";
    let mut stack = Plan::simulated(Duration::from_millis(20))
        .workers(0)
        .apps(&["wrong", "right"])
        .faults(&[rule])
        .start()
        .await;
    let deps = stack.deps();
    let health = deps.health.clone();
    stack.add_worker_of(deps);
    let mut ids = Vec::new();
    for _ in 0..10 {
        let id = stack.submit(json!({"cmd": ["true"]})).await;
        assert_eq!(stack.result(&id).await["machine"]["app"], "right");
        ids.push(id);
    }
    let refusing = health.refusing();
    assert_eq!(refusing.len(), 1, "{refusing:?}");
    assert!(refusing[0].starts_with("wrong ("), "{refusing:?}");
    stack.mend_faults().await;
    until("the app to be tried again", || async {
        let id = stack.submit(json!({"cmd": ["true"]})).await;
        assert_eq!(stack.result(&id).await["outcome"], "completed");
        health.refusing().is_empty().then_some(()).ok_or(id)
    })
    .await;
    stack.end().await;
}
