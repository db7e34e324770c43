//! The body of a response: in memory, or an input that is streamed from Redis.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt as _};
use http_body_util::StreamBody;
use hyper::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use tokio::time::Instant;

use crate::config::Results;
use crate::endpoint::rates::Rates;
use crate::http::reply;
use crate::stage::Core;
use crate::stage::report::{self, InputPiece};
use crate::token::Grant;

/// Bytes of an input in memory at once, for each call.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// How long sending an input may take, however steadily the guest reads: twice as long as a run has by
/// default. Until then it takes a place among those that are sent at once.
const SENT_WITHIN: Duration = Duration::from_secs(600);

/// What one run may read of its input, in bytes a second, and how long a piece counts at least.
const BYTES_PER_S: u64 = 2 << 20;
const PIECE_COST: Duration = Duration::from_millis(10);
/// So much may be read at once: the largest input that is allowed by default, twice.
const BURST: Duration = Duration::from_secs(16);

/// How fast each run reads its input.
pub(super) fn rates() -> Rates {
    Rates::new(BYTES_PER_S, PIECE_COST, BURST)
}

/// Why an input ends early.
type Interrupted = Box<dyn StdError + Send + Sync>;
type Pieces = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Interrupted>> + Send>>;

/// The body of a response.
pub(super) enum ResponseBody {
    Whole(reply::Body),
    Pieces(StreamBody<Pieces>),
}

/// Bytes that keep `guard` until they are sent.
struct Guarded<G> {
    bytes: Bytes,
    _guard: Arc<G>,
}

impl<G> AsRef<[u8]> for Guarded<G> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is left to read of an input.
struct Unread<G> {
    core: Core<Results>,
    grant: Grant,
    /// The next piece, if it was read already.
    piece: Option<InputPiece>,
    next: usize,
    rates: Arc<Rates>,
    guard: Arc<G>,
}

/// 200 with an input, of which `first` was read. `guard` is kept until its last byte is sent. If a later
/// piece cannot be read the connection is closed.
pub(super) fn input<G: Send + Sync + 'static>(
    core: Core<Results>,
    grant: Grant,
    first: InputPiece,
    rates: Arc<Rates>,
    guard: G,
) -> Response<ResponseBody> {
    let total = first.total_bytes;
    let rest = Unread {
        core,
        grant,
        piece: Some(first),
        next: 0,
        rates,
        guard: Arc::new(guard),
    };
    let pieces = within(SENT_WITHIN, stream::try_unfold(rest, next_piece));
    let mut response = Response::new(ResponseBody::Pieces(StreamBody::new(pieces)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(total));
    response
}

/// The pieces that come in this time; then an error.
fn within<S>(most: Duration, pieces: S) -> Pieces
where
    S: Stream<Item = Result<Frame<Bytes>, Interrupted>> + Send + 'static,
{
    let until = Instant::now() + most;
    let next = move |mut pieces: Pin<Box<S>>| async move {
        if Instant::now() >= until {
            return Err("the guest took too long to read its input".into());
        }
        Ok(pieces.try_next().await?.map(|piece| (piece, pieces)))
    };
    Box::pin(stream::try_unfold(Box::pin(pieces), next))
}

async fn next_piece<G: Send + Sync + 'static>(
    mut rest: Unread<G>,
) -> Result<Option<(Frame<Bytes>, Unread<G>)>, Interrupted> {
    let piece = match rest.piece.take() {
        Some(piece) => piece,
        None => match report::input(&rest.core, &rest.grant, rest.next, PIECE_BYTES).await? {
            Some(piece) => piece,
            None => return Err("the run is over".into()),
        },
    };
    if piece.bytes.is_empty() {
        return Ok(None);
    }
    let bytes = piece.bytes.len();
    tokio::time::sleep(rest.rates.spend(&rest.grant.run, bytes, Instant::now())).await;
    rest.next += bytes;
    if rest.next >= piece.total_bytes {
        // Nothing is left to ask for.
        rest.piece = Some(InputPiece {
            total_bytes: piece.total_bytes,
            bytes: Bytes::new(),
        });
    }
    let guarded = Guarded {
        bytes: piece.bytes,
        _guard: Arc::clone(&rest.guard),
    };
    Ok(Some((Frame::data(Bytes::from_owner(guarded)), rest)))
}

impl From<reply::Body> for ResponseBody {
    fn from(body: reply::Body) -> Self {
        Self::Whole(body)
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never: Infallible| match never {}),
            Self::Pieces(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Pieces(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Pieces(body) => HttpBody::size_hint(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_input_that_is_read_steadily_for_ever_ends() {
        let minute = Duration::from_secs(60);
        let piece = move |sent| async move {
            tokio::time::sleep(minute).await;
            Ok(Some((Frame::data(Bytes::from_static(b"x")), sent + 1)))
        };
        let mut pieces = within(minute * 10, stream::try_unfold(0, piece));
        for sent in 0..10 {
            let piece = pieces.try_next().await;
            assert!(piece.is_ok_and(|piece| piece.is_some()), "{sent}");
        }
        let error = pieces.try_next().await.unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
    }
}
