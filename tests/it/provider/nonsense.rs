//! Answers that make no sense, and states that nobody has heard of.

use std::time::Duration;

use serde_json::json;

use crate::support::stack::Plan;

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_that_cannot_be_read_makes_no_second_machine_and_none_without_an_id() {
    let bodies = [
        "",
        "<html>",
        "null",
        "{}",
        r#"{\"id\":\"\"}"#,
        r#"{\"id\":\"../../x\"}"#,
    ];
    let rules = bodies.map(|body| format!("create times=1: refuse status=200 body=\"{body}\""));
    let stack = Plan::simulated(Duration::from_millis(20))
        .faults(&rules.each_ref().map(String::as_str))
        .start()
        .await;
    let mut ids = Vec::new();
    for _ in 0..bodies.len() {
        let id = stack.submit(json!({"cmd": ["true"]})).await;
        let result = stack.result(&id).await;
        assert_eq!(result["outcome"], "completed", "{result}");
        assert_eq!(result["attempts"], 1, "{result}");
        ids.push(id);
    }
    stack.settles(&ids, BOUND).await;
    let counts = stack.faults().await;
    assert_eq!(counts["fired"], bodies.len(), "{counts}");
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_nobody_has_heard_of_is_neither_alive_nor_over() {
    let machine =
        r#"{\"id\":\"feedfacefeedfa\",\"name\":\"sandbox-odd-1\",\"state\":\"hibernating\"}"#;
    // Whatever looks: the sweep, its closer look, and the tear-down.
    let rules = [
        format!("list times=3: refuse status=200 body=\"[{machine}]\""),
        format!("get times=3: refuse status=200 body=\"{machine}\""),
        "list times=2: refuse status=200 body=\"null\"".to_owned(),
        "get times=1: refuse status=200 body=\"[]\"".to_owned(),
    ];
    let stack = Plan::simulated(Duration::from_secs(3))
        .faults(&rules.each_ref().map(String::as_str))
        .start()
        .await;
    let request = json!({"id": "odd", "cmd": ["true"], "env": {"SIMULATED_GUEST": "stays"}});
    let id = stack.submit(request).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    assert_eq!(result["attempts"], 1, "{result}");
    stack.settles(&[id], BOUND).await;
    stack.end().await;
}
