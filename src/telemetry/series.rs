//! How series are made and become known: one function for each kind, by which all get the same
//! beginning of their names.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::telemetry::labels::{Label, TaskKind};
use crate::telemetry::metrics::Counters;

pub(super) fn named(name: &str) -> String {
    format!("cofferdam_{name}")
}

/// Makes a series known. It fails only for an unsound or repeated name, and the names are
/// constants which a test goes through.
pub(super) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let series = made.expect("the name and the labels are sound");
    registry
        .register(Box::new(series.clone()))
        .expect("the name is used once");
    series
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(named(name), help))
}

pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(named(name), help))
}

pub(super) fn age(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(named(name), help))
}

pub(super) fn vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(
        registry,
        IntCounterVec::new(Opts::new(named(name), help), labels),
    )
}

pub(super) fn tasks(registry: &Registry, name: &str, help: &str) -> IntGaugeVec {
    let series = register(
        registry,
        IntGaugeVec::new(Opts::new(named(name), help), &["kind"]),
    );
    for kind in TaskKind::ALL {
        series.with_label_values(&[kind.word()]).set(0);
    }
    series
}

pub(super) fn counters<L: Label>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Counters<L> {
    let series = vec(registry, name, help, &[label]);
    for value in L::ALL {
        series.with_label_values(&[value.word()]);
    }
    Counters::new(series)
}

pub(super) fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(named(name), help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options))
}

/// A histogram for each value of a label.
pub(super) fn durations(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: impl Iterator<Item = &'static str>,
    buckets: &[f64],
) -> HistogramVec {
    let options = HistogramOpts::new(named(name), help).buckets(buckets.to_vec());
    let series = register(registry, HistogramVec::new(options, &[label]));
    for value in values {
        series.with_label_values(&[value]);
    }
    series
}

/// Gauges of consumer groups.
pub(super) fn gauges(registry: &Registry, name: &str, help: &str) -> IntGaugeVec {
    register(
        registry,
        IntGaugeVec::new(Opts::new(named(name), help), &["group"]),
    )
}

/// Which version runs: a series that is always 1.
pub(super) fn build_info(registry: &Registry) {
    let help = "Which version this is; always 1.";
    let options =
        Opts::new(named("build_info"), help).const_label("version", env!("CARGO_PKG_VERSION"));
    register(registry, IntGauge::with_opts(options)).set(1);
}
