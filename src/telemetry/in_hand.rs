//! How many answers a process has in hand: what its heartbeat tells, and no series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count of what is going on. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<AtomicU64>);

/// One of those, until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<AtomicU64>);

impl InHand {
    /// Another one.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self.0.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_no_longer_in_hand() {
        let all = InHand::default();
        let (one, other) = (all.hold(), all.hold());
        assert_eq!(all.count(), 2);
        drop(one);
        assert_eq!(all.count(), 1);
        drop(other);
        assert_eq!(all.count(), 0);
    }
}
