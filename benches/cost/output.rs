//! Output of guests through one endpoint: 20,000 lines a second, and what results beside them wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::endpoint::running;
use crate::procs::{Process, Redis, free_port};
use crate::report::{Part, Report};
use crate::runs::median;
use crate::stack::cofferdam;
use crate::wire::{Connections, spawn};

const LINES_PER_S: usize = 20_000;
/// Guests that write; each as the agent does, which posts what has gathered.
const GUESTS: usize = 50;
const POST_EVERY: Duration = Duration::from_millis(100);
const LINE: &str = "2026-01-01T00:00:00Z tests/test_module.py::test_something_with_a_name PASSED\n";
/// Between two results, and how many are timed in each half of a round.
const RESULT_EVERY: Duration = Duration::from_millis(5);
const RESULTS: usize = 1000;

pub(crate) async fn measure(report: &mut Report, rounds: usize) {
    let redis = Redis::start().await;
    let tokens = running(&redis, GUESTS + 2 * RESULTS * rounds + RESULTS).await;
    let (writers, others) = tokens.split_at(GUESTS);
    let port = free_port();
    let mut serve = cofferdam("serve", &redis);
    serve
        .env("COFFERDAM_LISTEN", format!("127.0.0.1:{port}"))
        .env("COFFERDAM_LOGS_BYTES", "0")
        .env("COFFERDAM_TENANT_LOGS_BYTES", "0");
    let serve = Process::start(&mut serve);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let address = format!("127.0.0.1:{port}");
    let mut halves = others.chunks_exact(RESULTS);
    // The first warms it up.
    results(&address, halves.next().unwrap()).await;
    let (mut quiet, mut busy, mut ratios, mut rates) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let (first, second) = (halves.next().unwrap(), halves.next().unwrap());
        let (alone, beside, rate);
        if round % 2 == 0 {
            alone = results(&address, first).await;
            (beside, rate) = with_output(&address, writers, second).await;
        } else {
            (beside, rate) = with_output(&address, writers, first).await;
            alone = results(&address, second).await;
        }
        quiet.push(alone);
        busy.push(beside);
        ratios.push(beside.1 / alone.1);
        rates.push(rate);
    }
    drop(serve);
    let of = |times: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
        Some(median(times.iter().map(part).collect()))
    };
    let (rate, ratio) = (median(rates), median(ratios));
    let mut part = Part::new(
        format!(
            "Results beside output, {rounds} rounds of {RESULTS} results at {} a second",
            1000 / RESULT_EVERY.as_millis()
        ),
        &["p50 ms", "p99 ms"],
    );
    part.row("alone", vec![of(&quiet, |t| t.0), of(&quiet, |t| t.1)]);
    let name = format!("beside {LINES_PER_S} lines a second of {GUESTS} guests");
    part.row(name, vec![of(&busy, |t| t.0), of(&busy, |t| t.1)]);
    report.parts.push(part);
    let name = "lines of output a second through one serve";
    report.target_at_least(name, rate, "", 0.99 * LINES_PER_S as f64);
    let name = "post to its 201 beside them, p99";
    report.target(name, ratio, "× alone", 2.0);
}

/// Posts each result when it is due; answers p50 and p99 in milliseconds, from when it was due.
async fn results(address: &str, tokens: &[String]) -> (f64, f64) {
    let connections = Arc::new(Connections::to(address));
    let mut beat = interval(RESULT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for token in tokens {
        let due = beat.tick().await;
        let (connections, tell) = (connections.clone(), tell.clone());
        let token = token.clone();
        spawn(async move {
            let status = post(&connections, "/results", &token, Bytes::from_static(b"1")).await;
            assert_eq!(status, 201);
            let _ = tell.send(due.elapsed().as_secs_f64() * 1000.0);
        });
    }
    drop(tell);
    let mut times = Vec::with_capacity(tokens.len());
    while let Some(time) = told.recv().await {
        times.push(time);
    }
    assert_eq!(times.len(), tokens.len(), "a result was refused");
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// The same while guests write; and how many lines a second were taken.
async fn with_output(address: &str, writers: &[String], tokens: &[String]) -> ((f64, f64), f64) {
    let (is_over, lines) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let each = LINES_PER_S * usize::try_from(POST_EVERY.as_millis()).unwrap() / 1000 / GUESTS;
    let piece = Bytes::from(LINE.repeat(each));
    let began = Instant::now();
    for (number, token) in writers.iter().enumerate() {
        let connections = Connections::to(address);
        let (is_over, lines) = (is_over.clone(), lines.clone());
        let (piece, token) = (piece.clone(), token.clone());
        let first = began + POST_EVERY.mul_f64(number as f64 / GUESTS as f64);
        spawn(async move {
            let mut beat = tokio::time::interval_at(first, POST_EVERY);
            while !is_over.load(Ordering::SeqCst) {
                beat.tick().await;
                let status = post(&connections, "/log", &token, piece.clone()).await;
                assert_eq!(status, 201);
                lines.fetch_add(each, Ordering::SeqCst);
            }
        });
    }
    tokio::time::sleep(2 * POST_EVERY).await;
    let (from, at_first) = (Instant::now(), lines.load(Ordering::SeqCst));
    let times = results(address, tokens).await;
    let taken = lines.load(Ordering::SeqCst) - at_first;
    let rate = taken as f64 / from.elapsed().as_secs_f64();
    is_over.store(true, Ordering::SeqCst);
    tokio::time::sleep(3 * POST_EVERY).await;
    (times, rate)
}

async fn post(connections: &Connections, path: &str, token: &str, body: Bytes) -> u16 {
    let mut request = connections.request(Method::POST, path, body);
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    connections.send(request).await.0.as_u16()
}
