//! Traces: spans, and their way to a collector over OTLP. Nothing else names OpenTelemetry.
//!
//! What becomes a span is decided in [`stage::outline`](crate::stage::outline) and, for calls of the
//! Machines API, by whoever is told of them. Spans of calls wait in a queue with a bound until they are
//! sent; recording one never waits.

mod export;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::trace as otel;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};

use crate::config::{self, Sampling};
use crate::run::id::{Attempt, RunId};
use crate::run::trace::{RunTrace, SpanId, TraceId};
use crate::telemetry::{Metrics, SpanFate};
use crate::traces::export::Exporter;

pub use crate::traces::export::Error;

/// Spans that wait to be sent at the most.
pub const QUEUE_MAX: usize = 2048;

/// Bytes of a text in a span; what is longer is cut.
pub const TEXT_MAX_BYTES: usize = 256;

/// What part a span has between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None.
    Internal,
    /// It takes what was put into a queue.
    Consumer,
    /// It asks another process.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text; of what is longer than [`TEXT_MAX_BYTES`], the beginning.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(bounded(text))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// The beginning of a text that a guest or a producer may have written.
#[must_use]
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// A span that has ended. Times are Unix microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// The span itself.
    pub id: SpanId,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// Whether that is another program's.
    pub is_parent_remote: bool,
    /// What part it has between two processes.
    pub kind: Kind,
    /// What it is, in few words.
    pub name: Cow<'static, str>,
    /// When it began.
    pub begun_us: u64,
    /// When it ended.
    pub ended_us: u64,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What went wrong.
    pub failed: Option<String>,
}

/// What a task works at, of which its calls are parts.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The trace of its run.
    pub trace: TraceId,
    /// The span that calls belong to.
    pub parent: SpanId,
    /// Its run.
    pub run: RunId,
    /// The attempt.
    pub attempt: Attempt,
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// Does `work` as a part of `scope`, if there is one.
pub fn within<F: Future>(scope: Option<Scope>, work: F) -> impl Future<Output = F::Output> {
    // Boxed because a future would be held twice here, and these are large.
    let work = Box::pin(work);
    async move {
        match scope {
            Some(scope) => SCOPE.scope(scope, work).await,
            None => work.await,
        }
    }
}

/// What the current task works at.
#[must_use]
pub fn scope() -> Option<Scope> {
    SCOPE.try_with(Clone::clone).ok()
}

/// Traces of this process; clones share them.
#[derive(Clone, Debug)]
pub struct Traces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sampling: Sampling,
    exporter: Exporter,
    queue: Mutex<VecDeque<Span>>,
    metrics: Arc<Metrics>,
}

impl Traces {
    /// Traces that go where the settings say. Connects to nothing yet.
    ///
    /// # Errors
    /// When there can be no exporter with these settings.
    pub fn new(settings: &config::Traces, metrics: Arc<Metrics>) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            sampling: settings.sampling,
            exporter: Exporter::new(settings)?,
            queue: Mutex::default(),
            metrics,
        })))
    }

    /// Whether a run's trace is recorded: the same answer in each process with the same settings.
    #[must_use]
    pub fn is_sampled(&self, trace: &RunTrace) -> bool {
        let Sampling { by_parent, ratio } = self.0.sampling;
        if by_parent && let Some(parent) = trace.parent {
            return parent.is_sampled;
        }
        let id = otel::TraceId::from_bytes(trace.id.0.to_be_bytes());
        let sampled = Sampler::TraceIdRatioBased(ratio).should_sample(
            None,
            id,
            "",
            &otel::SpanKind::Internal,
            &[],
            &[],
        );
        sampled.decision == SamplingDecision::RecordAndSample
    }

    /// Queues a span. When the queue is full it is dropped, and counted.
    pub fn record(&self, span: Span) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= QUEUE_MAX {
            drop(queue);
            self.count(SpanFate::Dropped, 1);
            return;
        }
        queue.push_back(span);
    }

    /// Sends the spans that wait, in one post. They are gone either way.
    ///
    /// # Errors
    /// When the collector does not take them.
    pub async fn send_queued(&self) -> Result<(), Error> {
        let queued = {
            let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *queue)
        };
        let spans = queued.len();
        let sent = self.send(queued.into()).await;
        if sent.as_ref().is_err_and(|error| !error.is_final()) {
            self.count(SpanFate::Dropped, spans);
        }
        sent
    }

    /// Sends these spans, in one post. Those that would be refused again count as given up.
    ///
    /// # Errors
    /// When the collector does not take them.
    pub async fn send(&self, spans: Vec<Span>) -> Result<(), Error> {
        if spans.is_empty() {
            return Ok(());
        }
        let count = spans.len();
        let sent = self.0.exporter.export(spans).await;
        match &sent {
            Ok(()) => self.count(SpanFate::Sent, count),
            Err(error) if error.is_final() => self.count(SpanFate::Dropped, count),
            Err(_) => {}
        }
        sent
    }

    fn count(&self, fate: SpanFate, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        self.0.metrics.trace_spans.of(fate).inc_by(spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use url::Url;

    fn traces(by_parent: bool, ratio: f64) -> Traces {
        let settings = config::Traces {
            endpoint: Url::parse("http://127.0.0.1:1/v1/traces").unwrap(),
            headers: Vec::new(),
            timeout: Duration::from_secs(1),
            service: "cofferdam".to_owned(),
            resource: Vec::new(),
            sampling: Sampling { by_parent, ratio },
        };
        Traces::new(&settings, Arc::new(Metrics::new())).unwrap()
    }

    fn trace(number: u64, parent: Option<&str>) -> RunTrace {
        let id: RunId = format!("run-{number}").parse().unwrap();
        RunTrace::new(
            &id,
            None,
            Some(number),
            parent.map(|it| it.parse().unwrap()),
        )
    }

    #[tokio::test]
    async fn a_share_of_traces_is_recorded_and_a_parent_decides_where_it_may() {
        let quarter = traces(true, 0.25);
        let kept = (0..1000).filter(|n| quarter.is_sampled(&trace(*n, None)));
        let kept = kept.count();
        assert!((150..350).contains(&kept), "{kept}");
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(traces(true, 0.0).is_sampled(&trace(1, Some(parent))));
        assert!(!traces(false, 0.0).is_sampled(&trace(1, Some(parent))));
        let unsampled = parent.replace("-01", "-00");
        assert!(!traces(true, 1.0).is_sampled(&trace(1, Some(&unsampled))));
        assert!(traces(false, 1.0).is_sampled(&trace(1, Some(&unsampled))));
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_does_not_wait() {
        let traces = traces(true, 1.0);
        let span = Span {
            trace: TraceId(1),
            id: SpanId(1),
            parent: None,
            is_parent_remote: false,
            kind: Kind::Client,
            name: "GET".into(),
            begun_us: 1,
            ended_us: 2,
            attributes: Vec::new(),
            failed: None,
        };
        for _ in 0..QUEUE_MAX + 3 {
            traces.record(span.clone());
        }
        let dropped = traces.0.metrics.trace_spans.of(SpanFate::Dropped);
        assert_eq!(dropped.get(), 3);
        // Nobody listens there.
        assert!(traces.send_queued().await.is_err());
        assert_eq!(dropped.get(), 3 + QUEUE_MAX as u64);
        assert!(traces.send_queued().await.is_ok());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        let long = "ä".repeat(TEXT_MAX_BYTES);
        assert_eq!(bounded(&long).len(), TEXT_MAX_BYTES);
        assert_eq!(bounded(&format!("x{long}")).len(), TEXT_MAX_BYTES - 1);
    }
}
