//! A Redis that is far away, and a fleet that has nothing to do: runs a second and waits at ten
//! milliseconds of distance, and commands a minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::report::{Part, Report};
use crate::stack::{Size, Stack, System};
use crate::standin::StandIn;
use crate::wire::spawn;

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(10);
/// From the machine's making to its guest's post.
const DELAY: Duration = Duration::from_millis(20);
const SIZE: Size = Size {
    workers: 1,
    in_flight: 1000,
};
/// Until a worker has seen that there is nothing to do.
const SETTLED: Duration = Duration::from_secs(25);
const MINUTE: Duration = Duration::from_secs(60);

/// Runs a second with Redis ten milliseconds away, beside the floor at the same distance.
pub(crate) async fn measure(report: &mut Report, api: &Arc<StandIn>, runs: usize) {
    let mut part = Part::new(
        format!(
            "Redis {} ms away, COFFERDAM_CONCURRENCY=128",
            ROUND_TRIP.as_millis()
        ),
        &["cofferdam", "floor"],
    );
    let mut speeds = Vec::new();
    for system in [System::Cofferdam, System::Floor] {
        let stack = Stack::start_away(system, api, SIZE, Some(ROUND_TRIP)).await;
        speeds.push(stack.burst(runs, DELAY).await.runs_per_s);
    }
    part.row(
        format!("runs per second, {runs} at once"),
        vec![Some(speeds[0]), Some(speeds[1])],
    );
    let mut waits = Vec::new();
    for system in [System::Cofferdam, System::Floor] {
        let stack = Stack::start_away(system, api, SIZE, Some(ROUND_TRIP)).await;
        stack.warm(50, DELAY).await;
        let times = stack.offer(20.0, 200, DELAY).await;
        waits.push(times.to_create().value_at_quantile(0.5) as f64 / 1e6);
    }
    part.row(
        "XADD to create call, 20/s, p50, ms",
        vec![Some(waits[0]), Some(waits[1])],
    );
    report.parts.push(part);
    report.target_at_least("runs per second at 10 ms", speeds[0], "/s", 2000.0);
}

/// Commands that an idle worker and an endpoint send to Redis in a minute.
pub(crate) async fn idle(report: &mut Report, api: &Arc<StandIn>) {
    let endpoint = {
        let stack = Stack::start(System::Cofferdam, api, Size { workers: 0, ..SIZE }).await;
        commands_of_a_minute(&stack).await
    };
    let stack = Stack::start(System::Cofferdam, api, SIZE).await;
    let both = commands_of_a_minute(&stack).await;
    let mut part = Part::new("Commands a minute while nothing runs", &["cofferdam"]);
    let worker = both.saturating_sub(endpoint);
    part.row("a worker", vec![Some(worker as f64)]);
    part.row("an endpoint", vec![Some(endpoint as f64)]);
    report.parts.push(part);
    report.target(
        "commands a minute of an idle worker",
        worker as f64,
        "",
        60.0,
    );
    report.target(
        "commands a minute of an idle endpoint",
        endpoint as f64,
        "",
        6.0,
    );
}

async fn commands_of_a_minute(stack: &Stack) -> usize {
    tokio::time::sleep(SETTLED).await;
    let mut stream = TcpStream::connect(("127.0.0.1", stack.redis.port))
        .await
        .unwrap();
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    lines.next_line().await.unwrap();
    let end = Instant::now() + MINUTE;
    let mut commands = 0;
    while let Ok(Ok(Some(line))) = timeout_at(end, lines.next_line()).await {
        // What scripts call is no talk on the wire.
        commands += usize::from(!line.contains(" lua] "));
    }
    commands
}

/// An address that leads to a local port, and takes its time each way.
pub(crate) async fn far(port: u16, round_trip: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(there) = TcpStream::connect(("127.0.0.1", port)).await else {
                continue;
            };
            for stream in [&near, &there] {
                let _ = stream.set_nodelay(true);
            }
            let (near, there) = (near.into_split(), there.into_split());
            spawn(carry(near.0, there.1, round_trip / 2));
            spawn(carry(there.0, near.1, round_trip / 2));
        }
    });
    url
}

/// Each piece arrives so much later than it was sent, whatever else is on its way.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, takes: Duration) {
    let (send, mut sent) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    spawn(async move {
        while let Some((at, piece)) = sent.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut piece = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut piece).await {
        if send
            .send((Instant::now() + takes, piece[..bytes].to_vec()))
            .is_err()
        {
            return;
        }
    }
}
