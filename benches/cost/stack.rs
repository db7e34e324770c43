//! What is measured, whole: cofferdam, the floor, or the peer, with a Redis and the stand-in.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::distance;
use crate::procs::{Process, Redis, free_port};
use crate::standin::StandIn;

pub(crate) const APP: &str = "bench";
pub(crate) const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
pub(crate) const COFFERDAM: &str = env!("CARGO_BIN_EXE_cofferdam");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Cofferdam,
    Floor,
    Peer,
}

/// How many workers, and how many machines they may have at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) workers: usize,
    pub(crate) in_flight: usize,
}

pub(crate) struct Stack {
    pub(crate) system: System,
    pub(crate) api: Arc<StandIn>,
    // These end before their Redis does.
    pub(crate) workers: Vec<Process>,
    pub(crate) endpoint: Process,
    pub(crate) redis: Redis,
}

impl Stack {
    pub(crate) async fn start(system: System, api: &Arc<StandIn>, size: Size) -> Self {
        Self::start_away(system, api, size, None).await
    }

    /// With Redis so far away from the processes that are measured.
    pub(crate) async fn start_away(
        system: System,
        api: &Arc<StandIn>,
        size: Size,
        round_trip: Option<Duration>,
    ) -> Self {
        let mut redis = Redis::start().await;
        if let Some(round_trip) = round_trip {
            redis.url = distance::far(redis.port, round_trip).await;
        }
        let port = free_port();
        let workers = (0..size.workers)
            .map(|_| {
                let mut command = worker(system, &redis, api, size, port);
                if round_trip.is_some() {
                    command.env("COFFERDAM_CONCURRENCY", "128");
                }
                Process::start(&mut command)
            })
            .collect();
        let stack = Self {
            system,
            endpoint: Process::start(&mut endpoint(system, &redis, port)),
            redis,
            api: api.clone(),
            workers,
        };
        stack.until_ready(port, size.workers).await;
        stack
    }

    async fn until_ready(&self, port: u16, workers: usize) {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        loop {
            let listeners = match self.system {
                System::Cofferdam | System::Floor => {
                    let clients: String = self.redis.command(&["CLIENT", "LIST"]).await;
                    let listens = |line: &&str| line.contains("cmd=blmpop");
                    clients.lines().filter(listens).count()
                }
                System::Peer => {
                    let processes: Vec<String> =
                        self.redis.command(&["SMEMBERS", "processes"]).await;
                    processes.len()
                }
            };
            if listeners >= workers {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn worker(system: System, redis: &Redis, api: &StandIn, size: Size, port: u16) -> Command {
    match system {
        System::Cofferdam => {
            let mut command = cofferdam("worker", redis);
            command
                .env("FLY_API_URL", format!("http://{}/v1", api.address))
                .env("FLY_API_TOKEN", "bench")
                .env("COFFERDAM_APPS", APP)
                .env("COFFERDAM_GUEST_URL", format!("http://127.0.0.1:{port}"))
                .env("COFFERDAM_MAX_IN_FLIGHT", size.in_flight.to_string())
                .env("COFFERDAM_BACKLOG_MAX", "0")
                .env("COFFERDAM_BOOT_RATE", "0")
                .env("COFFERDAM_RUN_TIMEOUT_S", "3600");
            command
        }
        System::Floor => {
            let mut command = itself();
            let endpoint = format!("127.0.0.1:{port}");
            command.args(["floor-worker", &redis.url, &api.address, &endpoint]);
            command
        }
        System::Peer => {
            let mut command = peer("sidekiq", redis);
            command
                .args(["-r", "./jobs.rb", "-c", "10", "-q", "results", "-q", "runs"])
                .env("FLY_API_URL", format!("http://{}", api.address))
                .env("RESULT_URL", format!("http://127.0.0.1:{port}/results"));
            command
        }
    }
}

fn endpoint(system: System, redis: &Redis, port: u16) -> Command {
    match system {
        System::Cofferdam => {
            let mut command = cofferdam("serve", redis);
            command.env("COFFERDAM_LISTEN", format!("127.0.0.1:{port}"));
            command
        }
        System::Floor => {
            let mut command = itself();
            command.args(["floor-endpoint", &redis.url, &port.to_string()]);
            command
        }
        System::Peer => {
            let mut command = peer("puma", redis);
            let bind = format!("tcp://127.0.0.1:{port}");
            command.args(["-e", "production", "-t", "5:5", "-b", &bind, "config.ru"]);
            command
        }
    }
}

/// With the usual settings; what is logged goes nowhere.
pub(crate) fn cofferdam(service: &str, redis: &Redis) -> Command {
    let mut command = Command::new(COFFERDAM);
    command
        .arg(service)
        .env_clear()
        .env("REDIS_URL", &redis.url)
        .env("COFFERDAM_SIGNING_KEYS", format!("k1:{KEY}"))
        .env(
            "COFFERDAM_ADMIN_LISTEN",
            format!("127.0.0.1:{}", free_port()),
        );
    command
}

/// This program, in another part.
pub(crate) fn itself() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn peer(program: &str, redis: &Redis) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer"))
        .env("REDIS_URL", &redis.url)
        .env("RAILS_ENV", "production");
    command
}

/// Why the peer cannot be measured, if it cannot.
pub(crate) fn peer_is_missing() -> Option<String> {
    for program in ["sidekiq", "puma"] {
        let known = Command::new(program).arg("--version").output();
        if !known.is_ok_and(|out| out.status.success()) {
            return Some(format!(
                "there is no {program} (Debian: apt-get install ruby-sidekiq puma)"
            ));
        }
    }
    None
}
