//! The last trace that fell into each bucket of a histogram, and the text in which Prometheus reads it.
//!
//! The library that makes the series has no exemplars: they are kept beside it, and written into its text.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::UnixMs;
use crate::telemetry::labels::{Label as _, MachinesCall};
use crate::telemetry::metrics::{MOMENTS_S, WORK_S};

/// The content type of text with exemplars.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// A boot.
    Boot,
    /// What a guest took.
    Result,
    /// A tear-down.
    TearDown,
    /// A call of the Machines API.
    Call(MachinesCall),
}

/// The exemplars: one for each bucket that ever had a trace.
#[derive(Clone, Debug, Default)]
pub struct Exemplars(Arc<Mutex<HashMap<String, String>>>);

impl Exemplars {
    /// The trace of this id took so long; it was seen at this time.
    pub fn note(&self, timed: Timed, seconds: f64, trace: &str, now: UnixMs) {
        let (name, label, bounds) = match timed {
            Timed::Boot => ("boot_duration", String::new(), MOMENTS_S),
            Timed::Result => ("result_duration", String::new(), WORK_S),
            Timed::TearDown => ("teardown_duration", String::new(), MOMENTS_S),
            Timed::Call(call) => (
                "machines_api_duration",
                format!("call=\"{}\",", call.word()),
                MOMENTS_S,
            ),
        };
        let bound = bounds.iter().find(|bound| seconds <= **bound);
        let bound = bound.map_or_else(|| "+Inf".to_owned(), f64::to_string);
        let bucket = format!("cofferdam_{name}_seconds_bucket{{{label}le=\"{bound}\"}}");
        let (s, ms) = (now / 1000, now % 1000);
        let exemplar = format!(" # {{trace_id=\"{trace}\"}} {seconds} {s}.{ms:03}");
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(bucket, exemplar);
    }

    /// This text of Prometheus as one of OpenMetrics, with the exemplars; `None` while there are none.
    #[must_use]
    pub fn written_into(&self, text: &str) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return None;
        }
        let mut open = String::with_capacity(text.len() + known.len() * 100);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                // There a family of counters is named without the end that its series have.
                let mut words = rest.splitn(3, ' ');
                let (kind, name) = (words.next(), words.next());
                let name = name.unwrap_or_default();
                let name = name.strip_suffix("_total").unwrap_or(name);
                let rest = words.next().unwrap_or_default();
                // A string takes everything.
                let _ = writeln!(open, "# {} {name} {rest}", kind.unwrap_or_default());
                continue;
            }
            let exemplar = line.rsplit_once(' ').and_then(|(name, _)| known.get(name));
            open.push_str(line);
            open.push_str(exemplar.map_or("", String::as_str));
            open.push('\n');
        }
        open.push_str("# EOF\n");
        Some(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn an_exemplar_stands_behind_the_bucket_that_it_fell_into() {
        let metrics = Metrics::new();
        assert_eq!(metrics.exemplars.written_into(&metrics.render()), None);
        let now = 1_700_000_000_042;
        let create = Timed::Call(MachinesCall::Create);
        metrics.exemplars.note(Timed::Boot, 0.7, "ab", now);
        metrics.exemplars.note(create, 1.0, "cd", now);
        metrics.exemplars.note(Timed::TearDown, 600.0, "ef", now);
        let open = metrics.exemplars.written_into(&metrics.render()).unwrap();
        for line in [
            "cofferdam_boot_duration_seconds_bucket{le=\"1\"} 0 # {trace_id=\"ab\"} 0.7 1700000000.042",
            "cofferdam_machines_api_duration_seconds_bucket{call=\"create\",le=\"1\"} 0 # {trace_id=\"cd\"} 1 1700000000.042",
            "cofferdam_teardown_duration_seconds_bucket{le=\"+Inf\"} 0 # {trace_id=\"ef\"} 600 1700000000.042",
            "# TYPE cofferdam_runs_admitted counter",
            "cofferdam_runs_admitted_total 0",
        ] {
            assert!(
                open.lines().any(|found| found == line),
                "no {line} in\n{open}"
            );
        }
        assert!(open.ends_with("\n# EOF\n"));
        assert_eq!(open.matches("trace_id").count(), 3);
    }
}
