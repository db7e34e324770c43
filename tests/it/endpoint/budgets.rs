//! One guest takes no room from the others, whatever it does with its token.

use std::collections::HashMap;
use std::time::Duration;

use cofferdam::config::Results;
use cofferdam::run::id::{Attempt, Nonce};
use cofferdam::token::Grant;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Guest;
use crate::support::command::Daemon;
use crate::support::fleet::{self, Fleet};
use crate::support::memory::MemoryLimit;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis;
use crate::support::until::until_within;

const BOUND: Duration = Duration::from_secs(30);
const MIB: usize = 1024 * 1024;

/// A process that serves, and two runs that its guests speak for: `greedy` with `input`, `other`.
struct Scene {
    fleet: Fleet,
    nonces: HashMap<String, Option<Nonce>>,
    /// Kept for its sweeps and claims.
    _worker: Daemon,
}

impl Scene {
    async fn new(greedy: Value) -> Self {
        let fleet = Fleet::start(&["--simulate", "10"], &[]).await;
        let (worker, _) = fleet.worker().await;
        let raw = fleet.raw().await;
        for (id, more) in [("greedy", greedy), ("other", json!({}))] {
            let mut request =
                json!({"id": id, "cmd": ["true"], "env": {"SIMULATED_GUEST": "hangs"}});
            request
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            raw.add("runs", &[("run", &request.to_string())]).await;
        }
        let mut nonces = HashMap::new();
        for id in ["greedy", "other"] {
            fleet.until_state(id, "running").await;
            nonces.insert(id.to_owned(), raw.nonce(id).await);
        }
        Self {
            fleet,
            nonces,
            _worker: worker,
        }
    }

    fn token(&self, run: &str) -> String {
        fleet::ring().sign(&Grant {
            run: run.parse().unwrap(),
            attempt: Attempt(1),
            expires_s: u64::MAX / 2000,
            nonce: self.nonces[run].clone(),
        })
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.fleet.endpoint).await.unwrap()
    }

    /// Sends the head of a call of `greedy`, and the beginning of its body.
    async fn call(&self, first: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let token = self.token("greedy");
        let head = format!(
            "{first} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{headers}\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// The other guest's post is taken at once.
    async fn other_posts(&self) {
        let url = format!("http://{}/results", self.fleet.endpoint);
        let post = parts::http().post(url).bearer_auth(self.token("other"));
        let post = tokio::time::timeout(Duration::from_secs(5), post.body("1").send());
        let answer = post.await.expect("the other waits").unwrap();
        assert_eq!(answer.status().as_u16(), 201);
    }

    /// Most memory that the endpoint's process has had, in MiB.
    fn peak_mib(&self) -> usize {
        let status = format!("/proc/{}/status", self.fleet.serve.pid());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        peak.trim()
            .trim_end_matches(" kB")
            .parse::<usize>()
            .unwrap()
            / 1024
    }

    async fn end(self) {
        drop(self._worker);
        self.fleet.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_nobody_reads_fill_no_memory_and_keep_nobody_waiting() {
    let scene = Scene::new(json!({"input": "x".repeat(15 * MIB)})).await;
    let limit = MemoryLimit::of_fly();
    if let Some(limit) = &limit {
        limit.hold(scene.fleet.serve.pid());
    }
    let mut unread = Vec::new();
    for _ in 0..32 {
        unread.push(scene.call("GET /input", "", "").await);
    }
    scene.other_posts().await;
    // Two of them are served, and some refused.
    let mut head = [0; 12];
    let (mut served, mut refused) = (0, 0);
    for stream in &mut unread {
        let read = stream.read_exact(&mut head);
        match tokio::time::timeout(Duration::from_millis(200), read).await {
            Ok(Ok(_)) if head.ends_with(b"200") => served += 1,
            Ok(_) => refused += 1,
            Err(_) => {}
        }
    }
    assert_eq!((served, refused), (2, 16));
    assert!(scene.peak_mib() < 100, "{} MiB", scene.peak_mib());
    // Who reads nothing is given up, and the next one's turn comes.
    drop(unread.split_off(16));
    until_within(BOUND, "an unread answer to be cut off", async || {
        let url = format!("http://{}/input", scene.fleet.endpoint);
        let get = parts::http().get(url).bearer_auth(scene.token("greedy"));
        let answer = get.send().await.unwrap();
        match answer.status().as_u16() {
            200 => {
                assert_eq!(answer.bytes().await.unwrap().len(), 15 * MIB + 2);
                Ok(())
            }
            status => Err(status.to_string()),
        }
    })
    .await;
    assert_eq!(limit.as_ref().map_or(0, MemoryLimit::kills), 0);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_slowly_take_no_room_from_others() {
    let scene = Scene::new(json!({})).await;
    let mut slow = Vec::new();
    for _ in 0..257 {
        slow.push(
            scene
                .call("POST /results", "content-length: 1048576\r\n", "x")
                .await,
        );
    }
    for _ in 0..64 {
        let headers = "transfer-encoding: chunked\r\n";
        slow.push(scene.call("POST /results", headers, "1\r\n \r\n").await);
    }
    scene.other_posts().await;
    assert!(scene.peak_mib() < 100, "{} MiB", scene.peak_mib());
    // A body that stands still is given up long before thirty seconds.
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(20), slow[0].read_exact(&mut answer));
    read.await.expect("an answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    scene.end().await;
}

#[tokio::test]
async fn large_posts_of_a_spent_token_go_to_redis_no_more() {
    let guest = Guest::new(json!({})).await;
    let (token, limit) = (guest.token(1, 60), guest.max_bytes);
    let large = |c: &str| format!("\"{}\"", c.repeat(limit - 2));
    assert_eq!(guest.post(&token, &large("a")).await.0, 201);
    // Only what is held against the digest is read. Another body is denied, the same is repeated.
    let repeated = guest.post(&token, &large("a")).await;
    assert_eq!(repeated, (200, json!({"status": "OK", "repeated": true})));
    assert_eq!(guest.post(&token, &large("b")).await.0, 401);
    assert_eq!(guest.post(&guest.token(2, 60), &large("a")).await.0, 401);
    assert_eq!(guest.results().await.len(), 1);
    guest.end().await;
}

#[tokio::test]
async fn posts_of_a_spent_token_are_answered_without_redis_and_made_to_wait() {
    let server = redis::Server::start();
    let settings = server.settings();
    let guest = Guest::on(&settings, json!({})).await;
    let raw = Raw::new(&settings).await;
    let (token, older) = (guest.token(1, 60), guest.token(2, 60));
    assert_eq!(guest.post(&token, "1").await.0, 201);
    assert_eq!(guest.post(&older, "1").await.0, 401);
    let before = raw.commands().await;
    let began = tokio::time::Instant::now();
    let repeated = (200, json!({"status": "OK", "repeated": true}));
    for _ in 0..4 {
        assert_eq!(guest.post(&token, "1").await, repeated);
        assert_eq!(guest.post(&token, "2").await.0, 401);
        assert_eq!(guest.post(&older, "1").await.0, 401);
    }
    // Only counting them is a command.
    assert_eq!(raw.commands().await, before + 1);
    let quick = began.elapsed();
    assert_eq!(guest.post(&token, "1").await, repeated);
    assert!(
        began.elapsed() >= quick + Duration::from_secs(1),
        "it goes on and on"
    );
    assert_eq!(guest.results().await.len(), 1);
    guest.end().await;
}

#[tokio::test]
async fn an_input_of_many_pieces_comes_back_byte_for_byte() {
    for input in [
        json!(null),
        json!(""),
        json!("x".repeat(64 * 1024 - 2)),
        json!({"long": "ä".repeat(300_000), "list": [1, 2, {"input": 3}]}),
    ] {
        let files = json!([{"guest_path": "/a", "raw_value": "YQ=="}]);
        let guest =
            Guest::new(json!({"files": files, "input": input, "metadata": {"input": 1}})).await;
        let token = guest.token(1, 60);
        let (status, body) = guest.get("/input", Some(&token)).await;
        assert_eq!(status, 200);
        assert_eq!(body, input.to_string());
        let url = format!("{}/input", guest.base);
        let head = parts::http()
            .head(url)
            .bearer_auth(&token)
            .send()
            .await
            .unwrap();
        assert_eq!(head.headers()["content-length"], body.len().to_string());
        guest.end().await;
    }
}

/// Three guests that read 15 MiB again and again made another tenant's runs four times as slow.
#[tokio::test]
async fn an_input_that_is_read_again_and_again_is_sent_more_slowly() {
    let input = json!("x".repeat(1_000_000));
    let guest = Guest::new(json!({ "input": input })).await;
    let token = guest.token(1, 60);
    let begun = tokio::time::Instant::now();
    for _ in 0..40 {
        let (status, body) = guest.get("/input", Some(&token)).await;
        assert_eq!((status, body.len()), (200, input.to_string().len()));
    }
    // 38 MiB, of which 32 are at once and the others 2 a second.
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(2500), "{took:?}");
    guest.end().await;
}

#[tokio::test]
async fn the_input_of_a_run_that_an_older_version_admitted_is_found() {
    let redis = redis::settings();
    let guest = Guest::on(&redis, json!({"input": [1, 2]})).await;
    let raw = Raw::new(&redis).await;
    raw.say::<i64>("HDEL", "run:pr-17", &["input_span"]).await;
    let answer = guest.get("/input", Some(&guest.token(1, 60))).await;
    assert_eq!(answer, (200, "[1,2]".to_owned()));
    guest.end().await;
}

/// Of the memory for large bodies 40 MiB are taken: another 40 wait for them, and small ones do not.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_bound_together() {
    const BYTES: usize = 40 * MIB;
    let results = Results {
        max_bytes: BYTES + 1,
        ..parts::results(&parts::runs())
    };
    let guest = Guest::with(&redis::settings(), results, json!({})).await;
    let address = guest.base.strip_prefix("http://").unwrap();
    let mut first = TcpStream::connect(address).await.unwrap();
    let token = guest.token(1, 60);
    let head = format!(
        "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        BYTES + 1
    );
    first.write_all(head.as_bytes()).await.unwrap();
    first.write_all(&vec![b' '; BYTES]).await.unwrap();
    let body = format!("\"{}\"", "x".repeat(BYTES - 2));
    let mut second = Box::pin(guest.post(&token, &body));
    let waits = tokio::time::timeout(Duration::from_secs(2), &mut second).await;
    assert!(waits.is_err(), "{waits:?}");
    // A small post of another run waits for neither: it is read, and only then refused.
    let unknown = parts::ring().sign(&Grant {
        run: "unknown".parse().unwrap(),
        attempt: Attempt(1),
        expires_s: u64::MAX / 2000,
        nonce: None,
    });
    let small = guest.post(&unknown, "1");
    let small = tokio::time::timeout(Duration::from_secs(5), small).await;
    assert_eq!(small.expect("it waits for the large ones").0, 401);
    drop(first);
    assert_eq!(second.await.0, 201);
    guest.end().await;
}

/// The usual soft limit of descriptors is raised, and of a low hard one a reserve is kept for the
/// endpoint's own calls.
#[tokio::test(flavor = "multi_thread")]
async fn connections_never_take_the_descriptors_that_the_endpoint_needs_itself() {
    let fleet = Fleet::start(&["--simulate", "10"], &[]).await;
    let env: Vec<_> = fleet
        .env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let limit = ["prlimit", "--nofile=40:80"];
    let mut serve = Daemon::start_below(&limit, &["serve"], &env);
    let mut addresses = serve.addresses(2).await;
    let (endpoint, admin) = (addresses.remove(0), addresses.remove(0));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", serve.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("80"), "{files}");
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(TcpStream::connect(&endpoint).await.unwrap());
    }
    // What came first is served, and Redis is reached.
    open[0]
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    open[0].read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200", "{}", serve.said());
    let ready = parts::http()
        .get(format!("http://{admin}/readyz"))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status().as_u16(), 200);
    assert!(
        !serve.said().contains("cannot be accepted"),
        "{}",
        serve.said()
    );
    serve.finish().await;
    fleet.finish().await;
}

/// Any bytes as tokens and bodies, through the real endpoint: each is answered, and the guest's own
/// post is taken afterwards.
#[tokio::test]
async fn no_bytes_of_a_guest_keep_its_result_out() {
    let guest = Guest::new(json!({})).await;
    let (token, url) = (guest.token(1, 600), format!("{}/results", guest.base));
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut body: Vec<u8> = (0..rng.usize(..80)).map(|_| rng.u8(..)).collect();
        let at = rng.usize(..=body.len());
        body.splice(at..at, br#"{"a":[1e9,"\ud83d\ude00"]}"#.iter().copied());
        // It cannot be JSON.
        body.push(b'}');
        let forged: Vec<u8> = token
            .bytes()
            .map(|byte| match rng.u8(..20) {
                0 => rng.u8(0x20..0x7f),
                1 => rng.u8(0x80..),
                _ => byte,
            })
            .collect();
        let is_unchanged = forged == token.as_bytes();
        for (token, expected) in [(token.as_bytes(), 400), (&forged, 401)] {
            if expected == 401 && is_unchanged {
                continue;
            }
            let header = [b"Bearer ", token].concat();
            let header = reqwest::header::HeaderValue::from_bytes(&header).unwrap();
            let post = parts::http().post(&url).header("authorization", header);
            let answer = post.body(body.clone()).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expected, "{body:?} {forged:?}");
        }
    }
    assert_eq!(guest.post(&token, "1").await.0, 201);
    guest.end().await;
}
