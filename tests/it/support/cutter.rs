//! An address of a Redis that swallows answers: the command goes through and is done, and whoever
//! sent it loses the connection instead of hearing so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam::shutdown::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long an answer that is to be swallowed is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was swallowed: how often, for each kind of command.
type Lost = Arc<Mutex<BTreeMap<String, u32>>>;

#[derive(Debug)]
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    lost: Lost,
    shutdown: Shutdown,
}

impl Cutter {
    /// Leads to the Redis at `host:port`, and swallows the first `each` answers to each kind of
    /// command; each script is a kind of its own.
    pub(crate) async fn start(to: String, each: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lost, shutdown) = (Lost::default(), Shutdown::new());
        let (known, spawner) = (lost.clone(), shutdown.clone());
        shutdown.spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (to, known) = (to.clone(), known.clone());
                spawner.spawn(async move {
                    if let Ok(to) = TcpStream::connect(to).await {
                        // One that breaks off is what this is for.
                        let _ = carry(from, to, &known, each).await;
                    }
                });
            }
        });
        Self {
            address,
            lost,
            shutdown,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// How many answers were swallowed, by kind of command.
    pub(crate) fn lost(&self) -> BTreeMap<String, u32> {
        self.lost.lock().unwrap().clone()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shutdown.abort().cancel();
    }
}

async fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    lost: &Lost,
    each: u32,
) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = from.read(&mut asked) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let is_doomed = dooms(lost, each, &asked[..read]);
                to.write_all(&asked[..read]).await?;
                if is_doomed {
                    // Somebody may block for longer; then it is the command's doing that is lost.
                    let _ = tokio::time::timeout(PATIENCE, to.read(&mut answered)).await;
                    return Ok(());
                }
            }
            read = to.read(&mut answered) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                from.write_all(&answered[..read]).await?;
            }
        }
    }
}

/// Whether the answer to some of these commands is to be swallowed; counts it.
fn dooms(lost: &Lost, each: u32, asked: &[u8]) -> bool {
    let mut lost = lost.lock().unwrap();
    let mut doomed = false;
    for kind in kinds(asked) {
        let count = lost.entry(kind).or_default();
        if !doomed && *count < each {
            *count += 1;
            doomed = true;
        }
    }
    doomed
}

/// The commands that begin in these bytes: their names, for scripts with their digest.
fn kinds(asked: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(asked);
    let lines: Vec<&str> = text.split("\r\n").collect();
    let mut kinds = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_command =
            line.starts_with('*') && lines.get(at + 1).is_some_and(|l| l.starts_with('$'));
        let Some(name) = lines.get(at + 2).filter(|_| is_command) else {
            continue;
        };
        match lines.get(at + 4) {
            Some(digest) if *name == "EVALSHA" => kinds.push(format!("EVALSHA {digest}")),
            _ => kinds.push((*name).to_owned()),
        }
    }
    kinds
}

#[test]
fn commands_are_told_apart() {
    let asked = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n$7\r\nEVALSHA\r\n$4\r\nabcd\r\n$1\r\n0\r\n";
    assert_eq!(kinds(asked), ["GET", "EVALSHA abcd"]);
}
