//! The example guest that tries the walls, in a real local machine.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::parts;
use crate::support::stack::Plan;

/// Where cargo puts the example, beside the command.
const PROBE: &str = "examples/probe";

/// A user without rights.
const NOBODY: u32 = 65_534;

/// What the guest posts, and what was open in it.
async fn report(env: Value) -> Option<(Value, Vec<String>)> {
    let program = Path::new(env!("CARGO_BIN_EXE_cofferdam")).with_file_name(PROBE);
    let Ok(program) = std::fs::read(&program) else {
        parts::skipped(&format!("{} was not built", program.display()));
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::sandboxed(folder.path()).runs(|runs| {
        runs.request_max_bytes = 64 * 1024 * 1024;
        runs.run_timeout = Duration::from_secs(60);
    });
    let stack = plan.start().await;
    let script = "cp /probe /tmp/probe && chmod 755 /tmp/probe && exec /tmp/probe";
    let id = stack
        .submit(json!({
            "image": "host",
            "cmd": ["sh", "-c", script],
            "env": env,
            "files": [{"guest_path": "/probe", "raw_value": STANDARD.encode(program)}],
        }))
        .await;
    let mut result = stack.result(&id).await;
    stack.end().await;
    let report = result["payload"].take();
    assert!(report["items"].is_array(), "{result}");
    let open = report["open"].as_array().unwrap().iter();
    let open = open.map(|name| name.as_str().unwrap().to_owned()).collect();
    Some((report, open))
}

#[tokio::test]
async fn the_example_probe_finds_every_item_walled() {
    let Some((report, open)) = report(json!({})).await else {
        return;
    };
    let found: Vec<&Value> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["state"] != "walled")
        .collect();
    assert!(open.is_empty() && found.is_empty(), "{found:#?}");
    assert_eq!(report["walled"], true);
    assert!(report["items"].as_array().unwrap().len() > 50, "{report}");
}

/// The probe sees what is open: outside of a machine a lot is, also for an ordinary user.
#[test]
fn the_example_probe_finds_open_items_outside_a_machine() {
    let built = Path::new(env!("CARGO_BIN_EXE_cofferdam")).with_file_name(PROBE);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("probe");
    if std::fs::copy(&built, &program).is_err() {
        parts::skipped(&format!("{} was not built", built.display()));
        return;
    }
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let mut command = std::process::Command::new(&program);
    command
        .env_clear()
        .env("REDIS_URL", "redis://host")
        .env("PROBE_ALLOW", "network-namespace");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = |name: &str| {
        let mut items = report["items"].as_array().unwrap().iter();
        let item = items.find(|item| item["name"] == name);
        item.unwrap_or_else(|| panic!("no {name} in {report}"))["state"].clone()
    };
    assert_eq!(state("other-processes"), "open");
    assert_eq!(state("secrets-in-environment"), "open");
    assert_eq!(state("read /proc/cmdline"), "open");
    assert_ne!(state("network-namespace"), "open");
}
