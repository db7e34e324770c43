//! A thousand open event streams do not slow results.

use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::scene::Scene;
use crate::support::raw::Raw;
use crate::support::until::LONG;

const STREAMS: usize = 1000;
const RUNS: usize = 150;

/// Opens a stream and answers the head of what came.
async fn open(address: &str, cookie: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("GET /live?topic=%2F HTTP/1.1\r\nhost: {address}\r\ncookie: {cookie}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 4096];
        let bytes = stream.read(&mut piece).await.unwrap();
        assert!(bytes > 0, "it was closed");
        read.extend_from_slice(&piece[..bytes]);
    }
    (stream, String::from_utf8_lossy(&read).into_owned())
}

/// From a request to its result, one after another, sorted.
async fn results(raw: &Raw, round: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    let before = raw.length("results").await;
    for n in 0..RUNS {
        let begun = Instant::now();
        let request = json!({"id": format!("{round}-{n}"), "cmd": ["true"]});
        raw.add("runs", &[("run", &request.to_string())]).await;
        while raw.length("results").await <= before + n {
            assert!(begun.elapsed() < LONG, "{round}-{n} has no result");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(begun.elapsed());
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_open_streams_do_not_slow_results() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let raw = scene.fleet.raw().await;
    let cookie = operator.cookie.clone().unwrap();
    results(&raw, "warm").await;
    let quiet = results(&raw, "quiet").await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (stream, head) = open(&scene.address, &cookie).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        streams.push(stream);
    }
    // One more is one too many, and is told so.
    let (_, head) = open(&scene.address, &cookie).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let reading = streams.iter_mut().map(|stream| async move {
        let (mut bytes, mut piece) = (0, vec![0; 16384]);
        loop {
            match stream.read(&mut piece).await {
                Ok(read) if read > 0 => bytes += read,
                _ => return bytes,
            }
        }
    });
    let reading = Box::pin(join_all(reading));
    let watched = match select(reading, Box::pin(results(&raw, "watched"))).await {
        Either::Left((read, _)) => panic!("every stream ended: {read:?}"),
        Either::Right((watched, _)) => watched,
    };
    drop(streams);
    let after = results(&raw, "after").await;
    let at = |took: &[Duration], share: usize| took[took.len() * share / 100];
    for (what, took) in [
        ("no streams", &quiet),
        ("1,000 streams", &watched),
        ("none again", &after),
    ] {
        println!("{what}: p50 {:?}, p99 {:?}", at(took, 50), at(took, 99));
    }
    // A busy host doubles anything; what is held here is that streams do not multiply it.
    let p99 = at(&quiet, 99).max(at(&after, 99));
    let bound = 3 * p99 + Duration::from_millis(100);
    assert!(
        at(&watched, 99) < bound,
        "{:?} and {p99:?}",
        at(&watched, 99)
    );
    scene.end().await;
}
