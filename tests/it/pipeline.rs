//! Stories on the whole stack with real guests in real sandboxes: request in, result out, nothing
//! left.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::stack::{Plan, Stack};

/// A guest that runs this shell script. `post` in it posts its argument.
fn guest(script: &str) -> Value {
    let post = "post() { python3 -c 'import os,sys,urllib.request as u\n\
        r=u.Request(os.environ[\"SANDBOX_RESULT_URL\"],data=sys.argv[1].encode(),\
        headers={\"Authorization\":\"Bearer \"+os.environ[\"SANDBOX_RUN_TOKEN\"]})\n\
        print(u.urlopen(r,timeout=10).status)' \"$1\"; }\n";
    json!({"image": "host", "cmd": ["sh", "-c", format!("{post}{script}")]})
}

fn with(mut request: Value, field: &str, value: Value) -> Value {
    request[field] = value;
    request
}

async fn stack() -> (Stack, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Plan::sandboxed(folder.path()).start().await, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_in_its_result_comes_out_and_the_machine_is_gone() {
    let (stack, _folder) = stack().await;
    let request = with(
        guest("post '{\"answer\":42}'"),
        "metadata",
        json!({"pr": 17}),
    );
    let id = stack.submit(request).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "completed", "{result}");
    assert_eq!(result["payload"], json!({"answer": 42}));
    assert_eq!(result["metadata"], json!({"pr": 17}));
    assert_eq!(result["machine"]["app"], "sandboxes");
    let view = stack.reaches(&id, "closed").await;
    let times = [
        view.submitted_at_ms,
        view.booting_at_ms,
        view.running_at_ms,
        view.settled_at_ms,
        view.closed_at_ms,
    ];
    let times: Vec<u64> = times
        .into_iter()
        .map(|at| at.expect("every moment is known"))
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_its_input_env_files_and_command() {
    let (stack, _folder) = stack().await;
    let script = "input=$(python3 -c 'import os,urllib.request as u\n\
        r=u.Request(os.environ[\"SANDBOX_INPUT_URL\"],\
        headers={\"Authorization\":\"Bearer \"+os.environ[\"SANDBOX_RUN_TOKEN\"]})\n\
        print(u.urlopen(r,timeout=10).read().decode())')\n\
        post \"[$input,\\\"$LEVEL\\\",\\\"$(cat /data/note)\\\",\\\"$SANDBOX_RUN_ID\\\"]\"";
    let mut request = guest(script);
    request["id"] = json!("pr-17");
    request["input"] = json!({"n": [1, 2, 3]});
    request["env"] = json!({"LEVEL": "debug"});
    request["files"] = json!([{"guest_path": "/data/note", "raw_value": "aGVsbG8="}]);
    stack.submit(request).await;
    let result = stack.result("pr-17").await;
    assert_eq!(
        result["payload"],
        json!([{"n": [1, 2, 3]}, "debug", "hello", "pr-17"])
    );
    stack
        .settles(&["pr-17".into()], Duration::from_secs(30))
        .await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_posts_and_never_ends_is_gone_at_its_deadline() {
    let (stack, _folder) = stack().await;
    let id = stack
        .submit(with(
            guest("trap '' TERM INT; sleep 600"),
            "timeout_s",
            json!(2),
        ))
        .await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    assert_eq!(result["reason"]["code"], "deadline");
    assert!(result["machine"]["id"].is_string(), "{result}");
    let (from, to) = (&result["booting_at_ms"], &result["settled_at_ms"]);
    assert!(
        to.as_u64().unwrap() >= from.as_u64().unwrap() + 2000,
        "{result}"
    );
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_exits_without_a_result_is_told_apart_by_its_exit() {
    let (stack, _folder) = stack().await;
    let three = stack.submit(guest("exit 3")).await;
    let killed = stack.submit(guest("kill -9 $$")).await;
    let zero = stack.submit(guest("true")).await;
    let result = stack.result(&three).await;
    assert_eq!(result["outcome"], "failed", "{result}");
    assert_eq!(result["reason"]["code"], "exited_without_result");
    assert_eq!(
        result["exit"],
        json!({"code": 3, "signal": null, "oom_killed": false})
    );
    assert_eq!(
        result["attempts"], 1,
        "the code's own fault is not tried again"
    );
    let result = stack.result(&zero).await;
    assert_eq!(result["exit"]["code"], 0, "{result}");
    let result = stack.result(&killed).await;
    assert_eq!(
        result["reason"]["code"], "exited_without_result",
        "{result}"
    );
    assert_eq!(result["exit"]["oom_killed"], false);
    stack
        .settles(&[three, killed, zero], Duration::from_secs(30))
        .await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_started_is_not_tried_again() {
    let (stack, _folder) = stack().await;
    let mut ids = Vec::new();
    for (program, code, why) in [
        ("/no/such-program", 127, "no such program"),
        ("/etc/passwd", 126, "cannot be executed"),
    ] {
        let id = stack
            .submit(json!({"image": "host", "cmd": [program]}))
            .await;
        let result = stack.result(&id).await;
        assert_eq!(
            result["reason"]["code"], "exited_without_result",
            "{result}"
        );
        let message = result["reason"]["message"].as_str().unwrap();
        assert!(
            message.contains(why) && message.contains(program),
            "{result}"
        );
        assert_eq!(result["exit"]["code"], code, "{result}");
        assert_eq!(result["attempts"], 1, "{result}");
        ids.push(id);
    }
    stack.settles(&ids, Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_any_command_ends_at_once() {
    let (stack, _folder) = stack().await;
    let id = stack.submit(json!({"image": "host"})).await;
    let result = stack.result(&id).await;
    assert_eq!(result["reason"]["code"], "boot_failed", "{result}");
    let message = result["reason"]["message"].as_str().unwrap();
    assert!(message.contains("no command"), "{result}");
    assert_eq!(result["attempts"], 1, "{result}");
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

/// Opens connections until no more are taken, sends half a post on each, and stays.
const GREEDY: &str = "import os, socket, time, urllib.parse as p\n\
    url = p.urlparse(os.environ['SANDBOX_RESULT_URL'])\n\
    half = f'POST {url.path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 9\\r\\n'\\\n\
    \x20   f'Authorization: Bearer {os.environ[\"SANDBOX_RUN_TOKEN\"]}\\r\\n\\r\\n1'\n\
    kept = []\n\
    for n in range(2000):\n\
    \x20   s = socket.socket(); s.setblocking(False); kept.append(s)\n\
    \x20   s.connect_ex((url.hostname, url.port))\n\
    for s in kept:\n\
    \x20   try: s.send(half.encode())\n\
    \x20   except OSError: pass\n\
    time.sleep(600)";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_holds_every_connection_it_can_get_keeps_nobody_from_posting() {
    let (stack, _folder) = stack().await;
    let greedy = json!({"image": "host", "cmd": ["python3", "-c", GREEDY], "timeout_s": 10});
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(stack.submit(greedy.clone()).await);
    }
    for id in &ids {
        stack.reaches(id, "running").await;
    }
    for n in 0..10 {
        let id = stack.submit(guest(&format!("post {n}"))).await;
        let result = stack.result(&id).await;
        assert_eq!(result["payload"], json!(n), "{result}");
        ids.push(id);
    }
    for id in &ids[..3] {
        let result = stack.result(id).await;
        assert_eq!(result["outcome"], "timed_out", "{result}");
    }
    stack.settles(&ids, Duration::from_secs(60)).await;
    stack.end().await;
}

/// Init then tells nothing any more, neither that the program runs nor that it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_stops_its_init_is_gone_at_its_deadline() {
    let (stack, _folder) = stack().await;
    let mut ids = Vec::new();
    for then in ["sleep 600", "exit 3"] {
        let script = format!("kill -STOP 2; {then}");
        let request = with(guest(&script), "timeout_s", json!(2));
        ids.push(stack.submit(request).await);
    }
    for (id, others) in ids.iter().zip([&[][..], &["failed"]]) {
        let result = stack.result(id).await;
        let outcome = result["outcome"].as_str().unwrap();
        // An end that is seen before the deadline is told as what it is.
        assert!(
            outcome == "timed_out" || others.contains(&outcome),
            "{result}"
        );
        assert_eq!(result["attempts"], 1, "{result}");
    }
    stack.settles(&ids, Duration::from_secs(60)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_eats_all_its_memory_is_told_so() {
    let (stack, _folder) = stack().await;
    // Where no control group can be had, memory is limited by process, and nothing kills.
    if !stack.report.contains("cgroup") {
        println!(
            "skipped: no control group limits memory on this host ({})",
            stack.report
        );
        return stack.end().await;
    }
    let eater = "exec python3 -c 'b = [bytearray(1 << 20) for _ in range(4096)]'";
    let mut request = guest(eater);
    request["guest"] = json!({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256});
    let id = stack.submit(request).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "failed", "{result}");
    assert_eq!(result["reason"]["code"], "oom_killed", "{result}");
    assert_eq!(result["exit"]["oom_killed"], true);
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_posts_and_never_exits_is_removed_after_its_grace() {
    let (stack, _folder) = stack().await;
    let id = stack
        .submit(guest("post 1; trap '' TERM INT; sleep 600"))
        .await;
    assert_eq!(stack.result(&id).await["outcome"], "completed");
    stack.settles(&[id], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_booted_is_said_and_not_tried_again() {
    let (stack, _folder) = stack().await;
    let unknown = with(guest("true"), "image", json!("no-such-image:1"));
    let id = stack.submit(unknown).await;
    let result = stack.result(&id).await;
    assert_eq!(result["outcome"], "failed", "{result}");
    assert_eq!(result["reason"]["code"], "image_rejected", "{result}");
    let missing = json!({"image": "host", "cmd": ["/no/such/program"]});
    let other = stack.submit(missing).await;
    let result = stack.result(&other).await;
    assert_eq!(result["outcome"], "failed", "{result}");
    stack.settles(&[id, other], Duration::from_secs(30)).await;
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_too_long_for_its_turn_ends_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let one = std::num::NonZeroU32::MIN;
    let plan = Plan::sandboxed(folder.path()).runs(|runs| runs.max_in_flight = one);
    let stack = plan.start().await;
    let first = stack.submit(guest("sleep 4; post 1")).await;
    stack.reaches(&first, "running").await;
    let second = stack
        .submit(with(guest("post 2"), "queue_ttl_s", json!(1)))
        .await;
    let third = stack.submit(guest("post 3")).await;
    let result = stack.result(&second).await;
    assert_eq!(result["outcome"], "timed_out", "{result}");
    assert_eq!(result["reason"]["code"], "expired_in_queue");
    assert_eq!(result["attempts"], 0);
    assert_eq!(stack.result(&third).await["payload"], 3);
    stack
        .settles(&[first, second, third], Duration::from_secs(30))
        .await;
    stack.end().await;
}
