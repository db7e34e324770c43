//! A worker's hold on a run: a lease that is renewed while the work goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::UnixMs;

/// Until when the holder may act for a run. Clones share one hold.
#[derive(Clone, Debug)]
pub struct Hold {
    until_ms: Arc<AtomicU64>,
}

impl Hold {
    /// A hold that ends at `until`.
    #[must_use]
    pub fn until(until: UnixMs) -> Self {
        Self {
            until_ms: Arc::new(AtomicU64::new(until)),
        }
    }

    /// Holds for longer. A hold that was lost stays lost.
    pub fn renew(&self, until: UnixMs) {
        let _ = self
            .until_ms
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now > 0).then_some(until)
            });
    }

    /// Somebody else may act for the run now.
    pub fn lose(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
    }

    /// Whether the holder may still begin something at `now`. A worker that was stopped for longer
    /// than its lease finds out here, before it creates a machine that another has given up.
    #[must_use]
    pub fn holds(&self, now: UnixMs) -> bool {
        now < self.until_ms.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_hold_cannot_be_renewed() {
        let hold = Hold::until(10);
        assert!(hold.holds(9) && !hold.holds(10));
        hold.renew(20);
        assert!(hold.holds(15));
        hold.lose();
        hold.renew(30);
        assert!(!hold.holds(15));
    }
}
