//! The wall clock as a value, so that tests can move it.
//!
//! Deadlines, leases and token expiries are wall-clock milliseconds since the Unix epoch and come
//! from here. Sleeps do not: they use tokio's clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// Tells the time. Clones of one test clock share one time.
#[derive(Clone)]
pub struct Clock(Source);

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
        Self(Source::System)
    }

    /// A clock that is `offset_ms` away from the system's, until it is moved with [`Clock::shift`].
    #[must_use]
    pub fn skewed(offset_ms: i64) -> Self {
        Self(Source::Skewed(Arc::new(AtomicI64::new(offset_ms))))
    }

    /// Moves a skewed clock, and all its clones, by `by_ms`. The system's clock cannot be moved.
    pub fn shift(&self, by_ms: i64) {
        if let Source::Skewed(offset) = &self.0 {
            offset.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> UnixMs {
        let system = system_ms();
        match &self.0 {
            Source::System => system,
            Source::Skewed(offset) => system.saturating_add_signed(offset.load(Ordering::SeqCst)),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => f.write_str("Clock::System"),
            Source::Skewed(offset) => {
                write!(f, "Clock::Skewed({} ms)", offset.load(Ordering::SeqCst))
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
}
