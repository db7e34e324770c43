//! One call: sent once, bounded in time and bytes, its answer or its failure put into words.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, COOKIE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response};
use tokio::time::Instant;
use url::Url;

use crate::clock::{Clock, UnixMs};

use super::call::{Call, Class, Observed, Observer, Request};
use super::cookies::Cookies;
use super::error::{Error, Redaction, Refusal, one_line};
use super::retry::{Decision, judge};

/// Bytes of an error's body that are read; the rest is not waited for.
const ERROR_BODY_BYTES: usize = 64 * 1024;

/// The longest that a server may ask us to stay away. Who means longer says so again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// One call, ready to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) call: Call,
    pub(super) method: Method,
    pub(super) url: Url,
    /// A body of JSON, when there is one.
    pub(super) body: Option<Bytes>,
    /// From connecting to the last byte of the answer.
    pub(super) timeout: Duration,
    /// Bytes of a good answer at the most.
    pub(super) limit_bytes: usize,
    pub(super) redaction: Redaction,
}

impl Outgoing {
    /// What errors tell of it.
    pub(super) fn request(&self) -> Request {
        Request {
            call: self.call,
            method: method_name(&self.method),
            path: self.url.path().to_owned(),
        }
    }
}

/// A good answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) request: Request,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) redaction: Redaction,
}

impl Answer {
    /// The service's clock when it answered, in whole seconds.
    pub(super) fn date(&self) -> Option<UnixMs> {
        let date = httpdate::parse_http_date(header(&self.headers, DATE.as_str())?).ok()?;
        let since = date.duration_since(UNIX_EPOCH).ok()?;
        UnixMs::try_from(since.as_millis()).ok()
    }

    /// The failure of an answer that says yes and does not make sense.
    pub(super) fn unreadable(&self, reason: &str) -> Error {
        Error::Unreadable {
            request: self.request.clone(),
            status: self.status,
            reason: self.redaction.clean(reason),
        }
    }
}

/// Sends calls over one pool of connections under one token.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    pub(super) http: reqwest::Client,
    pub(super) authorization: HeaderValue,
    pub(super) observer: Observer,
    pub(super) cookies: Arc<Cookies>,
}

impl Transport {
    /// Sends the call and gives the answer to `read`, which makes a value of it.
    pub(super) async fn send<T>(
        &self,
        outgoing: Outgoing,
        read: impl FnOnce(&Answer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (request, begun) = (outgoing.request(), Instant::now());
        let mut status = None;
        let value = self.exchange(outgoing).await.and_then(|answer| {
            status = Some(answer.status);
            read(&answer)
        });
        if let Err(Error::Refused(refusal)) = &value {
            status = Some(refusal.status);
        }
        let class = value
            .as_ref()
            .map_or_else(|error| class_of(request.call, error), |_| Class::Ok);
        self.observer.tell(Observed {
            request,
            status,
            class,
            took: begun.elapsed(),
        });
        value
    }

    async fn exchange(&self, outgoing: Outgoing) -> Result<Answer, Error> {
        let request = outgoing.request();
        let timeout = outgoing.timeout;
        match tokio::time::timeout(timeout, self.unbounded(outgoing, request.clone())).await {
            Ok(result) => result,
            Err(_) => {
                let reason = format!("it took longer than {} s", timeout.as_secs_f32());
                Err(Error::NoAnswer { request, reason })
            }
        }
    }

    async fn unbounded(&self, outgoing: Outgoing, request: Request) -> Result<Answer, Error> {
        let mut sending = self
            .http
            .request(outgoing.method, outgoing.url)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(cookies) = self.cookies.header(&request.path) {
            sending = sending.header(COOKIE, cookies);
        }
        if let Some(body) = outgoing.body {
            sending = sending
                .header(
                    reqwest::header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                )
                .body(body);
        }
        let mut response = match sending.send().await {
            Ok(response) => response,
            Err(error) => return Err(unanswered(request, &error)),
        };
        self.cookies.take(&request.path, response.headers());
        let status = response.status();
        if !status.is_success() {
            return Err(refused(request, response, &outgoing.redaction).await);
        }
        let (status, headers) = (status.as_u16(), std::mem::take(response.headers_mut()));
        let body = match read_body(response, outgoing.limit_bytes).await {
            Ok((body, Whole::Yes)) => body,
            Ok((_, Whole::No)) => {
                let reason = format!("it is longer than {} bytes", outgoing.limit_bytes);
                return Err(Error::Unreadable {
                    request,
                    status,
                    reason,
                });
            }
            Err(error) => return Err(unanswered(request, &error)),
        };
        Ok(Answer {
            request,
            status,
            headers,
            body,
            redaction: outgoing.redaction,
        })
    }
}

/// The failure of a request that got no whole answer.
fn unanswered(request: Request, error: &reqwest::Error) -> Error {
    let reason = cause(error);
    if error.is_builder() {
        Error::Malformed { request, reason }
    } else if error.is_connect() {
        Error::NotSent { request, reason }
    } else {
        Error::NoAnswer { request, reason }
    }
}

/// The innermost causes in words. The outermost repeats the address, which `Request` has.
fn cause(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(inner) = next {
        let text = inner.to_string();
        // Many layers repeat the text of the one below.
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        next = inner.source();
    }
    if causes.is_empty() {
        causes.push(
            if error.is_timeout() {
                "timed out"
            } else {
                "failed"
            }
            .to_owned(),
        );
    }
    one_line(&causes.join(": "))
}

/// Reads an error answer. One that breaks off is no answer: what it said is not known.
async fn refused(request: Request, response: Response, redaction: &Redaction) -> Error {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = match read_body(response, ERROR_BODY_BYTES).await {
        Ok((body, _)) => body,
        Err(error) => {
            let reason = format!("status {status}, then {}", cause(&error));
            return Error::NoAnswer { request, reason };
        }
    };
    let mut refusal = Refusal::read(request, status, &body, redaction);
    refusal.request_id = header(&headers, "fly-request-id").map(one_line);
    refusal.retry_after = retry_after(&headers);
    Error::Refused(Box::new(refusal))
}

/// How long to stay away: whole seconds, or a date, which is meant by the server's clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let said = header(headers, RETRY_AFTER.as_str())?.trim();
    let wait = if !said.is_empty() && said.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(said.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(said).ok()?;
        let date = header(headers, DATE.as_str());
        let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok());
        let now =
            now.unwrap_or_else(|| UNIX_EPOCH + Duration::from_millis(Clock::system().now_ms()));
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a body was read to its end.
enum Whole {
    Yes,
    No,
}

/// Reads at most `limit_bytes` of a body.
async fn read_body(
    mut response: Response,
    limit_bytes: usize,
) -> Result<(Bytes, Whole), reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit_bytes - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok((body.freeze(), Whole::No));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body.freeze(), Whole::Yes))
}

fn class_of(call: Call, error: &Error) -> Class {
    match error {
        Error::Settings(_) | Error::Malformed { .. } | Error::NotSent { .. } => Class::NotSent,
        Error::NoAnswer { .. } => Class::NoAnswer,
        Error::Unreadable { .. } => Class::Unreadable,
        Error::Refused(_) if judge(call, error) == Decision::Gone => Class::Gone,
        Error::Refused(refusal) => Class::of_status(refusal.status),
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}
