//! The processes that are measured: started, asked what they have used, ended.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::time::ClockId;
use redis::aio::MultiplexedConnection;

/// A process; it ends with this value, its children too.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        // What is logged is written, and read by nobody.
        let child = quiet.stderr(Stdio::null()).spawn();
        Self {
            child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor seconds so far, of it and its children, by the kernel's own clock of each: it counts
    /// nanoseconds, and threads that have ended too.
    pub(crate) fn cpu_s(&self) -> f64 {
        family(self.id()).into_iter().map(cpu_of).sum()
    }

    /// Bytes of memory now, and at the most so far.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let words = line.unwrap().trim().trim_end_matches(" kB");
            words.parse::<u64>().unwrap() * 1024
        };
        (kib("VmRSS:"), kib("VmHWM:"))
    }

    fn signal(id: u32, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap());
        let _ = rustix::process::kill_process(id.unwrap(), signal);
    }
}

impl Drop for Process {
    /// What is measured here has nothing to save.
    fn drop(&mut self) {
        for id in family(self.id()) {
            Self::signal(id, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn cpu_of(id: u32) -> f64 {
    let id = nix::unistd::Pid::from_raw(i32::try_from(id).unwrap());
    let used = ClockId::pid_cpu_clock_id(id).and_then(ClockId::now);
    used.map_or(0.0, |used| std::time::Duration::from(used).as_secs_f64())
}

/// A process and all its children's children.
fn family(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(id) = all.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{id}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            all.extend(children.split_whitespace().flat_map(str::parse::<u32>));
        }
    }
    all
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A Redis of its own, without persistence.
pub(crate) struct Redis {
    pub(crate) process: Process,
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) connection: MultiplexedConnection,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder.path());
        let process = Process::start(&mut command);
        let url = format!("redis://127.0.0.1:{port}");
        let client = redis::Client::open(url.as_str()).unwrap();
        let config =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        let connection = loop {
            match client
                .get_multiplexed_async_connection_with_config(&config)
                .await
            {
                Ok(connection) => break connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Self {
            process,
            url,
            port,
            connection,
            _folder: folder,
        }
    }

    pub(crate) async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let mut connection = self.connection.clone();
        command.query_async(&mut connection).await.unwrap()
    }

    /// A number of a section of Redis's own account.
    pub(crate) async fn info(&self, section: &str, name: &str) -> f64 {
        let info: String = self.command(&["INFO", section]).await;
        let name = format!("{name}:");
        let line = info.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().trim().parse().unwrap()
    }

    pub(crate) async fn memory(&self) -> f64 {
        self.info("memory", "used_memory").await
    }
}
