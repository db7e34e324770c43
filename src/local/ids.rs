//! Ids as the Machines API writes them, from one seeded source.
//!
//! They are names, not secrets: nothing is permitted because someone knows one. A seed makes a
//! server's ids repeatable, which keeps the registry pure.

use fastrand::Rng;
use ulid::Ulid;

use crate::clock::UnixMs;

/// Draws ids.
#[derive(Debug)]
pub(crate) struct Ids(Rng);

impl Ids {
    /// Two sources with one seed draw the same ids.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// 14 hexadecimal digits: a machine's id.
    pub(crate) fn machine(&mut self) -> String {
        format!("{:014x}", self.0.u64(..) >> 8)
    }

    /// 26 characters that sort by time: a version, an event's id, a request's id.
    pub(crate) fn ulid(&mut self, now_ms: UnixMs) -> String {
        Ulid::from_parts(now_ms, self.0.u128(..)).to_string()
    }

    /// 12 hexadecimal digits: a lease's nonce.
    pub(crate) fn nonce(&mut self) -> String {
        format!("{:012x}", self.0.u64(..) >> 16)
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
        let first = FIRST[self.0.usize(..FIRST.len())];
        let second = SECOND[self.0.usize(..SECOND.len())];
        format!("{first}-{second}-{:04}", self.0.u32(..10_000))
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
    fn ulids_sort_by_time() {
        let mut ids = Ids::seeded(2);
        let older = ids.ulid(1_000);
        assert!(older < ids.ulid(2_000));
    }

    #[test]
    fn one_seed_draws_one_sequence() {
        let draw = |mut ids: Ids| (ids.machine(), ids.machine_name(), ids.nonce());
        assert_eq!(draw(Ids::seeded(7)), draw(Ids::seeded(7)));
        assert_ne!(draw(Ids::seeded(7)), draw(Ids::seeded(8)));
    }
}
