//! A slow link: an address that leads to another one, and carries so many bytes a second in all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam::shutdown::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Bytes carried at once.
const CHUNK: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Throttle {
    pub(crate) address: SocketAddr,
    shutdown: Shutdown,
}

/// When the link is free again, and how long a byte takes.
#[derive(Clone)]
struct Link {
    free_at: Arc<Mutex<Instant>>,
    bytes_per_s: u32,
}

impl Throttle {
    /// Leads to `host:port`.
    pub(crate) async fn start(to: String, bytes_per_s: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let link = Link {
            free_at: Arc::new(Mutex::new(Instant::now())),
            bytes_per_s,
        };
        let spawner = shutdown.clone();
        shutdown.spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (to, link) = (to.clone(), link.clone());
                spawner.spawn(async move {
                    if let Ok(to) = TcpStream::connect(to).await {
                        let (from, to) = (from.into_split(), to.into_split());
                        let there = link.clone().carry(from.0, to.1);
                        let back = link.carry(to.0, from.1);
                        // One that breaks off is what this is for.
                        let _ = tokio::try_join!(there, back);
                    }
                });
            }
        });
        Self { address, shutdown }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Link {
    async fn carry(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from.read(&mut chunk).await?;
            if read == 0 {
                return to.shutdown().await;
            }
            let carried_at = {
                let mut free_at = self.free_at.lock().unwrap();
                let takes = Duration::from_secs(1) * u32::try_from(read).unwrap();
                *free_at = Instant::now().max(*free_at) + takes / self.bytes_per_s;
                *free_at
            };
            tokio::time::sleep_until(carried_at).await;
            to.write_all(&chunk[..read]).await?;
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.shutdown.abort().cancel();
    }
}
