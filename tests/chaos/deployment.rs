//! The Redis that is tried: one server, a primary and its replica watched by three sentinels, or a
//! cluster of three primaries with a replica each. Where there is a replica, what counts as done is what
//! the replica has, for cofferdam (`COFFERDAM_REDIS_WAIT`) and for those who ask here.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::args::Servers;
use crate::fleet::{LEAVE_BOUND, Ports};
use crate::process::{Leaving, Process};

/// The first part of all keys. In a cluster those in braces lie on one node.
pub(crate) const NAMESPACE: &str = "{cofferdam}";
/// How the sentinels call what they watch.
const SERVICE: &str = "storm";
/// How long a primary must be away for its replica to take over.
const DOWN_AFTER_MS: u32 = 2000;
/// How long one that was killed stays away: longer than it takes to replace it.
const AWAY: Duration = Duration::from_secs(8);
/// Between two looks for the primary.
const LOOK: Duration = Duration::from_millis(100);
/// How long all of them may take to find each other.
const START_BOUND: Duration = Duration::from_secs(60);
/// The slots of the three primaries.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// The servers, of which one has the data and takes writes.
#[derive(Debug)]
pub(crate) struct Deployment {
    kind: Servers,
    servers: Vec<Process>,
    ports: Vec<u16>,
    /// Ports by which the nodes of a cluster reach each other.
    buses: Vec<u16>,
    sentinels: Vec<Process>,
    sentinel_ports: Vec<u16>,
    /// The server that takes writes, as last seen.
    primary: Rc<Cell<usize>>,
    /// The one that was killed, and when it comes back.
    away: Option<(usize, Instant)>,
    /// Where those who ask here find the primary.
    pub(crate) front_url: String,
}

impl Deployment {
    /// Servers that are not started yet, with their data in `folder`.
    pub(crate) fn new(kind: Servers, ports: &mut Ports, folder: &Path) -> Self {
        let count = match kind {
            Servers::One => 1,
            Servers::Sentinel => 2,
            Servers::Cluster => 6,
        };
        let server_ports: Vec<u16> = (0..count).map(|_| ports.free()).collect();
        let buses: Vec<u16> = (0..count).map(|_| ports.free()).collect();
        let sentinel_ports: Vec<u16> = match kind {
            Servers::Sentinel => (0..3).map(|_| ports.free()).collect(),
            Servers::One | Servers::Cluster => Vec::new(),
        };
        let process = |n: usize| {
            let name = if n == 0 {
                "redis".to_owned()
            } else {
                format!("redis-{n}")
            };
            let mut more = Vec::new();
            if kind != Servers::One {
                more.extend(["--min-replicas-to-write", "1"].map(str::to_owned));
            }
            match kind {
                Servers::One => {}
                Servers::Sentinel if n == 0 => {}
                Servers::Sentinel => {
                    let primary = server_ports[0].to_string();
                    more.extend(["--replicaof", "127.0.0.1", &primary].map(str::to_owned));
                }
                Servers::Cluster => {
                    let (file, bus) = (format!("nodes-{n}.conf"), buses[n].to_string());
                    let timeout = DOWN_AFTER_MS.to_string();
                    let words = [
                        "--cluster-enabled",
                        "yes",
                        "--cluster-config-file",
                        &file,
                        "--cluster-port",
                        &bus,
                        "--cluster-node-timeout",
                        &timeout,
                        "--cluster-replica-validity-factor",
                        "0",
                    ];
                    more.extend(words.map(str::to_owned));
                }
            }
            server(&name, server_ports[n], folder, &more)
        };
        let sentinel = |(n, port): (usize, &u16)| {
            let name = format!("sentinel-{n}");
            let file = folder.join(format!("{name}.conf"));
            let primary = server_ports[0];
            let settings = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n\
                 sentinel failover-timeout {SERVICE} 4000\n",
                folder.display()
            );
            fs::write(&file, settings).unwrap();
            let words = [file.to_str().unwrap(), "--sentinel"].map(str::to_owned);
            Process::new(&name, Path::new("redis-server"), &words, &[], folder)
        };
        Self {
            kind,
            servers: (0..count).map(process).collect(),
            sentinels: sentinel_ports.iter().enumerate().map(sentinel).collect(),
            primary: Rc::default(),
            away: None,
            front_url: format!("redis://127.0.0.1:{}", server_ports[0]),
            ports: server_ports,
            buses,
            sentinel_ports,
        }
    }

    /// What cofferdam is given.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let all = |ports: &[u16]| {
            let ports = ports.iter().map(|port| format!("127.0.0.1:{port}"));
            ports.collect::<Vec<_>>().join(",")
        };
        let url = match self.kind {
            Servers::One => self.front_url.clone(),
            Servers::Sentinel => {
                format!("redis+sentinel://{}/{SERVICE}", all(&self.sentinel_ports))
            }
            Servers::Cluster => format!("redis://{}", all(&self.ports)),
        };
        let mut settings = vec![
            ("REDIS_URL", url),
            ("COFFERDAM_NAMESPACE", NAMESPACE.to_owned()),
        ];
        if self.replicas() > 0 {
            let wait = format!("{}:1000", self.replicas());
            settings.push(("COFFERDAM_REDIS_WAIT", wait));
        }
        settings
    }

    /// Replicas that must have what counts as done.
    pub(crate) fn replicas(&self) -> u32 {
        u32::from(self.kind != Servers::One)
    }

    /// The port of the only server.
    pub(crate) fn port(&self) -> Option<u16> {
        (self.kind == Servers::One).then(|| self.ports[0])
    }

    /// Starts all of them, and waits until they have found each other.
    pub(crate) async fn start(&mut self) {
        for process in self.servers.iter_mut().chain(&mut self.sentinels) {
            process.start();
        }
        match self.kind {
            Servers::One => return,
            Servers::Sentinel => self.watch_each_other().await,
            Servers::Cluster => self.form_a_cluster().await,
        }
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.front_url = format!("redis://{}", front.local_addr().unwrap());
        spawn_local(lead(front, self.ports.clone(), self.primary.clone()));
        let (ports, primary) = (self.ports.clone(), self.primary.clone());
        spawn_local(async move {
            loop {
                for (n, port) in ports.iter().enumerate() {
                    if takes_writes(*port).await {
                        primary.set(n);
                    }
                }
                sleep(LOOK).await;
            }
        });
    }

    async fn watch_each_other(&self) {
        until("the replica to follow", async || {
            let info: String = ask(self.ports[1], &["INFO", "replication"]).await?;
            Ok(info.contains("master_link_status:up"))
        })
        .await;
        for port in &self.sentinel_ports {
            until("the sentinels to know each other", async || {
                let told: String = ask(*port, &["SENTINEL", "CKQUORUM", SERVICE]).await?;
                let known: Vec<redis::Value> =
                    ask(*port, &["SENTINEL", "REPLICAS", SERVICE]).await?;
                Ok(told.starts_with("OK 3") && known.len() == 1)
            })
            .await;
        }
    }

    async fn form_a_cluster(&self) {
        for port in &self.ports {
            until("a node to answer", async || {
                ask::<String>(*port, &["PING"]).await.map(|_| true)
            })
            .await;
        }
        for (n, (from, to)) in SLOTS.iter().enumerate() {
            let port = self.ports[n];
            let (from, to) = (from.to_string(), to.to_string());
            order(port, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await;
            order(port, &["CLUSTER", "ADDSLOTSRANGE", &from, &to]).await;
        }
        for (port, bus) in self.ports.iter().zip(&self.buses).skip(1) {
            let (port, bus) = (port.to_string(), bus.to_string());
            order(
                self.ports[0],
                &["CLUSTER", "MEET", "127.0.0.1", &port, &bus],
            )
            .await;
        }
        for port in &self.ports {
            until("the nodes to know each other", async || {
                let info: String = ask(*port, &["CLUSTER", "INFO"]).await?;
                Ok(info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6"))
            })
            .await;
        }
        for n in 0..3 {
            let id: String = ask(self.ports[n], &["CLUSTER", "MYID"]).await.unwrap();
            order(self.ports[n + 3], &["CLUSTER", "REPLICATE", &id]).await;
        }
        for port in &self.ports[3..] {
            until("the replicas to follow", async || {
                let info: String = ask(*port, &["INFO", "replication"]).await?;
                Ok(info.contains("master_link_status:up"))
            })
            .await;
        }
    }

    /// The server that takes writes.
    pub(crate) fn primary(&mut self) -> &mut Process {
        &mut self.servers[self.primary.get()]
    }

    /// Kills the server that takes writes. A single one starts again at once; another stays away until it
    /// has been replaced. Says whether it was done: not while one is away.
    pub(crate) fn kill(&mut self) -> bool {
        if self.away.is_some() {
            return false;
        }
        self.primary().kill();
        if self.kind == Servers::One {
            self.primary().start();
        } else {
            self.away = Some((self.primary.get(), Instant::now() + AWAY));
        }
        true
    }

    /// Starts again what was killed, and what ended by itself, which is told.
    pub(crate) fn look_after(&mut self) -> Vec<String> {
        if let Some((n, at)) = self.away
            && Instant::now() >= at
        {
            self.servers[n].start();
            self.away = None;
        }
        let mut troubles = Vec::new();
        for process in self.servers.iter_mut().chain(&mut self.sentinels) {
            if let Some(trouble) = process.died() {
                troubles.push(trouble);
                process.start();
            }
        }
        troubles
    }

    /// Tells all to end.
    pub(crate) async fn end(mut self) -> Vec<String> {
        let all = self.sentinels.iter_mut().chain(&mut self.servers);
        let leaving: Vec<Leaving> = all.filter_map(Process::leave).collect();
        let mut troubles = Vec::new();
        for one in leaving {
            let name = one.name.clone();
            if !one.wait(LEAVE_BOUND).await {
                troubles.push(format!("{name} did not end"));
            }
        }
        troubles
    }
}

/// A kill loses nothing that the system has been given; `everysec` may keep answers back in the
/// process for a second, so everything that was answered is written first.
pub(crate) fn server(name: &str, port: u16, folder: &Path, more: &[String]) -> Process {
    let file = format!("{name}.aof");
    let port = port.to_string();
    let dump = if name == "redis" {
        "dump.rdb".to_owned()
    } else {
        format!("{name}.rdb")
    };
    let words = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--maxmemory-policy",
        "noeviction",
        "--appendfilename",
        &file,
        "--appenddirname",
        name,
        "--dbfilename",
        &dump,
        "--dir",
    ];
    let mut words = words.map(str::to_owned).to_vec();
    words.push(folder.to_str().unwrap().to_owned());
    words.extend_from_slice(more);
    Process::new(name, Path::new("redis-server"), &words, &[], folder)
}

/// Leads connections to the server that takes writes now.
async fn lead(front: TcpListener, ports: Vec<u16>, primary: Rc<Cell<usize>>) {
    loop {
        let Ok((mut near, _)) = front.accept().await else {
            continue;
        };
        let port = ports[primary.get()];
        spawn_local(async move {
            if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

/// Whether a server has our keys and a replica that follows: a primary that came back and was replaced
/// has none.
async fn takes_writes(port: u16) -> bool {
    let key = format!("{NAMESPACE}:storm");
    let role: RedisResult<Vec<redis::Value>> = ask(port, &["ROLE"]).await;
    let is_primary = role.is_ok_and(|role| {
        matches!(&role[..], [redis::Value::BulkString(role), _, redis::Value::Array(following)]
            if role == b"master" && !following.is_empty())
    });
    is_primary && ask::<u64>(port, &["EXISTS", &key]).await.is_ok()
}

async fn ask<T: FromRedisValue>(port: u16, words: &[&str]) -> RedisResult<T> {
    let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(2)));
    let made = client.get_multiplexed_async_connection_with_config(&patient);
    let mut connection = made.await?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await
}

async fn order(port: u16, words: &[&str]) {
    ask::<redis::Value>(port, words).await.unwrap();
}

async fn until(what: &str, look: impl AsyncFn() -> RedisResult<bool>) {
    let began = Instant::now();
    while !look().await.unwrap_or(false) {
        assert!(began.elapsed() < START_BOUND, "waited for {what}");
        sleep(LOOK).await;
    }
}
