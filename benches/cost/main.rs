//! What cofferdam itself costs: beside the floor and the design that it comes from, as it grows,
//! and how long it lets anyone wait. `cargo bench --bench cost` runs it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program for people to run, which ends at the first thing that goes wrong"
)]

mod birth;
mod boots;
mod distance;
mod endpoint;
mod floor;
mod host;
mod kept;
mod latency;
mod load;
mod merge;
mod output;
mod plain;
mod procs;
mod report;
mod runs;
mod scale;
mod stack;
mod standin;
mod times;
mod upload;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use crate::report::Report;
use crate::stack::{Size, Stack, System};
use crate::standin::StandIn;

const USAGE: &str = "cost [--short] [--json FILE] [--svg FILE] [PART…]
  parts: runs, calls, latency, scale, endpoint, upload, output, birth, boots,
    plain, distance, idle; all of them unless some are named
cost --kept FILE    a short look at the cost of a run; ends with 1 if it is far above what FILE says
cost --keep FILE    writes what it costs now to FILE
cost --merge FROM INTO    puts parts that were measured alone into the results of a whole run
cost --profile RUNS    one cofferdam at work, for a profiler";

const PARTS: [&str; 12] = [
    "runs", "calls", "latency", "scale", "endpoint", "upload", "output", "birth", "boots", "plain",
    "distance", "idle",
];

#[derive(Default)]
struct Args {
    is_short: bool,
    json: Option<String>,
    svg: Option<String>,
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    // What is measured beside cofferdam has one thread, as its services have.
    let is_measured = words
        .first()
        .is_some_and(|word| word.starts_with("bare") || word.starts_with("floor-"));
    let mut runtime = if is_measured {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    runtime.enable_all().build().unwrap().block_on(run(&words))
}

async fn run(words: &[String]) -> ExitCode {
    let known: Vec<&str> = words.iter().map(String::as_str).collect();
    match known[..] {
        // What the program starts itself.
        ["floor-worker", redis, api, endpoint] => floor::worker(redis, api, endpoint).await,
        ["floor-endpoint", redis, port] => floor::endpoint(redis, port).await,
        ["bare", port] => floor::bare(port).await,
        ["bare-upload", port, folder] => upload::bare(port, folder).await,
        ["--kept", file] => return kept::check(file).await,
        ["--keep", file] => kept::keep(file).await,
        ["--merge", from, into] => merge::merge(from, into),
        ["--profile", runs] => profile(runs.parse().unwrap()).await,
        _ => match args(words) {
            Some(args) => measure(&args).await,
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

fn args(words: &[String]) -> Option<Args> {
    let mut args = Args::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--short" => args.is_short = true,
            "--json" => args.json = Some(words.next()?.clone()),
            "--svg" => args.svg = Some(words.next()?.clone()),
            part if PARTS.contains(&part) => args.parts.push(part.to_owned()),
            _ => return None,
        }
    }
    Some(args)
}

async fn measure(args: &Args) {
    let api = StandIn::start().await;
    let mut report = Report {
        measured: host::host(),
        is_short: args.is_short,
        ..Report::default()
    };
    let is_wanted = |part: &str| args.parts.is_empty() || args.parts.iter().any(|p| p == part);
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        eprintln!("measuring: {part}");
        match part {
            "runs" if args.is_short => runs::measure(&mut report, &api, 3, 3_000).await,
            "runs" => runs::measure(&mut report, &api, 7, 10_000).await,
            "calls" => runs::count(&mut report, &api).await,
            "latency" if args.is_short => {
                latency::measure(&mut report, &api, &latency::SHORT).await
            }
            "latency" => latency::measure(&mut report, &api, &latency::FULL).await,
            "scale" if args.is_short => scale::measure(&mut report, &api, &scale::SHORT).await,
            "scale" => scale::measure(&mut report, &api, &scale::FULL).await,
            "endpoint" if args.is_short => endpoint::measure(&mut report, 3, 3_000).await,
            "endpoint" => endpoint::measure(&mut report, 7, 10_000).await,
            "upload" if args.is_short => upload::measure(&mut report, 5).await,
            "upload" => upload::measure(&mut report, 15).await,
            "distance" if args.is_short => distance::measure(&mut report, &api, 2_000).await,
            "distance" => distance::measure(&mut report, &api, 10_000).await,
            "idle" => distance::idle(&mut report, &api).await,
            "birth" => birth::measure(&mut report, &api).await,
            "output" if args.is_short => output::measure(&mut report, 3).await,
            "output" => output::measure(&mut report, 7).await,
            "boots" if args.is_short => boots::measure(&mut report, 20).await,
            "boots" => boots::measure(&mut report, 100).await,
            _ => {
                let (single, many) = if args.is_short { (30, 3) } else { (200, 7) };
                plain::measure(&mut report, &plain::Rounds { single, many }).await;
            }
        }
    }
    println!("{}", report.text());
    if let Some(file) = &args.json {
        std::fs::write(file, report.json() + "\n").unwrap();
    }
    if let Some(file) = &args.svg
        && !report.bars.is_empty()
    {
        std::fs::write(file, report.svg()).unwrap();
    }
}

async fn profile(runs: usize) {
    let api = StandIn::start().await;
    let size = Size {
        workers: 1,
        in_flight: 1000,
    };
    let stack = Stack::start(System::Cofferdam, &api, size).await;
    let cost = stack.burst(runs, Duration::from_millis(20)).await;
    println!("{cost:?}");
}
