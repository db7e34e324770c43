//! Circuit breakers: an app, or a region of an app, that has stopped answering is left alone.
//!
//! A call to a silent app lasts until its time-out. Without this, every permit of a worker would
//! in the end wait for such a call, and other apps would get nothing. A circuit that was silent
//! [`SILENCES_MAX`] times in a row opens, and nothing is called for a while; then one call tries it,
//! and the others go on when that one is answered. Any answer closes the circuit, a refusal as
//! well: whoever refuses is there.
//!
//! Each worker finds out for itself, and makes trials of its own: two workers may try a circuit at
//! the same time. What is dead for one may be alive for another, and a worker that starts afresh
//! learns it within a few calls. Until then one app of several has half of its permits at the most.
//!
//! ```text
//! closed ──silent, again and again──▶ open ──time passes──▶ half-open ──answered──▶ closed
//!                                      ▲                        │
//!                                      └─────────silent─────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::budget;

/// Silences in a row after which a circuit opens. A single host that is down makes fewer.
const SILENCES_MAX: u32 = 5;
/// How long a circuit is open at first.
const REST_BASE: Duration = Duration::from_secs(1);
/// How long at the most. An app that answers again is called again within this.
pub(crate) const REST_MAX: Duration = Duration::from_secs(10);
/// How long a trial may take before another may begin: longer than any call, so that there is one
/// at a time; a trial whose worker task was dropped is not waited for any longer.
const TRIAL: Duration = Duration::from_secs(35);
/// Circuits remembered at once. Regions come from requests, so there must be a bound.
const CIRCUITS_MAX: usize = 1024;

/// What a circuit says to somebody who wants to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is closed: call.
    Go,
    /// It was silent and may be tried: by one, whoever asks first.
    Try,
    /// Not before this time.
    Wait(UnixMs),
}

/// One circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Breaker {
    /// In a row.
    silences: u32,
    /// Until when it is open; zero while it is closed.
    until_ms: UnixMs,
}

impl Breaker {
    fn ask(self, now: UnixMs) -> Answer {
        match self.until_ms {
            0 => Answer::Go,
            until if now < until => Answer::Wait(until),
            _ => Answer::Try,
        }
    }

    fn tried(&mut self, now: UnixMs) {
        self.until_ms = budget::after(now, TRIAL);
    }

    /// `roll` is from 0 to 1: workers that saw the same silence do not all come back at once.
    fn silent(&mut self, now: UnixMs, roll: f64) {
        self.silences = self.silences.saturating_add(1);
        let Some(more) = self.silences.checked_sub(SILENCES_MAX) else {
            return;
        };
        let most = REST_BASE
            .saturating_mul(2u32.saturating_pow(more.min(16)))
            .min(REST_MAX);
        let rest = most.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0);
        self.until_ms = budget::after(now, rest);
    }
}

/// Every circuit that was silent lately: an app, and an app with a region. A region that is dead
/// opens its own circuit; that of the app opens when nothing in it answers.
#[derive(Debug, Default)]
pub struct Breakers {
    circuits: Mutex<HashMap<(String, String), Breaker>>,
}

impl Breakers {
    /// Whether calls to `app` for `region` may be made; changes nothing.
    #[must_use]
    pub fn look(&self, app: &str, region: Option<&str>, now: UnixMs) -> Answer {
        look(&self.lock(), app, region, now)
    }

    /// Asks to call `app` for `region`. Who gets [`Answer::Try`] makes the one trial, and says
    /// how it went.
    #[must_use]
    pub fn ask(&self, app: &str, region: Option<&str>, now: UnixMs) -> Answer {
        let mut circuits = self.lock();
        let answer = look(&circuits, app, region, now);
        if answer == Answer::Try {
            for region in scopes(region) {
                let circuit = circuits.get_mut(&(app.to_owned(), region.to_owned()));
                if let Some(circuit) = circuit.filter(|circuit| circuit.until_ms > 0) {
                    circuit.tried(now);
                }
            }
        }
        answer
    }

    /// A call was answered.
    pub fn answered(&self, app: &str, region: Option<&str>) {
        let mut circuits = self.lock();
        for region in scopes(region) {
            circuits.remove(&(app.to_owned(), region.to_owned()));
        }
    }

    /// A call was not answered.
    pub fn silent(&self, app: &str, region: Option<&str>, now: UnixMs, roll: f64) {
        let mut circuits = self.lock();
        for region in scopes(region) {
            let key = (app.to_owned(), region.to_owned());
            if circuits.len() < CIRCUITS_MAX || circuits.contains_key(&key) {
                circuits.entry(key).or_default().silent(now, roll);
            }
        }
    }

    /// How many circuits are open, or half-open.
    #[must_use]
    pub fn open(&self) -> usize {
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

/// What the app and the region say together.
fn look(
    circuits: &HashMap<(String, String), Breaker>,
    app: &str,
    region: Option<&str>,
    now: UnixMs,
) -> Answer {
    let mut answer = Answer::Go;
    for region in scopes(region) {
        let key = (app.to_owned(), region.to_owned());
        match circuits.get(&key).copied().unwrap_or_default().ask(now) {
            Answer::Go => {}
            Answer::Try => answer = Answer::Try,
            wait @ Answer::Wait(_) => return wait,
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence(circuits: &Breakers, app: &str, region: Option<&str>, times: u32, now: UnixMs) {
        for _ in 0..times {
            circuits.silent(app, region, now, 1.0);
        }
    }

    #[test]
    fn a_few_silences_open_nothing_and_an_answer_forgets_them() {
        let circuits = Breakers::default();
        silence(&circuits, "a", None, SILENCES_MAX - 1, 0);
        assert_eq!(circuits.look("a", None, 1), Answer::Go);
        circuits.answered("a", None);
        silence(&circuits, "a", None, SILENCES_MAX - 1, 2);
        assert_eq!(circuits.ask("a", None, 3), Answer::Go);
    }

    #[test]
    fn a_silent_app_is_tried_by_one_at_a_time_and_closes_when_it_answers() {
        let circuits = Breakers::default();
        silence(&circuits, "a", None, SILENCES_MAX, 1000);
        assert_eq!(circuits.ask("a", None, 1999), Answer::Wait(2000));
        assert_eq!(circuits.ask("b", None, 1999), Answer::Go);
        assert_eq!(circuits.ask("a", None, 2000), Answer::Try);
        assert_eq!(circuits.ask("a", None, 2001), Answer::Wait(37_000));
        circuits.answered("a", None);
        assert_eq!(circuits.ask("a", None, 2002), Answer::Go);
        assert_eq!(circuits.open(), 0);
    }

    #[test]
    fn each_trial_that_fails_makes_the_rest_longer_up_to_a_bound() {
        let circuits = Breakers::default();
        silence(&circuits, "a", None, SILENCES_MAX, 1000);
        assert_eq!(circuits.ask("a", None, 2000), Answer::Try);
        circuits.silent("a", None, 3000, 1.0);
        assert_eq!(circuits.look("a", None, 3000), Answer::Wait(5000));
        silence(&circuits, "a", None, 100, 5000);
        assert_eq!(circuits.look("a", None, 5000), Answer::Wait(15_000));
    }

    #[test]
    fn a_dead_region_leaves_the_circuit_of_its_app_closed() {
        let circuits = Breakers::default();
        for _ in 0..SILENCES_MAX {
            circuits.silent("a", Some("ams"), 1000, 1.0);
            circuits.answered("a", Some("fra"));
        }
        assert_eq!(circuits.ask("a", Some("ams"), 1001), Answer::Wait(2000));
        assert_eq!(circuits.ask("a", Some("fra"), 1001), Answer::Go);
        assert_eq!(circuits.look("a", None, 1001), Answer::Go);
        assert_eq!(circuits.open(), 1);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let circuits = Breakers::default();
        for n in 0..2 * CIRCUITS_MAX {
            circuits.silent("a", Some(&n.to_string()), 0, 1.0);
        }
        assert_eq!(circuits.lock().len(), CIRCUITS_MAX);
    }
}
