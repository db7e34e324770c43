//! A receiver of traces: OTLP over HTTP, decoded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cofferdam::shutdown::Shutdown;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message as _;
use tokio::net::TcpListener;

use crate::support::until::until;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for none.
    pub(crate) parent: String,
    pub(crate) name: String,
    /// 1 internal, 3 client, 5 consumer.
    pub(crate) kind: i32,
    pub(crate) begun_ns: u64,
    pub(crate) ended_ns: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) resource: BTreeMap<String, String>,
    /// What went wrong; `None` when nothing did.
    pub(crate) failed: Option<String>,
}

impl Seen {
    pub(crate) fn is(&self, name: &str, value: &str) -> bool {
        self.attributes
            .get(name)
            .is_some_and(|known| known == value)
    }
}

/// The receiver. Ends when it is dropped.
pub(crate) struct Collector {
    pub(crate) address: String,
    spans: Arc<Mutex<Vec<Seen>>>,
    headers: Arc<Mutex<Vec<String>>>,
    status: Arc<AtomicU16>,
    refused: Arc<AtomicUsize>,
    ends: [Shutdown; 2],
}

impl Drop for Collector {
    fn drop(&mut self) {
        for end in &self.ends {
            end.abort().cancel();
        }
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::on("127.0.0.1:0").await
    }

    pub(crate) async fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let spans = Arc::<Mutex<Vec<Seen>>>::default();
        let headers = Arc::<Mutex<Vec<String>>>::default();
        let status = Arc::new(AtomicU16::new(200));
        let (kept, noted, answer) = (spans.clone(), headers.clone(), status.clone());
        let refused = Arc::<AtomicUsize>::default();
        let counted = refused.clone();
        let (shutdown, connections) = (Shutdown::new(), Shutdown::new());
        let ends = connections.clone();
        shutdown.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, noted, answer) = (kept.clone(), noted.clone(), answer.clone());
                let counted = counted.clone();
                let serve = service_fn(move |request| {
                    let (kept, noted, answer) = (kept.clone(), noted.clone(), answer.clone());
                    let counted = counted.clone();
                    async move {
                        let status = answer.load(Ordering::SeqCst);
                        let taken = take(request, status, &kept, &noted).await;
                        counted.fetch_add(usize::from(status != 200), Ordering::SeqCst);
                        Ok::<_, Infallible>(taken)
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(TokioIo::new(stream), serve);
                connections.spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Self {
            address,
            spans,
            headers,
            status,
            refused,
            ends: [shutdown, ends],
        }
    }

    /// What a process that sends its traces here is told.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers this from now on, and keeps what comes only with 200.
    pub(crate) fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Posts that were answered with something else than 200.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// The values of the header `api-key` that came.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.headers.lock().unwrap().clone()
    }

    /// The spans of a run so far.
    pub(crate) fn of(&self, run: &str) -> Vec<Seen> {
        let spans = self.spans.lock().unwrap();
        let of_run = spans.iter().filter(|span| span.is("cofferdam.run.id", run));
        of_run.cloned().collect()
    }

    /// The spans of a run, once it is told of.
    pub(crate) async fn told(&self, run: &str) -> Vec<Seen> {
        until(&format!("the trace of {run}"), async || {
            let spans = self.of(run);
            let is_told = spans.iter().any(|span| span.name == "cofferdam.run");
            is_told.then_some(spans).ok_or_else(|| "nothing".to_owned())
        })
        .await
    }
}

async fn take(
    request: Request<Incoming>,
    status: u16,
    kept: &Mutex<Vec<Seen>>,
    noted: &Mutex<Vec<String>>,
) -> Response<Full<Bytes>> {
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri().path(), "/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let key = request.headers().get("api-key").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if status == 200 {
        noted
            .lock()
            .unwrap()
            .extend(key.map(|key| key.to_str().unwrap().to_owned()));
        let decoded = ExportTraceServiceRequest::decode(body).unwrap();
        kept.lock().unwrap().extend(spans(decoded));
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = status.try_into().unwrap();
    response
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Seen> {
    let mut seen = Vec::new();
    for of_resource in request.resource_spans {
        let resource = named(&of_resource.resource.unwrap().attributes);
        for span in of_resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans)
        {
            let status = span.status.unwrap_or_default();
            seen.push(Seen {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                begun_ns: span.start_time_unix_nano,
                ended_ns: span.end_time_unix_nano,
                attributes: named(&span.attributes),
                resource: resource.clone(),
                failed: (status.code == 2).then_some(status.message),
            });
        }
    }
    seen
}

fn named(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let pairs = pairs.iter().map(|pair| {
        let value = match pair.value.clone().unwrap().value.unwrap() {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key.clone(), value)
    });
    pairs.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
