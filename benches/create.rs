//! From a create call over HTTP to the guest's first instruction, beside bubblewrap alone.
//!
//! The guest tells the time itself, as its first act, so that nothing between it and this program
//! counts. The two are measured in turns in one run.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement for people, of the system's own time"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam::local::{Guests, LocalServer, ServerSettings};
use cofferdam::machines::wire::{CreateMachine, MachineState};
use cofferdam::machines::{Client, ClientSettings, Force, Token, Wait};
use cofferdam::shutdown::Shutdown;
use cofferdam_sandbox::Engine;
use tokio::net::TcpListener;

const WARM_UPS: usize = 5;
const ROUNDS: usize = 200;
const COMMAND: [&str; 3] = ["/bin/bash", "-c", "echo $EPOCHREALTIME"];
const APP: &str = "bench";
/// The median may be so much longer than that of bubblewrap alone.
const RATIO_MAX: f64 = 1.5;

#[tokio::main]
async fn main() {
    let (alone_state, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = cofferdam_sandbox::Settings::new(alone_state.path().to_owned());
    let (engine, _) = Engine::open(settings).await.unwrap();
    let (client, shutdown) = server(state.path()).await;
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for round in 0..WARM_UPS + ROUNDS {
        let alone = engine.bare(COMMAND.map(String::from).into()).await.unwrap();
        let through = machine(&client).await;
        if round >= WARM_UPS {
            bare.push(alone);
            whole.push(through);
        }
    }
    engine.close().await;
    shutdown.finish(Duration::from_secs(30)).await;
    let (bare, whole) = (median_ms(bare), median_ms(whole));
    let ratio = whole / bare;
    println!("{ROUNDS} rounds, medians in milliseconds");
    println!("bubblewrap alone, to its first byte        {bare:>8.2}");
    println!("create call, to the first instruction      {whole:>8.2}");
    println!("ratio                                      {ratio:>8.2}");
    if ratio > RATIO_MAX {
        println!("more than {RATIO_MAX} times as long");
        std::process::exit(1);
    }
}

async fn server(state: &std::path::Path) -> (Client, Shutdown) {
    let mut settings = ServerSettings::new("bench".to_owned(), state.to_owned());
    settings.apps = vec![APP.to_owned()];
    assert!(matches!(settings.guests, Guests::Sandboxed(_)));
    let shutdown = Shutdown::new();
    let machines = LocalServer::open(settings, &shutdown).await.unwrap();
    println!("{}", machines.report());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    shutdown.spawn(machines.serve(listener));
    let settings = ClientSettings::new(base.parse().unwrap(), Token::new("bench"));
    (Client::new(settings).unwrap(), shutdown)
}

/// Creates a machine, reads from its log when it began, and removes it.
async fn machine(client: &Client) -> Duration {
    let request: CreateMachine = serde_json::from_value(serde_json::json!({"config": {
        "image": "host", "init": {"exec": COMMAND}, "restart": {"policy": "no"}
    }}))
    .unwrap();
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let made = client.create(APP, &request).await.unwrap();
    let wait = Wait {
        states: &[MachineState::Stopped],
        version: None,
        timeout: Duration::from_secs(60),
    };
    client.wait(APP, &made.id, &wait).await.unwrap();
    let page = client.logs(APP, Some(&made.id), None).await.unwrap();
    client.delete(APP, &made.id, Force::No).await.unwrap();
    let told: f64 = page.data[0].attributes.message.parse().unwrap();
    Duration::from_secs_f64(told).saturating_sub(began)
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
