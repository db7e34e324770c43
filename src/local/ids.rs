//! Ids as the Machines API writes them, from one seeded source.
//!
//! They are names, not secrets: nothing is permitted because someone knows one. A seed makes a
//! server's ids repeatable, which keeps the registry pure.

use fastrand::Rng;
use ulid::Ulid;

use crate::clock::UnixMs;

/// Draws ids.
#[derive(Debug)]
pub(crate) struct Ids {
    rng: Rng,
    last: Ulid,
}

impl Ids {
    /// Two sources with one seed draw the same ids.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            last: Ulid::nil(),
        }
    }

    /// 14 hexadecimal digits: a machine's id.
    pub(crate) fn machine(&mut self) -> String {
        format!("{:014x}", self.rng.u64(..) >> 8)
    }

    /// 26 characters, each greater than the one before: a version, an event's id.
    pub(crate) fn ulid(&mut self, now_ms: UnixMs) -> String {
        let fresh = Ulid::from_parts(now_ms, self.rng.u128(..));
        let after = self.last.increment().unwrap_or(fresh);
        self.last = fresh.max(after);
        self.last.to_string()
    }

    /// 12 hexadecimal digits: a lease's nonce.
    pub(crate) fn nonce(&mut self) -> String {
        format!("{:012x}", self.rng.u64(..) >> 16)
    }

    /// A name for a machine that was not given one, such as `quiet-river-4821`.
    pub(crate) fn machine_name(&mut self) -> String {
        const FIRST: [&str; 16] = [
            "amber", "autumn", "bold", "calm", "cold", "dawn", "dry", "empty", "green", "late",
            "long", "old", "quiet", "red", "silent", "young",
        ];
        const SECOND: [&str; 16] = [
            "bird", "brook", "cloud", "field", "fire", "forest", "frost", "lake", "leaf", "moon",
            "paper", "rain", "river", "snow", "sun", "wind",
        ];
        let first = FIRST[self.rng.usize(..FIRST.len())];
        let second = SECOND[self.rng.usize(..SECOND.len())];
        format!("{first}-{second}-{:04}", self.rng.u32(..10_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shapes_that_clients_know() {
        let mut ids = Ids::seeded(1);
        let machine = ids.machine();
        assert_eq!(machine.len(), 14);
        assert!(machine.bytes().all(|b| b.is_ascii_hexdigit()), "{machine}");
        assert_eq!(ids.ulid(1_700_000_000_000).len(), 26);
        assert_eq!(ids.nonce().len(), 12);
    }

    #[test]
    fn each_ulid_is_greater_than_the_one_before_whatever_the_clock_does() {
        let mut ids = Ids::seeded(2);
        let drawn: Vec<String> = [1_000, 1_000, 900, 2_000, 2_000]
            .map(|now| ids.ulid(now))
            .into();
        assert!(drawn.is_sorted_by(|a, b| a < b), "{drawn:?}");
    }

    #[test]
    fn one_seed_draws_one_sequence() {
        let draw = |mut ids: Ids| (ids.machine(), ids.machine_name(), ids.nonce());
        assert_eq!(draw(Ids::seeded(7)), draw(Ids::seeded(7)));
        assert_ne!(draw(Ids::seeded(7)), draw(Ids::seeded(8)));
    }
}
