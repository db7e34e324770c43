//! The rules by which a local Machines server misbehaves, changed and counted while it runs.

use serde_json::{Value, json};

use crate::support::parts;

async fn ask(call: reqwest::RequestBuilder, token: &str) -> reqwest::Response {
    let answer = call.bearer_auth(token).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer
}

/// These rules from now on, and no others.
pub(crate) async fn put(api: &str, token: &str, rules: &[&str]) {
    let call = parts::http().put(format!("{api}/_faults"));
    ask(call.json(&json!(rules)), token).await;
}

/// How often each rule was met, and the names of the machines that there really are.
pub(crate) async fn counts(api: &str, token: &str) -> Value {
    let call = parts::http().get(format!("{api}/_faults"));
    ask(call, token).await.json().await.unwrap()
}
