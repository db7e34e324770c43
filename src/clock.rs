//! The wall clock as a value, so that tests can move it.
//!
//! Deadlines, leases and token expiries are wall-clock milliseconds since the Unix epoch and come
//! from here. Sleeps do not: they use tokio's clock.
//!
//! The computers of a fleet do not agree on the time. A clock can follow another one, and those of
//! a fleet all follow that of their Redis: by a clock that is half a minute behind, a deadline
//! would be past for others before its run had begun.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// An answer that took longer tells too little of the time.
const VAGUE: Duration = Duration::from_secs(1);

/// Tells the time. Clones share one time.
#[derive(Clone)]
pub struct Clock {
    source: Source,
    /// What the clock that it follows is ahead of its source, in milliseconds.
    ahead: Arc<AtomicI64>,
}

#[derive(Clone)]
enum Source {
    System,
    /// The system's time plus an offset in milliseconds: a clock that is wrong by a known amount.
    Skewed(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::from(Source::System)
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
        }
    }

    /// Moves a skewed clock, and all its clones, by `by_ms`. The system's clock cannot be moved.
    pub fn shift(&self, by_ms: i64) {
        if let Source::Skewed(offset) = &self.source {
            offset.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Goes by another clock, which said `theirs` when it was asked at `asked` and answered by
    /// now. Says by how many milliseconds this one was behind it; `None` when the answer took so
    /// long that it tells too little.
    pub fn follow(&self, theirs: UnixMs, asked: UnixMs) -> Option<i64> {
        let took = self.now_ms().checked_sub(asked)?;
        if Duration::from_millis(took) > VAGUE {
            return None;
        }
        let ours = asked.saturating_add(took / 2);
        let behind = theirs.cast_signed().saturating_sub(ours.cast_signed());
        self.ahead.fetch_add(behind, Ordering::SeqCst);
        Some(behind)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> UnixMs {
        let own = match &self.source {
            Source::System => system_ms(),
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
            let behind = clock.follow(system_ms(), asked).unwrap();
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
}
