//! Circuit breakers: an app, or a region of an app, that has stopped answering is not called.
//!
//! A call to an app that does not answer lasts until its time-out. Without this, every permit of a
//! worker would in the end wait for such a call, and other apps would get nothing. A circuit opens
//! after [`FAILURES_MAX`] calls in a row without an answer, and nothing is called for a while; then
//! one trial call may be made, and the others go on when that one is answered. Any answer closes
//! the circuit, a refusal as well.
//!
//! Each worker has circuits of its own, so two workers may make a trial call at the same time. An
//! app may be unreachable for one worker only, and a new worker learns it within a few calls. Until
//! then one app of several has half of its permits at the most.
//!
//! ```text
//! closed ──no answer, 5 times──▶ open ──time passes──▶ half-open ──answered──▶ closed
//!                                 ▲                        │
//!                                 └───────no answer────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::budget;

/// Calls in a row without an answer after which a circuit opens. A single host that is down causes
/// fewer.
const FAILURES_MAX: u32 = 5;
/// How long a circuit is open at first.
const OPEN_BASE: Duration = Duration::from_secs(1);
/// How long at the most, and so how late an app that answers again is called again.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(10);
/// How long a trial call may take before another may be made: longer than any call, so that there is
/// one at a time; the bound is for a trial whose task was dropped.
const TRIAL_MAX: Duration = Duration::from_secs(35);
/// Circuits remembered at once. Regions come from requests, so there must be a bound.
const CIRCUITS_MAX: usize = 1024;

/// The state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls are made.
    Closed,
    /// One trial call may be made, by whoever asks first.
    HalfOpen,
    /// No calls before this time.
    Open(UnixMs),
}

/// The breaker of one circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Breaker {
    /// Calls in a row without an answer.
    failures: u32,
    /// Until when it is open; zero while it is closed.
    until_ms: UnixMs,
}

impl Breaker {
    fn state(self, now: UnixMs) -> Circuit {
        match self.until_ms {
            0 => Circuit::Closed,
            until if now < until => Circuit::Open(until),
            _ => Circuit::HalfOpen,
        }
    }

    fn begin_trial(&mut self, now: UnixMs) {
        self.until_ms = budget::after(now, TRIAL_MAX);
    }

    /// `jitter` is from 0 to 1, so that workers that saw the same outage do not all return at once.
    fn record_no_answer(&mut self, now: UnixMs, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        let Some(more) = self.failures.checked_sub(FAILURES_MAX) else {
            return;
        };
        let most = OPEN_BASE
            .saturating_mul(2u32.saturating_pow(more.min(16)))
            .min(OPEN_MAX);
        let length = most.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        self.until_ms = budget::after(now, length);
    }
}

/// Every circuit that had a call without an answer lately: an app, or an app with a region. A region
/// that is down opens its own circuit; that of the app opens when nothing in it answers.
#[derive(Debug, Default)]
pub struct Breakers {
    circuits: Mutex<HashMap<(String, String), Breaker>>,
}

impl Breakers {
    /// Whether calls to `app` for `region` may be made; changes nothing.
    #[must_use]
    pub fn state(&self, app: &str, region: Option<&str>, now: UnixMs) -> Circuit {
        state(&self.lock(), app, region, now)
    }

    /// Asks to call `app` for `region`. Whoever gets [`Circuit::HalfOpen`] makes the trial call and
    /// records its outcome.
    #[must_use]
    pub fn acquire(&self, app: &str, region: Option<&str>, now: UnixMs) -> Circuit {
        let mut circuits = self.lock();
        let circuit = state(&circuits, app, region, now);
        if circuit == Circuit::HalfOpen {
            for region in scopes(region) {
                let circuit = circuits.get_mut(&(app.to_owned(), region.to_owned()));
                if let Some(circuit) = circuit.filter(|circuit| circuit.until_ms > 0) {
                    circuit.begin_trial(now);
                }
            }
        }
        circuit
    }

    /// A call was answered.
    pub fn record_answer(&self, app: &str, region: Option<&str>) {
        let mut circuits = self.lock();
        for region in scopes(region) {
            circuits.remove(&(app.to_owned(), region.to_owned()));
        }
    }

    /// A call was not answered.
    pub fn record_no_answer(&self, app: &str, region: Option<&str>, now: UnixMs, jitter: f64) {
        let mut circuits = self.lock();
        for region in scopes(region) {
            let key = (app.to_owned(), region.to_owned());
            if circuits.len() < CIRCUITS_MAX || circuits.contains_key(&key) {
                circuits
                    .entry(key)
                    .or_default()
                    .record_no_answer(now, jitter);
            }
        }
    }

    /// How many circuits are open, or half-open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.lock()
            .values()
            .filter(|circuit| circuit.until_ms > 0)
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Breaker>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The app as a whole, and the region if one is named.
fn scopes(region: Option<&str>) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(region.filter(|region| !region.is_empty()))
}

/// The state of the app and the region together.
fn state(
    circuits: &HashMap<(String, String), Breaker>,
    app: &str,
    region: Option<&str>,
    now: UnixMs,
) -> Circuit {
    let mut state = Circuit::Closed;
    for region in scopes(region) {
        let key = (app.to_owned(), region.to_owned());
        match circuits.get(&key).copied().unwrap_or_default().state(now) {
            Circuit::Closed => {}
            Circuit::HalfOpen => state = Circuit::HalfOpen,
            open @ Circuit::Open(_) => return open,
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_answers(circuits: &Breakers, app: &str, region: Option<&str>, times: u32, now: UnixMs) {
        for _ in 0..times {
            circuits.record_no_answer(app, region, now, 1.0);
        }
    }

    #[test]
    fn a_few_failures_open_nothing_and_an_answer_resets_them() {
        let circuits = Breakers::default();
        no_answers(&circuits, "a", None, FAILURES_MAX - 1, 0);
        assert_eq!(circuits.state("a", None, 1), Circuit::Closed);
        circuits.record_answer("a", None);
        no_answers(&circuits, "a", None, FAILURES_MAX - 1, 2);
        assert_eq!(circuits.acquire("a", None, 3), Circuit::Closed);
    }

    #[test]
    fn an_open_circuit_is_tried_by_one_at_a_time_and_closes_when_it_answers() {
        let circuits = Breakers::default();
        no_answers(&circuits, "a", None, FAILURES_MAX, 1000);
        assert_eq!(circuits.acquire("a", None, 1999), Circuit::Open(2000));
        assert_eq!(circuits.acquire("b", None, 1999), Circuit::Closed);
        assert_eq!(circuits.acquire("a", None, 2000), Circuit::HalfOpen);
        assert_eq!(circuits.acquire("a", None, 2001), Circuit::Open(37_000));
        circuits.record_answer("a", None);
        assert_eq!(circuits.acquire("a", None, 2002), Circuit::Closed);
        assert_eq!(circuits.open_count(), 0);
    }

    #[test]
    fn each_trial_that_fails_keeps_it_open_for_longer_up_to_a_bound() {
        let circuits = Breakers::default();
        no_answers(&circuits, "a", None, FAILURES_MAX, 1000);
        assert_eq!(circuits.acquire("a", None, 2000), Circuit::HalfOpen);
        circuits.record_no_answer("a", None, 3000, 1.0);
        assert_eq!(circuits.state("a", None, 3000), Circuit::Open(5000));
        no_answers(&circuits, "a", None, 100, 5000);
        assert_eq!(circuits.state("a", None, 5000), Circuit::Open(15_000));
    }

    #[test]
    fn a_region_that_is_down_leaves_the_circuit_of_its_app_closed() {
        let circuits = Breakers::default();
        for _ in 0..FAILURES_MAX {
            circuits.record_no_answer("a", Some("ams"), 1000, 1.0);
            circuits.record_answer("a", Some("fra"));
        }
        assert_eq!(
            circuits.acquire("a", Some("ams"), 1001),
            Circuit::Open(2000)
        );
        assert_eq!(circuits.acquire("a", Some("fra"), 1001), Circuit::Closed);
        assert_eq!(circuits.state("a", None, 1001), Circuit::Closed);
        assert_eq!(circuits.open_count(), 1);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let circuits = Breakers::default();
        for n in 0..2 * CIRCUITS_MAX {
            circuits.record_no_answer("a", Some(&n.to_string()), 0, 1.0);
        }
        assert_eq!(circuits.lock().len(), CIRCUITS_MAX);
    }
}
