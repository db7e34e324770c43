//! Deadlines, attempts, backoff and times to live: arithmetic over `now`.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::id::Attempt;

/// How long a run's hash outlives the last moment at which anything is still owed for it. A
/// sweeper that is down for less than this loses sight of nothing.
pub const HASH_SLACK: Duration = Duration::from_secs(24 * 3600);

/// Time between seeing a machine's exit and ruling that no result came: a result that the guest
/// posted just before may still be on its way to Redis. An exit is reported within
/// a second of the sweep that sees it.
pub const EXIT_GRACE: Duration = Duration::from_millis(500);
const _: () = assert!(EXIT_GRACE.as_millis() < 1000);

/// `at` plus `by`, in milliseconds.
#[must_use]
pub fn after(at: UnixMs, by: Duration) -> UnixMs {
    at.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX))
}

/// What is left of the time until `until`; zero when it has passed.
#[must_use]
pub fn left(now: UnixMs, until: UnixMs) -> Duration {
    Duration::from_millis(until.saturating_sub(now))
}

/// Boots that count, of the `attempt` that have begun: not those that the provider `deferred`.
#[must_use]
pub fn tries(attempt: Attempt, deferred: u32) -> u32 {
    attempt.0.saturating_sub(deferred)
}

/// Whether another boot is allowed after so many that count.
#[must_use]
pub fn may_try_again(tries: u32, max_attempts: u32) -> bool {
    tries < max_attempts
}

/// Full jitter: a random part of a ceiling that doubles with each try, from `base` to `most`.
///
/// `jitter` is a random number from 0 to 1.
#[must_use]
pub fn backoff(tries: u32, base: Duration, most: Duration, jitter: f64) -> Duration {
    let ceiling = base
        .saturating_mul(2u32.saturating_pow(tries.min(16)))
        .min(most);
    ceiling.mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_attempt_is_the_last() {
        assert!(may_try_again(tries(Attempt(2), 0), 3));
        assert!(!may_try_again(tries(Attempt(3), 0), 3));
        assert!(may_try_again(tries(Attempt(9), 7), 3));
    }

    #[test]
    fn what_is_left_of_a_past_deadline_is_nothing() {
        assert_eq!(left(10, 5), Duration::ZERO);
        assert_eq!(left(5, 10), Duration::from_millis(5));
    }

    #[test]
    fn backoff_doubles_from_its_base_to_its_bound() {
        let ceiling = |tries| backoff(tries, Duration::from_secs(1), Duration::from_secs(30), 1.0);
        let seconds = [0, 1, 4, 5, 1000].map(|tries| ceiling(tries).as_secs());
        assert_eq!(seconds, [1, 2, 16, 30, 30]);
        let half = backoff(1, Duration::from_secs(1), Duration::from_secs(30), 0.5);
        assert_eq!(half, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn backoff_never_passes_its_bound(tries in 0u32..1000, jitter in 0.0f64..=1.0) {
            let most = Duration::from_secs(30);
            prop_assert!(backoff(tries, Duration::from_millis(250), most, jitter) <= most);
        }
    }
}
