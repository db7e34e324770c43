//! `POST /log`: pieces of what a guest writes, at a bounded rate.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::time::Instant;
use url::form_urlencoded;

use crate::endpoint::calls::Kind;
use crate::endpoint::rates::Rates;
use crate::endpoint::receive::Receiving;
use crate::endpoint::{Endpoint, denied, encoded, error, is_plain, ok, unavailable};
use crate::http::reply::Body;
use crate::stage::log::{self, Appended, LogStream};

/// Bytes of one post.
const PIECE_MAX_BYTES: usize = 64 * 1024;
/// What one run may send, in bytes a second, and how long a post counts at least.
const BYTES_PER_S: u64 = 1 << 20;
const POST_COST: Duration = Duration::from_millis(10);
/// So much may come at once.
const BURST: Duration = Duration::from_secs(4);
/// How fast each run sends output.
pub(super) fn rates() -> Rates {
    Rates::new(BYTES_PER_S, POST_COST, BURST)
}

impl Endpoint {
    pub(super) async fn log(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(grant) = self.grant(&request) else {
            return denied();
        };
        if !is_plain(&request) {
            return encoded();
        }
        let Ok((stream, dropped)) = told(request.uri().query().unwrap_or_default()) else {
            return error(
                StatusCode::BAD_REQUEST,
                "the query may have stream=stdout or stream=stderr, and dropped=BYTES",
            );
        };
        let Some(_call) = self.calls.begin(&grant.run, Kind::Log).await else {
            return unavailable();
        };
        let core = &self.deps.core;
        let receiving = Receiving::new(core, &grant, &self.log_memory, PIECE_MAX_BYTES);
        let received = match receiving.read(request.into_body()).await {
            Ok(received) => received,
            Err(unreceived) => return self.unreceived(&grant, PIECE_MAX_BYTES, unreceived),
        };
        let bytes = received.body.len();
        let wait = self.log_rates.spend(&grant.run, bytes, Instant::now());
        tokio::time::sleep(wait).await;
        match log::append(core, &grant, stream, &received.body, dropped).await {
            Ok(Appended::Kept) => ok(StatusCode::CREATED),
            Ok(Appended::Full) => error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "as many bytes of logs are kept as may; this piece was left out",
            ),
            Ok(Appended::Denied) => denied(),
            Err(error) => self.failed(&grant, &error),
        }
    }
}

/// The stream and the number of bytes left out that a query tells.
fn told(query: &str) -> Result<(LogStream, u64), ()> {
    let (mut stream, mut dropped) = (LogStream::Stdout, 0);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "stream" => stream = LogStream::parse(&value).ok_or(())?,
            "dropped" => dropped = value.parse().map_err(|_| ())?,
            _ => return Err(()),
        }
    }
    Ok((stream, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_the_stream_and_what_was_left_out() {
        assert_eq!(told(""), Ok((LogStream::Stdout, 0)));
        assert_eq!(told("stream=stderr&dropped=7"), Ok((LogStream::Stderr, 7)));
        for query in ["stream=out", "dropped=-1", "dropped=x", "color=red"] {
            assert_eq!(told(query), Err(()), "{query}");
        }
    }
}
