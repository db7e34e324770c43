//! The server's side of HTTP: who may speak, what is asked, how it is answered.
//!
//! A request passes the token, is read into an [`Action`], is held against the fault rules, is
//! carried out, and is answered. Each of these has its module; this one is their order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::http::host::{self, AllowedHosts};
use crate::http::reply;
use crate::http::serve::Severed;
use crate::local::action::Action;
use crate::local::answer::{self, Body};
use crate::local::auth::Gate;
use crate::local::calls::Calls;
use crate::local::faults::subject::CallSubject;
use crate::local::faults::{Counts, FaultInjector, Instead, Spoil, Verdict};
use crate::local::ids::Ids;
use crate::local::refusal::{Refusal, Shape};
use crate::local::registry::Live;
use crate::local::routes::query::Query;
use crate::local::routes::{self, read};
use crate::machines::listing::LOCAL_SERVER;

/// Names a request in the answer and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
const LOCAL: HeaderName = HeaderName::from_static(LOCAL_SERVER);
/// How long a connection hangs that a fault wants to hang.
const HANG: Duration = Duration::from_secs(85);
/// The unit in which bodies being read are counted, in bytes.
const BODY_UNIT: usize = 1024;

/// Answers requests. Clones are one server.
#[derive(Clone, Debug)]
pub(crate) struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    hosts: AllowedHosts,
    faults: FaultInjector,
    /// Whether fault rules can be changed over HTTP.
    control: bool,
    calls: Calls,
    ids: std::sync::Mutex<Ids>,
    body_bytes: usize,
    /// Kibibytes of bodies that may be in memory at once.
    body_units: usize,
    bodies: Semaphore,
}

/// What a server needs to answer.
#[derive(Debug)]
pub(crate) struct Deps {
    /// Who may speak to it.
    pub(crate) gate: Gate,
    /// The hosts that requests may name.
    pub(crate) hosts: AllowedHosts,
    /// How it misbehaves.
    pub(crate) faults: FaultInjector,
    /// Whether that can be changed over HTTP.
    pub(crate) control: bool,
    /// Carries calls out.
    pub(crate) calls: Calls,
    /// Bytes of one body.
    pub(crate) body_bytes: usize,
    /// Bytes of all bodies that are being read.
    pub(crate) memory_bytes: usize,
    /// Where request ids begin.
    pub(crate) seed: u64,
}

#[derive(Serialize)]
struct Control {
    #[serde(flatten)]
    counts: Counts,
    machines: Live,
}

impl Server {
    /// A server over its parts.
    pub(crate) fn new(deps: Deps) -> Self {
        let units = (deps.memory_bytes / BODY_UNIT).clamp(1, u32::MAX as usize >> 3);
        Self(Arc::new(Inner {
            gate: deps.gate,
            hosts: deps.hosts,
            faults: deps.faults,
            control: deps.control,
            calls: deps.calls,
            ids: std::sync::Mutex::new(Ids::seeded(deps.seed)),
            body_bytes: deps.body_bytes.min(deps.memory_bytes),
            body_units: units,
            bodies: Semaphore::new(units),
        }))
    }

    /// Answers one request.
    ///
    /// # Errors
    /// [`Severed`] when a fault wants the connection closed.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Severed> {
        let id = self.request_id();
        let line = format!("{} {}", request.method(), request.uri().path());
        let mut response = self.dispatch(request).await?;
        debug!(
            request_id = id,
            request = line,
            status = response.status().as_u16(),
            "answered"
        );
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let one = HeaderValue::from_static("1");
        response.headers_mut().insert(LOCAL, one);
        Ok(response)
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<Response<Body>, Severed> {
        let refused = |refusal: &Refusal| Ok(answer::of_refusal(refusal).map(Body::from));
        let (action, subject, weight) = match self.understand(request).await {
            Ok(understood) => understood,
            Err(refusal) => return refused(&refusal),
        };
        let verdict = match subject.exempt {
            true => Verdict::default(),
            false => self.0.faults.consult(subject.borrow(), self.0.calls.now()),
        };
        if !verdict.delay.is_zero() {
            tokio::time::sleep(verdict.delay).await;
        }
        match verdict.instead {
            Some(Instead::Refuse(refusal)) => return refused(&refusal),
            Some(Instead::Drop) => return Err(Severed),
            Some(Instead::Hang) => {
                self.0.calls.hang(HANG).await;
                return Err(Severed);
            }
            None => {}
        }
        let response = self.carry_out(action, &subject, &verdict, weight).await;
        let response = response.unwrap_or_else(|refusal| answer::of_refusal(&refusal));
        match verdict.spoil {
            Some(Spoil::Lose) => Err(Severed),
            Some(Spoil::Replace(status)) => refused(&Refusal::new(status, "")),
            Some(Spoil::Cut) => Ok(response.map(|body| Body::from(body).cut_in_half())),
            None => Ok(response.map(Body::from)),
        }
    }

    /// Reads a request: host, route, token, body, in that order.
    async fn understand(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Action, CallSubject, usize), Refusal> {
        if !self.0.hosts.allow(&request) {
            return Err(Refusal::new(403, host::REFUSED.trim_end()));
        }
        let (head, body) = request.into_parts();
        let route = routes::find(&head.method, head.uri.path());
        let admitted = self.0.gate.admits(&head.headers);
        let route = match route {
            Err(refusal) if refusal.shape == Shape::Plain => return Err(refusal),
            _ if !admitted => {
                return Err(Refusal::new(401, "Authenticate: token validation error"));
            }
            other => other?,
        };
        if route.call.starts_with("faults-") && !self.0.control {
            return Err(Refusal::unknown_route());
        }
        let body = self.read_body(body).await?;
        let query = Query::parse(head.uri.query());
        let mut subject = CallSubject::of(&route);
        let action = read::read(route, &query, &head.headers, &body)?;
        self.0.calls.identify(&action, &mut subject);
        Ok((action, subject, body.len()))
    }

    async fn read_body(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let limit = self.0.body_bytes;
        let too_large = || Refusal::new(413, format!("the body is longer than {limit} bytes"));
        let declared = body.size_hint();
        if declared.lower() > limit as u64 {
            return Err(too_large());
        }
        let most = declared
            .exact()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(limit);
        let units = most.div_ceil(BODY_UNIT).min(self.0.body_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // Held only while the body is read; what is kept of it is counted by the registry.
        let _room = self.0.bodies.acquire_many(units).await;
        match reply::read_body(body, limit).await {
            Ok(bytes) => Ok(bytes),
            Err(reply::Error::TooLarge { .. }) => Err(too_large()),
            Err(reply::Error::Broken(_)) => Err(Refusal::invalid("the body ended early")),
        }
    }

    async fn carry_out(
        &self,
        action: Action,
        subject: &CallSubject,
        verdict: &Verdict,
        weight: usize,
    ) -> Result<Response<reply::Body>, Refusal> {
        match action {
            Action::Faults => Ok(self.control()),
            Action::SetFaults(rules) => match self.0.faults.replace(rules) {
                true => Ok(self.control()),
                false => Err(Refusal::invalid("there are too many rules")),
            },
            Action::Create { app, request } => {
                let shortage = |region: &str| self.0.faults.shortage(subject.in_region(region));
                let calls = &self.0.calls;
                let made = calls
                    .create(app, *request, weight, &verdict.machine_faults, shortage)
                    .await?;
                Ok(answer::of_reply(made))
            }
            Action::Machine {
                app,
                id,
                nonce,
                action,
            } => {
                if let Some(shortage) = self.0.faults.shortage(subject.borrow()) {
                    return Err(shortage.refusal());
                }
                self.0.calls.inject(&app, &id, &verdict.machine_faults);
                let nonce = nonce.as_deref();
                self.0.calls.machine(&app, &id, nonce, action, weight).await
            }
            other => self.0.calls.other(other),
        }
    }

    /// What the control route tells: what the rules did, and the machines as they really are.
    fn control(&self) -> Response<reply::Body> {
        let told = Control {
            counts: self.0.faults.counts(),
            machines: self.0.calls.live(),
        };
        reply::json(StatusCode::OK, &told)
    }

    fn request_id(&self) -> String {
        let now = self.0.calls.now();
        let mut ids = self
            .0
            .ids
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        format!("{}-local", ids.ulid(now))
    }
}
