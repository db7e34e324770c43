//! Machines that start from an imported image, through the whole stack.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use cofferdam::machines::wire::{Signal, StopRequest};
use cofferdam_images::Store;
use serde_json::json;
use tar::EntryType;

use super::build::{Image, Layer};
use crate::support::stack::{APP, Plan, Stack};
use crate::support::until::until;

/// Posts its argument without any program but the shell.
const POST: &str = r#"
post() {
    exec 3<>/dev/tcp/127.0.0.1/8080
    printf 'POST /results HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n' \
        "$SANDBOX_RUN_TOKEN" >&3
    printf 'Content-Length: %s\r\nConnection: close\r\n\r\n%s' "${#1}" "$1" >&3
    read -r _ status _ <&3
    echo "posted: $status"
}
"#;

/// An archive of `docker save` with nothing in it but a shell, a secret file and what `run` says.
fn shell_image(run: serde_json::Value) -> Vec<u8> {
    let mut layer = Layer::new();
    for path in shell_files() {
        let bytes = std::fs::read(&path).unwrap();
        layer = layer.entry(EntryType::Regular, &path[1..], "", &bytes, 0o755);
    }
    let layer = layer
        .entry(EntryType::Regular, "etc/secret", "", b"kept", 0o600)
        .bytes();
    Image::new(vec![layer]).run(run).docker(&["shell:v1"]).tar()
}

/// A shell, `sleep`, and the libraries they are loaded with, as this host has them.
fn shell_files() -> BTreeSet<String> {
    let programs = ["/bin/bash", "/bin/sleep"];
    let output = Command::new("ldd").args(programs).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // A program's own line ends in a colon, a library's names where it is.
    let libraries = text
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'));
    libraries.chain(programs).map(str::to_owned).collect()
}

async fn stack_with(run: serde_json::Value) -> (Stack, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let stack = Plan::sandboxed(folder.path()).start().await;
    let store = Store::open(stack.state_dir()).unwrap();
    let source = folder.path().join("shell.tar");
    std::fs::write(&source, shell_image(run)).unwrap();
    store.import("shell:v1", &source).unwrap();
    (stack, store, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_what_its_image_says_and_sees_its_image_alone() {
    let script = format!(
        r#"{POST}
        secret=$(</etc/secret)
        passwd=no; [ -e /etc/passwd ] && passwd=yes
        changed=no; {{ : >/etc/new; }} 2>/dev/null && changed=yes
        post "{{\"secret\":\"$secret\",\"passwd\":\"$passwd\",\"changed\":\"$changed\",
            \"level\":\"$LEVEL\",\"place\":\"$PWD\",\"argument\":\"$0\",\"user\":$((UID > 0))}}"
        "#
    );
    let (stack, store, _folder) = stack_with(json!({
        "Entrypoint": ["/bin/bash", "-c", script],
        "Cmd": ["from-the-image"],
        "Env": ["LEVEL=image", "PATH=/bin"],
        "WorkingDir": "/etc",
    }))
    .await;
    let from_image = stack.submit(json!({"image": "shell:v1"})).await;
    let from_request = stack
        .submit(
            json!({"image": "shell:v1", "cmd": ["from-the-request"], "env": {"LEVEL": "request"}}),
        )
        .await;
    for (id, argument, level) in [
        (&from_image, "from-the-image", "image"),
        (&from_request, "from-the-request", "request"),
    ] {
        let result = stack.result(id).await;
        assert_eq!(
            result["payload"],
            json!({"secret": "kept", "passwd": "yes", "changed": "no", "level": level,
                "place": "/etc", "argument": argument, "user": 1}),
            "{result}"
        );
    }
    stack
        .settles(&[from_image, from_request], Duration::from_secs(30))
        .await;
    assert!(store.remove("shell:v1").unwrap().deleted);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_removed_stays_for_the_machine_that_runs_from_it() {
    let (stack, store, _folder) = stack_with(json!({})).await;
    let script = format!(
        r#"{POST}
        trap 'gone_on=yes' TERM
        echo waiting
        while [ -z "$gone_on" ]; do sleep 0.05; done
        post "\"$(</etc/secret)\""
        "#
    );
    let request = json!({"image": "shell:v1", "cmd": ["/bin/bash", "-c", script]});
    let id = stack.submit(request.clone()).await;
    let machine = stack.reaches(&id, "running").await.machine_id.unwrap();
    until("the guest to wait for its signal", || async {
        let logs = stack.machines.logs(APP, Some(&machine), None).await;
        let lines = logs.map_err(|fault| fault.to_string())?.data;
        let mut messages = lines.iter().map(|line| line.attributes.message.trim_end());
        if messages.any(|message| message == "waiting") {
            Ok(())
        } else {
            Err(format!("{lines:?}"))
        }
    })
    .await;
    assert!(store.list().unwrap()[0].in_use);
    assert!(!store.remove("shell:v1").unwrap().deleted);
    let go_on = StopRequest {
        signal: Some(Signal::Name("SIGTERM".to_owned())),
        timeout: None,
    };
    stack.machines.stop(APP, &machine, &go_on).await.unwrap();
    let result = stack.result(&id).await;
    assert_eq!(result["payload"], json!("kept"), "{result}");

    let late = stack.submit(request).await;
    let result = stack.result(&late).await;
    assert_eq!(result["reason"]["code"], "image_rejected", "{result}");
    stack.settles(&[id, late], Duration::from_secs(30)).await;
    until("the image's files to go with its machine", || async {
        drop(Store::open(stack.state_dir()).unwrap());
        let roots = stack.state_dir().join("images/roots");
        match super::names(&roots).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    stack.end().await;
}
