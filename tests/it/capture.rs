//! Plain commands: the guest agent runs them, and their output, exit code and times come back.

use std::time::Duration;

use cofferdam::store::logs::{LogPiece, LogStream};
use serde_json::{Value, json};

use crate::support::stack::{Plan, Stack};

async fn stack() -> (Stack, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Plan::sandboxed(folder.path()).start().await, folder)
}

fn shell(script: &str) -> Value {
    json!({"image": "host", "cmd": ["sh", "-c", script], "capture": true})
}

async fn result_of(stack: &Stack, request: Value) -> (String, Value) {
    let id = stack.submit(request).await;
    let result = stack.result(&id).await;
    (id, result)
}

async fn log_of(stack: &Stack, id: &str) -> Vec<LogPiece> {
    let mut reader = stack.core.store.log_of(&id.parse().unwrap(), None);
    let mut all = Vec::new();
    loop {
        let pieces = reader.next(None).await.unwrap();
        if pieces.is_empty() {
            return all;
        }
        all.extend(pieces);
    }
}

fn text_of(pieces: &[LogPiece], stream: LogStream) -> String {
    let of = pieces.iter().filter(|piece| piece.stream == stream);
    let bytes: Vec<u8> = of.flat_map(|piece| piece.text.clone()).collect();
    String::from_utf8(bytes).unwrap()
}

/// The agent is sent along here: these machines have none of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_commands_output_and_exit_code_come_back_and_it_sees_nothing_of_ours() {
    let (stack, _folder) = stack().await;
    let script = "echo out; echo err >&2; env | grep -c SANDBOX_; pwd; echo $HOME; exit 7";
    let (id, result) = result_of(&stack, shell(script)).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    let payload = &result["payload"];
    assert_eq!(payload["exit_code"], 7);
    assert_eq!(payload["stdout"], "out\n0\n/workspace\n/workspace\n");
    assert_eq!(payload["stderr"], "err\n");
    assert_eq!(payload["signal"], Value::Null);
    assert_eq!(payload["timed_out"], false);
    assert_eq!(payload["dropped"], json!({"stdout": 0, "stderr": 0}));
    assert_eq!(payload["artifacts"], json!([]));
    assert_eq!(result.get("output_tail"), None);
    let log = log_of(&stack, &id).await;
    assert_eq!(
        text_of(&log, LogStream::Stdout),
        payload["stdout"].as_str().unwrap()
    );
    assert_eq!(text_of(&log, LogStream::Stderr), "err\n");
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_bounds_entry_point_and_bytes_that_are_no_text() {
    let (stack, _folder) = stack().await;
    let fed = json!({"image": "host", "cmd": ["sort"], "capture": {"stdin": "b\na\n"}});
    let long = json!({"image": "host", "cmd": ["seq", "1", "1000"],
        "capture": {"stdout_bytes": 20, "stderr_bytes": 0}});
    let entry = json!({"image": "host", "entrypoint": ["sh", "-c"], "cmd": ["echo $0", "x"],
        "capture": true});
    let odd = shell("printf 'a\\000\\377'; kill -9 $$");
    let fed = result_of(&stack, fed).await.1;
    assert_eq!(fed["payload"]["stdout"], "a\nb\n", "{fed}");
    let long = result_of(&stack, long).await.1;
    assert_eq!(
        long["payload"]["stdout"], "1\n2\n3\n4\n5\n\n999\n1000\n",
        "{long}"
    );
    assert_eq!(long["payload"]["dropped"]["stdout"], 3893 - 20);
    let entry = result_of(&stack, entry).await.1;
    assert_eq!(entry["payload"]["stdout"], "x\n", "{entry}");
    let odd = result_of(&stack, odd).await.1;
    assert_eq!(odd["payload"]["stdout_base64"], "YQD/", "{odd}");
    assert_eq!(odd["payload"]["signal"], 9);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_past_its_deadline_completes_with_what_it_wrote() {
    let (stack, _folder) = stack().await;
    let mut request = shell("echo so far; sleep 100");
    request["timeout_s"] = json!(3);
    let (id, result) = result_of(&stack, request).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    assert_eq!(result["payload"]["timed_out"], true);
    assert_eq!(result["payload"]["stdout"], "so far\n");
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

/// The agent runs as the command's own user, and a command can kill it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_its_own_guest_killed_ends_the_run_and_its_output_is_told() {
    let (stack, _folder) = stack().await;
    let script = "echo before; sleep 0.3; kill -9 $PPID; sleep 100";
    let (id, result) = result_of(&stack, shell(script)).await;
    assert_eq!(result["outcome"], "failed", "{result}");
    assert_eq!(result["reason"]["code"], "exited_without_result");
    assert_eq!(result["output_tail"], "before\n");
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_without_the_agent_wrote_is_in_the_same_place() {
    let (stack, _folder) = stack().await;
    let mut request = shell("echo hello; echo aside >&2; exit 3");
    request["capture"] = json!(false);
    let (id, result) = result_of(&stack, request).await;
    assert_eq!(
        result["reason"]["code"], "exited_without_result",
        "{result}"
    );
    let tail = result["output_tail"].as_str().unwrap();
    assert!(
        tail.contains("hello\n") && tail.contains("aside\n"),
        "{tail:?}"
    );
    let log = log_of(&stack, &id).await;
    assert_eq!(text_of(&log, LogStream::Stdout), "hello\n");
    assert_eq!(text_of(&log, LogStream::Stderr), "aside\n");
    let mut silent = shell("exit 3");
    silent["capture"] = json!(false);
    let (_, result) = result_of(&stack, silent).await;
    assert_eq!(result["output_tail"], Value::Null);
    assert!(result.as_object().unwrap().contains_key("output_tail"));
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_unpacked_is_told_in_the_log() {
    let (stack, _folder) = stack().await;
    let request = json!({"image": "host", "cmd": ["true"], "capture": {"unpack": "/data/x"},
        "files": [{"guest_path": "/data/x", "raw_value": "bm8gYXJjaGl2ZQ=="}]});
    let (_, result) = result_of(&stack, request).await;
    assert_eq!(
        result["reason"]["code"], "exited_without_result",
        "{result}"
    );
    let tail = result["output_tail"].as_str().unwrap();
    assert!(tail.contains("cannot unpack /data/x"), "{tail:?}");
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_capture_may_not_ask_for_is_rejected_by_name() {
    let (stack, _folder) = stack().await;
    for (request, rule) in [
        (
            json!({"cmd": ["a"], "capture": {"stdout_bytes": 1_000_000}}),
            "stdout_bytes must be",
        ),
        (
            json!({"cmd": ["a"], "capture": {"artifacts": ["a[b"]}}),
            "without its ]",
        ),
        (
            json!({"cmd": ["a"], "capture": {"colour": 1}}),
            "unknown field `colour`",
        ),
    ] {
        let (_, result) = result_of(&stack, request).await;
        assert_eq!(result["outcome"], "rejected", "{result}");
        let message = result["reason"]["message"].as_str().unwrap();
        assert!(message.contains(rule), "{message}");
    }
    stack.end().await;
}

/// Each line of a burst is there, in order, whoever reads meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_runs_that_write_at_once_have_all_of_their_lines() {
    let (stack, _folder) = stack().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let script = format!("for i in $(seq 1 200); do echo run {n} line $i; done");
        ids.push(stack.submit(shell(&script)).await);
    }
    for (n, id) in ids.iter().enumerate() {
        let result = stack.result(id).await;
        let expected: String = (1..=200).map(|i| format!("run {n} line {i}\n")).collect();
        assert_eq!(result["payload"]["stdout"], expected.as_str(), "{result}");
        stack.reaches(id, "closed").await;
        assert_eq!(
            text_of(&log_of(&stack, id).await, LogStream::Stdout),
            expected
        );
    }
    stack.settles(&ids, Duration::from_secs(60)).await;
    stack.end().await;
}
