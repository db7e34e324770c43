//! The binary's size, and how soon a process of it is ready.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::procs::{Process, Redis, free_port};
use crate::report::{Part, Report};
use crate::runs::median;
use crate::stack::{APP, COFFERDAM, cofferdam};
use crate::standin::StandIn;
use crate::wire::{Body, connect, exchange};

const ROUNDS: usize = 11;

pub(crate) async fn measure(report: &mut Report, api: &Arc<StandIn>) {
    let redis = Redis::start().await;
    let bytes = std::fs::metadata(COFFERDAM).unwrap().len() as f64;
    let size = bytes / 1e6;
    let mut worker = Vec::new();
    let mut serve = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = cofferdam("worker", &redis);
        command
            .env("FLY_API_URL", format!("http://{}/v1", api.address))
            .env("FLY_API_TOKEN", "bench")
            .env("COFFERDAM_APPS", APP)
            .env("COFFERDAM_GUEST_URL", "http://127.0.0.1:1");
        worker.push(ready_ms(&mut command).await);
        let mut command = cofferdam("serve", &redis);
        command.env("COFFERDAM_LISTEN", format!("127.0.0.1:{}", free_port()));
        serve.push(ready_ms(&mut command).await);
    }
    let (worker, serve) = (median(worker), median(serve));
    let mut part = Part::new("The binary, and its start", &["figure"]);
    part.row("size, MB", vec![Some(size)]);
    part.row("worker, start to ready, ms", vec![Some(worker)]);
    part.row("serve, start to ready, ms", vec![Some(serve)]);
    report.parts.push(part);
    report.target("binary, stripped", size, "MB", 15.0);
    report.target("worker, start to ready", worker, "ms", 50.0);
    report.target("serve, start to ready", serve, "ms", 50.0);
}

/// From the start of a process to the first answer that it is ready.
async fn ready_ms(command: &mut Command) -> f64 {
    let admin = free_port();
    let address = format!("127.0.0.1:{admin}");
    command.env("COFFERDAM_ADMIN_LISTEN", &address);
    let began = Instant::now();
    let _process = Process::start(command);
    loop {
        if TcpStream::connect(&address).await.is_ok() {
            let mut connection = connect(&address).await;
            let request = hyper::Request::get("/readyz").header("host", &address);
            let request = request.body(Body::default()).unwrap();
            let (status, _) = exchange(&mut connection, request).await;
            if status.is_success() {
                return began.elapsed().as_secs_f64() * 1000.0;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
