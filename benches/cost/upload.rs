//! Artifacts through one endpoint into a folder: bytes per second, beside hyper that only writes them to the
//! same disk, and what the endpoint's memory grows by.

use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, Request};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::endpoint::running;
use crate::procs::{Process, Redis, free_port};
use crate::report::{Part, Report};
use crate::runs::median;
use crate::stack::{cofferdam, itself};
use crate::wire::{Connections, answer, serve};

/// Bytes of one artifact.
const BYTES: usize = 64 << 20;

pub(crate) async fn measure(report: &mut Report, rounds: usize) {
    let redis = Redis::start().await;
    let tokens = running(&redis, rounds + 1).await;
    // Where it is built, so that it is a disk and no memory.
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let (port, bare_port) = (free_port(), free_port());
    let place = format!("file://{}", folder.path().join("ours").display());
    let mut command = cofferdam("serve", &redis);
    command
        .env("COFFERDAM_LISTEN", format!("127.0.0.1:{port}"))
        .env("COFFERDAM_ARTIFACTS", place)
        .env("COFFERDAM_ARTIFACTS_BYTES", "0")
        .env("COFFERDAM_TENANT_ARTIFACTS_BYTES", "0");
    let serve = Process::start(&mut command);
    let bare_folder = folder.path().join("bare");
    std::fs::create_dir(&bare_folder).unwrap();
    let words = ["bare-upload", &bare_port.to_string()];
    let bare = Process::start(itself().args(words).arg(&bare_folder));
    let bytes = Bytes::from(noise());
    let (mut ours, mut ceilings, mut shares, mut grown) = (vec![], vec![], vec![], 0.0_f64);
    for (round, token) in tokens.iter().take(rounds + 1).enumerate() {
        let before = serve.memory().1;
        let (own, ceiling) = if round % 2 == 0 {
            let own = rate(port, token, &bytes).await;
            (own, rate(bare_port, token, &bytes).await)
        } else {
            let ceiling = rate(bare_port, token, &bytes).await;
            (rate(port, token, &bytes).await, ceiling)
        };
        // The first warms them up.
        if round > 0 {
            grown = grown.max(serve.memory().1.saturating_sub(before) as f64 / 1e6);
            ours.push(own);
            ceilings.push(ceiling);
            shares.push(own / ceiling);
        }
    }
    drop((serve, bare));
    let share = median(shares);
    let mut part = Part::new(
        format!("Artifacts into a folder, {rounds} of {} MiB", BYTES >> 20),
        &["cofferdam", "bare hyper", "share"],
    );
    let values = vec![Some(median(ours)), Some(median(ceilings)), Some(share)];
    part.row("MB per second", values);
    part.row("serve's memory grows by, MB", vec![Some(grown), None, None]);
    report.parts.push(part);
    report.target_at_least("artifact upload, beside bare hyper", share, "×", 0.5);
    report.target("memory of serve for 64 MiB more", grown, "MB", 8.0);
}

/// Megabytes per second of one upload.
async fn rate(port: u16, token: &str, bytes: &Bytes) -> f64 {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let connections = Connections::to(&format!("127.0.0.1:{port}"));
    let mut request = connections.request(Method::PUT, "/artifacts/file", bytes.clone());
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    let began = Instant::now();
    let (status, _) = connections.send(request).await;
    assert_eq!(status.as_u16(), 201);
    BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}

fn noise() -> Vec<u8> {
    let mut noise = vec![0; BYTES];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    noise
}

/// `bare-upload PORT FOLDER`: what hyper does for a body that is written to a file as it comes.
pub(crate) async fn bare(port: &str, folder: &str) {
    let address = format!("127.0.0.1:{port}");
    let listener = TcpListener::bind(address).await.unwrap();
    let file = Path::new(folder).join("file");
    let handler = move |mut request: Request<hyper::body::Incoming>| {
        let file = file.clone();
        async move {
            let mut file = std::fs::File::create(file).unwrap();
            while let Some(frame) = request.body_mut().frame().await {
                file.write_all(&frame.unwrap().into_data().unwrap())
                    .unwrap();
            }
            answer(201, r#"{"status":"OK"}"#)
        }
    };
    serve(listener, handler).await;
}
