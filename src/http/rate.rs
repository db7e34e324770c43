//! How slow the other side of a connection may be.

use std::time::Duration;

/// Time that the other side may keep us waiting. Waiting uses it up, and each byte that moves
/// earns some back, up to what there was at first. So a short pause is free, and a long transfer
/// has a least rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinimumRate {
    left: Duration,
    most: Duration,
    least_bytes_per_s: u32,
}

impl MinimumRate {
    /// A rate with `grace` to begin with, and a least rate of `least_bytes_per_s`.
    pub(crate) const fn new(grace: Duration, least_bytes_per_s: u32) -> Self {
        Self {
            left: grace,
            most: grace,
            least_bytes_per_s,
        }
    }

    /// How long the next wait may take.
    pub(crate) fn max_wait(&self) -> Duration {
        self.left
    }

    /// A wait took `wait`.
    pub(crate) fn waited(&mut self, wait: Duration) {
        self.left = self.left.saturating_sub(wait);
    }

    /// So many bytes have moved.
    pub(crate) fn transferred(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = f64::from(bytes) / f64::from(self.least_bytes_per_s.max(1));
        self.left = (self.left + Duration::from_secs_f64(earned)).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[test]
    fn a_transfer_at_the_least_rate_never_runs_out_and_a_slower_one_does() {
        for (bytes_per_s, holds) in [(1000, true), (900, false)] {
            let mut rate = MinimumRate::new(GRACE, 1000);
            let held = (0..1000).all(|_| {
                rate.waited(Duration::from_secs(1));
                let is_left = rate.max_wait() > Duration::ZERO;
                rate.transferred(bytes_per_s);
                is_left
            });
            assert_eq!(held, holds, "{bytes_per_s}");
        }
    }

    #[test]
    fn what_was_fast_at_first_may_not_be_silent_for_longer_later() {
        let mut rate = MinimumRate::new(GRACE, 1000);
        rate.transferred(usize::MAX);
        assert_eq!(rate.max_wait(), GRACE);
    }
}
