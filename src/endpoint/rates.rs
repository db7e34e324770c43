//! How fast each run may send or be sent something: a token bucket of time, as the generic cell rate
//! algorithm has it (ITU-T I.371).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::run::id::RunId;

/// Runs of which it is known what they used, before those that may go on at once are forgotten.
const RUNS_KNOWN: usize = 4096;

/// A rate that each run has for itself.
#[derive(Debug)]
pub(super) struct Rates {
    bytes_per_s: u64,
    /// How long a piece counts at least.
    piece: Duration,
    /// So much may come at once.
    burst: Duration,
    paid_until: Mutex<HashMap<RunId, Instant>>,
}

impl Rates {
    pub(super) fn new(bytes_per_s: u64, piece: Duration, burst: Duration) -> Self {
        Self {
            bytes_per_s,
            piece,
            burst,
            paid_until: Mutex::default(),
        }
    }

    /// How long to wait before a piece of so many bytes may pass.
    pub(super) fn spend(&self, run: &RunId, bytes: usize, now: Instant) -> Duration {
        let mut runs = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= RUNS_KNOWN {
            runs.retain(|_, paid_until| *paid_until > now);
        }
        let paid_until = runs.entry(run.clone()).or_insert(now);
        let begins = (*paid_until).max(now);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let cost = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_s);
        *paid_until = begins + cost.max(self.piece);
        (begins - now).saturating_sub(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_may_send_a_burst_and_then_a_piece_at_a_time() {
        let (piece, burst) = (Duration::from_millis(10), Duration::from_secs(4));
        let (rates, now) = (Rates::new(1 << 20, piece, burst), Instant::now());
        let (run, other) = ("a".parse().unwrap(), "b".parse().unwrap());
        let waits: Vec<_> = (0..403).map(|_| rates.spend(&run, 1, now)).collect();
        assert!(waits[..401].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[402], Duration::from_millis(20));
        assert_eq!(rates.spend(&other, 5 << 20, now), Duration::ZERO);
        assert_eq!(rates.spend(&other, 1, now), Duration::from_secs(1));
        let later = now + Duration::from_secs(9);
        assert_eq!(rates.spend(&run, 1, later), Duration::ZERO);
    }
}
