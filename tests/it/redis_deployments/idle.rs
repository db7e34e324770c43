//! What an idle fleet asks of Redis, which a service that is paid by the command bills.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::redis_faults::scene::settings;
use crate::support::fleet::Fleet;
use crate::support::redis::Server;

const MINUTE: Duration = Duration::from_secs(60);
/// From the start on, until a worker has seen that there is nothing to do.
const SETTLED: Duration = Duration::from_secs(25);

/// Commands that clients send within a minute, each as its first word. What scripts call is not among
/// them.
async fn commands_of_a_minute(server: &Server) -> Vec<String> {
    let address = server.tcp_url().replace("redis://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "+OK");
    let end = Instant::now() + MINUTE;
    let mut commands = Vec::new();
    while let Ok(line) = timeout_at(end, lines.next_line()).await {
        let line = line.unwrap().expect("the server is there");
        let (who, what) = line.split_once("] ").unwrap();
        if !who.ends_with(" lua") {
            let words: Vec<&str> = what.split(' ').take(2).collect();
            commands.push(words.join(" "));
        }
    }
    commands
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_sends_sixty_commands_a_minute_at_the_most_and_an_endpoint_six() {
    let (alone, both) = (Server::start(), Server::start());
    let args = ["--simulate", "1"];
    let fleet = Fleet::start_on(settings(&alone), &args, &[]).await;
    let with_worker = Fleet::start_on(settings(&both), &args, &[]).await;
    let (worker, _) = with_worker.worker().await;
    tokio::time::sleep(SETTLED).await;
    let (of_serve, of_both) =
        tokio::join!(commands_of_a_minute(&alone), commands_of_a_minute(&both));
    assert!(of_serve.len() <= 6, "{of_serve:?}");
    let most = 60 + of_serve.len();
    assert!(of_both.len() <= most, "{}: {of_both:#?}", of_both.len());
    // Whoever is asked for a run goes to work at once.
    let begun = Instant::now();
    let asked = with_worker.tool(&["submit", "--wait", "--", "true"]);
    assert_eq!(asked.status, 0, "{asked:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // And whoever is told to end does, whatever it waits for.
    let begun = Instant::now();
    worker.finish().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    with_worker.finish().await;
    fleet.finish().await;
}
