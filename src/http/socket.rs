//! A connection whose reader may not be too slow, and that is closed so that its last answer
//! arrives.
//!
//! A client that is still sending when it is answered (401, 413, 503) loses the answer if the
//! connection is closed at once: the kernel resets it as soon as more bytes come in. So the end of
//! our own side is sent, and what still comes is read and thrown away, for a bounded time and size.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::http::rate::MinimumRate;

/// How long what a client still sends is read after its answer.
const LINGER: Duration = Duration::from_secs(10);
/// How long the client may send nothing meanwhile.
const LINGER_IDLE: Duration = Duration::from_secs(2);
/// How much of it is read.
const LINGER_MAX_BYTES: usize = 64 * 1024 * 1024;
/// How much of it is read at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// How slowly an answer may be read: what waits to be sent is in our memory.
const READER: MinimumRate = MinimumRate::new(Duration::from_secs(10), 64 * 1024);

/// Says whether a client may still be sending.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending(Arc<AtomicBool>);

impl Sending {
    pub(super) fn set(&self, is_sending: bool) {
        self.0.store(is_sending, Ordering::Relaxed);
    }
}

/// One accepted connection.
pub(super) struct Socket {
    stream: TcpStream,
    sending: Sending,
    has_ended: bool,
    lingering: Option<Lingering>,
    reader: MinimumRate,
    stalled: Option<Stalled>,
}

/// Bytes wait for the client to read.
struct Stalled {
    since: Instant,
    /// Ends when the client has been too slow.
    bound: Pin<Box<Sleep>>,
}

/// Reading on after our own side is closed.
struct Lingering {
    until: Instant,
    /// Ends when the client sends nothing, and at `until` at the latest.
    pause: Pin<Box<Sleep>>,
    left_bytes: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, sending: Sending) -> Self {
        Self {
            stream,
            sending,
            has_ended: false,
            lingering: None,
            reader: READER,
            stalled: None,
        }
    }

    /// Passes on what a write came to, unless the client reads too slowly.
    fn check_rate(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                if let Some(stalled) = self.stalled.take() {
                    self.reader.waited(stalled.since.elapsed());
                }
                self.reader.transferred(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let left = self.reader.max_wait();
                let stalled = self.stalled.get_or_insert_with(|| Stalled {
                    since: Instant::now(),
                    bound: Box::pin(tokio::time::sleep(left)),
                });
                ready!(stalled.bound.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Reads and throws away until the client ends, or a bound is reached.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            until: Instant::now() + LINGER,
            pause: Box::pin(tokio::time::sleep(LINGER_IDLE)),
            left_bytes: LINGER_MAX_BYTES,
        });
        let mut chunk = [0; CHUNK_BYTES];
        while lingering.left_bytes > 0 && lingering.pause.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    let read = buffer.filled().len();
                    lingering.left_bytes = lingering.left_bytes.saturating_sub(read);
                    let pause = (Instant::now() + LINGER_IDLE).min(lingering.until);
                    lingering.pause.as_mut().reset(pause);
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.remaining() < room {
            // An answer takes it back. A head that is refused unread gets its answer from hyper.
            self.sending.set(true);
        } else if room > 0 {
            self.has_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check_rate(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.check_rate(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.sending.0.load(Ordering::Relaxed) && !self.has_ended {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
