//! The scripts: each one atomic, and each decided by the real policy.

use cofferdam::run::id::Attempt;
use cofferdam::run::outcome::ReasonCode;
use cofferdam::run::phase::{self, Phase, State};
use cofferdam::run::step::{Event, step};

use crate::world::{Due, Entry, Id, Record, RunNo, WorkerNo, World};

const APP: &str = "app";

/// The machine as the real code has it.
pub(crate) fn machine(id: Id) -> phase::MachineRef {
    phase::MachineRef {
        app: APP.into(),
        id: format!("{}.{}.{}", id.run, id.attempt, id.nth),
        instance_id: None,
        region: None,
    }
}

impl Record {
    /// A run that was just admitted.
    pub(crate) fn new(is_delayed: bool) -> Self {
        Self {
            state: State::Queued,
            attempt: 0,
            deferred: 0,
            machine: None,
            outcome: None,
            due: Due::Later,
            in_flight: None,
            is_queued: !is_delayed,
            is_delayed,
            is_late: false,
            holder: None,
        }
    }

    /// The run as the real code reads it from its hash.
    pub(crate) fn phase(&self) -> Phase {
        let attempt = Attempt(self.attempt);
        match self.state {
            State::Queued => Phase::Queued { attempt },
            State::Booting => Phase::Booting {
                attempt,
                app: APP.into(),
            },
            State::Running => Phase::Running {
                attempt,
                machine: machine(self.machine.unwrap()),
            },
            State::Settled => Phase::Settled {
                attempt,
                outcome: self.outcome.unwrap(),
                app: APP.into(),
                machine: self.machine.map(machine),
            },
            State::Closed => Phase::Closed {
                outcome: self.outcome.unwrap(),
            },
        }
    }

    /// Compares and sets. `id` is the machine that the event speaks of.
    fn apply(&mut self, event: &Event, id: Option<Id>) -> bool {
        let Ok(next) = step(&self.phase(), event) else {
            return false;
        };
        self.state = next.state();
        if let Some(Attempt(attempt)) = next.attempt() {
            self.attempt = attempt;
        }
        if let Phase::Settled { outcome, .. } | Phase::Closed { outcome } = &next {
            self.outcome = Some(*outcome);
        }
        // The machine that the next phase names is the one that is known, or the event's.
        self.machine = match &next {
            Phase::Queued { .. } | Phase::Booting { .. } => None,
            Phase::Running { machine: named, .. }
            | Phase::Settled {
                machine: Some(named),
                ..
            } => {
                let known = [id, self.machine].into_iter().flatten();
                known.into_iter().find(|one| machine(*one) == *named)
            }
            Phase::Settled { machine: None, .. } | Phase::Closed { .. } => self.machine,
        };
        true
    }
}

impl World {
    /// `admit.lua`: creates the run unless it is known, and acknowledges the entry.
    pub(crate) fn admit(&mut self, run: RunNo, is_delayed: bool) {
        match &self.runs[run] {
            None => self.runs[run] = Some(Record::new(is_delayed)),
            Some(_) => self.see("a request was known"),
        }
        if is_delayed {
            self.see("a run was delayed");
        }
        let place = self
            .entries
            .iter()
            .position(|entry| *entry == Entry::Pending(run));
        if let Some(place) = place {
            self.entries.remove(place);
        }
    }

    /// `claim.lua`: the attempt that `worker` may boot.
    pub(crate) fn claim(&mut self, run: RunNo, worker: WorkerNo) -> Option<u32> {
        let record = self.runs[run].as_mut()?;
        if !record.apply(&Event::Claimed { app: APP.into() }, None) {
            return None;
        }
        record.in_flight = Some(record.attempt);
        record.is_queued = false;
        record.is_late = false;
        record.due = Due::Later;
        record.holder = Some(worker);
        Some(record.attempt)
    }

    /// `advance.lua`: the machine of an attempt is known. Whether the run takes it.
    pub(crate) fn advance(&mut self, run: RunNo, attempt: u32, id: Id) -> bool {
        let event = Event::Created {
            attempt: Attempt(attempt),
            machine: machine(id),
        };
        let Some(record) = self.runs[run].as_mut() else {
            return false;
        };
        let is_taken = record.apply(&event, Some(id));
        if is_taken && record.state == State::Settled {
            record.due = Due::Now;
        }
        is_taken
    }

    /// `requeue.lua`: a boot came to nothing, or its machine did.
    pub(crate) fn requeue(&mut self, run: RunNo, event: &Event) {
        let Some(record) = self.runs[run].as_mut() else {
            return;
        };
        if record.apply(event, None) {
            if matches!(event, Event::Deferred { .. }) {
                record.deferred += 1;
            }
            record.in_flight = None;
            record.is_queued = true;
            record.is_late = false;
            record.due = Due::Later;
            record.holder = None;
        }
    }

    /// `settle.lua`: the run ends and its result is published. Whether this was its end.
    pub(crate) fn settle(&mut self, run: RunNo, event: &Event) -> bool {
        let Some(record) = self.runs[run].as_mut() else {
            return false;
        };
        if !record.apply(event, None) {
            return false;
        }
        let of = match event {
            Event::Posted { attempt } => attempt.0,
            _ => record.attempt,
        };
        let outcome = record.outcome.unwrap();
        record.is_queued = false;
        record.is_delayed = false;
        record.holder = None;
        record.due = match record.state {
            State::Closed => Due::Never,
            _ => Due::Now,
        };
        self.results.push((run, outcome, of));
        self.results.sort_by_key(|(run, ..)| *run);
        self.see(outcome.as_str());
        true
    }

    /// `settle.lua` for an end without a result.
    pub(crate) fn end(&mut self, run: RunNo, attempt: Option<u32>, reason: ReasonCode) -> bool {
        let attempt = attempt.map(Attempt);
        self.settle(run, &Event::Ended { reason, attempt })
    }

    /// `close.lua`: no machine of the run is left.
    pub(crate) fn close(&mut self, run: RunNo, attempt: u32) {
        let Some(record) = self.runs[run].as_mut() else {
            return;
        };
        if record.attempt == attempt && record.apply(&Event::Gone, None) {
            record.in_flight = None;
            record.due = Due::Never;
            record.holder = None;
        }
    }
}
