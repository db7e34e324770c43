//! How a process ends: stop taking work, then a deadline.
//!
//! Every task of a service is spawned through [`Shutdown`], which waits for all of them. There are
//! two steps. *Quiet* ends the loops that take work; tasks that have begun go on. *Abort* comes when
//! the drain deadline has passed: what is still running is dropped, and its leases let another
//! worker finish it.
//!
//! A task that panics is logged, and what it held is dropped. A *loop* does what a process is for: one
//! that panics, or ends before the shutdown begins, breaks the process, which its owner
//! then ends.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::milestone::at_loop;

/// A handle on the end of the process; clones share one end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    quiet: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
    broken: Arc<Broken>,
}

/// What broke the process first.
#[derive(Debug, Default)]
struct Broken {
    why: OnceLock<String>,
    signal: CancellationToken,
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
            let task = AssertUnwindSafe(task).catch_unwind();
            if let Some(Err(panic)) = abort.run_until_cancelled(task).await {
                error!(
                    panic = panic_message(&*panic),
                    "a task panicked; its leases are released"
                );
            }
        })
    }

    /// Spawns a loop that is to go on until the end begins. If it panics or ends before, the
    /// process is broken: see [`Shutdown::broken`].
    pub fn spawn_loop<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (abort, quiet) = (self.abort.clone(), self.quiet.clone());
        let broken = self.broken.clone();
        self.tasks.spawn(async move {
            let task = async {
                at_loop(name).await;
                task.await;
            };
            let task = AssertUnwindSafe(task).catch_unwind();
            let why = match abort.run_until_cancelled(task).await {
                Some(Err(panic)) => format!("the loop {name} panicked: {}", panic_message(&*panic)),
                Some(Ok(())) if !quiet.is_cancelled() => format!("the loop {name} has ended"),
                Some(Ok(())) | None => return,
            };
            let _ = broken.why.set(why);
            broken.signal.cancel();
        });
    }

    /// This process cannot go on: see [`Shutdown::broken`].
    pub fn fail(&self, why: String) {
        let _ = self.broken.why.set(why);
        self.broken.signal.cancel();
    }

    /// Returns when a loop of this process has panicked, or has ended too early, and says which.
    pub async fn broken(&self) -> String {
        self.broken.signal.cancelled().await;
        self.broken.why.get().cloned().unwrap_or_default()
    }

    /// A part of this process that ends with it, and can also be ended by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            quiet: self.quiet.child_token(),
            abort: self.abort.child_token(),
            tasks: TaskTracker::new(),
            broken: self.broken.clone(),
        }
    }

    /// Begins the shutdown if it has not begun, then waits until every task has ended or `drain` has passed.
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

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a message")
}

/// SIGTERM and SIGINT, received from when this is made and kept until they are asked for.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Receives them from now on; they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them has come since the last call.
    pub async fn received(&mut self) {
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

    #[tokio::test]
    async fn a_loop_that_panics_or_ends_breaks_the_process_and_a_task_does_not() {
        let shutdown = Shutdown::new();
        shutdown.spawn(async { panic!("a task") });
        shutdown.spawn(async {});
        shutdown
            .child()
            .spawn_loop("inner", async { panic!("the number is {}", 7) });
        let why = shutdown.broken().await;
        assert_eq!(why, "the loop inner panicked: the number is 7");
        assert!(shutdown.finish(Duration::from_secs(5)).await);
        let shutdown = Shutdown::new();
        shutdown.spawn_loop("short", async {});
        assert_eq!(shutdown.broken().await, "the loop short has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_ends_when_it_should_breaks_nothing() {
        let shutdown = Shutdown::new();
        let quiet = shutdown.quiet().clone();
        shutdown.spawn_loop("plain", async move { quiet.cancelled().await });
        shutdown.spawn_loop("stuck", std::future::pending());
        assert!(!shutdown.finish(Duration::from_secs(5)).await);
        assert!(shutdown.broken().now_or_never().is_none());
    }
}
