//! `worker`, `serve` and `machines` as processes of their own, as they are deployed.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::command::{Daemon, is_well};
use crate::support::fleet::{Fleet, KEYS};
use crate::support::parts;
use crate::support::redis;
use crate::support::until::{until, until_within};

async fn get(address: &str, path: &str) -> (u16, String) {
    let answer = parts::http()
        .get(format!("http://{address}{path}"))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn the_services_do_a_run_together_and_end_when_told() {
    let fleet = Fleet::start(&["--simulate", "20"], &[]).await;
    let (worker, worker_admin) = fleet.worker().await;
    let result = fleet
        .tool(&["submit", "--wait", "--json", "--", "true"])
        .json();
    assert_eq!(result[0]["outcome"], "completed", "{}", worker.said());

    until("the worker to be ready", async || {
        match get(&worker_admin, "/readyz").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    until("the boot to be counted", async || {
        let (_, metrics) = get(&worker_admin, "/metrics").await;
        let is_counted = [
            "cofferdam_runs_admitted_total 1",
            "cofferdam_boots_started_total 1",
            "cofferdam_machines_api_responses_total{call=\"create\",class=\"ok\"} 1",
        ];
        let missing: Vec<_> = is_counted
            .into_iter()
            .filter(|line| !metrics.contains(line))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?}\n{metrics}"))
        }
    })
    .await;
    // Metrics are not for guests.
    assert_eq!(get(&fleet.endpoint, "/metrics").await.0, 404);

    let findings = fleet.tool(&["doctor", "--json"]).json();
    assert!(findings.iter().all(is_well), "{findings:#?}");

    worker.finish().await;
    fleet.finish().await;
}

/// Posts a result soon, stays a little, and ends.
const GUEST: &str = "sleep 0.$(($1 % 7)); curl -fsS --oauth2-bearer \"$SANDBOX_RUN_TOKEN\" \\
    -d $1 \"$SANDBOX_RESULT_URL\"; sleep 0.$(($1 % 5))";

/// Real workers, real sandboxes: what the dead one had in hand, its successor finishes.
#[tokio::test]
async fn a_worker_is_killed_with_a_hundred_runs_in_every_phase() {
    let slow = [
        "--fault",
        "create every=2: delay ms=300",
        "--fault",
        "wait every=2: delay ms=300",
    ];
    let settings = [
        ("COFFERDAM_LEASE_S", "2"),
        ("COFFERDAM_SWEEP_S", "1"),
        ("COFFERDAM_MAX_IN_FLIGHT", "30"),
    ];
    let fleet = Fleet::start(&slow, &settings).await;
    let raw = fleet.raw().await;
    let ids: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let request = json!({"id": id, "cmd": ["sh", "-c", GUEST, "sh", n.to_string()]});
        raw.add("runs", &[("run", &request.to_string())]).await;
    }
    let (mut first, _) = fleet.worker().await;
    until("runs in every phase", async || {
        let mut phases = BTreeMap::new();
        for id in &ids {
            let phase: Option<String> = raw.say("HGET", &format!("run:{id}"), &["state"]).await;
            *phases.entry(phase.unwrap_or_default()).or_insert(0) += 1;
        }
        let all = ["queued", "booting", "running", "settled", "closed"];
        if all.iter().all(|phase| phases.contains_key(*phase)) {
            Ok(())
        } else {
            Err(format!("{phases:?}"))
        }
    })
    .await;
    first.signal(Signal::KILL);
    first.ended(Duration::from_secs(10)).await;

    let (second, _) = fleet.worker().await;
    until_within(
        Duration::from_secs(120),
        "every run to be closed",
        async || {
            let due: usize = raw.say("ZCARD", "due", &[]).await;
            let left = raw.length("runs").await;
            if (due, left) == (0, 0) {
                Ok(())
            } else {
                Err(format!("{due} due, {left} unread"))
            }
        },
    )
    .await;
    let results = fleet.tool(&["results", "--limit", "1000", "--json"]).json();
    let mut told: Vec<_> = results
        .iter()
        .map(|result| result["run_id"].as_str().unwrap())
        .collect();
    told.sort_unstable();
    let mut asked: Vec<_> = ids.iter().map(String::as_str).collect();
    asked.sort_unstable();
    assert_eq!(told, asked);
    for result in &results {
        assert_eq!(result["outcome"], "completed", "{result}");
        let n: u64 = result["run_id"].as_str().unwrap()[1..].parse().unwrap();
        assert_eq!(result["payload"], n, "{result}");
    }
    assert_eq!(raw.pending("runs").await, 0);
    assert_eq!(fleet.machines_left().await, Vec::<String>::new());
    second.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_service_without_its_redis_says_so_and_waits() {
    let mut server = redis::Server::start();
    let url = server.url();
    server.stop();
    let env = [
        ("REDIS_URL", url.as_str()),
        ("COFFERDAM_SIGNING_KEYS", KEYS),
        ("COFFERDAM_LISTEN", "127.0.0.1:0"),
        ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let mut serve = Daemon::start(&["serve"], &env);
    let address = serve.addresses(2).await.remove(0);
    until("a word about Redis", async || match serve.said() {
        said if said.contains("waiting for redis") => Ok(()),
        said => Err(said),
    })
    .await;
    server.resume();
    until("the endpoint to answer", async || {
        match parts::http()
            .get(format!("http://{address}/readyz"))
            .timeout(Duration::from_secs(2))
            .send()
            .await
        {
            Ok(answer) if answer.status() == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    serve.finish().await;
}

#[tokio::test]
async fn a_service_that_waits_for_its_redis_ends_when_told() {
    let env = [
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("COFFERDAM_SIGNING_KEYS", KEYS),
        ("COFFERDAM_LISTEN", "127.0.0.1:0"),
        ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let mut serve = Daemon::start(&["serve"], &env);
    until("a word about Redis", async || match serve.said() {
        said if said.contains("waiting for redis") => Ok(()),
        said => Err(said),
    })
    .await;
    serve.signal(Signal::TERM);
    let status = serve.ended(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(1), "{}", serve.said());
    assert!(
        serve.said().contains("stopped by a signal before"),
        "{}",
        serve.said()
    );
}

/// A worker and an endpoint on one host have the same default address for metrics and health.
#[tokio::test]
async fn a_second_service_on_one_host_takes_a_free_port_for_its_metrics() {
    // Whoever has the port, it is taken.
    let _taken = tokio::net::TcpListener::bind("127.0.0.1:9090").await;
    let fleet = Fleet::start(&["--simulate", "20"], &[("COFFERDAM_ADMIN_LISTEN", "")]).await;
    let (worker, admin) = fleet.worker().await;
    assert_ne!(admin, "127.0.0.1:9090");
    assert_eq!(get(&admin, "/healthz").await.0, 200);
    assert!(
        worker
            .said()
            .contains("is in use; serving them on a free one"),
        "{}",
        worker.said()
    );
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn an_address_that_was_asked_for_and_is_taken_is_an_error() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let fleet = Fleet::start(&["--simulate", "20"], &[]).await;
    let mut command = crate::support::command::cofferdam(["worker"]);
    let given = fleet
        .env
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    command.envs(given).env("COFFERDAM_ADMIN_LISTEN", &address);
    let ended = crate::support::command::ended(command);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    fleet.finish().await;
}

/// A guest that exits and posts nothing is seen by the sweep only. While others wait for its place it
/// is looked for more often.
#[tokio::test]
async fn the_place_of_a_guest_that_ended_unseen_is_given_away_soon_when_others_wait() {
    let settings = [
        ("COFFERDAM_MAX_IN_FLIGHT", "1"),
        ("COFFERDAM_SWEEP_S", "600"),
    ];
    let fleet = Fleet::start(&["--simulate", "1"], &settings).await;
    let (worker, _) = fleet.worker().await;
    let raw = fleet.raw().await;
    for (id, behaviour) in [("first", "exits"), ("second", "posts")] {
        let request = json!({"id": id, "cmd": ["true"], "env": {"SIMULATED_GUEST": behaviour}});
        raw.add("runs", &[("run", &request.to_string())]).await;
    }
    let shown = fleet.until_state("second", "closed").await;
    assert_eq!(shown["outcome"], "completed", "{shown}");
    let shown = fleet.show("first").unwrap();
    assert_eq!(shown["reason"]["code"], "exited_without_result", "{shown}");
    worker.finish().await;
    fleet.finish().await;
}

/// The path of a file is in the refusal of the Machines server, and that in its log.
#[tokio::test]
async fn a_request_cannot_forge_a_line_of_the_log() {
    let fleet = Fleet::start(&["--simulate", "1"], &[]).await;
    let text = [("COFFERDAM_LOG_FORMAT", "text")];
    let (machines, api) = fleet.machines_with(&[], &text).await;
    let (worker, _) = fleet.worker_with(&[("FLY_API_URL", &api)]).await;
    let forged = "/proc/x\n2026-01-01T00:00:00Z  INFO cofferdam: completed run_id=\"v-1\"";
    let files = json!([{"guest_path": forged, "raw_value": ""}]);
    let request = json!({"id": "forger", "cmd": ["true"], "files": files});
    let raw = fleet.raw().await;
    raw.add("runs", &[("run", &request.to_string())]).await;
    let said = until("the path to be in the log", async || {
        match machines.said() {
            said if said.contains("v-1") => Ok(said),
            said => Err(said),
        }
    })
    .await;
    for line in said.lines().filter(|line| line.contains("v-1")) {
        assert!(line.contains("/proc/x"), "{line}");
        assert!(!line.contains("completed run_id=\"v-1\""), "{line}");
    }
    worker.finish().await;
    machines.finish().await;
    fleet.finish().await;
}

/// As from a web page whose name points at a local address.
#[tokio::test]
async fn metrics_and_machines_refuse_the_host_of_a_stranger() {
    let fleet = Fleet::start(
        &["--simulate", "1"],
        &[("COFFERDAM_ALLOWED_HOSTS", "ours.example.com")],
    )
    .await;
    let api = fleet.env.iter().find(|(name, _)| *name == "FLY_API_URL");
    let api = &api.unwrap().1;
    let machines = format!("{api}/apps/sandboxes/machines");
    let metrics = format!("http://{}/metrics", fleet.admin);
    for (host, expected) in [
        ("evil.example.com", 403),
        ("ours.example.com:1234", 200),
        ("localhost", 200),
    ] {
        for url in [&machines, &metrics] {
            let asked = parts::http().get(url).header("host", host);
            let answer = asked.bearer_auth("token-of-the-test").send().await.unwrap();
            assert_eq!(answer.status(), expected, "{host} at {url}");
        }
    }
    fleet.finish().await;
}
