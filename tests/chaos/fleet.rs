//! The processes: Redis, the Machines server, workers, endpoints, and a balancer before those.

use std::cell::RefCell;
use std::fs;
use std::net::TcpListener as Listener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::args::{Args, Guests, Kind};
use crate::captured;
use crate::deployment::{self, Deployment};
use crate::link::Link;
use crate::neighbour;
use crate::plan::Who;
use crate::process::{Leaving, Process};

/// Apps that machines are booted in.
pub(crate) const APPS: &str = "sandboxes-a,sandboxes-b";
/// What Redis's files are called.
const REDIS: &str = "redis";
/// What the API asks for.
pub(crate) const TOKEN: &str = "token-of-the-storm";
/// What another installation signs with.
const NEIGHBOURS_KEYS: &str = "k1:IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// What tokens of guests are signed with.
const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// How long a process that is told to end may take; it is told to take 5 s.
pub(crate) const LEAVE_BOUND: Duration = Duration::from_secs(30);

/// All processes that are tried.
#[derive(Debug)]
pub(crate) struct Fleet {
    redis: Deployment,
    machines: Process,
    workers: Vec<Process>,
    serves: Vec<Serve>,
    leaving: Vec<Leaving>,
    /// Redis and the worker of another installation.
    neighbours: [Process; 2],
    doors: Rc<RefCell<Vec<u16>>>,
    folder: PathBuf,
    /// What went wrong that should not have.
    pub(crate) troubles: Vec<String>,
    pub(crate) neighbour_url: String,
    pub(crate) machines_url: String,
}

/// An endpoint has two ports, so that an old one and a new one can stand side by side.
#[derive(Debug)]
struct Serve {
    process: Process,
    ports: [u16; 2],
}

impl Fleet {
    /// Makes the fleet, and starts it.
    pub(crate) async fn start(args: &Args, folder: &Path) -> Self {
        let mut ports = Ports(Rng::new());
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = front.local_addr().unwrap().to_string();
        let machines_port = ports.free();
        let mut redis = Deployment::new(args.servers, &mut ports, folder);
        redis.start().await;
        let neighbour_port = ports.free();
        let neighbour_url = format!("redis://127.0.0.1:{neighbour_port}");
        let command = args.command.clone();
        let command = command.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cofferdam")));
        let env = settings(args, folder, &redis, machines_port, &endpoint);
        let cofferdam =
            |name: &str, words: &[String]| Process::new(name, &command, words, &env, folder);
        let (workers, serves) = match args.kind {
            Kind::Storm | Kind::Forgetful => (3, 2),
            Kind::Rolling => (2, 1),
        };
        let worker = |n| cofferdam(&format!("worker-{n}"), &["worker".to_owned()]);
        let mut serve = |n| Serve {
            process: cofferdam(&format!("serve-{n}"), &["serve".to_owned()]),
            ports: [ports.free(), ports.free()],
        };
        let mut neighbour = cofferdam("neighbour", &["worker".to_owned()]);
        neighbour.set("REDIS_URL", neighbour_url.clone());
        neighbour.unset("COFFERDAM_REDIS_WAIT");
        neighbour.set("COFFERDAM_SIGNING_KEYS", NEIGHBOURS_KEYS.to_owned());
        neighbour.set("COFFERDAM_MAX_IN_FLIGHT", neighbour::CAP.to_string());
        let neighbours = [
            deployment::server("neighbours-redis", neighbour_port, folder, &[]),
            neighbour,
        ];
        let mut words = vec!["machines".to_owned(), "--fault-control".to_owned()];
        if let Guests::Simulated(ms) = args.guests {
            words.extend(["--simulate".to_owned(), ms.to_string()]);
        }
        let mut fleet = Self {
            machines: cofferdam("machines", &words),
            workers: (0..workers).map(worker).collect(),
            serves: (0..serves).map(&mut serve).collect(),
            leaving: Vec::new(),
            neighbours,
            doors: Rc::default(),
            folder: folder.to_owned(),
            troubles: Vec::new(),
            redis,
            neighbour_url,
            machines_url: format!("http://127.0.0.1:{machines_port}"),
        };
        if let Some(first) = fleet.workers.first_mut() {
            // Its machines have the agent already; the other workers send it along.
            first.set("COFFERDAM_GUEST_PROGRAM", "/.cofferdam-guest".to_owned());
        }
        if let Some(redis_port) = fleet.redis.port()
            && args.kind != Kind::Rolling
        {
            let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("redis://{}", slow.local_addr().unwrap());
            spawn_local(slow_link(slow, redis_port));
            if let Some(last) = fleet.workers.last_mut() {
                last.set("REDIS_URL", url);
            }
        }
        let doors = fleet.serves.iter().map(|serve| serve.ports[0]).collect();
        fleet.doors = Rc::new(RefCell::new(doors));
        spawn_local(balance(front, fleet.doors.clone()));
        fleet.machines.start();
        for n in 0..serves {
            fleet.begin(Who::Serve(n));
        }
        for process in fleet.workers.iter_mut().chain(&mut fleet.neighbours) {
            process.start();
        }
        fleet
    }

    /// A connection to Redis.
    pub(crate) fn link(&self) -> Link {
        Link::new(&self.redis.front_url, self.redis.replicas())
    }

    /// The process that is meant.
    pub(crate) fn get(&mut self, who: Who) -> &mut Process {
        match who {
            Who::Worker(n) => &mut self.workers[n],
            Who::Serve(n) => &mut self.serves[n].process,
            Who::Machines => &mut self.machines,
            Who::Redis => self.redis.primary(),
        }
    }

    fn begin(&mut self, who: Who) {
        if let Who::Serve(n) = who {
            let serve = &mut self.serves[n];
            let port = serve.ports[serve.process.starts as usize % 2];
            let listen = format!("127.0.0.1:{port}");
            serve.process.set("COFFERDAM_LISTEN", listen);
            self.doors.borrow_mut()[n] = port;
        }
        self.get(who).start();
    }

    /// Kills one and starts another in its place. Says whether it was done.
    pub(crate) fn kill(&mut self, who: Who) -> bool {
        if who == Who::Redis {
            return self.redis.kill();
        }
        self.get(who).kill();
        self.begin(who);
        true
    }

    /// Starts Redis with a copy of its data in place of what it has: as what its append-only file
    /// begins with.
    pub(crate) fn restore(&mut self, copy: &[u8]) {
        self.redis.primary().kill();
        let folder = self.folder.join(REDIS);
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let base = format!("{REDIS}.aof.1.base.rdb");
        fs::write(folder.join(&base), copy).unwrap();
        let manifest = format!("file {base} seq 1 type b\n");
        fs::write(folder.join(format!("{REDIS}.aof.manifest")), manifest).unwrap();
        self.redis.primary().start();
    }

    /// What Redis wrote when it was told to save its data.
    pub(crate) fn saved(&self) -> Vec<u8> {
        fs::read(self.folder.join("dump.rdb")).unwrap()
    }

    /// Tells one to end and starts another beside it.
    pub(crate) fn replace(&mut self, who: Who) {
        if let Some(leaving) = self.get(who).leave() {
            self.leaving.push(leaving);
        }
        self.begin(who);
    }

    /// Looks for processes that ended by themselves, starts them again, and sees off those that
    /// were told to end.
    pub(crate) fn look_after(&mut self) {
        let workers = (0..self.workers.len()).map(Who::Worker);
        let serves = (0..self.serves.len()).map(Who::Serve);
        let all: Vec<Who> = workers.chain(serves).chain([Who::Machines]).collect();
        for who in all {
            if let Some(trouble) = self.get(who).died() {
                self.troubles.push(trouble);
                self.begin(who);
            }
        }
        self.troubles.extend(self.redis.look_after());
        self.troubles
            .extend(self.neighbours.iter_mut().filter_map(Process::died));
        for mut leaving in std::mem::take(&mut self.leaving) {
            match leaving.ended() {
                // 1: told to end before it had reached Redis.
                Some(status) if matches!(status.code(), Some(0 | 1)) => {}
                Some(status)
                    if leaving.was_young && status.signal() == Some(Signal::TERM.as_raw()) => {}
                Some(status) => {
                    let trouble = format!("{} was told to end and did, {status}", leaving.name);
                    self.troubles.push(trouble);
                }
                None if leaving.age() > LEAVE_BOUND => {
                    let trouble = format!("{} was told to end and did not", leaving.name);
                    self.troubles.push(trouble);
                }
                None => self.leaving.push(leaving),
            }
        }
    }

    /// Ends all of them, Redis last.
    pub(crate) async fn end(mut self) -> Vec<String> {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.extend(self.workers.iter_mut().filter_map(Process::leave));
        let serves = self.serves.iter_mut();
        leaving.extend(serves.filter_map(|serve| serve.process.leave()));
        for one in leaving {
            let name = one.name.clone();
            if !one.wait(LEAVE_BOUND).await {
                self.troubles.push(format!("{name} did not end"));
            }
        }
        let [neighbours_redis, neighbour] = self.neighbours;
        for mut process in [neighbour, self.machines, neighbours_redis] {
            let Some(one) = process.leave() else { continue };
            let name = one.name.clone();
            if !one.wait(LEAVE_BOUND).await {
                self.troubles.push(format!("{name} did not end"));
            }
        }
        self.troubles.extend(self.redis.end().await);
        self.troubles
    }
}

fn settings(
    args: &Args,
    folder: &Path,
    redis: &Deployment,
    machines_port: u16,
    endpoint: &str,
) -> Vec<(String, String)> {
    let (cap, tenant_cap) = (args.cap.to_string(), args.tenant_cap.to_string());
    let machines = format!("127.0.0.1:{machines_port}");
    let api = format!("http://{machines}/v1");
    let state = folder.join("state");
    let artifacts = format!("file://{}", captured::folder(folder).display());
    let settings = [
        ("FLY_API_URL", api.as_str()),
        ("FLY_API_TOKEN", TOKEN),
        ("COFFERDAM_APPS", APPS),
        ("COFFERDAM_SIGNING_KEYS", KEYS),
        ("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080"),
        ("COFFERDAM_IMAGE", "host"),
        ("COFFERDAM_LISTEN", "127.0.0.1:0"),
        ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0"),
        ("COFFERDAM_MACHINES_LISTEN", &machines),
        ("COFFERDAM_MACHINES_ENDPOINT", endpoint),
        ("COFFERDAM_STATE_DIR", state.to_str().unwrap()),
        ("COFFERDAM_ARTIFACTS", &artifacts),
        ("COFFERDAM_BOOT_RATE", "0"),
        ("COFFERDAM_MAX_IN_FLIGHT", &cap),
        ("COFFERDAM_TENANT_MAX_IN_FLIGHT", &tenant_cap),
        // A machine that is lost at once is noticed after twenty seconds.
        ("COFFERDAM_RUN_TIMEOUT_S", "60"),
        ("COFFERDAM_IMAGE_PULL_TIMEOUT_S", "10"),
        ("COFFERDAM_BOOT_TIMEOUT_S", "10"),
        ("COFFERDAM_LEASE_S", "3"),
        ("COFFERDAM_GRACE_S", "1"),
        ("COFFERDAM_SWEEP_S", "1"),
        ("COFFERDAM_DRAIN_S", "5"),
        ("COFFERDAM_LOG", &args.log),
    ];
    let owned = settings.map(|(name, value)| (name, value.to_owned()));
    let all = owned.into_iter().chain(redis.settings());
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Passes connections on to the endpoints in turn, and to another where one does not answer.
async fn balance(front: TcpListener, doors: Rc<RefCell<Vec<u16>>>) {
    let mut turn = 0;
    loop {
        let Ok((mut guest, _)) = front.accept().await else {
            continue;
        };
        turn += 1;
        let ports = doors.borrow().clone();
        spawn_local(async move {
            for n in 0..ports.len() {
                let port = ports[(turn + n) % ports.len()];
                if let Ok(mut endpoint) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = copy_bidirectional(&mut guest, &mut endpoint).await;
                    return;
                }
            }
        });
    }
}

/// Bytes a second that the slow link carries each way.
const SLOW_BYTES_PER_S: u32 = 4 * 1024 * 1024;

/// Passes connections on to Redis, slowly: one worker is far away.
async fn slow_link(front: TcpListener, redis_port: u16) {
    loop {
        let Ok((near, _)) = front.accept().await else {
            continue;
        };
        spawn_local(async move {
            let Ok(far) = TcpStream::connect(("127.0.0.1", redis_port)).await else {
                return;
            };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::select! {
                () = trickle(near_read, far_write) => {}
                () = trickle(far_read, near_write) => {}
            }
        });
    }
}

async fn trickle(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..bytes]).await.is_err() {
            return;
        }
        let bytes = u32::try_from(bytes).unwrap();
        let takes = f64::from(bytes) / f64::from(SLOW_BYTES_PER_S);
        tokio::time::sleep(Duration::from_secs_f64(takes)).await;
    }
}

/// Ports that stay a process's own while it is away: outside of the range from which the system
/// gives ports to connections.
pub(crate) struct Ports(Rng);

impl Ports {
    pub(crate) fn free(&mut self) -> u16 {
        loop {
            let port = self.0.u16(10_000..32_000);
            if Listener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    }
}
