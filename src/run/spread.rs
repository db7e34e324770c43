//! How long things took, in buckets that grow by the square root of two: what a minute's counts in
//! Redis are made of (`store/lua/parts/ended.lua`), and the percentiles read from them.

/// Bucket 0 holds what took less than a millisecond; bucket `b` ends before 2^(b/2) ms.
pub const BUCKETS: usize = 65;

/// Counts by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    counts: [u64; BUCKETS],
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
        }
    }
}

impl Spread {
    /// Adds `count` to a bucket. A bucket that is none of ours is passed over.
    pub fn add(&mut self, bucket: usize, count: u64) {
        if let Some(known) = self.counts.get_mut(bucket) {
            *known = known.saturating_add(count);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add(bucket, *count);
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How long it took at most, in milliseconds, of the given share of those that were fastest; at
    /// most half as much again as it was. `None` when nothing was counted.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and milliseconds, far below 2^53"
    )]
    pub fn quantile_ms(&self, share: f64) -> Option<u64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return Some(ends_ms(bucket).round() as u64);
            }
        }
        None
    }
}

/// Where a bucket ends, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a number of at most 64")]
fn ends_ms(bucket: usize) -> f64 {
    (bucket as f64 / 2.0).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_end_of_its_bucket() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantile_ms(0.5), None);
        // 90 of 512 to 724 ms, 10 of 8.2 to 11.6 s.
        spread.add(19, 90);
        spread.add(27, 10);
        spread.add(1000, 1);
        assert_eq!(spread.total(), 100);
        assert_eq!(spread.quantile_ms(0.5), Some(724));
        assert_eq!(spread.quantile_ms(0.9), Some(724));
        assert_eq!(spread.quantile_ms(0.95), Some(11_585));
        assert_eq!(spread.quantile_ms(1.0), Some(11_585));
        let mut both = spread.clone();
        both.merge(&spread);
        assert_eq!(both.total(), 200);
    }
}
