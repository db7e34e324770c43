//! A Redis of `up`'s own: in the state folder, reachable by its owner alone, ended with us.
//!
//! The kernel kills it when the thread that started it ends (`PR_SET_PDEATHSIG`), so the main
//! thread has to start it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::config::{self, RedisTls, RedisUrl, Retention, Secret};
use crate::store::{self, Store};

/// The longest path that a socket's address holds.
const SOCKET_PATH_MAX: usize = 107;

/// How long loading the append-only file may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two attempts to connect to a starting Redis.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long writing the last of the append-only file may take.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of its log that the error shows when it does not start.
const LOG_SHOWN_BYTES: usize = 2000;

/// Why there is no Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not installed.
    #[error("{0} is not installed: install it, or set REDIS_URL to a Redis that runs")]
    Missing(&'static str),
    /// Its folder or its process cannot be made.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It ended, or did not answer.
    #[error("redis-server does not serve: {why}; the end of its log: {log}")]
    NotServing {
        /// What was seen instead.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// It serves, but cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A running Redis.
#[derive(Debug)]
pub struct OwnRedis {
    child: Child,
    folder: PathBuf,
    url: Secret<RedisUrl>,
}

/// How it is reached.
#[derive(Clone, Debug)]
enum Address {
    Socket(PathBuf),
    /// A port with a password, where the path of a socket would be too long.
    Port(u16, Secret<String>),
}

impl OwnRedis {
    /// Starts a Redis in `folder` and waits until it serves what it had kept there.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn start(folder: &Path) -> Result<Self, Error> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(io_error("make the folder of Redis"))?;
        let address = Address::new(folder).map_err(io_error("find a free port for Redis"))?;
        if let Address::Socket(path) = &address {
            // A Redis that was killed leaves its socket behind.
            let _ = fs::remove_file(path);
        }
        let mut child = spawn(folder)?;
        let config = address.config(folder);
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let written = stdin.write_all(config.as_bytes()).await;
        written.map_err(io_error("write the settings of Redis"))?;
        drop(stdin);
        let mut redis = Self {
            child,
            folder: folder.to_owned(),
            url: Secret::new(address.url()),
        };
        redis.wait_until_it_serves().await?;
        Ok(redis)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &Secret<RedisUrl> {
        &self.url
    }

    /// Returns when it has ended unexpectedly, with a message that says how.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => self.exit_message(status),
            Err(error) => error.to_string(),
        }
    }

    /// Stops it after it has written its data.
    pub async fn end(mut self) {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            // It may have ended in this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(END_TIMEOUT, self.child.wait())
            .await
            .is_err()
        {
            tracing::warn!("redis-server did not end in time and is killed");
            let _ = self.child.kill().await;
        }
    }

    async fn wait_until_it_serves(&mut self) -> Result<(), Error> {
        let settings = config::Redis {
            url: self.url.clone(),
            namespace: String::new(),
            tls: RedisTls::default(),
            wait: None,
            retention: Retention::default(),
        };
        let deadline = tokio::time::Instant::now() + LOAD_TIMEOUT;
        loop {
            let why = match Store::connect(&settings).await {
                Ok(_) => return Ok(()),
                Err(store::Error::Unavailable(why)) => why,
                Err(error) => return Err(error.into()),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                let why = format!("it ended with {status}");
                return Err(Error::NotServing {
                    why,
                    log: self.log(),
                });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::NotServing {
                    why,
                    log: self.log(),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn exit_message(&self, status: ExitStatus) -> String {
        format!(
            "redis-server ended with {status}; the end of its log: {}",
            self.log()
        )
    }

    fn log(&self) -> String {
        let text = fs::read(self.folder.join("log")).unwrap_or_default();
        let end = text
            .get(text.len().saturating_sub(LOG_SHOWN_BYTES)..)
            .unwrap_or_default();
        String::from_utf8_lossy(end).trim().to_owned()
    }
}

impl Address {
    fn new(folder: &Path) -> io::Result<Self> {
        let socket = folder.join("redis.sock");
        if socket.as_os_str().len() <= SOCKET_PATH_MAX && socket.to_str().is_some() {
            return Ok(Self::Socket(socket));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self::Port(port, Secret::new(super::keys::random_hex())))
    }

    fn url(&self) -> RedisUrl {
        match self {
            Self::Socket(path) => RedisUrl::socket(&path.to_string_lossy()),
            Self::Port(port, password) => {
                let text = format!("redis://:{}@127.0.0.1:{port}", password.expose());
                text.parse()
                    .expect("digits and hexadecimal digits fit into an address")
            }
        }
    }

    /// Its settings. They are sent over standard input, so that no other user sees the password.
    fn config(&self, folder: &Path) -> String {
        let reached = match self {
            Self::Socket(path) => {
                format!("port 0\nunixsocket {}\nunixsocketperm 700\n", quoted(path))
            }
            Self::Port(port, password) => {
                format!(
                    "bind 127.0.0.1\nport {port}\nrequirepass {}\n",
                    password.expose()
                )
            }
        };
        let kept = "appendonly yes\nappendfsync everysec\nsave \"\"\nmaxmemory-policy noeviction\n";
        let rest = "daemonize no\nloglevel warning\n";
        format!("{reached}dir {}\n{kept}{rest}", quoted(folder))
    }
}

/// A path as Redis's settings write it.
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text + "\""
}

fn spawn(folder: &Path) -> Result<Child, Error> {
    for program in ["redis-server", "setpriv"] {
        let found = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(Error::Missing(program));
        }
    }
    let log = File::create(folder.join("log")).map_err(io_error("write the log of Redis"))?;
    let errors = log
        .try_clone()
        .map_err(io_error("write the log of Redis"))?;
    let spawned = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "redis-server", "-"])
        // Ctrl-C on a terminal must not reach Redis, which ends last.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn();
    spawned.map_err(io_error("start redis-server"))
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_redis() {
        assert_eq!(
            quoted(Path::new("/a b/\"c\\ä")),
            "\"/a b/\\\"c\\\\\\xc3\\xa4\""
        );
    }

    #[test]
    fn a_path_too_long_for_a_socket_gets_a_port_with_a_password() {
        let long = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_MAX)));
        let address = Address::new(&long).unwrap();
        let url = address.url();
        assert!(url.as_str().starts_with("redis://"));
        let password = url.login.password.unwrap();
        assert!(password.len() >= 32);
        assert!(address.config(&long).contains("\nrequirepass "));
        assert!(!format!("{address:?}").contains(&password));
        assert!(matches!(
            Address::new(Path::new("/short")).unwrap(),
            Address::Socket(_)
        ));
    }
}
