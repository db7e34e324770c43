//! Real Redis servers: one for all tests of this process, and private ones to stop and restart.
//!
//! Each server is watched by a shell that holds the reading end of a pipe. When this process ends,
//! however it ends, the pipe closes, and the shell kills the server by its id and removes its
//! folder.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use cofferdam::config::{self, Secret};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::certificates::Certified;

/// Starts the server, says its id, waits for the pipe to close, then cleans up. A folder with a
/// file `keep` in it is to be used again.
const WATCH: &str = r#"
trap '' INT TERM HUP
"$@" >"$0/log" 2>&1 </dev/null &
echo $!
cat >/dev/null
kill -KILL $!
wait $!
[ -e "$0/keep" ] || rm -rf "$0"
"#;

/// Looks at a server that starts, 10 ms apart.
const START_LOOKS: u32 = 1000;

/// A server of a test's own.
#[derive(Debug)]
pub(crate) struct Server {
    program: &'static str,
    folder: PathBuf,
    port: u16,
    /// Options beside the usual ones.
    options: Vec<String>,
    /// The file with the settings of a sentinel.
    settings: Option<PathBuf>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    watcher: Child,
    pipe: ChildStdin,
    server: Pid,
}

/// The server that all tests of this process share. Each takes a [`namespace`] of its own.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

/// The shared server with fresh keys, as settings.
pub(crate) fn settings() -> config::Redis {
    shared().settings()
}

/// A first part of keys that no other test has.
pub(crate) fn namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

impl Server {
    /// Starts a server with an append-only file, on a socket and a free port.
    pub(crate) fn start() -> Self {
        Self::start_with(Vec::new())
    }

    /// Starts a node of a Redis Cluster that has no slots yet.
    pub(crate) fn start_clustered() -> Self {
        let bus = free_port().to_string();
        Self::start_as(&[
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "4000",
            "--cluster-port",
            &bus,
        ])
    }

    /// Starts a server with these options beside the usual ones.
    pub(crate) fn start_as(options: &[&str]) -> Self {
        Self::start_with(options.iter().map(|option| (*option).to_owned()).collect())
    }

    /// Starts a server of another program that takes the same options.
    pub(crate) fn start_program(program: &'static str, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned());
        Self::start_of(program, options.collect())
    }

    /// Starts a sentinel with these settings.
    pub(crate) fn start_sentinel(settings: &str) -> Self {
        let folder = folder();
        let port = free_port();
        let socket = folder.join("redis.sock");
        let file = folder.join("sentinel.conf");
        let all = format!(
            "port {port}\nbind 127.0.0.1\nunixsocket {}\ndir {}\n{settings}",
            socket.display(),
            folder.display()
        );
        fs::write(&file, all).unwrap();
        let mut server = Self {
            program: "redis-server",
            folder,
            port,
            options: Vec::new(),
            settings: Some(file),
            running: None,
        };
        server.resume();
        server
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it answers to a command.
    pub(crate) async fn ask<T: redis::FromRedisValue>(
        &self,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut connection)
            .await
    }

    /// Tells it to do something, which it does.
    pub(crate) async fn order(&self, words: &[&str]) {
        let done: redis::RedisResult<redis::Value> = self.ask(words).await;
        done.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }

    /// Starts a server that speaks TLS on a port of its own, beside its socket and its other port, and
    /// asks for a certificate of its clients if told so.
    pub(crate) fn start_tls(server: &Certified, authority: &Path, asks: bool) -> Self {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let asks = if asks { "yes" } else { "no" };
        Self::start_with(vec![
            "--tls-cert-file".to_owned(),
            path(&server.certificate),
            "--tls-key-file".to_owned(),
            path(&server.key),
            "--tls-ca-cert-file".to_owned(),
            path(authority),
            "--tls-auth-clients".to_owned(),
            asks.to_owned(),
            "--tls-port".to_owned(),
            free_port().to_string(),
        ])
    }

    /// The port at which it speaks TLS.
    pub(crate) fn tls_port(&self) -> &str {
        self.options.last().expect("a server that speaks TLS")
    }

    fn start_with(options: Vec<String>) -> Self {
        Self::start_of("redis-server", options)
    }

    fn start_of(program: &'static str, options: Vec<String>) -> Self {
        let mut server = Self {
            program,
            folder: folder(),
            port: free_port(),
            options,
            settings: None,
            running: None,
        };
        server.resume();
        server
    }

    /// Its address as a URL, over the socket.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its address as a URL, over TCP.
    pub(crate) fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port at which other nodes of its cluster reach it.
    pub(crate) fn cluster_port(&self) -> String {
        self.options.last().expect("a node of a cluster").clone()
    }

    /// Fresh keys on it, as settings.
    pub(crate) fn settings(&self) -> config::Redis {
        config::Redis {
            url: Secret::new(self.url().parse().unwrap()),
            namespace: namespace(),
            ..config::Redis::nearby()
        }
    }

    /// Kills it. Its data and addresses stay for [`Server::resume`].
    pub(crate) fn stop(&mut self) {
        fs::write(self.folder.join("keep"), "").unwrap();
        self.end();
    }

    /// Starts it again, with the data that it had.
    pub(crate) fn resume(&mut self) {
        assert!(self.running.is_none(), "the server is running");
        let _ = fs::remove_file(self.folder.join("keep"));
        let running = match &self.settings {
            None => watched(&self.folder, &self.words()),
            Some(file) => watched(
                &self.folder,
                &["redis-server", &file.display().to_string(), "--sentinel"].map(str::to_owned),
            ),
        };
        self.running = Some(running);
        self.wait_until_it_answers();
    }

    /// A copy of its data as they are now.
    pub(crate) fn copy(&self) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(b"SAVE\r\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
        fs::read(self.folder.join("dump.rdb")).unwrap()
    }

    /// Kills it, and starts it again with the data of a [`Server::copy`]: as what its append-only
    /// file begins with.
    pub(crate) fn restore(&mut self, copy: &[u8]) {
        self.stop();
        let folder = self.folder.join("appendonlydir");
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let base = "appendonly.aof.1.base.rdb";
        fs::write(folder.join(base), copy).unwrap();
        let manifest = format!("file {base} seq 1 type b\n");
        fs::write(folder.join("appendonly.aof.manifest"), manifest).unwrap();
        self.resume();
    }

    /// As [`Server::resume`]; whether it was seen refusing commands because it was loading.
    pub(crate) fn resume_loading(&mut self) -> bool {
        let (socket, done) = (self.socket(), AtomicBool::new(false));
        thread::scope(|scope| {
            let looks = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if ping(&socket).is_ok_and(|answer| answer == *b"-LOADIN") {
                        return true;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                false
            });
            self.resume();
            done.store(true, Ordering::Relaxed);
            looks.join().unwrap()
        })
    }

    /// Lets it hang: connections stay open and nothing is answered, until [`Server::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Server::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server was stopped");
        kill_process(running.server, signal).unwrap();
    }

    /// How a server that is no sentinel is started.
    fn words(&self) -> Vec<String> {
        let (folder, socket) = (self.folder.display(), self.socket());
        let usual = format!(
            "{} --save  --appendonly yes --daemonize no --maxmemory-policy noeviction \
             --bind 127.0.0.1 --port {} --dir {folder} --unixsocket {}",
            self.program,
            self.port,
            socket.display()
        );
        // The time to save is nothing, between two spaces.
        let usual = usual.split(' ').map(str::to_owned);
        usual.chain(self.options.iter().cloned()).collect()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    fn end(&mut self) {
        let Some(Running {
            mut watcher, pipe, ..
        }) = self.running.take()
        else {
            return;
        };
        drop(pipe);
        watcher.wait().unwrap();
    }

    fn wait_until_it_answers(&self) {
        for _ in 0..START_LOOKS {
            if ping(&self.socket()).is_ok_and(|answer| answer == *b"+PONG\r\n") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("redis-server does not answer; it said:\n{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.join("keep"));
        self.end();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn folder() -> PathBuf {
    let made = tempfile::Builder::new()
        .prefix("cofferdam-redis-")
        .tempdir();
    made.unwrap().keep()
}

fn watched(folder: &Path, words: &[String]) -> Running {
    let mut watcher = Command::new("sh")
        .args(["-c", WATCH])
        .arg(folder)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    let pipe = watcher.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(watcher.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let server = line.trim().parse().ok().and_then(Pid::from_raw);
    Running {
        watcher,
        pipe,
        server: server.expect("the shell says the server's id"),
    }
}

fn ping(socket: &Path) -> std::io::Result<[u8; 7]> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A port that was free a moment ago. Redis cannot be told to choose one itself.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_stopped_server_comes_back_with_its_data_and_leaves_nothing() {
    let mut server = Server::start();
    let folder = server.folder.clone();
    let say = |server: &Server, command: &str, answer: &str| {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        let mut said = vec![0; answer.len()];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), answer);
    };
    say(&server, "SET kept yes\r\n", "+OK\r\n");
    server.stop();
    assert!(UnixStream::connect(server.socket()).is_err());
    server.resume();
    say(&server, "GET kept\r\n", "$3\r\nyes\r\n");
    let copy = server.copy();
    say(&server, "SET kept no\r\n", "+OK\r\n");
    server.restore(&copy);
    say(&server, "GET kept\r\n", "$3\r\nyes\r\n");
    drop(server);
    assert!(!folder.exists());
}
