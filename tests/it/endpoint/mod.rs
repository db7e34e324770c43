//! The endpoint as guests meet it: real HTTP, a real Redis, and every answer of the contract.

mod budgets;
mod log;

use std::sync::OnceLock;
use std::time::Duration;

use cofferdam::config::{Redis, Results};
use cofferdam::endpoint;
use cofferdam::run::id::{Attempt, Nonce, RunId};
use cofferdam::run::outcome::{Ending, ReasonCode};
use cofferdam::run::phase::MachineRef;
use cofferdam::shutdown::Shutdown;
use cofferdam::stage::Core;
use cofferdam::stage::ready::Readiness;
use cofferdam::stage::settle::settle;
use cofferdam::store::acts::{BootId, FleetLimits, Requeue};
use cofferdam::token::{Grant, KeyRing};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::until::until;
use crate::support::{parts, redis};

/// An endpoint of its own, with one run whose guest may post.
struct Guest {
    core: Core,
    /// Bytes of its result's body.
    max_bytes: usize,
    base: String,
    run: RunId,
    /// Of the run, once it was claimed.
    nonce: OnceLock<Nonce>,
    shutdown: Shutdown,
}

impl Guest {
    async fn new(request: Value) -> Self {
        Self::on(&redis::settings(), request).await
    }

    async fn on(redis: &Redis, request: Value) -> Self {
        Self::with(redis, parts::results(&parts::runs()), request).await
    }

    async fn with(redis: &Redis, results: Results, request: Value) -> Self {
        let core = parts::core(redis, parts::runs()).await;
        let max_bytes = results.max_bytes;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let deps = endpoint::Deps {
            core: core.with(results),
            ring: parts::ring(),
            readiness: Readiness::new(core.store.clone(), None),
            artifacts: None,
        };
        shutdown.spawn(endpoint::serve(listener, deps, shutdown.clone()));
        let guest = Self {
            core,
            max_bytes,
            base,
            run: "pr-17".parse().unwrap(),
            nonce: OnceLock::new(),
            shutdown,
        };
        guest.admit(request).await;
        guest.boot().await;
        guest
    }

    async fn admit(&self, mut request: Value) {
        request["id"] = json!(self.run.as_str());
        parts::admit(&self.core, &[request.to_string()]).await;
    }

    async fn boot(&self) {
        let room = FleetLimits {
            apps: vec!["app".into()],
            max_in_flight: 10,
            app_max_in_flight: None,
            tenant_max_in_flight: None,
            boot_rate: 0.0,
            boot_burst: 1,
        };
        let (now, lease) = (self.core.clock.now_ms(), self.core.runs.lease);
        let claim = self.core.store.claim(&room, 1, now, lease).await.unwrap();
        assert_eq!(claim.runs.len(), 1);
        let nonce = claim.runs[0].nonce.clone().unwrap();
        assert_eq!(*self.nonce.get_or_init(|| nonce.clone()), nonce);
    }

    fn token(&self, attempt: u32, lives_s: i64) -> String {
        self.token_by(&parts::ring(), attempt, lives_s)
    }

    fn token_by(&self, ring: &KeyRing, attempt: u32, lives_s: i64) -> String {
        let now_s = self.core.clock.now_ms() / 1000;
        ring.sign(&Grant {
            run: self.run.clone(),
            attempt: Attempt(attempt),
            expires_s: now_s.saturating_add_signed(lives_s),
            nonce: self.nonce.get().cloned(),
        })
    }

    async fn post(&self, token: &str, body: &str) -> (u16, Value) {
        let request = parts::http().post(format!("{}/results", self.base));
        let response = request
            .bearer_auth(token)
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = parts::http().get(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn results(&self) -> Vec<Value> {
        let published = self.core.store.newest_results(100).await.unwrap();
        published
            .iter()
            .map(|result| serde_json::from_str(&result.result).unwrap())
            .collect()
    }

    async fn end(self) {
        assert!(self.shutdown.finish(Duration::from_secs(10)).await);
    }
}

#[tokio::test]
async fn a_result_is_accepted_once_and_an_identical_repeat_changes_nothing() {
    let guest = Guest::new(json!({"metadata": {"pr": 17}, "tenant": "acme"})).await;
    let token = guest.token(1, 60);
    assert_eq!(
        guest.post(&token, r#"{"any": "JSON"}"#).await,
        (201, json!({"status": "OK"}))
    );
    let again = guest.post(&token, r#"{"any": "JSON"}"#).await;
    assert_eq!(again, (200, json!({"status": "OK", "repeated": true})));
    assert_eq!(guest.post(&token, r#"{"any": "other"}"#).await.0, 401);
    let results = guest.results().await;
    assert_eq!(results.len(), 1);
    let result = &results[0];
    assert_eq!(result["run_id"], "pr-17");
    assert_eq!(result["outcome"], "completed");
    assert_eq!(result["payload"], json!({"any": "JSON"}));
    assert_eq!(result["tenant"], "acme");
    assert_eq!(result["metadata"], json!({"pr": 17}));
    assert_eq!(result["attempts"], 1);
    // The create call has not answered: there is no machine to tell of.
    for unknown in ["reason", "exit", "machine", "running_at_ms"] {
        assert!(result[unknown].is_null(), "{unknown}: {result}");
    }
    for known in ["submitted_at_ms", "booting_at_ms", "settled_at_ms"] {
        assert!(result[known].is_u64(), "{known}: {result}");
    }
    guest.end().await;
}

/// Seven days of results of 1 MiB filled Redis.
#[tokio::test]
async fn a_result_that_is_one_too_many_gets_a_final_answer() {
    let results = Results {
        kept_bytes: 1_000,
        ..parts::results(&parts::runs())
    };
    let guest = Guest::with(&redis::settings(), results, json!({})).await;
    let (token, body) = (guest.token(1, 60), format!("\"{}\"", "x".repeat(40_000)));
    for _ in 0..2 {
        let (status, answer) = guest.post(&token, &body).await;
        assert_eq!(status, 413);
        assert!(answer.to_string().contains("result_budget"), "{answer}");
    }
    assert_eq!(guest.post(&token, "1").await.0, 401);
    let results = guest.results().await;
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["reason"]["code"], "result_budget");
    guest.end().await;
}

#[tokio::test]
async fn a_payload_is_kept_byte_for_byte() {
    let guest = Guest::new(json!({})).await;
    let body = r#"{"z":1.0, "a" : [1e400,"\u00e9"]}"#;
    assert_eq!(guest.post(&guest.token(1, 60), body).await.0, 201);
    let published = guest.core.store.newest_results(1).await.unwrap();
    assert!(
        published[0]
            .result
            .contains(&format!(r#""payload":{body},"#))
    );
    guest.end().await;
}

#[tokio::test]
async fn ten_connections_at_once_spend_a_token_once() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    let posts = (0..10).map(|n| {
        let (guest, token, body) = (&guest, &token, format!("{n}"));
        async move { guest.post(token, &body).await.0 }
    });
    let mut answers = futures_util::future::join_all(posts).await;
    answers.sort_unstable();
    assert_eq!(answers, [vec![201], vec![401; 9]].concat());
    assert_eq!(guest.results().await.len(), 1);
    guest.end().await;
}

#[tokio::test]
async fn every_token_that_opens_nothing_is_answered_alike() {
    let guest = Guest::new(json!({})).await;
    let stranger = KeyRing::new([("test".to_owned(), [8; 32])]).unwrap();
    let unknown_key = KeyRing::new([("other".to_owned(), [7; 32])]).unwrap();
    let good = guest.token(1, 60);
    let bad = [
        String::new(),
        "nonsense".into(),
        guest.token_by(&stranger, 1, 60),
        guest.token_by(&unknown_key, 1, 60),
        guest.token(1, -1),
        guest.token(2, 60),
        guest.token(0, 60),
        good.replace("pr-17", "pr-18"),
        good.replace("cd2", "cd1"),
        good.replace("cd2", "cd3"),
        format!("{good}="),
    ];
    let mut answers: Vec<Value> = Vec::new();
    for token in &bad {
        let (status, answer) = guest.post(token, "1").await;
        assert_eq!(status, 401, "{token}");
        answers.push(answer);
        assert_eq!(guest.get("/input", Some(token)).await.0, 401, "{token}");
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(guest.results().await.is_empty());
    assert_eq!(guest.post(&good, "1").await.0, 201);
    guest.end().await;
}

#[tokio::test]
async fn a_run_that_is_over_or_at_another_attempt_accepts_nothing() {
    let guest = Guest::new(json!({})).await;
    let view = guest.core.store.record(&guest.run).await.unwrap().unwrap();
    let now = guest.core.clock.now_ms();
    let store = &guest.core.store;
    store
        .requeue(&view, view.boot(), Requeue::Failed, None, now)
        .await
        .unwrap();
    assert_eq!(
        guest.post(&guest.token(1, 60), "1").await.0,
        401,
        "queued again"
    );
    guest.boot().await;
    assert_eq!(
        guest.post(&guest.token(1, 60), "1").await.0,
        401,
        "an older attempt"
    );
    let cancelled = Ending::without(ReasonCode::Cancelled, "cancelled");
    settle(&guest.core, &guest.run, None, &cancelled)
        .await
        .unwrap();
    assert_eq!(
        guest.post(&guest.token(2, 60), "1").await.0,
        401,
        "cancelled"
    );
    assert_eq!(
        guest.get("/input", Some(&guest.token(2, 60))).await.0,
        401,
        "cancelled"
    );
    let results = guest.results().await;
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["outcome"], "cancelled");
    guest.end().await;
}

#[tokio::test]
async fn the_input_comes_back_byte_for_byte_until_the_run_is_over() {
    let guest = Guest::new(json!({"input": {"repository": [1, 2, 3]}})).await;
    let token = guest.token(1, 60);
    let answer = guest.get("/input", Some(&token)).await;
    assert_eq!(answer, (200, r#"{"repository":[1,2,3]}"#.to_owned()));
    assert_eq!(guest.post(&token, "1").await.0, 201);
    assert_eq!(guest.get("/input", Some(&token)).await.0, 401);
    guest.end().await;
}

#[tokio::test]
async fn bodies_have_bounds() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    let limit = guest.max_bytes;
    let fits = format!("1{}", " ".repeat(limit - 1));
    let long = format!("{fits} ");
    assert_eq!(guest.post(&token, &long).await.0, 413);
    assert_eq!(guest.post(&token, "").await.0, 400);
    assert_eq!(guest.post(&token, "{} {}").await.0, 400);
    assert_eq!(guest.post(&token, "\u{0}").await.0, 400);
    assert!(guest.results().await.is_empty());
    assert_eq!(guest.post(&token, &fits).await.0, 201);
    guest.end().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_too() {
    let guest = Guest::new(json!({})).await;
    let address = guest.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        guest.token(1, 60)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", "1".repeat(0x4000));
    for _ in 0..8 {
        // The answer can come, and the connection close, before all is sent.
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    guest.end().await;
}

#[tokio::test]
async fn half_a_body_is_no_result() {
    let guest = Guest::new(json!({})).await;
    let address = guest.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 4\r\n\r\n12",
        guest.token(1, 60)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        !answer.starts_with(b"HTTP/1.1 2"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(guest.results().await.is_empty());
    assert_eq!(guest.post(&guest.token(1, 60), "1").await.0, 201);
    guest.end().await;
}

#[tokio::test]
async fn a_token_that_expires_while_its_body_is_read_opens_nothing() {
    let guest = Guest::new(json!({})).await;
    let address = guest.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n1",
        guest.token(1, 2)
    );
    let expires_s = guest.core.clock.now_ms() / 1000 + 2;
    stream.write_all(head.as_bytes()).await.unwrap();
    until("the token to expire", async || {
        let now_s = guest.core.clock.now_ms() / 1000;
        if now_s >= expires_s {
            Ok(())
        } else {
            Err(now_s.to_string())
        }
    })
    .await;
    stream.write_all(b"7").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    // It had been let in: what was refused came after the body.
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(guest.results().await.is_empty());
    assert_eq!(guest.post(&guest.token(1, 60), "17").await.0, 201);
    guest.end().await;
}

#[tokio::test]
async fn only_the_paths_of_the_contract_exist() {
    let guest = Guest::new(json!({})).await;
    let client = parts::http();
    for (method, path, expected) in [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("POST", "/results/", 404),
        ("GET", "/results", 405),
        ("PUT", "/results", 405),
        ("POST", "/input", 405),
        ("POST", "/healthz", 405),
        ("POST", "/results", 401),
        ("GET", "/input", 401),
    ] {
        let method = method.parse().unwrap();
        let response = client
            .request(method, format!("{}{path}", guest.base))
            .send()
            .await;
        assert_eq!(response.unwrap().status().as_u16(), expected, "{path}");
    }
    guest.end().await;
}

#[tokio::test]
async fn without_redis_a_guest_is_told_to_come_again() {
    let mut server = redis::Server::start();
    let guest = Guest::on(&server.settings(), json!({})).await;
    let token = guest.token(1, 60);
    server.stop();
    let client = parts::http();
    let post = client
        .post(format!("{}/results", guest.base))
        .bearer_auth(&token)
        .body("1");
    let response = post.send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(guest.get("/input", Some(&token)).await.0, 503);
    assert_eq!(guest.get("/readyz", None).await.0, 503);
    assert_eq!(guest.get("/healthz", None).await.0, 200);
    server.resume();
    until("the endpoint reaches redis again", || async {
        let (status, _) = guest.get("/readyz", None).await;
        if status == 200 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    assert_eq!(guest.post(&token, "1").await.0, 201);
    let machine = MachineRef {
        app: "app".into(),
        id: "m".into(),
        instance_id: None,
        region: None,
    };
    // What was accepted is there, and the late answer of the create call is still taken.
    let now = guest.core.clock.now_ms();
    let boot = BootId {
        attempt: Attempt(1),
        nonce: guest.nonce.get(),
    };
    guest
        .core
        .store
        .advance(&guest.run, boot, &machine, now)
        .await
        .unwrap();
    assert_eq!(guest.results().await.len(), 1);
    guest.end().await;
}

/// What Python or Ruby cannot read, or not write again, does not reach the results.
#[tokio::test]
async fn json_that_breaks_its_readers_is_refused_with_the_reason() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    for (body, reason) in [
        (
            "[".repeat(5000) + &"]".repeat(5000),
            "nested deeper than 60 levels",
        ),
        (
            r#"{"a":"#.repeat(200) + "1" + &"}".repeat(200),
            "nested deeper",
        ),
        ("9".repeat(5000), "longer than 300 characters"),
        (r#"{"a":"\ud800"}"#.into(), "half of a surrogate pair"),
        (r#"{"\udfff":1}"#.into(), "half of a surrogate pair"),
        (r#"["\u0000"]"#.into(), r"\u0000"),
        (r#"{"a":1,"a":2}"#.into(), "a name is given twice"),
        (
            format!("{{\"{}\":1}}", "k".repeat(5000)),
            "a name is longer than 1024 bytes",
        ),
        ("1e999999".into(), "an exponent has more than 3 digits"),
        ("[NaN]".into(), "NaN and Infinity"),
        ("\u{feff}1".into(), "byte order mark"),
        ("\"\0x\0\"\0".into(), "UTF-16"),
        ("\0\"\0x\0\"".into(), "UTF-16"),
    ] {
        let (status, answer) = guest.post(&token, &body).await;
        assert_eq!(status, 400, "{answer}");
        let said = answer["error"].as_str().unwrap();
        assert!(said.contains(reason), "{said:?} does not say {reason:?}");
    }
    // None of them has spent the token.
    let deep = "[".repeat(60) + &"]".repeat(60);
    assert_eq!(guest.post(&token, &deep).await.0, 201);
    guest.end().await;
}

#[tokio::test]
async fn a_compressed_body_is_told_apart() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    for (encoding, expected) in [
        ("gzip", 415),
        ("br", 415),
        ("identity, gzip", 415),
        ("Identity", 201),
    ] {
        let post = parts::http()
            .post(format!("{}/results", guest.base))
            .header("content-encoding", encoding)
            .bearer_auth(&token)
            .body("1");
        let response = post.send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{encoding}");
    }
    guest.end().await;
}

#[tokio::test]
async fn head_is_answered_where_get_is() {
    let guest = Guest::new(json!({"input": [1, 2]})).await;
    let token = guest.token(1, 60);
    for (path, token, expected) in [
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/input", Some(&token), 200),
        ("/input", None, 401),
        ("/results", None, 405),
    ] {
        let mut request = parts::http().head(format!("{}{path}", guest.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{path}");
        assert!(response.headers().contains_key("content-length"), "{path}");
        assert!(response.bytes().await.unwrap().is_empty(), "{path}");
    }
    guest.end().await;
}

/// Sends `head` and far more body than any buffer holds, and only then reads.
async fn answer_after_sending(base: &str, head: &str, body: &[u8]) -> String {
    let address = base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.expect("all of it can be sent");
    // The answer has been there for long; what comes after it must not take it away.
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("no reset");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    let body = vec![b'1'; 20_000_000];
    let length = body.len();
    let chunk = [b"ffff\r\n".to_vec(), vec![b'1'; 0xffff], b"\r\n".to_vec()].concat();
    let chunked = [chunk.repeat(100), b"0\r\n\r\n".to_vec()].concat();
    for (what, authorization, path, expected) in [
        ("POST", "Bearer forged", "/results", "401"),
        ("POST", "Bearer forged", "/nothing", "404"),
        ("PUT", "Bearer forged", "/results", "405"),
        ("POST", &format!("Bearer {token}"), "/results", "413"),
    ] {
        let head =
            format!("{what} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n");
        let whole = format!("{head}Content-Length: {length}\r\n\r\n");
        let answer = answer_after_sending(&guest.base, &whole, &body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{answer}"
        );
        let pieces = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let answer = answer_after_sending(&guest.base, &pieces, &chunked).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{answer}"
        );
        // Whoever asks first is answered first, and not told to go on.
        let asking = format!("{head}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n");
        let answer = answer_after_sending(&guest.base, &asking, b"").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{answer}"
        );
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2_000_000));
    let answer = answer_after_sending(&guest.base, &long, b"").await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    guest.end().await;
}

#[tokio::test]
async fn python_and_curl_see_why_a_large_body_is_refused() {
    let guest = Guest::new(json!({})).await;
    let python = r#"
import sys, urllib.request, urllib.error
request = urllib.request.Request(sys.argv[1], data=b"1" * 900_000)
request.add_header("Authorization", "Bearer forged")
try: urllib.request.urlopen(request, timeout=20)
except urllib.error.HTTPError as error: print(error.code)
"#;
    let url = format!("{}/results", guest.base);
    for args in [
        vec!["python3", "-c", python, &url],
        vec![
            "sh",
            "-c",
            "head -c 900000 /dev/zero | curl -sS --oauth2-bearer forged \
             --data-binary @- -o /dev/null -w '%{http_code}\n' \"$0\"",
            &url,
        ],
        vec![
            "sh",
            "-c",
            "head -c 900000 /dev/zero | curl -sS --oauth2-bearer forged -T - \
             -X POST -o /dev/null -w '%{http_code}\n' \"$0\"",
            &url,
        ],
    ] {
        let mut command = tokio::process::Command::new(args[0]);
        let said = command.args(&args[1..]).output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "401\n", "{said:?}");
    }
    guest.end().await;
}
