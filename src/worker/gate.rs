//! Whether more requests are read: not when Redis is nearly full, and not beyond the backlog in
//! bytes. Requests that are not read stay on their stream.
//!
//! A Redis that unread requests alone have filled would stay full for ever if none were taken in.
//! So a Redis that is nearly full gets as many runs as may have a machine, which use no more memory
//! than their requests did, and end.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Runs;
use crate::store::Error;
use crate::store::health::Load;
use crate::worker::tasks::Tasks;

/// Bytes above a full Redis's bound, and percent of that bound, from which on nothing at all is
/// taken in. Only results bring it there, and consumers make room.
const OVER_BYTES: u64 = 64 << 20;
const OVER_PERCENT: u64 = 25;
/// How long a check counts while requests come in, or are kept out.
const CHECK_BUSY: Duration = Duration::from_secs(1);
/// How long it counts while nothing happens.
const CHECK_IDLE: Duration = Duration::from_secs(20);

/// Why requests stay unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    Memory,
    Bytes,
}

impl StopReason {
    fn words(self) -> &'static str {
        match self {
            Self::Memory => "redis is nearly full",
            Self::Bytes => "as many bytes of requests wait as may",
        }
    }
}

/// The gate before a worker's intake.
#[derive(Debug)]
pub(super) struct Gate {
    checked: Option<Instant>,
    stop: Option<StopReason>,
    is_busy: bool,
    most: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            checked: None,
            stop: None,
            is_busy: false,
            most: usize::MAX,
        }
    }

    /// How many requests may be read now; 0 for none. Two round trips when the last check is too
    /// old.
    pub(super) async fn room(&mut self, tasks: &Tasks) -> Result<usize, Error> {
        let max_age = if self.is_busy || self.stop.is_some() {
            CHECK_BUSY
        } else {
            CHECK_IDLE
        };
        if self.checked.is_none_or(|at| at.elapsed() >= max_age) {
            let load = tasks.deps.core.store.load().await?;
            let (stop, most) = judge(&load, &tasks.deps.core.runs);
            self.log_change(stop, &load);
            tasks
                .deps
                .core
                .metrics
                .intake_stopped
                .set(stop.is_some().into());
            (self.stop, self.most) = (stop, most);
            self.checked = Some(Instant::now());
        }
        Ok(self.most)
    }

    /// Counts requests that were read.
    pub(super) fn count(&mut self, count: usize) {
        self.is_busy = count > 0;
        if self.stop.is_some() {
            self.most = self.most.saturating_sub(count);
        }
    }

    /// Logs a change, once.
    fn log_change(&self, stop: Option<StopReason>, load: &Load) {
        if stop == self.stop {
            return;
        }
        match stop {
            Some(stop) => warn!(
                why = stop.words(),
                used_bytes = load.memory.map(|memory| memory.used),
                maxmemory_bytes = load.memory.and_then(|memory| memory.most),
                backlog_bytes = load.backlog_bytes,
                open_runs = load.open,
                "requests stay unread"
            ),
            None => info!("requests are read again"),
        }
    }
}

/// Whether requests stay unread, and how many may be read all the same.
fn judge(load: &Load, runs: &Runs) -> (Option<StopReason>, usize) {
    if let Some(memory) = load.memory
        && let Some(bound) = memory.most
    {
        let room = u64::from(runs.max_in_flight.get()).saturating_sub(load.open);
        let over = bound
            .saturating_add(bound / 100 * OVER_PERCENT)
            .saturating_add(OVER_BYTES);
        if memory.used >= over {
            return (Some(StopReason::Memory), 0);
        }
        if memory.is_nearly_full() {
            return (
                Some(StopReason::Memory),
                usize::try_from(room).unwrap_or(usize::MAX),
            );
        }
    }
    match runs.backlog_max_bytes {
        Some(most) if load.backlog_bytes >= most => (Some(StopReason::Bytes), 0),
        _ => (None, usize::MAX),
    }
}
