//! Follows a machine to its end, and tells how it ended.
//!
//! Three things tell of the end. Init says how the main program ended. bubblewrap's outer process
//! ends, and takes the sandbox with it. And when the sandbox's first process is gone, the kernel
//! has removed every other process in it before. Only then are the counters of the control group
//! final, and only then is the machine said to be over.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local::bwrap::cgroup::{Counters, Group};
use crate::local::bwrap::control::Reports;
use crate::local::bwrap::exit::exit;
use crate::local::bwrap::machine::Machine;
use crate::local::bwrap::uids::Uid;
use crate::local::bwrap::wire::{Ending, News};
use crate::local::engine::Exit;

/// So long a machine may stay after its main program has ended; init ends at once by itself.
const GRACE: Duration = Duration::from_secs(1);
/// What is still on its way when everything has ended is waited for so long.
const LAST_REPORTS: Duration = Duration::from_secs(1);

/// All that is needed to follow a machine to its end.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) machine: Arc<Machine>,
    pub(super) child: Child,
    pub(super) reports: Reports,
    pub(super) output: tokio::task::JoinHandle<()>,
    /// Tells the task that passes output on that nothing more is written.
    pub(super) over: CancellationToken,
    pub(super) group: Option<Group>,
    pub(super) uid: Option<Uid>,
}

impl Keeper {
    /// Follows the machine until nothing of it is left, and tells how it ended. It is ended when
    /// the engine closes.
    pub(super) async fn keep(mut self, closing: &CancellationToken) -> Exit {
        let mut ending = self.follow(closing).await;
        // bubblewrap's outer process is gone; the rest goes with it, or now.
        let by_server = self.machine.killed.load(Ordering::SeqCst);
        self.machine.sandbox.kill();
        self.machine.sandbox.ended().await;
        let _ = self.child.wait();
        self.machine.sandbox.reap();
        let last = async {
            while let Some(news) = self.reports.next().await {
                note(&self.machine, news, &mut ending);
            }
        };
        let _ = tokio::time::timeout(LAST_REPORTS, last).await;
        self.machine.execs.waiting().clear();
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
        let mut heard = true;
        let mut deadline = None;
        loop {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = self.reports.next(), if heard => match news {
                    Some(news) => {
                        note(&self.machine, news, &mut ending);
                        if ending.is_some() {
                            deadline.get_or_insert_with(|| Instant::now() + GRACE);
                        }
                    }
                    // The end, or someone speaks nonsense in init's name. Then it is the end too.
                    None => {
                        heard = false;
                        deadline.get_or_insert_with(|| Instant::now() + GRACE);
                    }
                },
                () = self.machine.monitor.ended() => return ending,
                () = closing.cancelled(), if !self.machine.killed.load(Ordering::SeqCst) => {
                    self.machine.kill();
                }
                () = late => {
                    deadline = None;
                    self.machine.sandbox.kill();
                    self.machine.monitor.kill();
                }
            }
        }
    }
}

/// Takes one report. The first ending counts; what a guest may say later changes nothing.
fn note(machine: &Machine, news: News, ending: &mut Option<Ending>) {
    match news {
        News::Exited(how) => {
            ending.get_or_insert(how);
        }
        News::Done { id, result } => machine.execs.answer(id, result),
        News::Ready { .. } | News::Started { .. } | News::Failed(_) => {}
    }
}
