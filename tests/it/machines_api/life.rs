//! Lives of real machines: how they start, end, are stopped, restarted, replaced and removed.

use std::time::Duration;

use cofferdam::machines::wire::{ExitEvent, MachineState};
use cofferdam::machines::{Force, Wait};
use serde_json::{Value, json};

use super::server::{APP, Server, machine, machines, sandboxed, shell, shell_with};
use crate::support::until::until;

fn exit_of(request: &Value) -> ExitEvent {
    serde_json::from_value(request["exit_event"].clone()).unwrap()
}

fn states_told(machine: &Value) -> Vec<String> {
    let events = machine["events"].as_array().unwrap().iter().rev();
    let told = |event: &Value| {
        let part = |name: &str| event[name].as_str().unwrap().to_owned();
        format!("{}/{}/{}", part("type"), part("status"), part("source"))
    };
    events.map(told).collect()
}

#[tokio::test]
async fn a_machine_starts_ends_and_stays_stopped() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let made = server
        .post(&machines(""), shell("echo hello; echo oops >&2; exit 40"))
        .await;
    assert!(made.headers.contains_key("fly-request-id"));
    let made = made.expect(200);
    assert_eq!(made["state"], "created");
    assert_eq!(made["instance_id"], made["version"]);
    assert_eq!(made["version"].as_str().unwrap().len(), 26);
    assert_eq!(made["region"], "local");
    assert_eq!(made["image_ref"]["repository"], "host");
    let digest = made["image_ref"]["digest"].as_str().unwrap();
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );
    let event = made["events"][0].as_object().unwrap();
    assert!(!event.contains_key("request"), "{event:?}");
    let id = made["id"].as_str().unwrap();
    assert_eq!(id.len(), 14);
    let stopped = server.reach(id, "stopped").await;
    assert_eq!(
        states_told(&stopped),
        [
            "launch/created/user",
            "start/started/flyd",
            "exit/stopped/flyd"
        ]
    );
    let request = server.exit(id, 1).await;
    let exit = exit_of(&request);
    assert_eq!((exit.code(), exit.ended_by()), (40, None));
    assert_eq!(
        (exit.guest_exit_code, exit.guest_signal, exit.signal),
        (Some(0), Some(-1), Some(-1))
    );
    assert!(!exit.oom_killed && !exit.requested_stop && !exit.restarting);
    assert_eq!(request["cofferdam"]["code"], 40);
    server.logged(id, "hello").await;
    server.logged(id, "oops").await;
    let metadata = &stopped["config"]["metadata"];
    let told = format!(
        "isolation={} limits={}",
        metadata["cofferdam_isolation"].as_str().unwrap(),
        metadata["cofferdam_limits"].as_str().unwrap()
    );
    assert_eq!(told, server.report);
    server.delete(&machine(id, "")).await.expect(200);
    server.reach(id, "destroyed").await;
    server.end().await;
}

#[tokio::test]
async fn a_machine_that_destroys_itself_frees_its_name_and_can_still_be_read() {
    let Some(server) = sandboxed().await else {
        return;
    };
    for line in ["exit 0", "exit 3"] {
        let mut body = shell_with(line, json!({"auto_destroy": true}));
        body["name"] = json!("sandbox-one-1");
        let id = server.create(body).await;
        let wait = Wait {
            states: &[MachineState::Destroyed],
            version: None,
            timeout: Duration::from_secs(60),
        };
        let reached = server.client.wait(APP, &id, &wait).await.unwrap();
        assert_eq!(reached.state, Some(MachineState::Destroyed));
        let read = server.client.get(APP, &id).await.unwrap();
        assert!(read.state.is_gone());
        let expected = i64::from(line == "exit 3") * 3;
        assert_eq!(read.last_exit().unwrap().code(), expected);
        let stopped = server
            .get(&machine(&id, "/wait?state=stopped&timeout=1"))
            .await;
        assert_eq!(stopped.refusal(), "404 not_found: machine not found");
        server.delete(&machine(&id, "")).await.expect(404);
        let listed = server.get(&machines("")).await.expect(200);
        assert_eq!(listed, json!([]));
    }
    let deleted = server
        .get(&machines("?include_deleted=true"))
        .await
        .expect(200);
    assert_eq!(deleted.as_array().unwrap().len(), 2);
    server.end().await;
}

async fn started(server: &Server, body: Value) -> String {
    let id = server.create(body).await;
    server.reach(&id, "started").await;
    server.logged(&id, "ready").await;
    id
}

#[tokio::test]
async fn a_stop_asks_first_and_kills_after() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let polite = "trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let id = started(&server, shell(polite)).await;
    server
        .post(&machine(&id, "/stop"), json!({}))
        .await
        .expect(200);
    server.reach(&id, "stopped").await;
    let exit = exit_of(&server.exit(&id, 1).await);
    assert_eq!((exit.code(), exit.requested_stop), (7, true));
    server
        .post(&machine(&id, "/stop"), json!({}))
        .await
        .expect(200);

    let stubborn = "trap '' TERM INT; echo ready; while :; do sleep 0.05; done";
    let id = started(&server, shell(stubborn)).await;
    let how = json!({"signal": "SIGINT", "timeout": "300ms"});
    server.post(&machine(&id, "/stop"), how).await.expect(200);
    server.reach(&id, "stopped").await;
    let exit = exit_of(&server.exit(&id, 1).await);
    assert_eq!(
        (exit.code(), exit.ended_by(), exit.requested_stop),
        (137, Some(9), true)
    );
    server.end().await;
}

#[tokio::test]
async fn a_stopped_machine_starts_again_with_fresh_files() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let line = "ls /tmp; touch /tmp/left; echo ready; exec sleep 100";
    let id = started(&server, shell(line)).await;
    let early = server.post(&machine(&id, "/start"), json!({})).await;
    assert_eq!(
        early.refusal(),
        "412 failed_precondition: machine still active, refusing to start"
    );
    server
        .post(&machine(&id, "/stop"), json!({"signal": "SIGKILL"}))
        .await
        .expect(200);
    server.reach(&id, "stopped").await;
    let answer = server
        .post(&machine(&id, "/start"), json!({}))
        .await
        .expect(200);
    let expected = json!({"previous_state": "stopped", "migrated": false, "new_host": ""});
    assert_eq!(answer, expected);
    until("the second start's line", || async {
        let lines = server.log(&id).await;
        match lines.iter().filter(|line| *line == "ready").count() {
            2 => Ok(()),
            _ => Err(format!("{lines:?}")),
        }
    })
    .await;
    assert!(!server.log(&id).await.contains(&"left".to_owned()));
    server.client.delete(APP, &id, Force::Yes).await.unwrap();
    server.reach(&id, "destroyed").await;
    server.end().await;
}

#[tokio::test]
async fn a_restart_keeps_the_version_and_an_update_changes_it() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let id = started(&server, shell("echo ready; exec sleep 100")).await;
    let before = server.reach(&id, "started").await;
    server
        .call(
            reqwest::Method::POST,
            &machine(&id, "/restart?timeout=5&signal=SIGTERM"),
            None,
        )
        .await
        .expect(200);
    let exit = exit_of(&server.exit(&id, 1).await);
    assert!(exit.restarting && exit.requested_stop);
    let again = server.reach(&id, "started").await;
    assert_eq!(again["version"], before["version"]);

    let mut update = shell("echo second; exec sleep 100");
    update["current_version"] = json!("01HEPA330HZ37A78TK080NAK1M");
    let stale = server.post(&machine(&id, ""), update.clone()).await;
    assert_eq!(stale.status, 409);
    update["current_version"] = before["version"].clone();
    let updated = server.post(&machine(&id, ""), update).await.expect(200);
    assert_ne!(updated["version"], before["version"]);
    server.logged(&id, "second").await;
    let old = before["version"].as_str().unwrap();
    let replaced = server
        .get(&machine(&id, &format!("/wait?version={old}&timeout=1")))
        .await;
    assert_eq!(
        replaced.refusal(),
        "408 deadline_exceeded: machine failed to reach desired state, started, currently replaced"
    );
    let versions = server.get(&machine(&id, "/versions")).await.expect(200);
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert_eq!(versions[1]["version"], before["version"]);
    let read = server
        .get(&machine(&id, &format!("?version={old}")))
        .await
        .expect(200);
    assert_eq!(read["state"], "replaced");
    server.end().await;
}

#[tokio::test]
async fn policies_say_whether_a_program_starts_again() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let failing = json!({"restart": {"policy": "on-failure", "max_retries": 2}});
    let id = server.create(shell_with("echo try; exit 1", failing)).await;
    server.exit(&id, 3).await;
    let stopped = server.reach(&id, "stopped").await;
    let exits = states_told(&stopped)
        .iter()
        .filter(|told| told.starts_with("exit/"))
        .count();
    assert_eq!(exits, 3, "the first and two retries");
    assert_eq!(server.exit(&id, 3).await["restart_count"], 2);

    let clean = json!({"restart": {"policy": "on-failure"}});
    let id = server.create(shell_with("exit 0", clean)).await;
    server.reach(&id, "stopped").await;

    let id = server
        .create(shell_with(
            "exit 0",
            json!({"restart": {"policy": "always"}}),
        ))
        .await;
    assert!(exit_of(&server.exit(&id, 2).await).restarting);
    server
        .post(&machine(&id, "/stop"), json!({}))
        .await
        .expect(200);
    server.reach(&id, "stopped").await;
    server.end().await;
}

#[tokio::test]
async fn a_machine_that_is_not_launched_rests_until_it_is_started() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let mut body = shell("echo ran; exec sleep 100");
    body["skip_launch"] = json!(true);
    let id = server.create(body).await;
    server.reach(&id, "stopped").await;
    assert!(server.log(&id).await.is_empty());
    server
        .post(&machine(&id, "/start"), json!({}))
        .await
        .expect(200);
    server.logged(&id, "ran").await;
    let active = server.delete(&machine(&id, "")).await;
    assert_eq!(
        active.refusal(),
        "412 failed_precondition: machine still active, refusing to destroy"
    );
    server
        .delete(&machine(&id, "?force=true"))
        .await
        .expect(200);
    server.reach(&id, "destroyed").await;
    let exit = exit_of(&server.exit(&id, 1).await);
    assert_eq!((exit.code(), exit.requested_stop), (137, true));
    server.end().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_ends_as_a_shell_would_tell_it() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let config = json!({"image": "host", "init": {"exec": ["/no/such/program"]},
                        "restart": {"policy": "no"}});
    let id = server.create(json!({"config": config})).await;
    let stopped = server.reach(&id, "stopped").await;
    let events = stopped["events"].as_array().unwrap();
    let exit = events.iter().find(|event| event["type"] == "exit").unwrap();
    let exit = &exit["request"]["exit_event"];
    assert_eq!(exit["exit_code"], 127, "{exit}");
    let reason = exit["guest_error"].as_str().unwrap();
    assert!(reason.contains("/no/such/program"), "{reason}");
    server.end().await;
}

#[tokio::test]
async fn files_and_environment_are_as_asked_for() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let line = "cat /workspace/in.txt; ls -l /workspace/run.sh | cut -c1-10; \
                env | sort | grep -E '^(FLY|PRIMARY|MINE|SANDBOX)'";
    let config = json!({
        "env": {"MINE": "yes", "SANDBOX_RUN_ID": "r1"},
        "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
        "files": [
            {"guest_path": "/workspace/in.txt", "raw_value": "aGVsbG8K"},
            {"guest_path": "/workspace/run.sh", "raw_value": "", "mode": 493}
        ]
    });
    let id = server.create(shell_with(line, config)).await;
    let stopped = server.reach(&id, "stopped").await;
    let version = stopped["version"].as_str().unwrap();
    let address = stopped["private_ip"].as_str().unwrap();
    let expected = [
        "hello".to_owned(),
        "-rwxr-xr-x".to_owned(),
        format!("FLY_ALLOC_ID={id}"),
        format!("FLY_APP_NAME={APP}"),
        "FLY_IMAGE_REF=host".to_owned(),
        format!("FLY_MACHINE_ID={id}"),
        format!("FLY_MACHINE_VERSION={version}"),
        format!("FLY_PRIVATE_IP={address}"),
        "FLY_REGION=local".to_owned(),
        "FLY_VM_MEMORY_MB=512".to_owned(),
        "MINE=yes".to_owned(),
        "PRIMARY_REGION=local".to_owned(),
        "SANDBOX_RUN_ID=r1".to_owned(),
    ];
    assert_eq!(server.log(&id).await, expected);
    server.end().await;
}

#[tokio::test]
async fn programs_run_beside_the_machines_own() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let id = started(
        &server,
        shell_with("echo ready; exec sleep 100", json!({"env": {"A": "b"}})),
    )
    .await;
    let exec = json!({"command": ["/bin/sh", "-c", "cat; echo $A >&2; exit 5"], "stdin": "in"});
    let ran = server.post(&machine(&id, "/exec"), exec).await.expect(200);
    assert_eq!(
        ran,
        json!({"stdout": "in", "stderr": "b\n", "exit_code": 5})
    );
    let long = json!({"cmd": "sleep 100", "timeout": 1});
    let ended = server.post(&machine(&id, "/exec"), long).await.expect(200);
    assert_eq!(ended["exit_signal"], 9);
    server
        .post(&machine(&id, "/exec"), json!({"command": ["/none"]}))
        .await
        .expect(400);
    server
        .post(&machine(&id, "/exec"), json!({"command": []}))
        .await
        .expect(400);
    let listed = server
        .get(&machine(&id, "/ps?sort_by=rss&order=desc"))
        .await
        .expect(200);
    let commands: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["command"])
        .collect();
    assert!(
        commands
            .iter()
            .any(|c| c.as_str().unwrap().contains("sleep 100")),
        "{commands:?}"
    );
    server
        .post(&machine(&id, "/signal"), json!({"signal": 9}))
        .await
        .expect(200);
    server.reach(&id, "stopped").await;
    let exit = exit_of(&server.exit(&id, 1).await);
    assert_eq!(
        (exit.code(), exit.ended_by(), exit.requested_stop),
        (137, Some(9), false)
    );
    let ended = server
        .post(&machine(&id, "/exec"), json!({"command": ["true"]}))
        .await;
    assert_eq!(ended.status, 412);
    server.get(&machine(&id, "/ps")).await.expect(412);
    server.end().await;
}

#[tokio::test]
async fn the_end_of_the_server_is_the_end_of_its_machines() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let mut ids = Vec::new();
    for _ in 0..5 {
        let policy = json!({"restart": {"policy": "always"}});
        ids.push(
            server
                .create(shell_with("trap '' TERM; sleep 1000", policy))
                .await,
        );
    }
    for id in &ids {
        server.reach(id, "started").await;
    }
    let path = machine(&ids[0], "/wait?state=stopped&timeout=60");
    let waiting = server.send(reqwest::Method::GET, &path, None, None);
    let base = server.base.clone();
    let (ended, ()) = tokio::join!(waiting, async {
        server.get(&machine(&ids[0], "")).await.expect(200);
        server.shutdown_now();
    });
    if let Ok(answer) = ended {
        assert_eq!(answer.status().as_u16(), 503);
    }
    server.end().await;
    assert!(
        reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .get(base)
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_machine_that_is_said_to_be_deleted_runs_no_more() {
    let Some(server) = sandboxed().await else {
        return;
    };
    for _ in 0..10 {
        let id = server.create(shell("sleep 600 & sleep 600")).await;
        server.reach(&id, "started").await;
        let answer = server.delete(&machine(&id, "?force=true")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let now = server.get(&machine(&id, "")).await;
        assert_eq!(now.body["state"], "destroyed", "{}", now.body);
    }
    server.end().await;
}
