//! An address that stays while what is behind it dies and comes again, as a load balancer's does.

use std::net::SocketAddr;
use std::time::Duration;

use cofferdam::shutdown::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long a connection waits for somebody to be behind the address.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    to: watch::Sender<Option<String>>,
    shutdown: Shutdown,
}

impl Relay {
    /// Listens on a free port; leads nowhere yet.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, behind) = watch::channel(None);
        let shutdown = Shutdown::new();
        let spawner = shutdown.clone();
        shutdown.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let carried = tokio::time::timeout(PATIENCE, carry(stream, behind.clone()));
                spawner.spawn(async { carried.await.unwrap_or_default() });
            }
        });
        Self {
            address,
            to,
            shutdown,
        }
    }

    /// New connections lead to this `host:port`; they wait while it is `None`.
    pub(crate) fn lead_to(&self, address: Option<String>) {
        self.to.send_replace(address);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shutdown.abort().cancel();
    }
}

async fn carry(mut from: TcpStream, behind: watch::Receiver<Option<String>>) {
    let mut to = loop {
        let address = behind.borrow().clone();
        if let Some(address) = address
            && let Ok(stream) = TcpStream::connect(address).await
        {
            break stream;
        }
        tokio::time::sleep(PAUSE).await;
    };
    // One that breaks off is what this is for.
    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
}
