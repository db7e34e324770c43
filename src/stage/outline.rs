//! The trace of a run: its outline, made from its hash once it has ended, and what its calls to the
//! provider belong to. No step waits for any of it.

use std::collections::HashSet;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::id::{Attempt, RunId};
use crate::run::outcome::Outcome;
use crate::run::trace::{Part, RunTrace, SpanId, TraceParent};
use crate::stage::Deps;
use crate::store::codec::SettledRun;
use crate::store::outlines::{From, Outline, Told};
use crate::store::{self, Store};
use crate::telemetry::Timed;
use crate::traces::{Error, Kind, Scope, Span, Traces, Value, bounded};

/// Runs that are read at once.
const BATCH: usize = 128;
/// Runs that have ended, whose machines may still be there, that are looked at with each look.
const KNOWN_MAX: usize = 1024;
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause while the collector or Redis is away.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a run whose machine is not gone yet is looked at with each look. After that it comes again
/// as one of which nobody has told.
const WATCHED: Duration = Duration::from_secs(20);
/// How long a run that some worker knows of may stay untold before another tells of it.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks for these.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// What calls for `part` of a run belong to; `None` when its trace is not recorded.
pub(super) fn scope(
    deps: &Deps,
    trace: &RunTrace,
    part: Part,
    run: &RunId,
    attempt: Attempt,
) -> Option<Scope> {
    let traces = deps.traces.as_ref()?;
    traces.is_sampled(trace).then(|| Scope {
        trace: trace.id,
        parent: trace.span(part),
        run: run.clone(),
        attempt,
    })
}

/// What the calls of a tear-down belong to. One round trip if there are traces.
pub(super) async fn scope_of_teardown(deps: &Deps, run: &SettledRun) -> Option<Scope> {
    deps.traces.as_ref()?;
    // Where it cannot be read the calls have no spans; the run goes on.
    let parent = deps.core.store.traceparent(&run.id).await.ok()?;
    let trace = RunTrace::new(&run.id, run.nonce.as_ref(), None, parent);
    scope(deps, &trace, Part::TearDown, &run.id, run.attempt)
}

/// Notes which trace took so long, if it is recorded.
pub(super) fn exemplar(deps: &Deps, scope: Option<&Scope>, timed: Timed, took: Duration) {
    if let Some(scope) = scope {
        let (core, trace) = (&deps.core, scope.trace.to_string());
        let exemplars = &core.metrics.exemplars;
        exemplars.note(timed, took.as_secs_f64(), &trace, core.clock.now_ms());
    }
}

/// The `traceparent` of an attempt's guest: its own span or, where there are no traces, what its request
/// brought.
pub(super) fn guest_parent(deps: &Deps, trace: &RunTrace, attempt: Attempt) -> Option<TraceParent> {
    let Some(traces) = &deps.traces else {
        return trace.parent;
    };
    Some(TraceParent {
        trace: trace.id,
        span: trace.span(Part::Run(attempt.0)),
        is_sampled: traces.is_sampled(trace),
    })
}

/// Sees to it that runs that end from now on are told. One round trip.
///
/// # Errors
/// When Redis does not answer.
pub async fn begin(store: &Store) -> Result<(), store::Error> {
    store.ensure_outlines(From::Now).await
}

/// Tells of runs that have ended, and of calls. One for each worker; a run of which one has not told is
/// told of by another.
#[derive(Debug)]
pub struct Teller {
    store: Store,
    traces: Traces,
    known: Vec<Known>,
    /// When the untold were last looked for.
    looked_at_ms: UnixMs,
    /// Failures in a row.
    tries: u32,
}

/// A run of which this worker is to tell.
#[derive(Debug)]
struct Known {
    told: Told,
    since_ms: UnixMs,
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Traces(#[from] Error),
}

impl Teller {
    /// Knows of no run yet.
    #[must_use]
    pub fn new(store: Store, traces: Traces) -> Self {
        Self {
            store,
            traces,
            known: Vec::new(),
            looked_at_ms: 0,
            tries: 0,
        }
    }

    /// One look: tells of runs that have ended, and of calls. Answers how long to wait before the next.
    pub async fn look(&mut self, now: UnixMs) -> Duration {
        match self.tell(now).await {
            Ok(is_more) => {
                if self.tries > 0 {
                    info!("traces are taken again");
                }
                self.tries = 0;
                if is_more { Duration::ZERO } else { INTERVAL }
            }
            Err(error) => {
                if self.tries == 0 {
                    warn!(%error, "traces are not taken; runs go on, and are told of later");
                }
                self.tries = self.tries.saturating_add(1);
                if matches!(error, Failed::Store(_)) {
                    // The group may be gone, with the index of a fleet that had nothing to do for long.
                    let _ = self.store.ensure_outlines(From::Start).await;
                }
                let pause = budget::backoff(self.tries, INTERVAL, PAUSE_MAX, fastrand::f64());
                pause.max(INTERVAL)
            }
        }
    }

    /// Whether there may be more to tell at once.
    async fn tell(&mut self, now: UnixMs) -> Result<bool, Failed> {
        let read = self.read(now).await?;
        self.tell_known(now).await?;
        self.traces.send_queued().await?;
        Ok(read == BATCH)
    }

    /// Learns of more runs, unless there is enough to tell.
    async fn read(&mut self, now: UnixMs) -> Result<usize, Failed> {
        let most = BATCH.min(KNOWN_MAX.saturating_sub(self.known.len()));
        // While the collector is away, what is known waits, and the rest stays in the index.
        if most == 0 || (self.tries > 0 && !self.known.is_empty()) {
            return Ok(0);
        }
        let mut told = Vec::new();
        if now >= budget::after(self.looked_at_ms, IDLE_INTERVAL) {
            told = self.store.untold(most / 2, IDLE).await?;
            self.looked_at_ms = now;
        }
        told.extend(self.store.newly_ended(most - told.len()).await?);
        let read = told.len();
        self.known.extend(told.into_iter().map(|told| Known {
            told,
            since_ms: now,
        }));
        Ok(read)
    }

    async fn tell_known(&mut self, now: UnixMs) -> Result<(), Failed> {
        let runs = self.known.iter().filter_map(|known| known.told.run.clone());
        let outlines = self.store.outlines(&runs.collect::<Vec<_>>()).await?;
        let mut outlines = outlines.into_iter();
        let (mut done, mut spans) = (Vec::new(), Vec::new());
        for known in &self.known {
            let outline = known.told.run.as_ref().and_then(|_| outlines.next());
            match outline.flatten() {
                Some(outline) if outline.record.closed_at_ms.is_none() => continue,
                Some(outline) if self.traces.is_sampled(&outline.record.trace()) => {
                    spans.extend(self::spans(&outline, self.store.keys().namespace()));
                }
                // It is not recorded, it is gone, or it is not ours.
                Some(_) | None => {}
            }
            done.push(known.told.entry.clone());
        }
        let sent = self.traces.send(spans).await;
        match &sent {
            // It would be refused again, and for ever.
            Err(error) if error.is_final() => {}
            Err(_) => return sent.map_err(Failed::from),
            Ok(()) => {}
        }
        self.store.tell(&done).await?;
        let done: HashSet<String> = done.into_iter().collect();
        self.known.retain(|known| {
            !done.contains(&known.told.entry) && now < budget::after(known.since_ms, WATCHED)
        });
        sent.map_err(Failed::from)
    }
}

/// The outline of a run that is closed: what happened to it, and when.
fn spans(outline: &Outline, namespace: &str) -> Vec<Span> {
    let run = &outline.record;
    let trace = run.trace();
    let ended = run.settled_at_ms.or(run.closed_at_ms).unwrap_or(0);
    let closed = run.closed_at_ms.unwrap_or(ended);
    let mut parts = Parts {
        outline,
        trace: &trace,
        spans: Vec::new(),
    };
    let mut waits_since = run.submitted_at_ms;
    for past in &outline.past {
        let begun = past.booting_at_ms;
        parts.wait(past.attempt, waits_since, begun);
        let ended = past.ended_at_ms;
        let boot_ends = past.running_at_ms.unwrap_or(ended);
        let attempt = Attributes::of(past.attempt, Some(&past.app), Some(&past.machine), None);
        // A machine that was there and was lost failed while it ran.
        let why = Some(past.why.as_str());
        let why_of_boot = why.filter(|_| past.running_at_ms.is_none());
        parts.add(
            Part::Boot(past.attempt),
            begun,
            boot_ends,
            &attempt,
            why_of_boot,
        );
        parts.add(
            Part::Run(past.attempt),
            past.running_at_ms,
            ended,
            &attempt,
            why,
        );
        waits_since = Some(ended);
    }
    let last = outline.past.last().map_or(0, |past| past.attempt);
    // What an operator or a tenant wanted is no error.
    let reason = run.reason.as_ref().map(|reason| reason.code.as_str());
    let reason = reason.filter(|_| run.outcome != Some(Outcome::Cancelled));
    if run.attempt > last {
        parts.wait(run.attempt, waits_since, run.booting_at_ms);
        let attempt = Attributes::of(
            run.attempt,
            run.app.as_deref(),
            run.machine_id.as_deref(),
            run.region.as_deref(),
        );
        let (boot, guest) = (Part::Boot(run.attempt), Part::Run(run.attempt));
        let guest_ends = outline.posted_at_ms.unwrap_or(ended);
        // A result can be faster than the answer that there is a machine.
        let is_reported = run.outcome == Some(Outcome::Completed) || outline.posted_at_ms.is_some();
        let running = (run.running_at_ms).or_else(|| is_reported.then_some(guest_ends));
        let running = running.map(|at| at.min(guest_ends));
        let why_of_boot = reason.filter(|_| running.is_none());
        let boot_ends = running.unwrap_or(ended);
        parts.add(boot, run.booting_at_ms, boot_ends, &attempt, why_of_boot);
        parts.add(guest, running, guest_ends, &attempt, reason);
    } else {
        parts.wait(run.attempt + 1, waits_since, Some(ended));
    }
    let none = Attributes::default();
    if run.outcome == Some(Outcome::Completed) || outline.posted_at_ms.is_some() {
        let begun = outline.posted_at_ms.unwrap_or(ended);
        parts.add(Part::Report, Some(begun), ended, &none, reason);
    }
    if run.machine_id.is_some() || closed > ended {
        parts.add(Part::TearDown, Some(ended), closed, &none, None);
    }
    let mut whole = parts.whole(namespace, run.submitted_at_ms.unwrap_or(ended), closed);
    // The clocks of its processes may differ by a little.
    let ends = parts.spans.iter().map(|span| span.ended_us);
    whole.ended_us = ends.fold(whole.ended_us, u64::max);
    parts.spans.push(whole);
    parts.spans
}

/// What is known of an attempt.
#[derive(Default)]
struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    fn of(attempt: u32, app: Option<&str>, machine: Option<&str>, region: Option<&str>) -> Self {
        let mut all = vec![("cofferdam.attempt", Value::from(u64::from(attempt)))];
        let known = [
            ("cofferdam.app", app),
            ("cofferdam.machine.id", machine),
            ("cloud.region", region),
        ];
        for (name, value) in known {
            let value = value.filter(|value| !value.is_empty());
            all.extend(value.map(|value| (name, Value::from(value))));
        }
        Self(all)
    }
}

/// The parts of a run so far.
struct Parts<'a> {
    outline: &'a Outline,
    trace: &'a RunTrace,
    spans: Vec<Span>,
}

impl Parts<'_> {
    fn wait(&mut self, attempt: u32, since: Option<UnixMs>, until: Option<UnixMs>) {
        let attributes = Attributes::of(attempt, None, None, None);
        let until = until.or(since).unwrap_or(0);
        self.add(Part::Queued(attempt), since, until, &attributes, None);
    }

    /// Adds a part, unless it never began.
    fn add(
        &mut self,
        part: Part,
        begun: Option<UnixMs>,
        ended: UnixMs,
        known: &Attributes,
        failed: Option<&str>,
    ) {
        let Some(begun) = begun else { return };
        let parent = self.trace.span(Part::Whole);
        let mut attributes = self.of_run();
        attributes.extend(known.0.iter().cloned());
        attributes.extend(failed.map(|why| ("error.type", Value::from(why))));
        self.spans.push(Span {
            attributes,
            failed: failed.map(bounded),
            ..self.span(part, Kind::Internal, Some(parent), begun, ended)
        });
    }

    /// All of the run, which takes its request from the queue of the producer.
    fn whole(&self, namespace: &str, begun: UnixMs, ended: UnixMs) -> Span {
        let run = &self.outline.record;
        let mut attributes = self.of_run();
        let stream = format!("{namespace}:runs");
        attributes.extend([
            ("messaging.system", Value::from("redis")),
            ("messaging.destination.name", Value::from(stream.as_str())),
            ("messaging.operation.name", Value::from("process")),
            ("messaging.operation.type", Value::from("process")),
            ("cofferdam.attempts", Value::from(u64::from(run.attempt))),
        ]);
        let outcome = run.outcome.map(Outcome::as_str);
        attributes.extend(outcome.map(|word| ("cofferdam.outcome", Value::from(word))));
        let mut failed = None;
        if let Some(reason) = &run.reason {
            let code = reason.code.as_str();
            attributes.push(("cofferdam.reason", Value::from(code)));
            // What an operator or a tenant wanted is no error.
            if run.outcome != Some(Outcome::Cancelled) {
                attributes.push(("error.type", Value::from(code)));
                failed = Some(bounded(&reason.message));
            }
        }
        let machine = run.machine_id.as_deref();
        attributes.extend(machine.map(|id| ("cofferdam.machine.id", Value::from(id))));
        let parent = self.trace.parent.map(|parent| parent.span);
        Span {
            is_parent_remote: parent.is_some(),
            attributes,
            failed,
            ..self.span(Part::Whole, Kind::Consumer, parent, begun, ended)
        }
    }

    fn of_run(&self) -> Vec<(&'static str, Value)> {
        let run = &self.outline.record;
        let mut attributes = vec![
            ("cofferdam.run.id", Value::from(run.id.as_str())),
            ("cofferdam.tenant", Value::from(run.tenant.as_str())),
        ];
        let image = self.outline.image.as_deref();
        attributes.extend(image.map(|image| ("container.image.name", Value::from(image))));
        attributes
    }

    fn span(
        &self,
        part: Part,
        kind: Kind,
        parent: Option<SpanId>,
        begun: UnixMs,
        ended: UnixMs,
    ) -> Span {
        Span {
            trace: self.trace.id,
            id: self.trace.span(part),
            parent,
            is_parent_remote: false,
            kind,
            name: part.name().into(),
            begun_us: begun.saturating_mul(1000),
            // Two clocks may have told these times.
            ended_us: ended.max(begun).saturating_mul(1000),
            attributes: Vec::new(),
            failed: None,
        }
    }
}
