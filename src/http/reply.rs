//! Bodies with bounds, and answers.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// The body of every answer: whole and in memory.
pub type Body = Full<Bytes>;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is longer than allowed; the rest was not read.
    #[error("the body is longer than {limit_bytes} bytes")]
    TooLarge {
        /// The bound that was passed.
        limit_bytes: usize,
    },
    /// The connection broke before its end.
    #[error("the body ended early")]
    Broken(#[source] hyper::Error),
}

/// Reads a body of at most `limit_bytes`. A declared length above that is refused unread.
///
/// # Errors
/// [`Error::TooLarge`] above the bound, [`Error::Broken`] when the connection ends first.
pub async fn read_body(mut body: Incoming, limit_bytes: usize) -> Result<Bytes, Error> {
    use hyper::body::Body as _;
    let declared = body.size_hint().lower();
    if declared > limit_bytes as u64 {
        return Err(Error::TooLarge { limit_bytes });
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(declared).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Error::Broken)?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > limit_bytes {
            return Err(Error::TooLarge { limit_bytes });
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// An answer with `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    with_type(status, "application/json", bytes.into())
}

/// An answer with a plain text body.
pub fn text(status: StatusCode, value: &str) -> Response<Body> {
    with_type(
        status,
        "text/plain; charset=utf-8",
        Bytes::copy_from_slice(value.as_bytes()),
    )
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

/// An answer whose body already is of `content_type`.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 405 for a known path, with the methods it has.
pub fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = json(
        StatusCode::METHOD_NOT_ALLOWED,
        &ErrorBody {
            error: "method not allowed",
        },
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// 503 for a request that took longer than the listener allows; the connection is closed.
pub(crate) fn timed_out() -> Response<Body> {
    let mut response = json(
        StatusCode::SERVICE_UNAVAILABLE,
        &ErrorBody {
            error: "the request took too long",
        },
    );
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The shape of an error's body: `{"error":"…"}`.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// What was wrong, for the caller.
    pub error: &'a str,
}
