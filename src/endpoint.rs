//! What guests reach: results, input, health. Everything else does not exist.
//!
//! A token is checked before a byte of the body is read. Bodies are bounded one by one and all
//! together, so that ten thousand guests at once wait and do not fill the memory.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use crate::http::reply::{self, Body, ErrorBody};
use crate::http::serve::{Limits, serve as accept};
use crate::milestone::milestone;
use crate::shutdown::Shutdown;
use crate::stage::ready::Readiness;
use crate::stage::report::{self, Reported};
use crate::stage::{Core, Error};
use crate::telemetry::AnswerCode;
use crate::token::{Grant, KeyRing};

/// How long a guest may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a post waits for room among the bodies in memory.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies in memory at once, all together.
const BODIES_MAX_BYTES: usize = 256 * 1024 * 1024;
/// Connections at once. Each costs some kilobytes and a descriptor.
const CONNECTIONS_MAX: usize = 16 * 1024;

/// What the endpoint needs.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Store, clock, metrics, limits.
    pub core: Core,
    /// The keys that verify.
    pub ring: KeyRing,
    /// What `/readyz` answers.
    pub readiness: Readiness,
}

/// A name for an endpoint that no other process ever has.
#[must_use]
pub fn unique_name() -> String {
    format!("serve-{}", ulid::Ulid::new().to_string().to_lowercase())
}

/// Serves guests on `listener` until `shutdown` begins.
pub async fn serve(listener: TcpListener, deps: Deps, shutdown: Shutdown) {
    let largest = deps.core.runs.result_max_bytes;
    let endpoint = Arc::new(Endpoint {
        deps,
        room: Semaphore::new(kib(BODIES_MAX_BYTES.max(largest)) as usize),
    });
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        ..Limits::default()
    };
    accept(listener, limits, shutdown, move |request, _| {
        let endpoint = endpoint.clone();
        async move {
            let response = endpoint.answer(request).await;
            let code = AnswerCode::of_status(response.status().as_u16());
            endpoint.deps.core.metrics.endpoint_answers.of(code).inc();
            response
        }
    })
    .await;
}

struct Endpoint {
    deps: Deps,
    /// A permit for each KiB of body in memory.
    room: Semaphore,
}

impl Endpoint {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.uri().path(), request.method()) {
            ("/results", &Method::POST) => self.post(request).await,
            ("/input", &Method::GET | &Method::HEAD) => self.input(&request).await,
            ("/healthz", &Method::GET | &Method::HEAD) => ok(StatusCode::OK),
            ("/readyz", &Method::GET | &Method::HEAD) => match self.deps.readiness.look().await {
                Ok(()) => ok(StatusCode::OK),
                Err(_) => unavailable(),
            },
            ("/results", _) => reply::method_not_allowed("POST"),
            ("/input" | "/healthz" | "/readyz", _) => reply::method_not_allowed("GET, HEAD"),
            _ => error(StatusCode::NOT_FOUND, "not found"),
        }
    }

    async fn post(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(grant) = self.grant(&request) else {
            return denied();
        };
        if !is_plain(&request) {
            return encoded();
        }
        let limit = self.deps.core.runs.result_max_bytes;
        let declared = request.body().size_hint();
        if declared.lower() > limit as u64 {
            return too_large(limit);
        }
        let expected = declared
            .exact()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(limit);
        let Some(_room) = self.room_for(expected).await else {
            return unavailable();
        };
        let body =
            match tokio::time::timeout(BODY_TIMEOUT, reply::read_body(request.into_body(), limit))
                .await
            {
                Ok(Ok(body)) => body,
                Ok(Err(reply::Error::TooLarge { .. })) => return too_large(limit),
                Ok(Err(reply::Error::Broken(_))) => {
                    return error(StatusCode::BAD_REQUEST, "the body ended early");
                }
                Err(_) => return error(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
            };
        milestone!("endpoint::body_read");
        match report::report(&self.deps.core, &grant, &body).await {
            Ok(Reported::Accepted) => ok(StatusCode::CREATED),
            Ok(Reported::Repeated) => {
                reply::json(StatusCode::OK, &json!({"status": "OK", "repeated": true}))
            }
            Ok(Reported::Denied) => denied(),
            Ok(Reported::Unreadable(fault)) => {
                let message = format!("the body is not one JSON value that all can read: {fault}");
                error(StatusCode::BAD_REQUEST, &message)
            }
            Err(error) => self.failed(&grant, &error),
        }
    }

    async fn input(&self, request: &Request<Incoming>) -> Response<Body> {
        let Some(grant) = self.grant(request) else {
            return denied();
        };
        match report::input(&self.deps.core, &grant).await {
            Ok(Some(input)) => {
                let bytes = input.get().as_bytes().to_vec().into();
                reply::with_type(StatusCode::OK, "application/json", bytes)
            }
            Ok(None) => denied(),
            Err(error) => self.failed(&grant, &error),
        }
    }

    fn grant(&self, request: &Request<Incoming>) -> Option<Grant> {
        let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        report::check(&self.deps.core, &self.deps.ring, token.trim())
    }

    async fn room_for(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let room = self.room.acquire_many(kib(bytes));
        tokio::time::timeout(ROOM_TIMEOUT, room).await.ok()?.ok()
    }

    fn failed(&self, grant: &Grant, error: &Error) -> Response<Body> {
        warn!(run_id = grant.run.as_str(), %error, "cannot answer a guest");
        unavailable()
    }
}

/// KiB that hold `bytes`, at least one.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024))
        .unwrap_or(u32::MAX)
        .max(1)
}

fn ok(status: StatusCode) -> Response<Body> {
    reply::json(status, &json!({"status": "OK"}))
}

fn denied() -> Response<Body> {
    error(StatusCode::UNAUTHORIZED, "the token is not valid")
}

/// Whether the body is sent as it is, and not compressed.
fn is_plain(request: &Request<Incoming>) -> bool {
    let encodings = request.headers().get_all(CONTENT_ENCODING);
    encodings.iter().all(|value| {
        let words = value.as_bytes().trim_ascii();
        words.is_empty() || words.eq_ignore_ascii_case(b"identity")
    })
}

fn encoded() -> Response<Body> {
    let mut response = error(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body has a Content-Encoding; send the JSON as it is",
    );
    response
        .headers_mut()
        .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

fn too_large(limit: usize) -> Response<Body> {
    error(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("the body is longer than {limit} bytes"),
    )
}

fn unavailable() -> Response<Body> {
    let mut response = error(
        StatusCode::SERVICE_UNAVAILABLE,
        "not available now, try again",
    );
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    reply::json(status, &ErrorBody { error: message })
}
