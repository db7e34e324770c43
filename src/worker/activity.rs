//! Whether there is anything to do. A worker that has had nothing to do for a while asks Redis seldom;
//! at the first sign of work it asks as often as ever.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long nothing must have happened for a worker to be idle.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Signs of work that come closer together than this are one.
const GRAIN: Duration = Duration::from_secs(1);

/// What a worker has seen of work.
#[derive(Debug)]
pub(crate) struct Activity {
    /// When work was seen last.
    seen: watch::Sender<Instant>,
    /// Some worker has read entries that it has not disposed of.
    has_pending: watch::Sender<bool>,
}

impl Activity {
    /// As if there were work: the first looks at Redis tell.
    pub(crate) fn new() -> Self {
        Self {
            seen: watch::Sender::new(Instant::now()),
            has_pending: watch::Sender::new(true),
        }
    }

    /// There is work.
    pub(crate) fn note(&self) {
        let now = Instant::now();
        self.seen.send_if_modified(|seen| {
            let is_news = now.duration_since(*seen) >= GRAIN;
            if is_news {
                *seen = now;
            }
            is_news
        });
    }

    /// Whether nothing has happened for a while.
    pub(crate) fn is_idle(&self) -> bool {
        self.seen.borrow().elapsed() >= IDLE_AFTER
    }

    /// Returns at the next sign of work.
    pub(crate) async fn begins(&self) {
        // It fails when there is no sender, and this is one.
        let _ = self.seen.subscribe().changed().await;
    }

    /// Whether entries may have been left by a worker that died.
    pub(crate) fn has_pending(&self) -> bool {
        *self.has_pending.borrow()
    }

    /// Says whether they may have.
    pub(crate) fn set_pending(&self, has_pending: bool) {
        self.has_pending.send_if_modified(|known| {
            let is_news = *known != has_pending;
            *known = has_pending;
            is_news
        });
    }

    /// Returns when they may have and could not before.
    pub(crate) async fn begins_to_pend(&self) {
        if self.has_pending() {
            // They are looked for at an interval.
            return std::future::pending().await;
        }
        let _ = self.has_pending.subscribe().wait_for(|pends| *pends).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_idle_after_a_while_and_wakes_at_the_first_sign() {
        let activity = Activity::new();
        assert!(!activity.is_idle());
        tokio::time::advance(IDLE_AFTER).await;
        assert!(activity.is_idle());
        let (note, begins) = (async { activity.note() }, activity.begins());
        tokio::join!(begins, note);
        assert!(!activity.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn entries_that_were_left_end_a_wait_once() {
        let activity = Activity::new();
        let waits = |activity: &Activity| {
            let wait = Box::pin(activity.begins_to_pend());
            futures_util::FutureExt::now_or_never(wait).is_none()
        };
        assert!(waits(&activity));
        activity.set_pending(false);
        assert!(waits(&activity));
        let (set, begins) = (
            async { activity.set_pending(true) },
            activity.begins_to_pend(),
        );
        tokio::join!(begins, set);
        assert!(waits(&activity));
    }
}
