//! Token buckets, one for each pair of call and identifier, as the API's limits are described.

use std::collections::HashMap;

use crate::clock::UnixMs;

/// Buckets kept at once. Full ones say nothing and are dropped when there are more.
const KEPT: usize = 50_000;

/// How fast a bucket fills, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Calls allowed per second in the long run.
    pub(crate) per_s: f64,
    /// Calls allowed at once after a pause.
    pub(crate) burst: f64,
}

/// The buckets of one limiter.
#[derive(Debug, Default)]
pub(crate) struct Buckets(HashMap<(&'static str, String), Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    rate: Rate,
    at_ms: UnixMs,
}

impl Buckets {
    /// Takes one token for `call` on `id`, if there is one.
    pub(crate) fn take(&mut self, call: &'static str, id: &str, rate: Rate, now: UnixMs) -> bool {
        if self.0.len() >= KEPT {
            self.0
                .retain(|_, bucket| bucket.level(now) < bucket.rate.burst);
        }
        if self.0.len() >= KEPT && !self.0.contains_key(&(call, id.to_owned())) {
            return false;
        }
        let bucket = self.0.entry((call, id.to_owned())).or_insert(Bucket {
            tokens: rate.burst,
            rate,
            at_ms: now,
        });
        let level = bucket.level(now);
        bucket.at_ms = now.max(bucket.at_ms);
        let allowed = level >= 1.0;
        bucket.tokens = if allowed { level - 1.0 } else { level };
        allowed
    }
}

impl Bucket {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds between two calls are few"
    )]
    fn level(&self, now: UnixMs) -> f64 {
        let elapsed_s = now.saturating_sub(self.at_ms) as f64 / 1000.0;
        (self.tokens + elapsed_s * self.rate.per_s).min(self.rate.burst)
    }
}

/// The documented limits: one call per second for each call and identifier, three at once; five
/// and ten for getting a machine; a hundred app deletions per minute.
pub(crate) fn documented(call: &str) -> Rate {
    match call {
        "get" => Rate {
            per_s: 5.0,
            burst: 10.0,
        },
        "app-delete" => Rate {
            per_s: 100.0 / 60.0,
            burst: 100.0,
        },
        _ => Rate {
            per_s: 1.0,
            burst: 3.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut buckets = Buckets::default();
        let rate = documented("create");
        let mut take = |now| buckets.take("create", "app", rate, now);
        assert_eq!(
            [take(0), take(0), take(0), take(0)],
            [true, true, true, false]
        );
        assert!(!take(900));
        assert!(take(1_000));
        assert!(!take(1_001));
        assert!(take(60_000) && take(60_000) && take(60_000) && !take(60_000));
    }

    #[test]
    fn calls_and_identifiers_have_buckets_of_their_own() {
        let mut buckets = Buckets::default();
        let rate = Rate {
            per_s: 1.0,
            burst: 1.0,
        };
        assert!(buckets.take("stop", "m1", rate, 0));
        assert!(buckets.take("stop", "m2", rate, 0));
        assert!(buckets.take("start", "m1", rate, 0));
        assert!(!buckets.take("stop", "m1", rate, 0));
    }

    #[test]
    fn the_buckets_kept_are_bounded() {
        let mut buckets = Buckets::default();
        let rate = documented("get");
        for n in 0..KEPT + 100 {
            buckets.take("get", &n.to_string(), rate, n as u64 * 1000);
        }
        assert!(buckets.0.len() <= KEPT);
    }
}
