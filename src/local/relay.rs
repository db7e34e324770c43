//! The one thing a machine can reach: bytes from the listener inside its network namespace are
//! carried to the configured endpoint, and back.
//!
//! Bytes pass unchanged, save that a token of another machine is refused (`bearer`). Connections are
//! bounded for each machine and in
//! all, and end when nothing has moved for a while. One of each machine is always carried, so that
//! no others can keep it from posting by holding on to all connections there are. When the machine
//! has ended, what its program had already sent is still delivered, for a grace period.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::descriptors;
use crate::local::bearer::TokenCheck;
use crate::shutdown::Shutdown;

/// Bytes that are on their way in one direction of one connection.
const BUFFER_BYTES: usize = 16 * 1024;
/// The answer to another machine's token.
const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n\
    connection: close\r\ncontent-length: 34\r\n\r\n{\"error\":\"the token is not valid\"}";
/// How long, and how much, is read after that answer.
const REFUSED_MAX: Duration = Duration::from_secs(2);
const REFUSED_MAX_BYTES: u64 = 1 << 20;

/// Bounds of the relay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections of one machine at once.
    pub(crate) per_machine: usize,
    /// Connections of all machines at once, without the first of each.
    pub(crate) overall: usize,
    /// How long a connection may be silent in both directions.
    pub(crate) idle: Duration,
    /// How long connecting to the endpoint may take.
    pub(crate) connect: Duration,
    /// How long what a program sent may take to be delivered after its end.
    pub(crate) grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_machine: 32,
            // Two descriptors each, and half of them for the API's own.
            overall: (descriptors::for_connections() / 4).clamp(1, 2048),
            idle: Duration::from_secs(120),
            connect: Duration::from_secs(5),
            grace: Duration::from_secs(5),
        }
    }
}

/// Carries machines' connections to one endpoint. Clones share its bounds.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    /// `host:port`, looked up for each connection.
    endpoint: Arc<str>,
    bounds: Bounds,
    overall: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Relay {
    /// Where it carries to.
    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    /// A relay to `host:port`.
    pub(crate) fn new(endpoint: &str, bounds: Bounds, shutdown: Shutdown) -> Self {
        Self {
            endpoint: endpoint.into(),
            overall: Arc::new(Semaphore::new(bounds.overall)),
            bounds,
            shutdown,
        }
    }

    /// Serves one machine's listener until `ended`, then those who had connected by then. With `token`,
    /// the machine's own, no other token passes.
    pub(crate) async fn serve(
        &self,
        listener: TcpListener,
        token: Option<Arc<str>>,
        ended: CancellationToken,
    ) {
        let own = Own::new(self.bounds);
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = self.accept(&listener, &own) => accepted,
                () = ended.cancelled() => break,
            };
            match accepted {
                Ok((stream, permit)) => self.spawn(stream, permit, token.clone(), &ended),
                Err(error) => {
                    debug!(%error, "a machine's listener failed");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        // What waited in the backlog when the machine ended has been sent: take it along.
        while let Ok(Ok((stream, permit))) =
            timeout(Duration::from_millis(5), self.accept(&listener, &own)).await
        {
            self.spawn(stream, permit, token.clone(), &ended);
        }
    }

    /// The next connection with its permit. Permits come first: what cannot be served stays in
    /// the listener's backlog, where it costs nothing.
    async fn accept(&self, listener: &TcpListener, own: &Own) -> io::Result<(TcpStream, Permit)> {
        let first = Arc::clone(&own.first).acquire_owned();
        let further = async {
            let own = Arc::clone(&own.further).acquire_owned().await?;
            let overall = Arc::clone(&self.overall).acquire_owned().await?;
            Ok((own, overall))
        };
        let permit = tokio::select! {
            biased;
            first = first => first.map(Permit::First),
            further = further => further.map(|(own, overall)| Permit::Further(own, overall)),
        };
        let permit = permit.map_err(|_: AcquireError| io::Error::other("the relay is closed"))?;
        let (stream, _) = listener.accept().await?;
        Ok((stream, permit))
    }

    fn spawn(
        &self,
        guest: TcpStream,
        permit: Permit,
        token: Option<Arc<str>>,
        ended: &CancellationToken,
    ) {
        let (relay, ended) = (self.clone(), ended.clone());
        self.shutdown.spawn(async move {
            let grace = relay.bounds.grace;
            let carried = relay.carry(guest, token);
            let overtime = async {
                ended.cancelled().await;
                tokio::time::sleep(grace).await;
            };
            tokio::select! {
                carried = carried => if let Err(error) = carried {
                    debug!(%error, "a machine's connection ended early");
                },
                () = overtime => {}
            }
            drop(permit);
        });
    }

    async fn carry(&self, guest: TcpStream, token: Option<Arc<str>>) -> io::Result<()> {
        let connecting = TcpStream::connect(&*self.endpoint);
        let endpoint = timeout(self.bounds.connect, connecting).await??;
        let _ = (guest.set_nodelay(true), endpoint.set_nodelay(true));
        let (mut guest_read, mut guest_write) = guest.into_split();
        let (endpoint_read, endpoint_write) = endpoint.into_split();
        let moved = Moved::new();
        let mut check = token.map(TokenCheck::new);
        let passes = move |bytes: &[u8]| check.as_mut().is_none_or(|check| check.passes(bytes));
        let idle = self.bounds.idle;
        let there = copy(&mut guest_read, endpoint_write, &moved, idle, passes);
        let back = copy(endpoint_read, &mut guest_write, &moved, idle, |_| true);
        match tokio::try_join!(there, back) {
            Ok(_) => Ok(()),
            Err(Stopped::Io(error)) => Err(error),
            Err(Stopped::ForeignToken) => refuse(guest_read, guest_write).await,
        }
    }
}

/// What one machine may have.
struct Own {
    /// The connection that is always allowed, whatever others use.
    first: Arc<Semaphore>,
    further: Arc<Semaphore>,
}

impl Own {
    fn new(bounds: Bounds) -> Self {
        Self {
            first: Arc::new(Semaphore::new(1)),
            further: Arc::new(Semaphore::new(bounds.per_machine.saturating_sub(1))),
        }
    }
}

/// Held for as long as a connection is carried.
#[expect(dead_code, reason = "permits are given back by being dropped")]
enum Permit {
    First(OwnedSemaphorePermit),
    Further(OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// When bytes last moved on a connection, in either direction.
struct Moved {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Moved {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn now(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// When the connection has been silent for `idle`.
    fn deadline(&self, idle: Duration) -> Instant {
        self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + idle
    }
}

/// Why a direction is carried no further.
enum Stopped {
    Io(io::Error),
    /// The machine sent another machine's token.
    ForeignToken,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Answers 401 in the endpoint's words, and reads for a moment what the machine still sends, so that
/// the answer is not lost. The endpoint has not seen the end of the request's head.
async fn refuse(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    warn!("a machine sent another machine's token; refused");
    to.write_all(REFUSAL).await?;
    to.shutdown().await?;
    let mut rest = from.take(REFUSED_MAX_BYTES);
    let mut sink = tokio::io::sink();
    let _ = timeout(REFUSED_MAX, tokio::io::copy(&mut rest, &mut sink)).await;
    Ok(())
}

/// Carries one direction until its end, and passes the end on.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
    idle: Duration,
    mut passes: impl FnMut(&[u8]) -> bool,
) -> Result<(), Stopped> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = while_moving(from.read(&mut buffer), moved, idle).await?;
        if read == 0 {
            return Ok(to.shutdown().await?);
        }
        if !passes(&buffer[..read]) {
            return Err(Stopped::ForeignToken);
        }
        while_moving(to.write_all(&buffer[..read]), moved, idle).await?;
    }
}

/// Waits for `step` for as long as something moves in either direction.
async fn while_moving<T>(
    step: impl Future<Output = io::Result<T>>,
    moved: &Moved,
    idle: Duration,
) -> io::Result<T> {
    tokio::pin!(step);
    loop {
        let deadline = moved.deadline(idle);
        match tokio::time::timeout_at(deadline, &mut step).await {
            Ok(done) => {
                moved.now();
                return done;
            }
            Err(_) if moved.deadline(idle) > deadline => {}
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Reads the endpoint's address: `host:port`, or an `http` URL without a path of its own.
pub(crate) fn endpoint_address(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let bare = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some((scheme, _)) => {
            return Err(format!(
                "the machines' endpoint '{text}' has scheme '{scheme}': bytes are carried as they \
                 are, so only http will do"
            ));
        }
    };
    let sound = bare.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        !host.is_empty()
            && !host.contains(['/', '@', ' '])
            && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    match sound {
        true => Ok(bare.to_owned()),
        false => Err(format!("the machines' endpoint '{text}' is not host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_or_plain_urls() {
        for (text, expected) in [
            ("127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("[::1]:8080", Some("[::1]:8080")),
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://serve:8080/", Some("serve:8080")),
            ("serve:8080", Some("serve:8080")),
            ("https://serve:8080", None),
            ("serve", None),
            ("serve:0", None),
            ("serve:99999", None),
            ("http://serve:8080/path", None),
            (":8080", None),
        ] {
            assert_eq!(endpoint_address(text).ok().as_deref(), expected, "{text}");
        }
    }

    /// An endpoint that reads to the end, then answers with the length and what it read.
    async fn echo_endpoint() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let tasks = Shutdown::new();
        let served = tasks.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                served.spawn(async move {
                    let mut sent = Vec::new();
                    let _ = stream.read_to_end(&mut sent).await;
                    let _ = stream.write_all(&sent).await;
                });
            }
        });
        address
    }

    async fn machine(relay: &Relay) -> (SocketAddr, CancellationToken, Shutdown) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (ended, tasks) = (CancellationToken::new(), Shutdown::new());
        let (relay, token) = (relay.clone(), ended.clone());
        tasks.spawn(async move { relay.serve(listener, None, token).await });
        (address, ended, tasks)
    }

    async fn send(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_unchanged() {
        let relay = Relay::new(&echo_endpoint().await, Bounds::default(), Shutdown::new());
        let (address, ended, tasks) = machine(&relay).await;
        let big: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        assert_eq!(send(address, &big).await.expect("carried"), big);
        assert_eq!(send(address, b"").await.expect("carried"), b"");
        ended.cancel();
        assert!(tasks.finish(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn another_machines_token_is_answered_401_and_its_own_passes() {
        let relay = Relay::new(&echo_endpoint().await, Bounds::default(), Shutdown::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (ended, tasks) = (CancellationToken::new(), Shutdown::new());
        let (serving, until) = (relay.clone(), ended.clone());
        tasks.spawn(async move { serving.serve(listener, Some("own".into()), until).await });
        let post =
            |token: &str| format!("POST / HTTP/1.1\r\nauthorization: Bearer {token}\r\n\r\n");
        let own = post("own");
        let answer = send(address, own.as_bytes()).await.expect("carried");
        assert_eq!(answer, own.as_bytes());
        let pipelined = own + &post("foreign") + &"x".repeat(100_000);
        let answer = send(address, pipelined.as_bytes()).await.expect("answered");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(
            answer.ends_with(r#"{"error":"the token is not valid"}"#),
            "{answer}"
        );
        ended.cancel();
        assert!(tasks.finish(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn what_was_sent_before_the_end_is_delivered_after_it() {
        let relay = Relay::new(&echo_endpoint().await, Bounds::default(), Shutdown::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let sending = TcpStream::connect(address);
        let mut stream = sending.await.expect("the backlog takes it");
        stream.write_all(b"last words").await.expect("sent");
        stream.shutdown().await.expect("sent");
        let ended = CancellationToken::new();
        ended.cancel();
        relay.serve(listener, None, ended).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answered");
        assert_eq!(answer, b"last words");
    }

    #[tokio::test]
    async fn connections_of_one_machine_are_bounded() {
        let bounds = Bounds {
            per_machine: 2,
            ..Bounds::default()
        };
        let relay = Relay::new(&echo_endpoint().await, bounds, Shutdown::new());
        let (address, ended, tasks) = machine(&relay).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(TcpStream::connect(address).await.expect("taken"));
        }
        let waiting = send(address, b"third");
        tokio::pin!(waiting);
        let early = timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(
            early.is_err(),
            "it is not served before one of the two ends"
        );
        drop(open);
        assert_eq!(waiting.await.expect("served now"), b"third");
        ended.cancel();
        tasks.finish(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn a_machine_that_holds_all_connections_keeps_no_other_from_one() {
        let bounds = Bounds {
            overall: 3,
            ..Bounds::default()
        };
        let relay = Relay::new(&echo_endpoint().await, bounds, Shutdown::new());
        let (greedy, first_ended, first_tasks) = machine(&relay).await;
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(TcpStream::connect(greedy).await.expect("taken"));
        }
        let (address, ended, tasks) = machine(&relay).await;
        // One at a time, as often as it likes.
        for word in [b"one", b"two"] {
            assert_eq!(send(address, word).await.expect("carried"), word);
        }
        drop(open);
        for (ended, tasks) in [(first_ended, first_tasks), (ended, tasks)] {
            ended.cancel();
            tasks.finish(Duration::from_secs(10)).await;
        }
    }

    #[tokio::test]
    async fn a_silent_connection_ends() {
        let bounds = Bounds {
            idle: Duration::from_millis(50),
            ..Bounds::default()
        };
        let relay = Relay::new(&echo_endpoint().await, bounds, Shutdown::new());
        let (address, ended, tasks) = machine(&relay).await;
        let mut stream = TcpStream::connect(address).await.expect("taken");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        ended.cancel();
        tasks.finish(Duration::from_secs(10)).await;
    }
}
