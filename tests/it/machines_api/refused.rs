//! Requests that break a rule: each answer names the fault, and nothing is left behind.

use cofferdam::local::{Error, Guests, LocalServer, ServerSettings};
use cofferdam::shutdown::Shutdown;
use cofferdam_sandbox::Limits;
use serde_json::{Value, json};

use super::server::{machine, machines, shell, shell_with, simulated};

#[tokio::test]
async fn what_breaks_a_rule_makes_no_machine() {
    let server = simulated(|_| {}).await;
    let named = |name: &str| {
        let mut body = shell("x");
        body["name"] = json!(name);
        body
    };
    let placed = |region: &str| {
        let mut body = shell("x");
        body["region"] = json!(region);
        body
    };
    let cases: Vec<(Value, &str)> = vec![
        (json!({}), "400 invalid_argument: config.image is required"),
        (
            json!({"config": 7}),
            "400 invalid_argument: unable to read the body",
        ),
        (named("Not Good"), "400 invalid_argument: invalid name"),
        (
            placed("../mars"),
            "400 invalid_argument: '../mars' is no code of a region",
        ),
        (
            shell_with("x", json!({"guest": {"cpus": 3}})),
            "400 invalid config.guest.cpus, must be one of",
        ),
        (
            shell_with("x", json!({"guest": {"memory_mb": 100}})),
            "400 invalid config.guest.memory_mb, ",
        ),
        (
            shell_with(
                "x",
                json!({"files": [{"guest_path": "a", "raw_value": ""}]}),
            ),
            "400 invalid_argument: config.files[0].guest_path must be absolute",
        ),
        (
            shell_with(
                "x",
                json!({"files": [{"guest_path": "/a", "secret_name": "s"}]}),
            ),
            "400 invalid_argument: config.files[0].secret_name is not supported",
        ),
        (
            shell_with(
                "x",
                json!({"mounts": [{"volume": "vol_1", "path": "/data"}]}),
            ),
            "400 invalid_argument: config.mounts is not supported",
        ),
        (
            shell_with("x", json!({"stop_config": {"timeout": "10m"}})),
            "400 invalid_argument: stop timeout must be at most 5m0s",
        ),
        (
            shell_with("x", json!({"image": "registry.fly.io/none:v1"})),
            "400 failed to get manifest registry.fly.io/none:v1: manifest unknown",
        ),
        (
            shell_with("x", json!({"image": "No Reference"})),
            "400 failed to get manifest No Reference: manifest unknown",
        ),
        (
            json!({"config": {"image": "host"}}),
            "400 invalid_argument: the image has no command",
        ),
    ];
    for (body, expected) in cases {
        let answer = server.post(&machines(""), body.clone()).await;
        let refusal = answer.refusal();
        assert!(refusal.starts_with(expected), "{body}: {refusal}");
    }
    assert_eq!(server.get(&machines("")).await.expect(200), json!([]));
    server.end().await;
}

#[tokio::test]
async fn calls_on_a_machine_name_what_is_wrong_with_them() {
    let server = simulated(|_| {}).await;
    let id = server.create(shell("x")).await;
    server.reach(&id, "started").await;
    for (path, body, expected) in [
        (
            "/signal",
            json!({"signal": "SIGSTOP"}),
            "400 invalid_argument: invalid signal 'SIGSTOP'",
        ),
        (
            "/signal",
            json!({"signal": 99}),
            "400 invalid_argument: invalid signal '99'",
        ),
        (
            "/stop",
            json!({"signal": "TERM"}),
            "400 invalid_argument: invalid signal 'TERM'",
        ),
        (
            "/stop",
            json!({"timeout": "soon"}),
            "400 invalid_argument: unable to read the body",
        ),
        (
            "/restart?timeout=x",
            json!({}),
            "400 invalid_argument: invalid duration \"x\"",
        ),
        (
            "/exec",
            json!({"command": ["a"], "timeout": 61}),
            "400 invalid_argument: timeout must",
        ),
        (
            "/exec",
            json!({"command": ["a"], "container": "c"}),
            "400 invalid_argument: the machine has",
        ),
        (
            "",
            json!({"config": {"image": ""}}),
            "400 invalid_argument: config.image is required",
        ),
    ] {
        let answer = server.post(&machine(&id, path), body).await;
        assert!(
            answer.refusal().starts_with(expected),
            "{path}: {}",
            answer.refusal()
        );
    }
    for (path, expected) in [
        (
            "/events?limit=51",
            "400 invalid_argument: invalid limit '51': must be between 1 and 50",
        ),
        (
            "/wait?state=happy",
            "400 invalid_argument: invalid state 'happy'",
        ),
        (
            "/ps?sort_by=luck",
            "400 invalid_argument: sort_by must be one of",
        ),
        ("?version=none", "404 not_found: machine version not found"),
    ] {
        let answer = server.get(&machine(&id, path)).await;
        assert!(
            answer.refusal().starts_with(expected),
            "{path}: {}",
            answer.refusal()
        );
    }
    server.end().await;
}

#[tokio::test]
async fn what_there_may_be_is_bounded() {
    let server = simulated(|settings| {
        settings.bounds.machines = 2;
        settings.bounds.body_bytes = 64 * 1024;
    })
    .await;
    let first = server.create(shell("x")).await;
    server.create(shell("x")).await;
    let full = server.post(&machines(""), shell("x")).await;
    assert_eq!(full.refusal(), "422 could not find a candidate host");
    assert_eq!(full.body["status"], "insufficient_capacity");
    server
        .delete(&machine(&first, "?force=true"))
        .await
        .expect(200);
    server.reach(&first, "destroyed").await;
    server.create(shell("x")).await;
    let large = shell(&"x".repeat(70_000));
    server.post(&machines(""), large).await.expect(413);
    server.end().await;
}

/// Opens a server where limits hold for each process only.
async fn open_with_weak_limits(allowed: bool) -> Result<LocalServer, Error> {
    let state = tempfile::tempdir().unwrap();
    let mut settings = ServerSettings::new("token".to_owned(), state.path().to_owned());
    let Guests::Sandboxed(engine) = &mut settings.guests else {
        panic!("guests are not sandboxed by default");
    };
    engine.limits = Some(Limits::Rlimit);
    if allowed {
        engine.require_limits = false;
    }
    LocalServer::open(settings, &Shutdown::new()).await
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
async fn a_server_without_limits_for_whole_machines_opens_only_when_that_is_allowed() {
    match open_with_weak_limits(true).await {
        Ok(server) => assert!(server.report().contains("limits=rlimit")),
        Err(error) => {
            eprintln!("skipped: machines cannot be run here: {error}");
            return;
        }
    }
    let refused = open_with_weak_limits(false).await.unwrap_err();
    assert!(matches!(refused, Error::WeakLimits(_)), "{refused:?}");
    let said = refused.to_string();
    for expected in [
        "memory=process",
        "Delegate=yes",
        "COFFERDAM_ALLOW_WEAK_LIMITS=true",
    ] {
        assert!(said.contains(expected), "{said} does not say {expected}");
    }
}
