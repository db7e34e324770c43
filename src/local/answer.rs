//! From replies and refusals to HTTP, and bodies that can break off half-way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::http::reply;
use crate::local::refusal::{Refusal, Shape};
use crate::local::registry::view::{self, Reply};
use crate::machines::wire::{Envelope, ErrorBody, OkAnswer};

/// A body that is sent whole, or that breaks off half-way because a fault wants it to.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Bytes,
    /// What is still to come after the break; never sent, but declared.
    cut: Option<usize>,
}

impl Body {
    /// The same body, breaking off half-way.
    pub(crate) fn cut_in_half(self) -> Self {
        let half = self.bytes.len() / 2;
        Self {
            cut: Some(self.bytes.len() - half),
            bytes: self.bytes.slice(..half),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.cut {
            None => Poll::Ready(None),
            Some(_) => Poll::Ready(Some(Err(io::Error::other("a fault rule cut this answer")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.bytes.len() + self.cut.unwrap_or(0);
        SizeHint::with_exact(length as u64)
    }
}

impl From<reply::Body> for Body {
    fn from(whole: reply::Body) -> Self {
        let mut whole = whole;
        let frame =
            Pin::new(&mut whole).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        let bytes = match frame {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            _ => Bytes::new(),
        };
        Self { bytes, cut: None }
    }
}

/// The answer to a call that was carried out.
pub(crate) fn of_reply(reply: Reply) -> Response<reply::Body> {
    match reply {
        Reply::Machine(shown) => reply::json(StatusCode::OK, &shown.to_wire()),
        Reply::Ok => reply::json(StatusCode::OK, &OkAnswer::YES),
        Reply::Start(answer) => reply::json(StatusCode::OK, &answer),
        Reply::Lease(lease) => reply::json(StatusCode::OK, &Envelope::success(lease)),
        Reply::LeaseTaken(lease) => reply::json(StatusCode::CREATED, &Envelope::success(lease)),
        Reply::LeaseReleased => reply::json(StatusCode::OK, &Envelope::success(OkAnswer::YES)),
        Reply::Metadata(metadata) => reply::json(StatusCode::OK, &metadata),
        Reply::MetadataValue(value) => reply::json(StatusCode::OK, &value),
        Reply::NoContent => reply::empty(StatusCode::NO_CONTENT),
        Reply::Events(events) => reply::json(StatusCode::OK, &events),
        Reply::Versions(machine) => reply::json(StatusCode::OK, &view::versions(&machine)),
        Reply::App(app) => reply::json(StatusCode::OK, &app),
        Reply::AppCreated(created) => reply::json(StatusCode::CREATED, &created),
        Reply::Apps(apps) => reply::json(StatusCode::OK, &apps),
        Reply::Accepted => reply::empty(StatusCode::ACCEPTED),
    }
}

/// The response of a refused call.
pub(crate) fn of_refusal(refusal: &Refusal) -> Response<reply::Body> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match refusal.shape {
        Shape::Plain => reply::text(status, &refusal.error),
        Shape::Verbatim => {
            let body = Bytes::copy_from_slice(refusal.error.as_bytes());
            reply::with_type(status, "application/json", body)
        }
        Shape::Error => {
            let body = ErrorBody {
                status: refusal.code.as_deref().map(str::to_owned),
                ..ErrorBody::new(refusal.error.as_ref())
            };
            reply::json(status, &body)
        }
        Shape::Lease => {
            let body = ErrorBody {
                status: Some("error".to_owned()),
                message: Some(refusal.error.as_ref().to_owned()),
                ..ErrorBody::default()
            };
            reply::json(status, &body)
        }
    };
    if let Some(seconds) = refusal.retry_after_s {
        let value = HeaderValue::from(seconds);
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn body_of(response: Response<reply::Body>) -> Body {
        Body::from(response.into_body())
    }

    #[track_caller]
    fn check(refusal: &Refusal, expected: &str) {
        let bytes = body_of(of_refusal(refusal)).bytes;
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[test]
    fn refusals_have_the_shapes_of_the_service() {
        check(
            &Refusal::no_machine(),
            r#"{"error":"not_found: machine not found"}"#,
        );
        check(
            &Refusal::new(422, "no").with_code("insufficient_capacity"),
            r#"{"error":"no","status":"insufficient_capacity"}"#,
        );
        check(
            &Refusal::lease(404, "lease not found"),
            r#"{"status":"error","message":"lease not found"}"#,
        );
        check(&Refusal::unknown_route(), "404 page not found\n");
        let ending = of_refusal(&Refusal::ending());
        assert_eq!(ending.headers()[RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn a_cut_body_declares_all_and_sends_half() {
        let whole = body_of(reply::text(StatusCode::OK, "0123456789"));
        assert_eq!(whole.size_hint().exact(), Some(10));
        let mut cut = whole.cut_in_half();
        assert_eq!(cut.size_hint().exact(), Some(10));
        let first = cut.frame().await.expect("a frame").expect("no error yet");
        assert_eq!(first.into_data().expect("data"), "01234");
        assert!(cut.frame().await.expect("an end").is_err());
    }

    #[tokio::test]
    async fn a_whole_body_is_passed_on_unchanged() {
        let whole = body_of(reply::text(StatusCode::OK, "0123456789"));
        assert_eq!(
            whole.collect().await.expect("no error").to_bytes(),
            "0123456789"
        );
        assert!(body_of(reply::empty(StatusCode::NO_CONTENT)).is_end_stream());
    }
}
