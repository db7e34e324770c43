//! The wall clock as a value, so that tests can move it.
//!
//! Deadlines, leases and token expiries are wall-clock milliseconds since the Unix epoch and come
//! from here. Sleeps do not: they use tokio's clock.
//!
//! The computers of a fleet do not agree on the time. A clock can follow another one, and those of
//! a fleet all follow that of their Redis: by a clock that is half a minute behind, a deadline
//! would be past for others before its run had begun.

#![expect(
    clippy::disallowed_types,
    reason = "the clock itself: it moves with no test's time"
)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// By how much a clock that is followed must be off for it to have jumped: no clock drifts that far
/// between two looks.
const JUMP_MS: u64 = 30_000;
/// Looks that must agree before a jump is followed.
const JUMP_LOOKS: u32 = 3;

/// An answer that took longer tells too little of the time.
const VAGUE: Duration = Duration::from_secs(1);

/// Tells the time. Clones share one time.
#[derive(Clone)]
pub struct Clock {
    source: Source,
    /// What the clock that it follows is ahead of its source, in milliseconds.
    ahead: Arc<AtomicI64>,
    /// Whether it follows another one already.
    follows: Arc<AtomicBool>,
    /// How often in a row the other clock was seen to have jumped.
    jumps: Arc<AtomicU32>,
}

/// What came of a look at the clock that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// This clock was so many milliseconds behind, and no longer is.
    Set(i64),
    /// The other one jumped by so many milliseconds. This one goes on as before until more looks
    /// have seen it.
    Doubted(i64),
}

#[derive(Clone)]
enum Source {
    System,
    /// The system's time at the start, and what has passed since: nobody can set it.
    Steady(UnixMs, Instant),
    /// The system's time plus an offset in milliseconds: a clock that is wrong by a known amount.
    Skewed(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::from(Source::System)
    }

    /// The system's clock as it is now, which goes on evenly whatever that is set to.
    #[must_use]
    pub fn steady() -> Self {
        Self::from(Source::Steady(system_ms(), Instant::now()))
    }

    /// A clock that is `offset_ms` away from the system's, until it is moved with [`Clock::shift`].
    #[must_use]
    pub fn skewed(offset_ms: i64) -> Self {
        Self::from(Source::Skewed(Arc::new(AtomicI64::new(offset_ms))))
    }

    fn from(source: Source) -> Self {
        Self {
            source,
            ahead: Arc::default(),
            follows: Arc::default(),
            jumps: Arc::default(),
        }
    }

    /// Moves a skewed clock, and all its clones, by `by_ms`. The system's clock cannot be moved.
    pub fn shift(&self, by_ms: i64) {
        if let Source::Skewed(offset) = &self.source {
            offset.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Goes by another clock, which said `theirs` when it was asked at `asked` and answered by
    /// now; `None` when the answer took so long that it tells too little. A clock that jumps is
    /// followed when three looks have seen it: one that is set right again at once ends no run.
    pub fn follow(&self, theirs: UnixMs, asked: UnixMs) -> Option<Followed> {
        let took = self.now_ms().checked_sub(asked)?;
        if Duration::from_millis(took) > VAGUE {
            return None;
        }
        let ours = asked.saturating_add(took / 2);
        let behind = theirs.cast_signed().saturating_sub(ours.cast_signed());
        let jumped = behind.unsigned_abs() >= JUMP_MS && self.follows.load(Ordering::SeqCst);
        if jumped && self.jumps.fetch_add(1, Ordering::SeqCst) + 1 < JUMP_LOOKS {
            return Some(Followed::Doubted(behind));
        }
        self.follows.store(true, Ordering::SeqCst);
        self.jumps.store(0, Ordering::SeqCst);
        self.ahead.fetch_add(behind, Ordering::SeqCst);
        Some(Followed::Set(behind))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> UnixMs {
        let own = match &self.source {
            Source::System => system_ms(),
            Source::Steady(began, at) => {
                began.saturating_add(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
            }
            Source::Skewed(offset) => {
                system_ms().saturating_add_signed(offset.load(Ordering::SeqCst))
            }
        };
        own.saturating_add_signed(self.ahead.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = self.ahead.load(Ordering::SeqCst);
        match &self.source {
            Source::System => write!(f, "Clock::System({ahead} ms)"),
            Source::Steady(..) => write!(f, "Clock::Steady({ahead} ms)"),
            Source::Skewed(offset) => {
                let offset = offset.load(Ordering::SeqCst);
                write!(f, "Clock::Skewed({offset} ms, {ahead} ms)")
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's clock"
)]
fn system_ms() -> UnixMs {
    let since = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_skewed_clock_move_together() {
        let clock = Clock::skewed(0);
        let twin = clock.clone();
        let before = twin.now_ms();
        clock.shift(60_000);
        assert!(twin.now_ms() >= before + 60_000);
    }

    #[test]
    fn a_clock_that_follows_another_shows_its_time() {
        for skew in [-30_000, 0, 30_000] {
            let clock = Clock::skewed(skew);
            let asked = clock.now_ms();
            let Some(Followed::Set(behind)) = clock.follow(system_ms(), asked) else {
                panic!("it is not followed");
            };
            assert!((behind + skew).abs() < 1000, "{behind}");
            assert!(clock.now_ms().abs_diff(system_ms()) < 1000);
            assert!(clock.clone().now_ms().abs_diff(system_ms()) < 1000);
        }
    }

    #[test]
    fn a_slow_answer_moves_no_clock() {
        let clock = Clock::system();
        let asked = clock.now_ms() - 5000;
        assert_eq!(clock.follow(asked + 60_000, asked), None);
        assert!(clock.now_ms().abs_diff(system_ms()) < 1000);
    }

    #[test]
    fn a_clock_that_jumps_is_followed_when_three_looks_agree() {
        let hour = 3_600_000;
        let clock = Clock::steady();
        let look = |jump: i64| {
            let now = clock.now_ms();
            clock.follow(now.saturating_add_signed(jump), now)
        };
        assert!(matches!(look(0), Some(Followed::Set(_))));
        for jump in [hour, -hour] {
            // One that is set right again.
            assert!(matches!(look(jump), Some(Followed::Doubted(_))));
            assert!(matches!(look(jump), Some(Followed::Doubted(_))));
            assert!(clock.now_ms().abs_diff(system_ms()) < 1000);
            assert!(matches!(look(0), Some(Followed::Set(_))));
            // One that stays.
            assert!(matches!(look(jump), Some(Followed::Doubted(_))));
            assert!(matches!(look(jump), Some(Followed::Doubted(_))));
            assert!(matches!(look(jump), Some(Followed::Set(_))));
            assert!(clock.now_ms().abs_diff(system_ms()) > 3_500_000);
            clock.ahead.store(0, Ordering::SeqCst);
        }
        // What drifts is followed at once.
        assert!(matches!(look(20_000), Some(Followed::Set(_))));
    }
}
