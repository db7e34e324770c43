//! `worker`, `serve` and `machines` as processes of their own, as they are deployed.

use crate::support::command::{Daemon, cofferdam, ended};
use crate::support::parts;
use crate::support::redis;
use crate::support::until::until;

const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The three services on the shared Redis, in a namespace of their own.
struct Fleet {
    env: Vec<(&'static str, String)>,
    serve: Daemon,
    machines: Daemon,
    worker: Daemon,
    endpoint: String,
    worker_admin: String,
    _state: tempfile::TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let redis = redis::settings();
        let state = tempfile::tempdir().unwrap();
        let mut env = vec![
            ("REDIS_URL", redis.url.expose().to_string()),
            ("COFFERDAM_NAMESPACE", redis.namespace),
            ("COFFERDAM_SIGNING_KEYS", KEYS.to_owned()),
            ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("COFFERDAM_LISTEN", "127.0.0.1:0".to_owned()),
            ("COFFERDAM_MACHINES_LISTEN", "127.0.0.1:0".to_owned()),
            (
                "COFFERDAM_STATE_DIR",
                state.path().to_str().unwrap().to_owned(),
            ),
            ("COFFERDAM_APPS", "sandboxes".to_owned()),
            ("COFFERDAM_IMAGE", "host".to_owned()),
            ("COFFERDAM_BOOT_RATE", "0".to_owned()),
            ("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080".to_owned()),
            ("FLY_API_TOKEN", "token-of-the-test".to_owned()),
        ];
        let mut serve = start(&["serve"], &env);
        let endpoint = serve.addresses(2).await.remove(0);
        env.push(("COFFERDAM_MACHINES_ENDPOINT", endpoint.clone()));
        let mut machines = start(&["machines", "--simulate", "20"], &env);
        let line = machines.line("/v1").await;
        let api = line.split_whitespace().next().unwrap().to_owned();
        env.push(("FLY_API_URL", api));
        let mut worker = start(&["worker"], &env);
        let worker_admin = worker.addresses(1).await.remove(0);
        Self {
            env,
            serve,
            machines,
            worker,
            endpoint,
            worker_admin,
            _state: state,
        }
    }
}

fn start(args: &[&str], env: &[(&'static str, String)]) -> Daemon {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Daemon::start(args, &env)
}

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
    let fleet = Fleet::start().await;
    let mut submit = cofferdam(["submit", "--wait", "--json", "--", "true"]);
    submit.envs(fleet.env.iter().map(|(name, value)| (name, value)));
    let result = ended(submit).json();
    assert_eq!(result[0]["outcome"], "completed", "{}", fleet.worker.said());

    until("the worker to be ready", async || {
        match get(&fleet.worker_admin, "/readyz").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    until("the boot to be counted", async || {
        let (_, metrics) = get(&fleet.worker_admin, "/metrics").await;
        let is_counted = [
            "cofferdam_runs_admitted_total 1",
            "cofferdam_boots_started_total 1",
            "cofferdam_machines_api_answers_total{call=\"create\",class=\"ok\"} 1",
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

    let mut doctor = cofferdam(["doctor", "--json"]);
    doctor.envs(fleet.env.iter().map(|(name, value)| (name, value)));
    let findings = ended(doctor).json();
    assert!(
        findings.iter().all(|finding| finding["verdict"] == "ok"),
        "{findings:#?}"
    );

    fleet.worker.finish().await;
    fleet.machines.finish().await;
    fleet.serve.finish().await;
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
            .timeout(std::time::Duration::from_secs(2))
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
