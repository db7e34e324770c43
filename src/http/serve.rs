//! The accept loop: bounded connections, bounded waits, an end that lets answers finish.

use std::error::Error as StdError;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::descriptors;
use crate::http::peers::Peers;
use crate::http::reply::Body;
use crate::http::socket::{Sending, Socket};
use crate::shutdown::Shutdown;

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once, or three quarters of the descriptors that the process may have if
    /// those are fewer; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Whether strangers connect, so that one peer may not hold all connections. What a peer has
    /// too many of is closed with 503.
    pub is_shared: bool,
    /// How long a connection may take to send a request's head, and may stay idle between two.
    pub header_read_timeout: Duration,
    /// How long one request may take from its head to the last byte of the answer.
    pub request_timeout: Duration,
    /// What requests below a path may take instead.
    pub long: Option<(&'static str, Duration)>,
    /// Bytes of a request's head at the most; hyper answers 431 above.
    pub max_head_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            is_shared: false,
            header_read_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(90),
            long: None,
            max_head_bytes: 16 * 1024,
        }
    }
}

/// Why a request gets no answer: its connection is to be closed instead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub struct Severed;

/// Serves `listener` until `shutdown` begins, then lets open requests finish.
///
/// `handler` answers each request; it cannot fail, since every failure has an answer. A request
/// that takes longer than `limits.request_timeout` has its connection closed.
pub async fn serve<H, F>(listener: TcpListener, limits: Limits, shutdown: Shutdown, handler: H)
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let handler = move |request, peer| {
        let answer = handler(request, peer);
        async move { Ok(answer.await) }
    };
    serve_or_sever(listener, limits, shutdown, handler).await;
}

/// As [`serve`], for a handler that has bodies of its own, and that may close a connection instead
/// of answering.
pub async fn serve_or_sever<H, F, B>(
    listener: TcpListener,
    limits: Limits,
    shutdown: Shutdown,
    handler: H,
) where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Severed>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + From<Body> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let connections = limits.connections.min(descriptors::for_connections());
    let permits = Arc::new(Semaphore::new(connections));
    let peers = limits.is_shared.then(|| Peers::new(connections));
    let mut is_failing = false;
    let graceful = GracefulShutdown::new();
    let quiet = shutdown.quiet().clone();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            break;
        };
        let Some(accepted) = quiet.run_until_cancelled(listener.accept()).await else {
            break;
        };
        let (stream, peer) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                // Out of descriptors, most likely: give connections time to close.
                if !is_failing {
                    warn!(%error, "connections cannot be accepted; trying again");
                }
                is_failing = true;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        is_failing = false;
        let slot = peers.as_ref().map(|peers| peers.take(peer.ip()));
        if matches!(slot, Some(None)) {
            debug!(%peer, "a peer holds as many connections as it may");
            turn_away(stream);
            continue;
        }
        let connection = connection(stream, peer, limits, handler.clone(), &graceful);
        shutdown.spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection ended early");
            }
            drop((permit, slot));
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Says that there is no room, as far as that can be done without waiting.
fn turn_away(stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
        connection: close\r\ncontent-length: 0\r\n\r\n";
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(ANSWER);
    }
}

fn connection<H, F, B>(
    stream: TcpStream,
    peer: SocketAddr,
    limits: Limits,
    handler: H,
    graceful: &GracefulShutdown,
) -> impl Future<Output = hyper::Result<()>> + use<H, F, B>
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Severed>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + From<Body> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let _ = stream.set_nodelay(true);
    let sending = Sending::default();
    let socket = Socket::new(stream, sending.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        let longer = limits
            .long
            .filter(|(path, _)| request.uri().path().starts_with(path));
        let bound = longer.map_or(limits.request_timeout, |(_, bound)| bound);
        let answer = handler(request, peer);
        let sending = sending.clone();
        async move {
            let answered = match tokio::time::timeout(bound, answer).await {
                Ok(answered) => answered,
                Err(_) => Ok(crate::http::reply::timed_out().map(B::from)),
            };
            // Only a refusal leaves a body unread, and what sends it elsewhere.
            let is_unread = |response: &Response<B>| response.status().as_u16() >= 300;
            sending.set(has_body && answered.as_ref().is_ok_and(is_unread));
            answered
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.max_head_bytes.max(8192))
        .serve_connection(TokioIo::new(socket), service);
    graceful.watch(serving)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered_and_its_connection_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            request_timeout: Duration::from_millis(20),
            ..Limits::default()
        };
        let shutdown = Shutdown::new();
        shutdown.spawn(serve(listener, limits, shutdown.clone(), |_, _| {
            std::future::pending()
        }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        shutdown.begin();
    }
}
