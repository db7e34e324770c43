//! What operators reach: metrics and health. Guests must not; it asks for no credential.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

use crate::http::host::{self, AllowedHosts};
use crate::http::reply::{self, Body};
use crate::http::serve::{self, Limits};
use crate::shutdown::Shutdown;
use crate::telemetry::{CONTENT_TYPE, Metrics, OPEN_METRICS};

/// What a probe may take before the process counts as not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at once; scrapers and probes are few.
const CONNECTIONS: usize = 64;

/// Serves `/metrics`, `/healthz` and `/readyz` until `shutdown` begins, to requests that name one of
/// `hosts`.
///
/// `probe` is asked before each answer of `/metrics` and `/readyz`: it brings the fleet's gauges up
/// to date and says how well this process can do its work, or why not. One that takes longer than
/// five seconds counts as a no.
pub async fn serve<P, F>(
    listener: TcpListener,
    hosts: AllowedHosts,
    metrics: Arc<Metrics>,
    probe: P,
    shutdown: Shutdown,
) where
    P: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let limits = Limits {
        connections: CONNECTIONS,
        ..Limits::default()
    };
    let handler = move |request: Request<Incoming>, _| {
        let (metrics, probe) = (metrics.clone(), probe.clone());
        let is_allowed = hosts.allow(&request);
        async move {
            if !is_allowed {
                return reply::text(StatusCode::FORBIDDEN, host::REFUSED);
            }
            let accept = request.headers().get(ACCEPT);
            let takes_open = accept.is_some_and(|accept| {
                let accept = accept.to_str().unwrap_or_default();
                accept.contains("application/openmetrics-text")
            });
            let path = request.uri().path();
            answer(request.method(), path, takes_open, &metrics, probe).await
        }
    };
    serve::serve(listener, limits, shutdown, handler).await;
}

async fn answer<P, F>(
    method: &Method,
    path: &str,
    takes_open: bool,
    metrics: &Metrics,
    probe: P,
) -> Response<Body>
where
    P: Fn() -> F,
    F: Future<Output = Result<String, String>>,
{
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return reply::text(StatusCode::NOT_FOUND, "not found\n");
    }
    if method != Method::GET && method != Method::HEAD {
        return reply::method_not_allowed("GET, HEAD");
    }
    match path {
        "/healthz" => reply::text(StatusCode::OK, "ok\n"),
        "/readyz" => match bounded(probe()).await {
            Ok(how) => reply::text(StatusCode::OK, &format!("{how}\n")),
            Err(why) => reply::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
        },
        _ => {
            // Gauges that could not be brought up to date keep what was last seen; a scrape in
            // such a time is worth more than none.
            let _ = bounded(probe()).await;
            let text = metrics.render();
            if takes_open && let Some(open) = metrics.exemplars.written_into(&text) {
                return reply::with_type(StatusCode::OK, OPEN_METRICS, Bytes::from(open));
            }
            reply::with_type(StatusCode::OK, CONTENT_TYPE, Bytes::from(text))
        }
    }
}

async fn bounded(probing: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let in_time = tokio::time::timeout(PROBE_TIMEOUT, probing).await;
    in_time.unwrap_or_else(|_| Err("the probe took too long".to_owned()))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn check(
        method: Method,
        path: &str,
        probe: Result<String, String>,
        expected: StatusCode,
    ) -> String {
        let metrics = Metrics::new();
        let response = answer(&method, path, true, &metrics, || async { probe.clone() }).await;
        assert_eq!(response.status(), expected, "{method} {path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn metrics_come_even_when_the_probe_fails() {
        let gone = Err("redis is gone".to_owned());
        let text = check(Method::GET, "/metrics", gone, StatusCode::OK).await;
        assert!(text.contains("cofferdam_runs_admitted_total 0"), "{text}");
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        assert_eq!(
            check(
                Method::GET,
                "/readyz",
                Ok("ready".to_owned()),
                StatusCode::OK
            )
            .await,
            "ready\n"
        );
        let gone = Err("redis is gone".to_owned());
        let text = check(
            Method::GET,
            "/readyz",
            gone.clone(),
            StatusCode::SERVICE_UNAVAILABLE,
        );
        assert_eq!(text.await, "redis is gone\n");
        assert_eq!(
            check(Method::GET, "/healthz", gone, StatusCode::OK).await,
            "ok\n"
        );
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_told_apart() {
        check(
            Method::GET,
            "/",
            Ok("ready".to_owned()),
            StatusCode::NOT_FOUND,
        )
        .await;
        check(
            Method::POST,
            "/metrics",
            Ok("ready".to_owned()),
            StatusCode::METHOD_NOT_ALLOWED,
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_is_a_no() {
        let metrics = Metrics::new();
        let answered = answer(
            &Method::GET,
            "/readyz",
            false,
            &metrics,
            std::future::pending,
        )
        .await;
        assert_eq!(answered.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
