//! Spans of the calls to the Machines API, each part of what its task works at.

use url::Url;

use crate::clock::Clock;
use crate::machines::{Call, Class, Observed};
use crate::run::trace::{SpanId, TraceId};
use crate::traces::{self, Kind, Span, Traces, Value};

/// Makes spans of calls.
#[derive(Clone, Debug)]
pub struct CallSpans {
    traces: Traces,
    clock: Clock,
    /// Where the API is, without a path.
    origin: String,
    host: String,
    port: Option<u16>,
}

impl CallSpans {
    /// Of calls to the API at `base`.
    #[must_use]
    pub fn new(traces: Traces, clock: Clock, base: &Url) -> Self {
        Self {
            traces,
            clock,
            origin: base.origin().ascii_serialization(),
            host: base.host_str().unwrap_or_default().to_owned(),
            port: base.port_or_known_default(),
        }
    }

    /// Records a call that has just ended, if it belongs to a run whose trace is recorded, and answers
    /// that trace. Never waits.
    pub fn record(&self, observed: &Observed) -> Option<TraceId> {
        let scope = traces::scope()?;
        let request = &observed.request;
        let template = template(request.call);
        let url = format!("{}{}", self.origin, request.path);
        let ended_us = self.clock.now_ms().saturating_mul(1000);
        let took_us = u64::try_from(observed.took.as_micros()).unwrap_or(u64::MAX);
        let mut attributes = vec![
            ("http.request.method", Value::from(request.method)),
            ("url.full", Value::from(url.as_str())),
            ("url.template", Value::from(template)),
            ("server.address", Value::from(self.host.as_str())),
            ("cofferdam.run.id", Value::from(scope.run.as_str())),
            ("cofferdam.attempt", u64::from(scope.attempt.0).into()),
            (
                "cofferdam.machines.call",
                Value::from(request.call.as_str()),
            ),
        ];
        let port = self.port.map(|port| u64::from(port).into());
        attributes.extend(port.map(|port| ("server.port", port)));
        let status = observed.status.map(|status| u64::from(status).into());
        attributes.extend(status.map(|status| ("http.response.status_code", status)));
        // A machine that is gone is what a wait and a delete are for.
        let is_well = matches!(observed.class, Class::Ok | Class::Gone);
        let failed = (!is_well).then(|| {
            let status = observed.status.filter(|status| *status >= 400);
            status.map_or_else(
                || observed.class.as_str().to_owned(),
                |status| status.to_string(),
            )
        });
        let error = failed.as_deref().map(Value::from);
        attributes.extend(error.map(|error| ("error.type", error)));
        self.traces.record(Span {
            trace: scope.trace,
            id: SpanId(fastrand::u64(1..)),
            parent: Some(scope.parent),
            is_parent_remote: false,
            kind: Kind::Client,
            name: format!("{} {template}", request.method).into(),
            begun_us: ended_us.saturating_sub(took_us),
            ended_us,
            attributes,
            failed,
        });
        Some(scope.trace)
    }
}

/// The path of a call, with names for what differs between machines.
fn template(call: Call) -> &'static str {
    match call {
        Call::Create | Call::List => "/v1/apps/{app}/machines",
        Call::Get | Call::Delete => "/v1/apps/{app}/machines/{machine}",
        Call::Wait => "/v1/apps/{app}/machines/{machine}/wait",
        Call::Start => "/v1/apps/{app}/machines/{machine}/start",
        Call::Stop => "/v1/apps/{app}/machines/{machine}/stop",
        Call::App => "/v1/apps/{app}",
        Call::Token => "/v1/tokens/current",
        Call::Logs => "/api/v1/apps/{app}/logs",
    }
}
