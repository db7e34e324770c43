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

use rustix::process::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local::bwrap::cgroup::{Counters, Group};
use crate::local::bwrap::control::Reports;
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

/// Puts together what is known about the end. A machine that ended without init's word was killed
/// as a whole. The kernel's count alone does not tell whom it killed: it was the main process only
/// if that ended by the signal, and not by ours.
pub(super) fn exit(ending: Option<Ending>, by_server: bool, counters: Counters) -> Exit {
    let (code, signal) = match ending {
        Some(Ending::Code(code)) => (Some(code), None),
        Some(Ending::Signal(signal)) => (None, Some(signal)),
        None => (None, Some(Signal::KILL.as_raw())),
    };
    let short = counters.oom_kills > 0;
    let oom_killed = short && !by_server && signal == Some(Signal::KILL.as_raw());
    Exit {
        code,
        signal,
        oom_killed,
        oom_elsewhere: short && !oom_killed,
        cpu_ms: counters.cpu_ms,
        peak_bytes: counters.peak_bytes,
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ending: Option<Ending>, by_server: bool, oom_kills: u64, expected: Exit) {
        let counters = Counters {
            oom_kills,
            cpu_ms: None,
            peak_bytes: None,
        };
        assert_eq!(exit(ending, by_server, counters), expected);
    }

    fn killed() -> Exit {
        Exit {
            signal: Some(9),
            ..Exit::default()
        }
    }

    #[test]
    fn a_137_proves_nothing() {
        let coded = Exit {
            code: Some(137),
            ..Exit::default()
        };
        check(Some(Ending::Code(137)), false, 0, coded.clone());
        check(
            Some(Ending::Code(137)),
            false,
            1,
            Exit {
                oom_elsewhere: true,
                ..coded
            },
        );
        check(Some(Ending::Signal(9)), false, 0, killed());
        check(
            Some(Ending::Signal(9)),
            false,
            1,
            Exit {
                oom_killed: true,
                ..killed()
            },
        );
        check(
            Some(Ending::Signal(9)),
            true,
            1,
            Exit {
                oom_elsewhere: true,
                ..killed()
            },
        );
        let term = Exit {
            signal: Some(15),
            oom_elsewhere: true,
            ..Exit::default()
        };
        check(Some(Ending::Signal(15)), false, 2, term);
    }

    #[test]
    fn an_end_without_a_word_is_a_kill() {
        check(None, false, 0, killed());
        check(
            None,
            false,
            3,
            Exit {
                oom_killed: true,
                ..killed()
            },
        );
        check(None, true, 0, killed());
    }
}
