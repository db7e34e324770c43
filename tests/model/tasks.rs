//! What workers do: each step is one call, of Redis or of the provider.

use std::sync::OnceLock;

use cofferdam::machines::wire;
use cofferdam::run::budget;
use cofferdam::run::id::Attempt;
use cofferdam::run::outcome::ReasonCode;
use cofferdam::run::phase::{Duty, State};
use cofferdam::run::step::Event;
use cofferdam::stage::observe::{BootLimits, Liveness, liveness};
use serde_json::json;

use crate::steps::Setting;
use crate::world::{Call, Due, Id, Machine, Owner, RunNo, WorkerNo, World};

/// A run's boot in a worker's hands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BootTask {
    pub(crate) run: RunNo,
    pub(crate) attempt: u32,
    pub(crate) at: Boot,
}

/// How far a boot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Boot {
    /// The create call is next.
    Begins,
    /// It was sent.
    Waits,
    /// A look-up of the name is next.
    LooksUp,
    /// None was found: the run is read again, and if it still waits the create call is sent again.
    Repeats,
    /// One was found that has ended: telling Redis is next, and then a look at it.
    Ended(Id),
    /// A machine of that name exists, says the provider.
    Adopts(Id),
    /// The machine is known; telling Redis is next.
    Arrived(Id),
    /// The run went on without it: whose is it?
    Disowns(Id),
    /// Nobody's.
    Removes(Id),
    /// The provider refused.
    Defers,
}

/// How far a tear-down has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tear {
    /// The machine is looked up by its name.
    Finds,
    /// It is deleted.
    Ends(Id),
    /// It is gone.
    Closes,
}

/// What a worker has in hand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// A request that was read.
    Admit(RunNo),
    /// A boot.
    Boot(BootTask),
    /// An end without a result.
    End {
        run: RunNo,
        attempt: u32,
        reason: ReasonCode,
    },
    /// A tear-down.
    Tear { run: RunNo, attempt: u32, at: Tear },
    /// A listing, and which runs were running before it was made.
    Survey {
        listed: Vec<Machine>,
        running: Vec<(RunNo, u32)>,
    },
    /// A look at the machine of a running run.
    Look { run: RunNo, attempt: u32, id: Id },
    /// A machine that came to nothing is removed, and its run waits again.
    Again {
        run: RunNo,
        attempt: u32,
        id: Option<Id>,
    },
    /// A machine that no run has is removed.
    Orphan(Id),
}

/// What a survey may find: one thing at a time, the others the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Finding {
    Doubtful(RunNo, u32, Id),
    Orphan(Id),
}

impl World {
    /// Whether the worker has this run in hand.
    pub(crate) fn works_for(&self, worker: WorkerNo, run: RunNo) -> bool {
        match &self.hands[worker] {
            Some(Task::Boot(boot)) => boot.run == run,
            Some(
                Task::End { run: of, .. }
                | Task::Tear { run: of, .. }
                | Task::Again { run: of, .. },
            ) => *of == run,
            Some(Task::Admit(_) | Task::Survey { .. } | Task::Look { .. } | Task::Orphan(_))
            | None => false,
        }
    }

    /// Takes up what an overdue run owes, as `perform` does.
    pub(crate) fn take_up(&mut self, worker: WorkerNo, run: RunNo) {
        let busy = (0..self.hands.len()).any(|other| self.works_for(other, run));
        if busy {
            self.see("two worked for one run");
        }
        let record = self.runs[run].as_mut().unwrap();
        record.due = Due::Later;
        record.holder = Some(worker);
        let (attempt, is_late) = (record.attempt, record.is_late);
        let deadline = Task::End {
            run,
            attempt,
            reason: ReasonCode::Deadline,
        };
        self.hands[worker] = match record.phase().owes() {
            Duty::ResumeBoot | Duty::Await if is_late => Some(deadline),
            Duty::ResumeBoot => Some(Task::Boot(BootTask {
                run,
                attempt,
                at: Boot::LooksUp,
            })),
            Duty::Teardown => {
                let at = record.machine.map_or(Tear::Finds, Tear::Ends);
                Some(Task::Tear { run, attempt, at })
            }
            Duty::Boot | Duty::Await | Duty::Nothing => None,
        };
    }

    /// The next step of what a worker has in hand; whether there is one.
    pub(crate) fn go_on(&mut self, worker: WorkerNo, setting: &Setting) -> bool {
        let Some(task) = self.hands[worker].take() else {
            return false;
        };
        self.hands[worker] = match task {
            Task::Admit(run) => {
                self.admit(run, setting.delayed);
                None
            }
            Task::Boot(boot) if matches!(boot.at, Boot::Waits) => {
                self.hands[worker] = Some(Task::Boot(boot));
                return false;
            }
            Task::Boot(boot) => self.boot(worker, boot, setting),
            Task::End {
                run,
                attempt,
                reason,
            } => {
                self.end(run, Some(attempt), reason);
                None
            }
            Task::Tear { run, attempt, at } => self
                .tear(run, attempt, at, setting)
                .map(|at| Task::Tear { run, attempt, at }),
            Task::Survey { .. } => None,
            Task::Look { run, attempt, id } => self.look(run, attempt, id, setting),
            Task::Again {
                run,
                attempt,
                id: Some(id),
            } => {
                self.delete(id);
                Some(Task::Again {
                    run,
                    attempt,
                    id: None,
                })
            }
            Task::Again {
                run,
                attempt,
                id: None,
            } => {
                self.requeue(
                    run,
                    &Event::Failed {
                        attempt: Attempt(attempt),
                    },
                );
                None
            }
            Task::Orphan(Id {
                of: Owner::Them, ..
            }) => {
                self.see("another's machine was left alone");
                None
            }
            Task::Orphan(id) => {
                if self.get(id).is_some() && !self.is_owned(id) {
                    self.see("an orphan was removed");
                    self.delete(id);
                }
                None
            }
        };
        true
    }

    fn boot(&mut self, worker: WorkerNo, boot: BootTask, setting: &Setting) -> Option<Task> {
        let BootTask { run, attempt, at } = boot;
        let next = |at| Some(Task::Boot(BootTask { run, attempt, at }));
        let record = self.runs[run].as_ref().unwrap();
        if let Boot::Begins | Boot::LooksUp | Boot::Repeats = at {
            if record.attempt == attempt && record.is_late {
                return Some(Task::End {
                    run,
                    attempt,
                    reason: ReasonCode::Deadline,
                });
            }
            // A worker that was stopped after it looked at its hold does not see that it is lost, and
            // one that holds a run does not see that it has ended.
            let is_unheld = record.holder != Some(worker) && !matches!(at, Boot::Repeats);
            if !setting.stalls && is_unheld {
                return None;
            }
        }
        match at {
            Boot::Begins => {
                self.calls.insert(Call {
                    worker,
                    run,
                    attempt,
                    is_late: false,
                });
                next(Boot::Waits)
            }
            Boot::Waits => next(Boot::Waits),
            Boot::Repeats => {
                if (record.state, record.attempt) != (State::Booting, attempt) {
                    self.see("a create call was not repeated");
                    return None;
                }
                self.calls.insert(Call {
                    worker,
                    run,
                    attempt,
                    is_late: false,
                });
                next(Boot::Waits)
            }
            Boot::LooksUp => match self.find(run, attempt) {
                Some(machine) if machine.is_gone => {
                    self.see("found when it had ended");
                    next(Boot::Ended(machine.id))
                }
                Some(machine) => {
                    self.see("adopted");
                    next(Boot::Arrived(machine.id))
                }
                None => next(Boot::Repeats),
            },
            Boot::Adopts(id) => match self.get(id) {
                Some(_) => {
                    self.see("adopted");
                    next(Boot::Arrived(id))
                }
                None => next(Boot::LooksUp),
            },
            Boot::Arrived(id) => match self.advance(run, attempt, id) {
                true => None,
                false => next(Boot::Disowns(id)),
            },
            Boot::Ended(id) => match self.advance(run, attempt, id) {
                true if self.runs[run].as_ref().unwrap().state == State::Running => {
                    Some(Task::Look { run, attempt, id })
                }
                true => None,
                false => next(Boot::Disowns(id)),
            },
            Boot::Disowns(id) => {
                if record.machine == Some(id) && record.state != State::Closed {
                    return None;
                }
                self.see("disowned");
                next(Boot::Removes(id))
            }
            Boot::Removes(id) => {
                self.delete(id);
                None
            }
            Boot::Defers => {
                self.requeue(
                    run,
                    &Event::Deferred {
                        attempt: Attempt(attempt),
                    },
                );
                None
            }
        }
    }

    fn tear(&mut self, run: RunNo, attempt: u32, at: Tear, setting: &Setting) -> Option<Tear> {
        match at {
            Tear::Finds => match self.find(run, attempt).filter(|machine| !machine.is_gone) {
                Some(machine) => Some(Tear::Ends(machine.id)),
                // A call may still be on its way, or its machine not shown yet: no proof.
                None if !setting.stalls && self.may_come(run, attempt) => None,
                None => Some(Tear::Closes),
            },
            Tear::Ends(id) => {
                self.delete(id);
                Some(Tear::Closes)
            }
            Tear::Closes => {
                self.close(run, attempt);
                None
            }
        }
    }

    /// Whether a machine of this name may yet be seen.
    pub(crate) fn may_come(&self, run: RunNo, attempt: u32) -> bool {
        let mut calls = self.calls.iter();
        let mut machines = self.machines.iter();
        calls.any(|call| (call.run, call.attempt) == (run, attempt))
            || machines.any(|machine| machine.is_hidden && machine.id.has_name(run, attempt))
    }

    /// What a worker's survey can find now that it compares its listing with the runs in flight.
    pub(crate) fn findings(&self, listed: &[Machine], running: &[(RunNo, u32)]) -> Vec<Finding> {
        let mut found = Vec::new();
        for machine in listed.iter().filter(|machine| !self.is_owned(machine.id)) {
            found.push(Finding::Orphan(machine.id));
        }
        for &(run, attempt) in running {
            let record = self.runs[run].as_ref().unwrap();
            if record.state != State::Running || record.attempt != attempt {
                continue;
            }
            let mut listed = listed.iter();
            let machine = listed.find(|machine| machine.id.has_name(run, attempt));
            if machine.is_none_or(|machine| machine.is_over) {
                found.push(Finding::Doubtful(run, attempt, record.machine.unwrap()));
            }
        }
        found
    }

    /// Goes after one thing that a survey found.
    pub(crate) fn pursue(&mut self, worker: WorkerNo, finding: Finding) {
        self.hands[worker] = match finding {
            Finding::Doubtful(run, attempt, id) => Some(Task::Look { run, attempt, id }),
            Finding::Orphan(id) if self.noted[worker].remove(&id) => Some(Task::Orphan(id)),
            Finding::Orphan(id) => {
                self.noted[worker].insert(id);
                None
            }
        };
    }

    fn look(&mut self, run: RunNo, attempt: u32, id: Id, setting: &Setting) -> Option<Task> {
        let is_hidden = self
            .machines
            .iter()
            .any(|machine| machine.id == id && machine.is_hidden);
        // What is not shown yet was made a moment ago.
        let now = if is_hidden { 1 } else { u64::MAX / 2 };
        let wire = self.get(id).map(|machine| as_listed(machine.is_over));
        let limits = BootLimits {
            prepared_by: u64::MAX,
            started_by: u64::MAX,
        };
        match liveness(wire, 0, now, limits) {
            Liveness::Alive | Liveness::NeverStarted => None,
            Liveness::Exited(_) => {
                let reason = ReasonCode::ExitedWithoutResult;
                Some(Task::End {
                    run,
                    attempt,
                    reason,
                })
            }
            Liveness::Lost | Liveness::Stopped => {
                self.see("a machine was lost");
                let record = self.runs[run].as_ref().unwrap();
                let tries = budget::tries(Attempt(record.attempt), record.deferred);
                if budget::may_try_again(tries, setting.attempts) {
                    return Some(Task::Again {
                        run,
                        attempt,
                        id: Some(id),
                    });
                }
                Some(Task::End {
                    run,
                    attempt,
                    reason: ReasonCode::MachineLost,
                })
            }
        }
    }
}

/// A machine as the provider's API shows it.
fn as_listed(is_over: bool) -> &'static wire::Machine {
    static SHOWN: OnceLock<[wire::Machine; 2]> = OnceLock::new();
    let shown = SHOWN.get_or_init(|| {
        let exit = json!({"type": "exit", "status": "stopped", "source": "flyd", "timestamp": 2,
                          "request": {"exit_event": {"exit_code": 1}}});
        let start = json!({"type": "start", "status": "started", "source": "flyd", "timestamp": 1});
        let machine = |state, events| {
            serde_json::from_value(
                json!({"id": "m", "name": "n", "state": state, "region": "ams",
                                          "instance_id": "i", "events": events}),
            )
            .unwrap()
        };
        [
            machine("started", json!([start])),
            machine("stopped", json!([exit, start])),
        ]
    });
    &shown[usize::from(is_over)]
}
