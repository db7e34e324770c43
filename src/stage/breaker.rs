//! Which ways to machines are dead: an app, or a region of an app, that has stopped answering.
//!
//! A call to a silent app lasts until its time-out. Without this, every permit of a worker would
//! in the end wait for such a call, and other apps would get nothing. A way that was silent
//! [`SILENCES_MAX`] times in a row is left alone for a while; then one call tries it, and the
//! others go on when that one is answered. Any answer opens the way, a refusal as well: whoever
//! refuses is there.
//!
//! Each worker finds out for itself, and makes trials of its own: two workers may try a way at the
//! same time. What is dead for one may be alive for another, and a worker that starts afresh
//! learns it within a few calls. Until then one app of several has half of its permits at the most.
//!
//! ```text
//! open ──silent, again and again──▶ closed ──time passes──▶ on trial ──answered──▶ open
//!                                     ▲                        │
//!                                     └────────silent──────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::budget;

/// Silences in a row after which a way is left alone. A single host that is down makes fewer.
const SILENCES_MAX: u32 = 5;
/// How long a way is left alone at first.
const REST_BASE: Duration = Duration::from_secs(1);
/// How long at the most. A way that works again is used again within this.
pub(crate) const REST_MAX: Duration = Duration::from_secs(10);
/// How long a trial may take before another may begin: longer than any call, so that there is one
/// at a time; a trial whose worker task was dropped is not waited for any longer.
const TRIAL: Duration = Duration::from_secs(35);
/// Ways remembered at once. Regions come from requests, so there must be a bound.
const WAYS_MAX: usize = 1024;

/// What a way says to somebody who wants to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is open.
    Go,
    /// It was silent and may be tried: by one, whoever asks first.
    Try,
    /// Not before this time.
    Wait(UnixMs),
}

/// One way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Breaker {
    /// In a row.
    silences: u32,
    /// Until when it is left alone; zero while it is open.
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

/// Every way that was silent lately: an app, and an app with a region. A region that is dead
/// closes its own way; an app closes when nothing in it answers.
#[derive(Debug, Default)]
pub struct Breakers {
    ways: Mutex<HashMap<(String, String), Breaker>>,
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
        let mut ways = self.lock();
        let answer = look(&ways, app, region, now);
        if answer == Answer::Try {
            for region in scopes(region) {
                let way = ways.get_mut(&(app.to_owned(), region.to_owned()));
                if let Some(way) = way.filter(|way| way.until_ms > 0) {
                    way.tried(now);
                }
            }
        }
        answer
    }

    /// A call was answered.
    pub fn answered(&self, app: &str, region: Option<&str>) {
        let mut ways = self.lock();
        for region in scopes(region) {
            ways.remove(&(app.to_owned(), region.to_owned()));
        }
    }

    /// A call was not answered.
    pub fn silent(&self, app: &str, region: Option<&str>, now: UnixMs, roll: f64) {
        let mut ways = self.lock();
        for region in scopes(region) {
            let key = (app.to_owned(), region.to_owned());
            if ways.len() < WAYS_MAX || ways.contains_key(&key) {
                ways.entry(key).or_default().silent(now, roll);
            }
        }
    }

    /// How many ways are left alone, or on trial.
    #[must_use]
    pub fn closed(&self) -> usize {
        self.lock().values().filter(|way| way.until_ms > 0).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Breaker>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The app as a whole, and the region if one is named.
fn scopes(region: Option<&str>) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(region.filter(|region| !region.is_empty()))
}

/// What the app and the region say together.
fn look(
    ways: &HashMap<(String, String), Breaker>,
    app: &str,
    region: Option<&str>,
    now: UnixMs,
) -> Answer {
    let mut answer = Answer::Go;
    for region in scopes(region) {
        let key = (app.to_owned(), region.to_owned());
        match ways.get(&key).copied().unwrap_or_default().ask(now) {
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

    fn silence(ways: &Breakers, app: &str, region: Option<&str>, times: u32, now: UnixMs) {
        for _ in 0..times {
            ways.silent(app, region, now, 1.0);
        }
    }

    #[test]
    fn a_few_silences_close_nothing_and_an_answer_forgets_them() {
        let ways = Breakers::default();
        silence(&ways, "a", None, SILENCES_MAX - 1, 0);
        assert_eq!(ways.look("a", None, 1), Answer::Go);
        ways.answered("a", None);
        silence(&ways, "a", None, SILENCES_MAX - 1, 2);
        assert_eq!(ways.ask("a", None, 3), Answer::Go);
    }

    #[test]
    fn a_silent_app_is_tried_by_one_at_a_time_and_opens_when_it_answers() {
        let ways = Breakers::default();
        silence(&ways, "a", None, SILENCES_MAX, 1000);
        assert_eq!(ways.ask("a", None, 1999), Answer::Wait(2000));
        assert_eq!(ways.ask("b", None, 1999), Answer::Go);
        assert_eq!(ways.ask("a", None, 2000), Answer::Try);
        assert_eq!(ways.ask("a", None, 2001), Answer::Wait(37_000));
        ways.answered("a", None);
        assert_eq!(ways.ask("a", None, 2002), Answer::Go);
        assert_eq!(ways.closed(), 0);
    }

    #[test]
    fn each_trial_that_fails_makes_the_rest_longer_up_to_a_bound() {
        let ways = Breakers::default();
        silence(&ways, "a", None, SILENCES_MAX, 1000);
        assert_eq!(ways.ask("a", None, 2000), Answer::Try);
        ways.silent("a", None, 3000, 1.0);
        assert_eq!(ways.look("a", None, 3000), Answer::Wait(5000));
        silence(&ways, "a", None, 100, 5000);
        assert_eq!(ways.look("a", None, 5000), Answer::Wait(15_000));
    }

    #[test]
    fn a_dead_region_leaves_the_rest_of_its_app_open() {
        let ways = Breakers::default();
        for _ in 0..SILENCES_MAX {
            ways.silent("a", Some("ams"), 1000, 1.0);
            ways.answered("a", Some("fra"));
        }
        assert_eq!(ways.ask("a", Some("ams"), 1001), Answer::Wait(2000));
        assert_eq!(ways.ask("a", Some("fra"), 1001), Answer::Go);
        assert_eq!(ways.look("a", None, 1001), Answer::Go);
        assert_eq!(ways.closed(), 1);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let ways = Breakers::default();
        for n in 0..2 * WAYS_MAX {
            ways.silent("a", Some(&n.to_string()), 0, 1.0);
        }
        assert_eq!(ways.lock().len(), WAYS_MAX);
    }
}
