//! Output of machines without the guest agent: posted to the endpoint as the agent does, so that all
//! logs are in one place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::local::guest_call::GuestCall;
use crate::local::logs::Stream;
use crate::shutdown::Shutdown;

/// Pieces that wait to be posted; more are left out. Each is 64 KiB at the most.
const WAITING_MAX: usize = 8;
/// Bytes of one post, unless a single piece has more.
const POST_BYTES: usize = 32 << 10;
/// Between the first piece of a post and the post: what comes meanwhile goes with it.
const COALESCE_TIME: Duration = Duration::from_millis(5);
/// One post.
const POST_TIMEOUT: Duration = Duration::from_secs(2);
/// After a post that was not taken.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// What the last of it may take when the machine has ended.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Posts what one machine writes.
#[derive(Debug)]
pub(crate) struct LogForward {
    pieces: LogSender,
    posting: JoinHandle<()>,
}

/// Where a machine's output is put.
#[derive(Clone, Debug)]
pub(crate) struct LogSender {
    pieces: Sender<Option<Piece>>,
    /// Bytes that were left out since the last post.
    dropped: Arc<AtomicU64>,
}

/// What was written, and where; `None` at the end.
type Piece = (Stream, Bytes);

impl LogForward {
    /// Begins to post by `call`.
    pub(crate) fn start(call: GuestCall, shutdown: &Shutdown) -> Self {
        let (sender, pieces) = channel(WAITING_MAX);
        let dropped = Arc::<AtomicU64>::default();
        Self {
            pieces: LogSender {
                pieces: sender,
                dropped: Arc::clone(&dropped),
            },
            posting: shutdown.spawn(post_all(call, pieces, dropped)),
        }
    }

    /// For what the machine writes.
    pub(crate) fn sender(&self) -> LogSender {
        self.pieces.clone()
    }

    /// Waits until all is posted, for a bounded time.
    pub(crate) async fn finish(self) {
        let finish = async {
            let _ = self.pieces.pieces.send(None).await;
            let _ = self.posting.await;
        };
        let _ = timeout(FINISH_TIMEOUT, finish).await;
    }
}

impl LogSender {
    /// Takes what was written, if there is room for it.
    pub(crate) fn send(&self, stream: Stream, bytes: Bytes) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.pieces.try_send(Some((stream, bytes))).is_err() {
            self.dropped.fetch_add(length, Ordering::Relaxed);
        }
    }
}

async fn post_all(call: GuestCall, mut pieces: Receiver<Option<Piece>>, dropped: Arc<AtomicU64>) {
    let (mut next, mut is_over) = (pieces.recv().await.flatten(), false);
    while let Some((stream, first)) = next.take() {
        let mut text = first.to_vec();
        sleep(COALESCE_TIME).await;
        while next.is_none()
            && let Ok(piece) = pieces.try_recv()
        {
            match piece {
                None => is_over = true,
                Some((other, bytes))
                    if other == stream && text.len() + bytes.len() <= POST_BYTES =>
                {
                    text.extend_from_slice(&bytes);
                }
                other => next = other,
            }
        }
        let left_out = dropped.swap(0, Ordering::Relaxed);
        let query = format!("?stream={}&dropped={left_out}", stream.as_str());
        let posted = timeout(POST_TIMEOUT, call.post(&query, "text/plain", &text)).await;
        match posted {
            Ok(Ok(200..300)) => {}
            // The run is over, or its log is not wanted.
            Ok(Ok(400..=412 | 414..=428)) => return,
            _ => sleep(REFUSED_PAUSE).await,
        }
        if next.is_none() && !is_over {
            next = pieces.recv().await.flatten();
        }
    }
}
