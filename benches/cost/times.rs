//! The moments of runs, by their number: a run's id ends in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::wire::now_ns;

/// Moments in nanoseconds; 0 is never.
pub(crate) struct Times {
    submitted: Vec<AtomicU64>,
    sent: Vec<AtomicU64>,
    created: Vec<AtomicU64>,
    posted: Vec<AtomicU64>,
    answered: Vec<AtomicU64>,
    seen: Vec<AtomicU64>,
    freed: Mutex<Vec<u64>>,
    creates: Mutex<Vec<u64>>,
}

impl Times {
    /// For runs with numbers below `count`. Others are not noted.
    pub(crate) fn new(count: usize) -> Self {
        let column = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            submitted: column(),
            sent: column(),
            created: column(),
            posted: column(),
            answered: column(),
            seen: column(),
            freed: Mutex::new(Vec::with_capacity(count)),
            creates: Mutex::new(Vec::with_capacity(count)),
        }
    }

    /// A request was due then.
    pub(crate) fn submitted(&self, number: usize, due: u64) {
        set(&self.submitted, number, due);
    }

    /// And goes out now.
    pub(crate) fn sent(&self, number: usize) {
        set(&self.sent, number, now_ns());
    }

    pub(crate) fn created(&self, run: &str, at: u64) {
        let Some(number) = number_of(run) else { return };
        set(&self.created, number, at);
        if number < self.created.len() {
            self.creates.lock().unwrap().push(at);
        }
    }

    pub(crate) fn answered(&self, run: &str, posted: u64, answered: u64) {
        let Some(number) = number_of(run) else { return };
        set(&self.posted, number, posted);
        set(&self.answered, number, answered);
    }

    pub(crate) fn seen(&self, run: &str) {
        let Some(number) = number_of(run) else { return };
        set(&self.seen, number, now_ns());
    }

    /// A machine was deleted.
    pub(crate) fn freed(&self) {
        if !self.created.is_empty() {
            self.freed.lock().unwrap().push(now_ns());
        }
    }

    /// How late this program itself was.
    pub(crate) fn to_sent(&self) -> Histogram<u64> {
        between(&self.submitted, &self.sent)
    }

    pub(crate) fn to_create(&self) -> Histogram<u64> {
        between(&self.submitted, &self.created)
    }

    pub(crate) fn to_answer(&self) -> Histogram<u64> {
        between(&self.posted, &self.answered)
    }

    pub(crate) fn to_seen(&self) -> Histogram<u64> {
        between(&self.answered, &self.seen)
    }

    /// From the n-th delete to the create that it made room for, with `slots` machines at most.
    pub(crate) fn to_next(&self, slots: usize) -> Histogram<u64> {
        let mut creates = self.creates.lock().unwrap().clone();
        creates.sort_unstable();
        let freed = self.freed.lock().unwrap();
        let mut histogram = histogram();
        for (freed, next) in freed.iter().zip(creates.iter().skip(slots)) {
            histogram.saturating_record(next.saturating_sub(*freed).max(1));
        }
        histogram
    }
}

fn number_of(run: &str) -> Option<usize> {
    run.rsplit_once('-')?.1.parse().ok()
}

fn set(column: &[AtomicU64], number: usize, at: u64) {
    if let Some(cell) = column.get(number) {
        cell.store(at, Ordering::SeqCst);
    }
}

fn between(from: &[AtomicU64], to: &[AtomicU64]) -> Histogram<u64> {
    let mut histogram = histogram();
    for (from, to) in from.iter().zip(to) {
        let (from, to) = (from.load(Ordering::SeqCst), to.load(Ordering::SeqCst));
        if from > 0 && to > 0 {
            // What was there before it was told of took no time.
            histogram.saturating_record(to.saturating_sub(from).max(1));
        }
    }
    histogram
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap()
}
