//! Every series of the process, with its help text. All exist from the start, at zero, so that a
//! rate over the first event is not lost and an alert can be written before anything happened.

use std::cmp::Reverse;
use std::marker::PhantomData;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use crate::run::outcome::Outcome;
use crate::telemetry::exemplars::Exemplars;
use crate::telemetry::group_lag::GroupLag;
use crate::telemetry::in_hand::InHand;
use crate::telemetry::labels::{
    DataChange, Label, MachinesCall, REDIS_SCRIPTS, RedisError, ResponseClass, ResponseCode,
    SpanFate, TaskKind,
};
use crate::telemetry::series::{
    age, build_info, counter, counters, durations, gauge, gauges, histogram, tasks, vec,
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Seconds, for what should take moments: booting and tearing down.
pub(super) const MOMENTS_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Seconds, for what a guest takes.
pub(super) const WORK_S: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

/// Seconds, for an answer of Redis.
const ANSWER_S: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// Consumer groups of the results that have series of their own.
const GROUPS_MAX: usize = 20;

/// The series. Clones count into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests that became runs.
    pub runs_admitted: IntCounter,
    /// Requests set aside because their id belongs to the run of another request.
    pub id_conflicts: IntCounter,
    /// Runs settled because their state was missing from Redis.
    pub runs_missing: IntCounter,
    /// Results published, by outcome.
    pub results: Counters<Outcome>,
    /// Boots begun, repeats included.
    pub boots_started: IntCounter,
    machines_responses: IntCounterVec,
    machines_duration: HistogramVec,
    /// Apps and regions that do not answer this worker and are not called.
    pub circuits_open: IntGauge,
    /// Apps in which the provider refuses this worker: token, address or account.
    pub apps_refused: IntGauge,
    /// From the start of a boot to a running machine.
    pub boot_duration: Histogram,
    /// From a running machine to its result.
    pub result_duration: Histogram,
    /// From a result to the machine being gone.
    pub teardown_duration: Histogram,
    /// Machines alive, whole fleet, as last seen.
    pub machines_in_flight: IntGauge,
    /// Runs that wait for a machine, whole fleet, as last seen.
    pub runs_queued: IntGauge,
    /// Requests that no worker has read, whole fleet, as last seen.
    pub requests_unread: IntGauge,
    /// Tenants whose waiting runs may not boot, whole fleet, as last seen.
    pub tenants_blocked: IntGauge,
    /// How long the first of them has waited, in seconds.
    pub oldest_queued_age: Gauge,
    /// Tear-downs that are not done, whole fleet, as last seen.
    pub teardowns_pending: IntGauge,
    /// Runs that are due for more than five seconds and were not acted on, as last seen.
    pub runs_overdue: IntGauge,
    /// Orphans: machines at the provider without a run, as this worker's last sweep saw them.
    pub orphan_machines: IntGauge,
    /// Machines named like ours that are not provably ours, as this worker's last sweep saw them.
    pub foreign_machines: IntGauge,
    /// Orphans that were deleted.
    pub orphan_machines_deleted: IntCounter,
    /// How long the oldest result has been kept beyond its retention because a consumer group has not
    /// acknowledged it, in seconds.
    pub results_past_retention: Gauge,
    /// Results in Redis, as last seen.
    pub results_length: IntGauge,
    results_unread: IntGaugeVec,
    results_unacknowledged: IntGaugeVec,
    /// Entries that were set aside as dead, as last seen.
    pub dead_letters: IntGauge,
    /// Responses of the endpoint, by status.
    pub endpoint_responses: Counters<ResponseCode>,
    /// Reads of the clock of Redis that found it to have jumped.
    pub clock_jumps: IntCounter,
    /// Calls to Redis that failed, by why.
    pub redis_errors: Counters<RedisError>,
    redis_scripts: HistogramVec,
    /// How long callers waited for a connection to Redis, where none was there.
    pub redis_connection_wait: Histogram,
    /// Heartbeats that found the data in Redis to be others.
    pub data_changes: Counters<DataChange>,
    /// 1 while this worker reads no requests, because Redis is nearly full or too many bytes of requests
    /// wait.
    pub intake_stopped: IntGauge,
    /// Bytes of artifacts that are kept, whole fleet, as last seen.
    pub artifact_bytes: IntGauge,
    /// Artifacts that were removed because their time was over.
    pub artifacts_expired: IntCounter,
    /// Artifacts, and parts of them, that were removed because no run had them.
    pub artifacts_left_over: IntCounter,
    /// Spans of traces, by what became of them.
    pub trace_spans: Counters<SpanFate>,
    tasks: IntGaugeVec,
    /// The traces of the last runs and calls that were timed; no series of their own.
    pub exemplars: Exemplars,
    /// Answers that the endpoint has in hand; no series, its heartbeat tells of them.
    pub answers: InHand,
}

/// Counters that differ in one label.
#[derive(Clone, Debug)]
pub struct Counters<L> {
    series: IntCounterVec,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    pub(super) fn new(series: IntCounterVec) -> Self {
        Self {
            series,
            label: PhantomData,
        }
    }

    /// The counter of one value.
    #[must_use]
    pub fn of(&self, label: L) -> IntCounter {
        self.series.with_label_values(&[label.word()])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        build_info(r);
        // What the process uses of its host, under the names that Prometheus's libraries share.
        let process = ProcessCollector::for_self();
        r.register(Box::new(process))
            .expect("the names are used once");
        let metrics = Self {
            runs_admitted: counter(r, "runs_admitted_total", "Requests that became runs."),
            id_conflicts: counter(
                r,
                "id_conflicts_total",
                "Requests set aside because their id belongs to the run of another request.",
            ),
            runs_missing: counter(
                r,
                "runs_missing_total",
                "Runs settled because their state was missing from Redis.",
            ),
            results: counters(r, "results_total", "Results published.", "outcome"),
            boots_started: counter(r, "boots_started_total", "Boots begun, repeats included."),
            machines_responses: vec(
                r,
                "machines_api_responses_total",
                "Responses of the Machines API.",
                &["call", "class"],
            ),
            machines_duration: durations(
                r,
                "machines_api_duration_seconds",
                "How long calls to the Machines API took, whatever came of them.",
                "call",
                MachinesCall::ALL.iter().map(|call| call.word()),
                MOMENTS_S,
            ),
            circuits_open: gauge(
                r,
                "circuits_open",
                "Apps, and regions of apps, that do not answer this worker and are not called.",
            ),
            apps_refused: gauge(
                r,
                "machines_api_apps_refused",
                "Apps in which the provider refuses this worker: token, address, account or quota.",
            ),
            boot_duration: histogram(
                r,
                "boot_duration_seconds",
                "From the start of a boot to a running machine.",
                MOMENTS_S,
            ),
            result_duration: histogram(
                r,
                "result_duration_seconds",
                "From a running machine to its result.",
                WORK_S,
            ),
            teardown_duration: histogram(
                r,
                "teardown_duration_seconds",
                "From a result to the machine being gone.",
                MOMENTS_S,
            ),
            machines_in_flight: gauge(r, "machines_in_flight", "Machines alive, whole fleet."),
            runs_queued: gauge(
                r,
                "runs_queued",
                "Runs that wait for a machine, whole fleet.",
            ),
            requests_unread: gauge(
                r,
                "requests_unread",
                "Requests that no worker has read, whole fleet.",
            ),
            tenants_blocked: gauge(
                r,
                "tenants_blocked",
                "Tenants whose waiting runs may not boot: at their cap, paused, or out of budget.",
            ),
            oldest_queued_age: age(
                r,
                "oldest_queued_age_seconds",
                "How long the first queued run has waited.",
            ),
            teardowns_pending: gauge(
                r,
                "teardowns_pending",
                "Tear-downs that are not done, whole fleet.",
            ),
            runs_overdue: gauge(
                r,
                "runs_overdue",
                "Runs that are due for more than five seconds and were not acted on, whole fleet.",
            ),
            orphan_machines: gauge(
                r,
                "orphan_machines",
                "Machines at the provider without a run, as this worker's last sweep saw them.",
            ),
            foreign_machines: gauge(
                r,
                "foreign_machines",
                "Machines named like ours that are not provably ours, as this worker's last sweep saw them; they are not deleted.",
            ),
            orphan_machines_deleted: counter(
                r,
                "orphan_machines_deleted_total",
                "Machines without a run that were deleted.",
            ),
            results_past_retention: age(
                r,
                "results_past_retention_seconds",
                "How long results have been kept beyond their retention because a consumer group has not acknowledged them.",
            ),
            results_length: gauge(r, "results_length", "Results that Redis has."),
            results_unread: gauges(
                r,
                "results_unread",
                "Results that a consumer group has not been given, where Redis can tell.",
            ),
            results_unacknowledged: gauges(
                r,
                "results_unacknowledged",
                "Results that a consumer group was given and has not acknowledged.",
            ),
            dead_letters: gauge(
                r,
                "dead_letters",
                "Entries that are set aside: no request, no order, or with the id of another run.",
            ),
            endpoint_responses: counters(
                r,
                "endpoint_responses_total",
                "Responses to guests.",
                "code",
            ),
            clock_jumps: counter(
                r,
                "clock_jumps_total",
                "Reads of the clock of Redis that found it to have jumped by half a minute or more.",
            ),
            redis_errors: counters(
                r,
                "redis_errors_total",
                "Calls to Redis that failed, by why.",
                "kind",
            ),
            redis_scripts: durations(
                r,
                "redis_script_duration_seconds",
                "How long Redis took to answer a script, the way there and back included.",
                "script",
                REDIS_SCRIPTS.iter().copied(),
                ANSWER_S,
            ),
            redis_connection_wait: histogram(
                r,
                "redis_connection_wait_seconds",
                "How long callers waited for a connection to Redis, where none was there.",
                ANSWER_S,
            ),
            data_changes: counters(
                r,
                "redis_data_changes_total",
                "Heartbeats that found the data in Redis to be others than before: emptied, set back to an older copy, or foreign.",
                "kind",
            ),
            intake_stopped: gauge(
                r,
                "intake_stopped",
                "1 while this worker reads no requests: Redis is nearly full, or too many bytes wait.",
            ),
            artifact_bytes: gauge(
                r,
                "artifact_bytes",
                "Bytes of artifacts that are kept, whole fleet.",
            ),
            artifacts_expired: counter(
                r,
                "artifacts_expired_total",
                "Artifacts that were removed because their time was over.",
            ),
            artifacts_left_over: counter(
                r,
                "artifacts_left_over_total",
                "Artifacts, whole or not, that were removed because no run had them.",
            ),
            trace_spans: counters(
                r,
                "trace_spans_total",
                "Spans of traces that the collector took, and that were given up.",
                "fate",
            ),
            tasks: tasks(
                r,
                "worker_tasks",
                "Boots and tear-downs that this worker is doing.",
            ),
            exemplars: Exemplars::default(),
            answers: InHand::default(),
            registry,
        };
        for call in MachinesCall::ALL {
            for class in ResponseClass::ALL {
                metrics.machines_responses(*call, *class).reset();
            }
        }
        metrics
    }

    /// The counter of answers of one class to one call.
    #[must_use]
    pub fn machines_responses(&self, call: MachinesCall, class: ResponseClass) -> IntCounter {
        self.machines_responses
            .with_label_values(&[call.word(), class.word()])
    }

    /// How long calls of one kind took.
    #[must_use]
    pub fn machines_duration(&self, call: MachinesCall) -> Histogram {
        self.machines_duration.with_label_values(&[call.word()])
    }

    /// How long one script took.
    #[must_use]
    pub fn redis_script(&self, name: &str) -> Histogram {
        self.redis_scripts.with_label_values(&[name])
    }

    /// Tells how far the consumer groups of the results are. A group that is gone loses its series; of many
    /// groups, those that are furthest behind have some.
    pub fn set_result_groups(&self, mut groups: Vec<GroupLag>) {
        groups.sort_by_key(|lag| Reverse(lag.behind()));
        self.results_unread.reset();
        self.results_unacknowledged.reset();
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for lag in groups.iter().take(GROUPS_MAX) {
            let group = [lag.group.as_str()];
            if let Some(unread) = lag.unread {
                self.results_unread
                    .with_label_values(&group)
                    .set(gauge(unread));
            }
            let series = self.results_unacknowledged.with_label_values(&group);
            series.set(gauge(lag.unacknowledged));
        }
    }

    /// How many tasks of one kind this worker has.
    #[must_use]
    pub fn tasks(&self, kind: TaskKind) -> IntGauge {
        self.tasks.with_label_values(&[kind.word()])
    }

    /// Tasks and answers that this process has in hand.
    #[must_use]
    pub fn in_hand(&self) -> u64 {
        let tasks = TaskKind::ALL.iter().map(|kind| self.tasks(*kind).get());
        let tasks = u64::try_from(tasks.sum::<i64>()).unwrap_or(0);
        tasks.saturating_add(self.answers.count())
    }

    /// All series as text, in the format that Prometheus reads.
    ///
    /// # Panics
    /// Never: encoding fails only for a family without a name or without series, and
    /// [`Metrics::new`] makes none such.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("every family has a name and a series")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start_at_zero() {
        let text = Metrics::new().render();
        for line in [
            "cofferdam_runs_admitted_total 0",
            "cofferdam_results_total{outcome=\"timed_out\"} 0",
            "cofferdam_machines_api_responses_total{call=\"wait\",class=\"no_answer\"} 0",
            "cofferdam_boot_duration_seconds_count 0",
            "cofferdam_machines_api_duration_seconds_count{call=\"create\"} 0",
            "cofferdam_oldest_queued_age_seconds 0",
            "cofferdam_endpoint_responses_total{code=\"413\"} 0",
            "cofferdam_worker_tasks{kind=\"teardown\"} 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no {line} in\n{text}"
            );
        }
        let is_ours = |line: &&str| line.starts_with("cofferdam_") && !line.contains("build_info");
        assert!(
            text.lines()
                .filter(is_ours)
                .all(|line| line.ends_with(" 0")),
            "{text}"
        );
    }

    #[test]
    fn clones_count_into_the_same_series() {
        let metrics = Metrics::new();
        let twin = metrics.clone();
        twin.results.of(Outcome::Failed).inc();
        drop(twin);
        assert_eq!(metrics.results.of(Outcome::Failed).get(), 1);
        assert_eq!(metrics.results.of(Outcome::Completed).get(), 0);
    }

    #[test]
    fn every_family_has_a_help_text() {
        let text = Metrics::new().render();
        let types = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .count();
        let helps = text
            .lines()
            .filter(|line| line.starts_with("# HELP"))
            .count();
        assert_eq!(types, helps);
        assert!(types >= 15, "{types}");
    }
}
