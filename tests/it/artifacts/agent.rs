//! The guest agent as a process, with the real endpoint and a real S3 server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use cofferdam::clock::Clock;
use cofferdam::run::digest::sha256;
use serde_json::{Value, json};

use crate::artifacts::s3::S3;
use crate::artifacts::{Scene, noise};
use crate::support::fleet::Fleet;
use crate::support::parts;

/// Runs a command under the agent in `folder`, as the scene's guest; answers what its result says of
/// artifacts.
async fn run(scene: &Scene, folder: &Path, command: &str) -> Vec<Value> {
    let program = folder.join("agent");
    std::fs::write(&program, cofferdam_guest::PROGRAM).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let capture = json!({
        "stdout_bytes": 1000, "stderr_bytes": 1000, "artifacts": ["out/**"], "artifact_bytes": 100 << 20,
    });
    let base = format!("http://{}", scene.fleet.endpoint);
    let work = folder.join("work");
    std::fs::create_dir_all(work.join("out")).unwrap();
    let mut agent = Command::new(&program);
    agent
        .args(["--", "sh", "-c", command])
        .current_dir(&work)
        .env("SANDBOX_RUN_TOKEN", &scene.token)
        .env("SANDBOX_RESULT_URL", format!("{base}/results"))
        .env("SANDBOX_ARTIFACT_URL", format!("{base}/artifacts"))
        .env(
            "SANDBOX_DEADLINE",
            (Clock::system().now_ms() / 1000 + 60).to_string(),
        )
        .env("SANDBOX_CAPTURE", capture.to_string());
    let ended = tokio::task::spawn_blocking(move || agent.output().unwrap());
    let ended = ended.await.unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let shown = scene.fleet.until_state("pr-17", "settled").await;
    let told = &shown["result"]["payload"]["artifacts"];
    told.as_array().unwrap_or_else(|| panic!("{shown}")).clone()
}

/// What the result tells is what is listed, and what comes back is what was put.
fn check(scene: &Scene, told: &[Value], bytes: &[u8]) {
    assert_eq!(told, scene.listed("pr-17"));
    assert_eq!(told.len(), 2);
    assert_eq!(told[0]["name"], "out/big.bin");
    assert_eq!(told[1]["name"], "out/small.json");
    assert_eq!(told[1]["media_type"], "application/json");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    scene.fleet.tool(&["artifacts", "pr-17", "-o", to]).done();
    assert!(std::fs::read(folder.path().join("out/big.bin")).unwrap() == bytes);
    assert_eq!(
        std::fs::read(folder.path().join("out/small.json")).unwrap(),
        b"{}"
    );
}

const COMMAND: &str = "cp ../big out/big.bin; printf '{}' > out/small.json";

#[tokio::test]
async fn the_agent_puts_fifty_megabytes_into_a_folder() {
    let scene = Scene::new(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(50 << 20);
    std::fs::write(folder.path().join("big"), &bytes).unwrap();
    let told = run(&scene, folder.path(), COMMAND).await;
    check(&scene, &told, &bytes);
}

#[tokio::test]
async fn the_agent_sends_fifty_megabytes_to_the_store_itself() {
    let Some(s3) = S3::start().await else { return };
    let scene = Scene::of(tempfile::tempdir().unwrap(), &s3.settings()).await;
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(50 << 20);
    std::fs::write(folder.path().join("big"), &bytes).unwrap();
    let told = run(&scene, folder.path(), COMMAND).await;
    check(&scene, &told, &bytes);
    assert_eq!(s3.objects().len(), 2);
    let metrics = format!("http://{}/metrics", scene.fleet.admin);
    let metrics = parts::http().get(metrics).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let sent = "cofferdam_endpoint_responses_total{code=\"307\"} 2";
    assert!(metrics.contains(sent), "{metrics}");
}

#[tokio::test]
async fn what_is_refused_is_told_in_the_result_and_the_rest_is_kept() {
    let scene = Scene::new(&[("COFFERDAM_ARTIFACT_MAX_BYTES", "1000000")]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big"), noise(50 << 20)).unwrap();
    let told = run(&scene, folder.path(), COMMAND).await;
    let why = told[0]["error"].as_str().unwrap();
    assert!(why.contains("at most 1000000 bytes"), "{why}");
    assert_eq!(scene.names(), ["out/small.json"]);
}

/// A machine of the local server reaches the endpoint and nothing else: what it makes goes through that
/// to the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_sandboxed_machine_makes_goes_through_the_endpoint_to_the_bucket() {
    let Some(s3) = S3::start().await else { return };
    let fleet = Fleet::start(&[], &s3.settings()).await;
    let (_worker, _) = fleet.worker().await;
    let script = "mkdir out; seq 1 1000000 > out/lines; printf '{}' > out/small.json";
    let request = json!({"id": "pr-18", "cmd": ["sh", "-c", script],
        "capture": {"artifacts": ["out/**"]}, "guest": {"cpus": 1, "memory_mb": 256}});
    let raw = fleet.raw().await;
    raw.add("runs", &[("run", &request.to_string())]).await;
    let shown = fleet.until_state("pr-18", "closed").await;
    let told = &shown["result"]["payload"]["artifacts"];
    let lines: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(told[0]["sha256"], sha256(lines.as_bytes()), "{shown}");
    assert_eq!(told[0]["bytes"], lines.len());
    assert_eq!(told[1]["name"], "out/small.json");
    assert_eq!(s3.objects().len(), 2, "{:?}", s3.objects());
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    fleet.tool(&["artifacts", "pr-18", "-o", to]).done();
    let fetched = std::fs::read(folder.path().join("out/lines")).unwrap();
    assert!(fetched == lines.as_bytes());
}
