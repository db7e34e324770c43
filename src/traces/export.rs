//! Spans as OTLP, posted by the process's own HTTP client: on its own runtime, with its TLS.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, trace as otel};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use crate::config;
use crate::traces::{Kind, Span, Value};

/// How long connecting to the collector may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of its answer that are read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Why spans were not sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There can be no exporter with these settings.
    #[error(transparent)]
    Settings(#[from] ExporterBuildError),
    /// There can be no HTTP client.
    #[error("make an HTTP client: {0}")]
    Client(String),
    /// The collector refused them.
    #[error("the collector answered {0}")]
    Refused(u16),
    /// The collector did not answer.
    #[error("the collector did not take them: {0}")]
    Unanswered(String),
}

impl Error {
    /// Whether the same spans would be refused again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(400 | 413 | 415 | 422))
    }
}

/// Posts spans.
#[derive(Debug)]
pub(super) struct Exporter {
    otlp: opentelemetry_otlp::SpanExporter,
    http: Http,
    scope: InstrumentationScope,
}

impl Exporter {
    pub(super) fn new(settings: &config::Traces) -> Result<Self, Error> {
        let http = Http::new(settings)?;
        let headers: HashMap<String, String> = (settings.headers.iter())
            .map(|(name, value)| (name.clone(), value.expose().clone()))
            .collect();
        let mut otlp = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(http.clone())
            .with_endpoint(settings.endpoint.as_str())
            .with_timeout(settings.timeout)
            .with_protocol(Protocol::HttpBinary)
            .with_headers(headers)
            // Whoever calls tries again, and knows what is worth it.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        let resource = settings.resource.iter();
        let resource = resource.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder_empty()
            .with_attributes(resource)
            .with_attribute(KeyValue::new("service.name", settings.service.clone()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("telemetry.sdk.name", "opentelemetry"))
            .with_attribute(KeyValue::new("telemetry.sdk.language", "rust"))
            .build();
        otlp.set_resource(&resource);
        let scope = InstrumentationScope::builder("cofferdam");
        let scope = scope.with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { otlp, http, scope })
    }

    pub(super) async fn export(&self, spans: Vec<Span>) -> Result<(), Error> {
        let spans = spans.into_iter().map(|span| self.data(span));
        let exported = self.otlp.export(spans.collect()).await;
        exported.map_err(|error| {
            // The exporter keeps what the network said to itself.
            let cause = self.http.take_cause();
            cause.unwrap_or_else(|| Error::Unanswered(error.to_string()))
        })
    }

    fn data(&self, span: Span) -> SpanData {
        let trace = otel::TraceId::from_bytes(span.trace.0.to_be_bytes());
        let id = |id: u64| otel::SpanId::from_bytes(id.to_be_bytes());
        SpanData {
            span_context: SpanContext::new(
                trace,
                id(span.id.0),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: span
                .parent
                .map_or(otel::SpanId::INVALID, |parent| id(parent.0)),
            parent_span_is_remote: span.is_parent_remote,
            span_kind: match span.kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Consumer => SpanKind::Consumer,
                Kind::Client => SpanKind::Client,
            },
            name: span.name,
            start_time: time(span.begun_us),
            end_time: time(span.ended_us),
            attributes: span
                .attributes
                .into_iter()
                .map(|(name, value)| match value {
                    Value::Text(text) => KeyValue::new(name, text),
                    Value::Number(number) => KeyValue::new(name, number),
                })
                .collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.failed.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// The innermost cause: the outer ones repeat the address.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string()
}

fn time(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us)
}

/// The HTTP client of the exporter.
#[derive(Clone)]
struct Http {
    client: reqwest::Client,
    /// Why the last request came to nothing.
    cause: Arc<Mutex<Option<Error>>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    fn new(settings: &config::Traces) -> Result<Self, Error> {
        let unmade = |error: &dyn std::error::Error| Error::Client(error.to_string());
        // Fails when it is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(settings.timeout)
            .http1_only()
            .pool_idle_timeout(Duration::from_secs(10));
        if settings.endpoint.scheme() == "http" {
            // Without this a system without certificates could not even speak plainly.
            let provider = rustls::crypto::ring::default_provider();
            let config = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(|error| unmade(&error))?;
            let nobody = rustls::RootCertStore::empty();
            let config = config.with_root_certificates(nobody).with_no_client_auth();
            builder = builder.tls_backend_preconfigured(config);
        }
        Ok(Self {
            client: builder.build().map_err(|error| unmade(&error))?,
            cause: Arc::default(),
        })
    }

    fn take_cause(&self) -> Option<Error> {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.take()
    }

    fn note(&self, cause: Option<Error>) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let sending = self
            .client
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .body(body);
        let mut response = sending.send().await?;
        let mut answer = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if answer.len() + chunk.len() > ANSWER_MAX_BYTES {
                break;
            }
            answer.extend_from_slice(&chunk);
        }
        let mut whole = Response::new(answer.freeze());
        *whole.status_mut() = response.status();
        *whole.headers_mut() = std::mem::take(response.headers_mut());
        Ok(whole)
    }
}

impl HttpClient for Http {
    // As the crate `async_trait` writes it, which this one method is not worth.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let sent = self.send(request).await;
            self.note(match &sent {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(Error::Refused(answer.status().as_u16())),
                Err(error) => Some(Error::Unanswered(innermost(&**error))),
            });
            sent
        }
        .boxed()
    }
}
