//! What guests reach: results, input, log, artifacts, health. Everything else does not exist.
//!
//! A token is checked before a byte of the body is read. The open calls of one run are bounded (`calls`),
//! and so is the memory of all bodies (`receive`) and inputs (`body`), so that neither ten thousand
//! guests at once nor a hostile one fill the memory or delay others.

mod artifacts;
mod body;
mod calls;
mod log;
mod pieces;
mod rates;
mod receive;
mod spent;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use crate::config::Results;
use crate::endpoint::body::ResponseBody;
use crate::endpoint::calls::{Calls, Kind};
use crate::endpoint::pieces::Pieces;
use crate::endpoint::rates::Rates;
use crate::endpoint::receive::{Memory, Receiving, Unreceived};
use crate::endpoint::spent::{Answer, Spent};
use crate::http::reply::{self, Body, ErrorBody};
use crate::http::serve::{Limits, serve_or_sever as accept};
use crate::milestone::milestone;
use crate::shutdown::Shutdown;
use crate::stage::artifacts::Artifacts;
use crate::stage::ready::Readiness;
use crate::stage::report::{self, Reported};
use crate::stage::{Core, Error};
use crate::telemetry::ResponseCode;
use crate::token::{Grant, KeyRing};

/// Bodies in memory at once, all together. Each is copied twice on its way to Redis.
const BODIES_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Of these, what is kept for small ones.
const SMALL_BODIES_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Pieces of output in memory at once.
const LOGS_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Inputs that are sent at once, each with a piece in memory.
const INPUTS_MAX: usize = 512;
/// How long a call waits for one of these.
const INPUT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once. Each costs some kilobytes and a descriptor.
const CONNECTIONS_MAX: usize = 16 * 1024;

/// What the endpoint needs.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Store, clock, metrics, limits.
    pub core: Core<Results>,
    /// The keys that verify.
    pub ring: KeyRing,
    /// What `/readyz` answers.
    pub readiness: Readiness,
    /// Where artifacts are kept; `None` for nowhere.
    pub artifacts: Option<Artifacts>,
}

/// A unique name for an endpoint.
#[must_use]
pub fn unique_name() -> String {
    format!("serve-{}", ulid::Ulid::new().to_string().to_lowercase())
}

/// Serves guests on `listener` until `shutdown` begins.
pub async fn serve(listener: TcpListener, deps: Deps, shutdown: Shutdown) {
    let largest = deps.core.runs.max_bytes;
    let endpoint = Arc::new(Endpoint {
        deps,
        calls: Calls::default(),
        spent: Spent::default(),
        memory: Memory::new(
            SMALL_BODIES_MAX_BYTES,
            (BODIES_MAX_BYTES - SMALL_BODIES_MAX_BYTES).max(largest),
        ),
        log_memory: Memory::new(LOGS_MAX_BYTES, 0),
        log_rates: log::rates(),
        input_rates: Arc::new(body::rates()),
        inputs: Arc::new(Semaphore::new(INPUTS_MAX)),
        pieces: Pieces::new(),
        shutdown: shutdown.clone(),
    });
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        is_shared: true,
        long: Some((artifacts::PATH, artifacts::PUT_TIMEOUT)),
        ..Limits::default()
    };
    accept(listener, limits, shutdown, move |request, _| {
        let endpoint = endpoint.clone();
        async move {
            let _held = endpoint.deps.core.metrics.answers.hold();
            let response = endpoint.answer(request).await;
            let code = ResponseCode::of_status(response.status().as_u16());
            endpoint.deps.core.metrics.endpoint_responses.of(code).inc();
            Ok(response)
        }
    })
    .await;
}

struct Endpoint {
    deps: Deps,
    calls: Calls,
    spent: Spent,
    memory: Memory,
    /// That of pieces of output, which must not delay results.
    log_memory: Memory,
    log_rates: Rates,
    input_rates: Arc<Rates>,
    /// A permit for each input that is being sent.
    inputs: Arc<Semaphore>,
    /// Memory for pieces of artifacts.
    pieces: Pieces,
    shutdown: Shutdown,
}

impl Endpoint {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        match (request.uri().path(), request.method()) {
            (path, _) if path.starts_with(artifacts::PATH) => {
                let answered = artifacts::answer(self, request).await;
                answered.map(ResponseBody::from)
            }
            ("/input", &Method::GET | &Method::HEAD) => self.input(&request).await,
            _ => self.brief(request).await.map(ResponseBody::from),
        }
    }

    async fn brief(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.uri().path(), request.method()) {
            ("/results", &Method::POST) => self.post(request).await,
            ("/log", &Method::POST) => self.log(request).await,
            ("/healthz", &Method::GET | &Method::HEAD) => ok(StatusCode::OK),
            ("/readyz", &Method::GET | &Method::HEAD) => match self.deps.readiness.check().await {
                Ok(_) => ok(StatusCode::OK),
                Err(_) => unavailable(),
            },
            ("/results" | "/log", _) => reply::method_not_allowed("POST"),
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
        let Some(_call) = self.calls.begin(&grant.run, Kind::Post).await else {
            return unavailable();
        };
        let core = &self.deps.core;
        let begun_ms = core.clock.now_ms();
        let limit = core.runs.max_bytes;
        let mut receiving = Receiving::new(core, &grant, &self.memory, limit);
        if let Some((answer, pause)) = self.spent.ask(&grant) {
            tokio::time::sleep(pause).await;
            if !receiving.expect(answer, request.body()) {
                return denied();
            }
        }
        let received = match receiving.read(request.into_body()).await {
            Ok(received) => received,
            Err(unreceived) => return self.unreceived(&grant, limit, unreceived),
        };
        milestone!("endpoint::body_read");
        match report::report(core, &grant, &received.body, begun_ms).await {
            Ok(Reported::Accepted { digest }) => {
                let answer = Answer::Accepted {
                    digest,
                    bytes: Some(received.body.len()),
                    is_kept: true,
                };
                self.spent.note(&grant, answer);
                ok(StatusCode::CREATED)
            }
            Ok(Reported::Repeated) => repeated(),
            Ok(Reported::OverBudget) => over_budget(),
            Ok(Reported::Denied) => {
                // One more look at the run, and the next ones cost nothing for a while.
                if let Ok(prospect) = report::prospect(core, &grant).await
                    && let Some(answer) = receive::answer(prospect)
                {
                    self.spent.note(&grant, answer);
                }
                denied()
            }
            Ok(Reported::Unreadable(fault)) => {
                let message = format!("the body is not one JSON value that all can read: {fault}");
                error(StatusCode::BAD_REQUEST, &message)
            }
            Err(error) => self.failed(&grant, &error),
        }
    }

    async fn input(&self, request: &Request<Incoming>) -> Response<ResponseBody> {
        let Some(grant) = self.grant(request) else {
            return denied().map(ResponseBody::from);
        };
        // The run's own limit comes first: calls that wait for it take no permit from other runs.
        let Some(call) = self.calls.begin(&grant.run, Kind::Input).await else {
            return unavailable().map(ResponseBody::from);
        };
        let permit = timeout(INPUT_TIMEOUT, Arc::clone(&self.inputs).acquire_owned());
        let Ok(Ok(permit)) = permit.await else {
            return unavailable().map(ResponseBody::from);
        };
        let core = &self.deps.core;
        match report::input(core, &grant, 0, body::PIECE_BYTES).await {
            Ok(Some(first)) => {
                let rates = Arc::clone(&self.input_rates);
                body::input(core.clone(), grant, first, rates, (call, permit))
            }
            Ok(None) => denied().map(ResponseBody::from),
            Err(error) => self.failed(&grant, &error).map(ResponseBody::from),
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

    /// The answer to a body that was not read, of which `limit` bytes are allowed.
    fn unreceived(&self, grant: &Grant, limit: usize, unreceived: Unreceived) -> Response<Body> {
        match unreceived {
            Unreceived::Repeated => repeated(),
            Unreceived::OverBudget => over_budget(),
            Unreceived::Denied(answer) => {
                if let Some(answer) = answer {
                    self.spent.note(grant, answer);
                }
                denied()
            }
            Unreceived::TooLarge => too_large(limit),
            Unreceived::Broken => error(StatusCode::BAD_REQUEST, "the body ended early"),
            Unreceived::TooSlow => error(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
            Unreceived::NoMemory => unavailable(),
            Unreceived::Failed(error) => self.failed(grant, &error),
        }
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

fn repeated() -> Response<Body> {
    reply::json(StatusCode::OK, &json!({"status": "OK", "repeated": true}))
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

/// Final, so that no guest repeats it: a client that repeats on a 5xx would until its deadline.
fn over_budget() -> Response<Body> {
    error(
        StatusCode::PAYLOAD_TOO_LARGE,
        "result_budget: as many bytes of results are kept as may; the run has ended without this one",
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
