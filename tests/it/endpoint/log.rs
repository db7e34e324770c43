//! `POST /log`: what guests write goes to their runs' logs, within bounds, and delays no result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cofferdam::config::Results;
use cofferdam::store::logs::{LogPiece, LogStream};
use serde_json::json;

use crate::endpoint::Guest;
use crate::support::{parts, redis};

impl Guest {
    async fn log(&self, token: &str, query: &str, text: impl Into<Vec<u8>>) -> u16 {
        let url = format!("{}/log{query}", self.base);
        let post = parts::http().post(url).bearer_auth(token).body(text.into());
        post.send().await.unwrap().status().as_u16()
    }

    async fn pieces(&self) -> Vec<LogPiece> {
        let mut reader = self.core.store.log_of(&self.run, None);
        let mut all = Vec::new();
        loop {
            let pieces = reader.next(None).await.unwrap();
            if pieces.is_empty() {
                return all;
            }
            all.extend(pieces);
        }
    }

    async fn dropped(&self) -> u64 {
        self.core.store.log_dropped(&self.run).await.unwrap()
    }
}

fn bounds(change: impl FnOnce(&mut Results)) -> Results {
    let mut results = parts::results(&parts::runs());
    change(&mut results);
    results
}

#[tokio::test]
async fn pieces_are_kept_in_order_with_their_stream_until_the_machine_is_gone() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    assert_eq!(guest.log(&token, "", "one\n").await, 201);
    assert_eq!(
        guest.log(&token, "?stream=stderr&dropped=7", "two").await,
        201
    );
    assert_eq!(guest.log(&token, "", b"\xff\x00".to_vec()).await, 201);
    let pieces = guest.pieces().await;
    let told: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.stream, &piece.text[..]))
        .collect();
    let expected: [(LogStream, &[u8]); 3] = [
        (LogStream::Stdout, b"one\n"),
        (LogStream::Stderr, b"two"),
        (LogStream::Stdout, b"\xff\x00"),
    ];
    assert_eq!(told, expected);
    assert_eq!(guest.dropped().await, 7);
    let tail = guest.core.store.log_tail(&guest.run, 4).await.unwrap();
    assert_eq!(tail.unwrap(), b"wo\xff\x00");
    // After the result there may be a last word; a token that opens nothing writes nothing.
    assert_eq!(guest.post(&token, "1").await.0, 201);
    assert_eq!(guest.log(&token, "", "bye").await, 201);
    assert_eq!(guest.log(&guest.token(2, 60), "", "x").await, 401);
    assert_eq!(guest.log(&guest.token(1, -1), "", "x").await, 401);
    assert_eq!(guest.log("nonsense", "", "x").await, 401);
    assert_eq!(guest.pieces().await.len(), 4);
    guest.end().await;
}

#[tokio::test]
async fn what_is_no_piece_is_refused_by_name() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    for query in ["?stream=stdin", "?dropped=-1", "?colour=red"] {
        assert_eq!(guest.log(&token, query, "x").await, 400, "{query}");
    }
    assert_eq!(guest.log(&token, "", vec![b'x'; 64 * 1024]).await, 201);
    assert_eq!(guest.log(&token, "", vec![b'x'; 64 * 1024 + 1]).await, 413);
    assert_eq!(guest.get("/log", Some(&token)).await.0, 405);
    assert_eq!(guest.pieces().await.len(), 1);
    guest.end().await;
}

#[tokio::test]
async fn the_oldest_pieces_make_room_and_how_much_is_told() {
    let results = bounds(|results| results.log_bytes = 1000);
    let guest = Guest::with(&redis::settings(), results, json!({})).await;
    let token = guest.token(1, 60);
    for n in 0..20 {
        let text = format!("{n:0100}");
        assert_eq!(guest.log(&token, "", text).await, 201);
    }
    // Each costs 164.
    let pieces = guest.pieces().await;
    assert_eq!(pieces.len(), 6);
    assert_eq!(pieces[5].text, format!("{:0100}", 19).into_bytes());
    assert_eq!(guest.dropped().await, 14 * 100);
    // A flood of small ones is bounded by their number too.
    for _ in 0..40 {
        guest.log(&token, "", "").await;
    }
    assert!(guest.pieces().await.len() <= 1000 / 64);
    guest.end().await;
}

#[tokio::test]
async fn logs_of_a_tenant_and_of_all_are_bounded_together() {
    for bound in [
        |results: &mut Results| results.logs_bytes = 500,
        |results: &mut Results| {
            results.tenant_logs_bytes = 500;
        },
    ] {
        let guest = Guest::with(&redis::settings(), bounds(bound), json!({})).await;
        let token = guest.token(1, 60);
        let statuses = [0; 4].map(|_| "x".repeat(100));
        let mut answers = Vec::new();
        for text in statuses {
            answers.push(guest.log(&token, "", text).await);
        }
        assert_eq!(answers, [201, 201, 201, 413]);
        assert_eq!(
            (guest.pieces().await.len(), guest.dropped().await),
            (3, 100)
        );
        // Its result is another matter.
        assert_eq!(guest.post(&token, "1").await.0, 201);
        guest.end().await;
    }
}

/// A log lives as long as its run can be looked up.
#[tokio::test]
async fn a_log_has_a_time_to_live_from_its_first_piece() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    assert_eq!(guest.log(&token, "", "x").await, 201);
    let key = guest.core.store.keys().log(&guest.run);
    let url = crate::support::redis::shared().url();
    let client = ::redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let ttl: i64 = ::redis::cmd("PTTL")
        .arg(key)
        .query_async(&mut connection)
        .await
        .unwrap();
    let retention = i64::try_from(guest.core.runs.retention.as_millis()).unwrap();
    assert!((1..=retention).contains(&ttl), "{ttl}");
    guest.end().await;
}

/// A guest that writes without end is slowed down, and others are not.
#[tokio::test]
async fn a_flood_of_output_delays_no_result() {
    let guest = Guest::new(json!({})).await;
    let token = guest.token(1, 60);
    let is_over = AtomicBool::new(false);
    let flood = async {
        // 6 MiB: the burst, and two seconds more.
        let (client, url) = (parts::http(), format!("{}/log", guest.base));
        for _ in 0..96 {
            let post = client.post(&url).bearer_auth(&token);
            post.body(vec![b'x'; 64 * 1024]).send().await.unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let result = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(guest.post(&token, "1").await.0, 201);
        assert!(
            !is_over.load(Ordering::Relaxed),
            "the flood was not slowed down"
        );
    };
    tokio::join!(flood, result);
    guest.end().await;
}
