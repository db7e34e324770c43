//! The endpoint alone: verified results per second of one core, beside hyper with nothing behind.

use std::time::Duration;

use bytes::Bytes;
use cofferdam::clock::Clock;
use cofferdam::config;
use cofferdam::run::id::RunId;
use cofferdam::run::phase::MachineRef;
use cofferdam::run::request::Guest;
use cofferdam::store::Store;
use cofferdam::store::acts::{Admission, Fate, FleetLimits, Terms};
use cofferdam::token::{Grant, KeyRing};
use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::Method;
use tokio::net::TcpStream;

use crate::procs::{Process, Redis, free_port};
use crate::report::{Part, Report};
use crate::runs::median;
use crate::stack::{APP, cofferdam, itself};
use crate::wire::Connections;

const CONNECTIONS: usize = 16;
const BATCH: usize = 500;
const KEEP: Duration = Duration::from_secs(3600);
const BODY: &[u8] = br#"{"score":17,"passed":true,"notes":"nothing of note","files":["src/lib.rs","src/main.rs"],"took_ms":1234}"#;

pub(crate) async fn measure(report: &mut Report, rounds: usize, runs: usize) {
    let redis = Redis::start().await;
    let tokens = running(&redis, (rounds + 1) * runs).await;
    let (port, bare_port) = (free_port(), free_port());
    let mut serve = cofferdam("serve", &redis);
    serve.env("COFFERDAM_LISTEN", format!("127.0.0.1:{port}"));
    let serve = Process::start(&mut serve);
    let bare = Process::start(itself().args(["bare", &bare_port.to_string()]));
    let (mut ours, mut ceilings, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for (round, tokens) in tokens.chunks_exact(runs).enumerate() {
        let (own, ceiling) = if round % 2 == 0 {
            let own = per_core(&serve, port, tokens).await;
            (own, per_core(&bare, bare_port, tokens).await)
        } else {
            let ceiling = per_core(&bare, bare_port, tokens).await;
            (per_core(&serve, port, tokens).await, ceiling)
        };
        // The first warms them up.
        if round > 0 {
            ours.push(own);
            ceilings.push(ceiling);
            shares.push(own / ceiling);
        }
    }
    let mut part = Part::new(
        format!(
            "The endpoint alone, {rounds} rounds of {runs} results over {CONNECTIONS} connections"
        ),
        &["cofferdam", "bare hyper", "share"],
    );
    let values = vec![
        Some(median(ours)),
        Some(median(ceilings)),
        Some(median(shares)),
    ];
    part.row("results per second of one core", values);
    report.parts.push(part);
}

/// Posts every result once; how many a second of processor time is enough for.
async fn per_core(process: &Process, port: u16, tokens: &[String]) -> f64 {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let connections = Connections::to(&format!("127.0.0.1:{port}"));
    let post = async |token: &String| {
        let mut request = connections.request(Method::POST, "/results", Bytes::from_static(BODY));
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let (status, _) = connections.send(request).await;
        assert_eq!(status.as_u16(), 201);
    };
    let before = process.cpu_s();
    let posts = stream::iter(tokens).map(post);
    posts.buffer_unordered(CONNECTIONS).collect::<()>().await;
    tokens.len() as f64 / (process.cpu_s() - before)
}

/// Makes runs whose results are awaited; answers their tokens.
pub(crate) async fn running(redis: &Redis, runs: usize) -> Vec<String> {
    let settings = config::Redis {
        url: config::Secret::new(redis.url.parse().unwrap()),
        namespace: "cofferdam".into(),
        ..config::Redis::nearby()
    };
    let store = Store::connect(&settings).await.unwrap();
    let secret = b"01234567890123456789012345678901";
    let ring = KeyRing::new([("k1".to_owned(), secret)]).unwrap();
    let room = FleetLimits {
        apps: vec![APP.into()],
        max_in_flight: u32::MAX,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    };
    let mut tokens = Vec::with_capacity(runs);
    while tokens.len() < runs {
        let now = Clock::system().now_ms();
        let requests = vec![REQUEST.to_owned(); BATCH];
        let entries = store.submit(&requests).await.unwrap();
        let batch: Vec<Admission> = (0..BATCH)
            .zip(entries)
            .map(|(n, entry)| {
                let id = format!("b-{}", tokens.len() + n);
                admission(id.parse().unwrap(), entry, now)
            })
            .collect();
        let terms = Terms {
            retention: KEEP,
            backlog_max: None,
            tenant_backlog_max: None,
        };
        store.admit(&batch, &terms, now).await.unwrap();
        let claim = store.claim(&room, BATCH, now, KEEP).await.unwrap();
        for run in claim.runs {
            let machine = MachineRef {
                app: APP.into(),
                id: "4d891234a56789".into(),
                instance_id: Some("01J".into()),
                region: Some("ams".into()),
            };
            store
                .advance(&run.id, run.boot(), &machine, now)
                .await
                .unwrap();
            tokens.push(ring.sign(&Grant {
                run: run.id,
                attempt: run.attempt,
                expires_s: run.deadline_ms / 1000,
                nonce: run.nonce,
            }));
        }
    }
    tokens
}

const REQUEST: &str = r#"{"image":"busybox"}"#;

fn admission(id: RunId, entry: String, now: u64) -> Admission {
    Admission {
        id,
        entry,
        digest: "d".repeat(64),
        tenant: "bench".parse().unwrap(),
        submitted_at_ms: now,
        fate: Fate::Queued {
            request_bytes: REQUEST.len(),
            input: 0..0,
            timeout: KEEP,
            timeout_asked: None,
            queue_ttl: None,
            priority: 5,
            not_before: None,
            image: "host".into(),
            size: Guest::default(),
            metadata: None,
            traceparent: None,
        },
    }
}
