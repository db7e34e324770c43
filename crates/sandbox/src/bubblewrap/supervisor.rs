//! Follows a sandbox to its end, and tells how it ended.
//!
//! Three things tell of the end. Init says how the main program ended. bubblewrap's outer process
//! ends, and takes the sandbox with it. And when the sandbox's first process is gone, the kernel
//! has removed every other process in it before. Only then are the counters of the control group
//! final, and only then is the sandbox said to be over.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bubblewrap::running::Sandbox;
use crate::cgroup::{Counters, Group};
use crate::control::Events;
use crate::exit::exit;
use crate::init::wire::{Ending, Event};
use crate::outcome::Exit;
use crate::uids::Uid;

/// So long a sandbox may stay after its main program has ended; init ends at once by itself.
const GRACE: Duration = Duration::from_secs(1);
/// What is still on its way when everything has ended is waited for so long.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// All that is needed to follow a sandbox to its end.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) child: Child,
    pub(super) events: Events,
    pub(super) output: tokio::task::JoinHandle<()>,
    /// Tells the task that passes output on that nothing more is written.
    pub(super) over: CancellationToken,
    pub(super) group: Option<Group>,
    pub(super) uid: Option<Uid>,
}

impl Supervisor {
    /// Follows the sandbox until nothing of it is left, and tells how it ended. It is ended when
    /// the engine closes.
    pub(super) async fn supervise(mut self, closing: &CancellationToken) -> Exit {
        let mut ending = self.follow(closing).await;
        // bubblewrap's outer process is gone; the rest goes with it, or now.
        let by_server = self.sandbox.killed.load(Ordering::SeqCst);
        self.sandbox.pid1.kill();
        self.sandbox.pid1.ended().await;
        let _ = self.child.wait();
        self.sandbox.pid1.reap();
        let last = async {
            while let Some(event) = self.events.next().await {
                record(&self.sandbox, event, &mut ending);
            }
        };
        let _ = tokio::time::timeout(LAST_EVENTS, last).await;
        self.sandbox.execs.waiting().clear();
        self.over.cancel();
        let _ = (&mut self.output).await;
        let counters = match &self.group {
            Some(group) => {
                let counters = group.counters();
                if let Err(error) = group.remove().await {
                    tracing::warn!(%error, "a control group could not be removed");
                }
                counters
            }
            None => Counters::default(),
        };
        drop(self.uid.take());
        exit(ending, by_server, counters)
    }

    /// Until bubblewrap's outer process has ended.
    async fn follow(&mut self, closing: &CancellationToken) -> Option<Ending> {
        let mut ending = None;
        let mut is_connected = true;
        let mut deadline = None;
        loop {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.events.next(), if is_connected => match event {
                    Some(event) => {
                        record(&self.sandbox, event, &mut ending);
                        if ending.is_some() {
                            deadline.get_or_insert_with(|| Instant::now() + GRACE);
                        }
                    }
                    // The end, or someone speaks nonsense in init's name. Then it is the end too.
                    None => {
                        is_connected = false;
                        deadline.get_or_insert_with(|| Instant::now() + GRACE);
                    }
                },
                () = self.sandbox.monitor.ended() => return ending,
                () = closing.cancelled(), if !self.sandbox.killed.load(Ordering::SeqCst) => {
                    self.sandbox.kill();
                }
                () = late => {
                    deadline = None;
                    self.sandbox.pid1.kill();
                    self.sandbox.monitor.kill();
                }
            }
        }
    }
}

/// Takes one report. The first ending counts; what a guest may say later changes nothing.
fn record(sandbox: &Sandbox, event: Event, ending: &mut Option<Ending>) {
    match event {
        Event::Exited(how) => {
            ending.get_or_insert(how);
        }
        Event::Done { id, result } => sandbox.execs.answer(id, result),
        Event::Ready { .. } | Event::Started { .. } | Event::Failed(_) => {}
    }
}
