//! What a server can do counts, and not what it calls itself: an older name, a command that is not
//! there, reads that do not wait.

use std::net::SocketAddr;
use std::time::Duration;

use cofferdam::shutdown::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::redis_deployments::{Env, borrowed, redis, tool};
use crate::support::fleet::{Fleet, KEYS};
use crate::support::redis::Server;

/// Bytes that are others when they have passed.
type Change = (&'static [u8], &'static [u8]);

/// An address that leads to a server, and changes what is said on the way.
struct Changed {
    address: SocketAddr,
    /// Its tasks end with the test.
    _tasks: Shutdown,
}

impl Changed {
    async fn start(server: &Server, there: &'static [Change], back: &'static [Change]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = server.port();
        let tasks = Shutdown::new();
        let spawner = tasks.clone();
        tasks.spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                spawner.spawn(async move {
                    let to = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let (from, to) = (from.into_split(), to.into_split());
                    tokio::select! {
                        () = pass(from.0, to.1, there) => {}
                        () = pass(to.0, from.1, back) => {}
                    }
                });
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    fn env(&self) -> Env {
        vec![("REDIS_URL", format!("redis://{}", self.address))]
    }
}

/// Passes bytes on. What is to be changed comes in one piece: it is short, and sent at once.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, changes: &[Change]) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut piece).await {
        let mut said = piece[..bytes].to_vec();
        for (old, new) in changes {
            let mut at = 0;
            while let Some(found) = said[at..].windows(old.len()).position(|part| part == *old) {
                let begin = at + found;
                said.splice(begin..begin + old.len(), new.iter().copied());
                at = begin + new.len();
            }
        }
        if to.write_all(&said).await.is_err() {
            return;
        }
    }
}

/// A worker, an endpoint and their tools do a run's whole life.
async fn a_run_ends(env: &Env) -> Fleet {
    let fleet = Fleet::start_on(redis(env), &["--simulate", "1"], &borrowed(env)).await;
    let (worker, _) = fleet.worker().await;
    fleet.tool(&["submit", "--id", "one", "--", "true"]).done();
    fleet.until_state("one", "closed").await;
    worker.finish().await;
    fleet
}

/// It was refused by its version, whatever it could do.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_calls_itself_older_is_used_for_what_it_can_do() {
    let server = Server::start();
    let told: String = server.ask(&["INFO", "server"]).await.unwrap();
    assert!(told.contains("redis_version:7.0."), "{told}");
    let older: &[Change] = &[(b"redis_version:7.0.", b"redis_version:6.2.")];
    let changed = Changed::start(&server, &[], older).await;
    let fleet = a_run_ends(&changed.env()).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lacks_a_command_is_refused_by_its_name() {
    for (command, process, words) in [
        ("BLMPOP", "worker", "found a server without BLMPOP"),
        ("EVALSHA", "serve", "EVALSHA"),
    ] {
        let server = Server::start_as(&["--rename-command", command, "hidden"]);
        let env: Env = vec![
            ("REDIS_URL", server.tcp_url()),
            ("COFFERDAM_SIGNING_KEYS", KEYS.to_owned()),
            ("COFFERDAM_GUEST_URL", "http://127.0.0.1:1".to_owned()),
            ("COFFERDAM_APPS", "sandboxes".to_owned()),
            ("COFFERDAM_IMAGE", "host".to_owned()),
            ("FLY_API_URL", "http://127.0.0.1:1/v1".to_owned()),
            ("FLY_API_TOKEN", "token".to_owned()),
            ("COFFERDAM_LISTEN", "127.0.0.1:0".to_owned()),
            ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let refused = tool(&[process], &env);
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
}

/// Such a server was asked as fast as it answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_reads_do_not_wait_is_not_asked_without_a_pause() {
    let server = Server::start();
    let at_once: &[Change] = &[
        (b"BLOCK\r\n$5\r\n30000\r\n", b"BLOCK\r\n$1\r\n1\r\n"),
        (b"BLMPOP\r\n$2\r\n30\r\n", b"BLMPOP\r\n$5\r\n0.001\r\n"),
    ];
    let changed = Changed::start(&server, at_once, &[]).await;
    let env = changed.env();
    let fleet = Fleet::start_on(redis(&env), &["--simulate", "1"], &borrowed(&env)).await;
    let (worker, _) = fleet.worker().await;
    let reads = async || {
        let info: String = server.ask(&["INFO", "commandstats"]).await.unwrap();
        let lines = info.lines().filter_map(|line| {
            let line = line
                .strip_prefix("cmdstat_xreadgroup:calls=")
                .or_else(|| line.strip_prefix("cmdstat_blmpop:calls="))?;
            line.split(',').next()?.parse::<u64>().ok()
        });
        lines.sum::<u64>()
    };
    // Once it has found nothing to do it waits for as long as it can.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = reads().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = reads().await - before;
    // Four reads that wait, four times a second each, over five seconds or some more on a busy host;
    // without a pause they would be thousands.
    assert!((20..=400).contains(&asked), "{asked} reads in five seconds");
    fleet.tool(&["submit", "--id", "one", "--", "true"]).done();
    fleet.until_state("one", "closed").await;
    worker.finish().await;
    fleet.finish().await;
}
