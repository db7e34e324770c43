//! From asking for a machine to its guest's first byte of output, beside bubblewrap alone.
//!
//! The two are measured in turns in one run, since the same command can be a fifth slower a minute
//! later. Bubblewrap alone has the same options, the same user and the same program; the engine
//! adds init, limits, the control group, the listener and the way back.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement for people"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_sandbox::{Engine, Exit, OutputSink, Root, Settings, Spec};
use tokio::sync::oneshot;
use tokio::time::Instant;

const WARM_UPS: usize = 5;
const ROUNDS: usize = 200;
const COMMAND: [&str; 3] = ["/bin/sh", "-c", "echo hi"];
/// The median of the engine may be so much longer than that of bubblewrap alone.
const RATIO_MAX: f64 = 1.5;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, report) = Engine::open({
        let mut s = Settings::new(dir.path().to_owned());
        s.require_limits = false;
        if std::env::args().any(|a| a == "rlimit") {
            s.limits = Some(cofferdam_sandbox::Limits::Rlimit);
        }
        s
    })
    .await
    .unwrap();
    println!("{report}, {ROUNDS} rounds, milliseconds from the start to the first byte\n");
    let (mut bare, mut engaged, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UPS + ROUNDS {
        let alone = engine.bare(COMMAND.map(String::from).into()).await.unwrap();
        let (machine, exit) = machine(&engine).await;
        if round >= WARM_UPS {
            bare.push(alone);
            engaged.push(machine);
            peaks.extend(exit.peak_bytes);
        }
    }
    engine.close().await;
    let (bare, engaged) = (Times::of(bare), Times::of(engaged));
    println!("{:<20} {:>8} {:>8}", "", "median", "p99");
    println!(
        "{:<20} {:>8.2} {:>8.2}",
        "bubblewrap alone", bare.median, bare.p99
    );
    println!(
        "{:<20} {:>8.2} {:>8.2}",
        "engine", engaged.median, engaged.p99
    );
    let ratio = engaged.median / bare.median;
    println!(
        "{:<20} {:>8.2} {:>8.2}",
        "ratio",
        ratio,
        engaged.p99 / bare.p99
    );
    peaks.sort_unstable();
    if let Some(peak) = peaks.get(peaks.len() / 2) {
        println!("\nmemory of a sandbox at its peak: {} KiB", peak >> 10);
    }
    println!(
        "\nmedian at most {RATIO_MAX} times: {}",
        if ratio <= RATIO_MAX { "yes" } else { "no" }
    );
    if ratio > RATIO_MAX {
        std::process::exit(1);
    }
}

/// Starts a machine and waits for its first byte and its end.
async fn machine(engine: &Engine) -> (Duration, Exit) {
    let (tell, first) = oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let sink: OutputSink = Arc::new(move |_, _| {
        if let Some(tell) = tell.lock().unwrap().take() {
            let _ = tell.send(Instant::now());
        }
    });
    let spec = Spec {
        id: "bench".into(),
        owner: String::new(),
        root: Root::Host,
        argv: COMMAND.map(String::from).into(),
        env: BTreeMap::new(),
        workdir: None,
        files: Vec::new(),
        memory_mb: 128,
        cpus: 1,
        port: 8080,
    };
    let began = Instant::now();
    let running = engine.start(spec, sink).await.unwrap();
    let took = first.await.unwrap() - began;
    (took, running.wait().await)
}

struct Times {
    median: f64,
    p99: f64,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        Self {
            median: ms(at(50)),
            p99: ms(at(99)),
        }
    }
}
