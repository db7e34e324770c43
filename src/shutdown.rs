//! How a process ends: stop taking work, then a deadline.
//!
//! Every task of a service is spawned through [`Shutdown`], which waits for all of them. There are
//! two steps. *Quiet* ends the loops that take work; what is in hand goes on. *Abort* comes when
//! the drain deadline has passed: what is still running is dropped, and its leases let another
//! worker finish it.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A handle on the end of the process; clones share one end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    quiet: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// A process that has not begun to end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The token on which every loop that takes work ends.
    #[must_use]
    pub fn quiet(&self) -> &CancellationToken {
        &self.quiet
    }

    /// The token that is cancelled when the drain deadline has passed.
    #[must_use]
    pub fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Begins the end: no new work is taken from now on.
    pub fn begin(&self) {
        self.quiet.cancel();
    }

    /// Spawns a task that [`Shutdown::finish`] waits for. It is dropped at its next await when
    /// the drain deadline passes.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            let _ = abort.run_until_cancelled(task).await;
        })
    }

    /// A part of this process that ends with it, and can also be ended by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            quiet: self.quiet.child_token(),
            abort: self.abort.child_token(),
            tasks: TaskTracker::new(),
        }
    }

    /// Begins the end if nobody has, then waits until every task has ended or `drain` has passed.
    /// Says whether all ended by themselves.
    pub async fn finish(&self, drain: Duration) -> bool {
        self.begin();
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_ok() {
            return true;
        }
        self.abort.cancel();
        self.tasks.wait().await;
        false
    }
}

/// SIGTERM and SIGINT. They are heard from the moment on which this is made, and kept until
/// somebody asks.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Hears them from now on; they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them has come since the last was told.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_in_time_ends_by_itself() {
        let shutdown = Shutdown::new();
        let quiet = shutdown.quiet().clone();
        shutdown.spawn(async move { quiet.cancelled().await });
        assert!(shutdown.finish(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_never_ends_is_dropped_at_the_deadline() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending());
        assert!(!shutdown.finish(Duration::from_secs(5)).await);
    }
}
