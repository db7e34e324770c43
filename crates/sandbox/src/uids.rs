//! A user of its own for every sandbox of a server that is root.
//!
//! The host then keeps sandboxes apart even where a namespace has a hole, and counts for them
//! separately. The ids belong to no account: they lie above all ranges that distributions and
//! systemd hand out.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Ids for one engine.
const COUNT: u32 = 1 << 16;
/// The first id that nothing else hands out; from here on there are blocks of [`COUNT`].
const FREE: u32 = 0x7000_0000;
const BLOCKS: u32 = 4096;
/// In a container with few ids, so many at the end of them are used.
const SMALL_COUNT: u32 = 2000;

/// The ids of one engine. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Uids {
    first: u32,
    count: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

/// One id; given back when dropped.
#[derive(Debug)]
pub(crate) struct Uid {
    number: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

impl Uids {
    /// Ids from `base` on, or from a block that depends on `seed`, so that two servers are not
    /// likely to have the same. `map` is what `/proc/self/uid_map` says: in a container there may
    /// be few ids; then the last of them are used. `None` when there are not enough.
    pub(crate) fn new(base: Option<u32>, seed: u64, map: &str) -> Option<Self> {
        let block = u32::try_from(seed % u64::from(BLOCKS)).unwrap_or(0);
        let first = base.unwrap_or(FREE + block * COUNT);
        let (first, count) = if has(map, first, COUNT) {
            (first, COUNT)
        } else if base.is_none() {
            (last(map)?, SMALL_COUNT)
        } else {
            return None;
        };
        Some(Self {
            first,
            count,
            taken: Arc::default(),
        })
    }

    /// The lowest id that no sandbox has; `None` when all are taken.
    pub(crate) fn take(&self) -> Option<Uid> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (self.first..self.first + self.count).find(|uid| !taken.contains(uid))?;
        taken.insert(number);
        Some(Uid {
            number,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Uid {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}

/// The ranges of ids that exist here: first and count.
fn ranges(map: &str) -> impl Iterator<Item = (u32, u32)> + '_ {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let first = numbers.next()??;
        let count = numbers.nth(1)??;
        Some((first, count))
    })
}

fn has(map: &str, first: u32, count: u32) -> bool {
    ranges(map).any(|(start, length)| {
        first >= start && first.saturating_add(count) <= start.saturating_add(length)
    })
}

/// The first of the last ids of the longest range, leaving out the very last, which mean nobody.
fn last(map: &str) -> Option<u32> {
    let (start, length) = ranges(map).max_by_key(|(_, length)| *length)?;
    let first = start.checked_add(length)?.checked_sub(SMALL_COUNT + 600)?;
    (first > start && first >= 1000).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "         0          0 4294967295\n";

    #[test]
    fn sandboxes_never_share_an_id_while_they_live() {
        let uids = Uids::new(Some(5000), 0, WHOLE).unwrap();
        let one = uids.take().unwrap();
        let two = uids.take().unwrap();
        assert_eq!((one.number(), two.number()), (5000, 5001));
        drop(one);
        assert_eq!(uids.take().unwrap().number(), 5000);
        assert_eq!(two.number(), 5001);
    }

    #[test]
    fn ids_lie_outside_all_ranges_that_others_hand_out() {
        for seed in [0, 1, 4095, u64::MAX] {
            let uid = Uids::new(None, seed, WHOLE)
                .unwrap()
                .take()
                .unwrap()
                .number();
            assert!((0x7000_0000..=0x7fff_0000).contains(&uid), "{uid:#x}");
        }
    }

    #[test]
    fn a_container_with_few_ids_gives_its_last() {
        let uids = Uids::new(None, 7, "0 100000 65536\n").unwrap();
        let uid = uids.take().unwrap().number();
        assert!(uid > 60_000 && uid < 65_534, "{uid}");
        assert!(Uids::new(None, 7, "0 1000 1\n").is_none());
        assert!(Uids::new(Some(70_000), 7, "0 100000 65536\n").is_none());
    }

    #[test]
    fn when_all_are_taken_there_is_none() {
        let uids = Uids::new(None, 0, "0 100000 65536").unwrap();
        let all: Vec<_> = std::iter::from_fn(|| uids.take()).collect();
        assert_eq!(all.len(), 2000);
        drop(all);
        assert!(uids.take().is_some());
    }
}
