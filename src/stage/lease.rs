//! A worker's lease of a run, as the task knows it that acts for the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::UnixMs;

/// Until when a task may act for a run. Clones share one lease.
#[derive(Clone, Debug)]
pub struct LeaseGuard {
    until_ms: Arc<AtomicU64>,
}

impl LeaseGuard {
    /// A lease that ends at `until`.
    #[must_use]
    pub fn until(until: UnixMs) -> Self {
        Self {
            until_ms: Arc::new(AtomicU64::new(until)),
        }
    }

    /// Makes the lease last longer. One that was lost stays lost.
    pub fn renew(&self, until: UnixMs) {
        let _ = self
            .until_ms
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now > 0).then_some(until)
            });
    }

    /// Another worker may act for the run now.
    pub fn lose(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
    }

    /// Whether the task may still begin something at `now`. A worker that was suspended for longer
    /// than its lease finds out here, before it creates a machine for a run that is another's.
    #[must_use]
    pub fn is_held(&self, now: UnixMs) -> bool {
        now < self.until_ms.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_lease_cannot_be_renewed() {
        let lease = LeaseGuard::until(10);
        assert!(lease.is_held(9) && !lease.is_held(10));
        lease.renew(20);
        assert!(lease.is_held(15));
        lease.lose();
        lease.renew(30);
        assert!(!lease.is_held(15));
    }
}
