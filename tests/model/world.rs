//! What there is: in Redis, in the workers' hands, at the provider.

use std::collections::BTreeSet;

use cofferdam::run::outcome::Outcome;
use cofferdam::run::phase::State;

use crate::tasks::Task;

/// A run, by its place in the list.
pub(crate) type RunNo = usize;
/// A worker, by its place in the list.
pub(crate) type WorkerNo = usize;

/// Whose a machine is: its name tells, since the nonce of the request is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    Us,
    /// Another installation in the same app, which has a run of the same id.
    Them,
}

/// A machine as the provider numbers it. Its name is that of the run and the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) run: RunNo,
    pub(crate) attempt: u32,
    /// How many of that name there were before.
    pub(crate) nth: u8,
    pub(crate) of: Owner,
}

impl Id {
    /// Whether it is called as our machine of that attempt is.
    pub(crate) fn has_name(&self, run: RunNo, attempt: u32) -> bool {
        (self.run, self.attempt, self.of) == (run, attempt, Owner::Us)
    }
}

/// A machine that nobody has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Machine {
    pub(crate) id: Id,
    /// Its program has ended.
    pub(crate) is_over: bool,
    /// It has destroyed itself after that: its name is free, and only who asks for destroyed ones
    /// is shown it.
    pub(crate) is_gone: bool,
    /// Neither listed nor found yet.
    pub(crate) is_hidden: bool,
}

/// A create call that the provider has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) worker: WorkerNo,
    pub(crate) run: RunNo,
    pub(crate) attempt: u32,
    /// Nobody waits for the answer any more.
    pub(crate) is_late: bool,
}

/// When somebody must look at a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Due {
    /// At once.
    Now,
    /// When a lease ends or a deadline passes.
    Later,
    /// Never.
    Never,
}

/// A run's hash and its places in the indexes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) state: State,
    pub(crate) attempt: u32,
    pub(crate) deferred: u32,
    pub(crate) machine: Option<Id>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) due: Due,
    /// Its place in `inflight`: the attempt that may have a machine.
    pub(crate) in_flight: Option<u32>,
    pub(crate) is_queued: bool,
    pub(crate) is_delayed: bool,
    /// Its deadline has passed.
    pub(crate) is_late: bool,
    /// Who has the lease.
    pub(crate) holder: Option<WorkerNo>,
}

/// A request on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// Not read.
    New(RunNo),
    /// Read by a worker and not acknowledged.
    Pending(RunNo),
}

/// What an adversary may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) crashes: u8,
    pub(crate) lost_answers: u8,
    pub(crate) refusals: u8,
    pub(crate) vanishings: u8,
    pub(crate) late_calls: u8,
    pub(crate) cancels: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) entries: Vec<Entry>,
    pub(crate) runs: Vec<Option<Record>>,
    /// Results that were published: of which run, how it ended, and at which attempt.
    pub(crate) results: Vec<(RunNo, Outcome, u32)>,
    pub(crate) hands: Vec<Option<Task>>,
    /// Orphans that a worker has noted.
    pub(crate) noted: Vec<BTreeSet<Id>>,
    pub(crate) machines: BTreeSet<Machine>,
    /// How many machines each name had.
    pub(crate) made: BTreeSet<Id>,
    pub(crate) calls: BTreeSet<Call>,
    /// Whether the other installation has made its machine, and not deleted it.
    pub(crate) theirs: bool,
    pub(crate) left: Left,
    /// What the last step came upon. Taken out of it before anybody compares worlds.
    pub(crate) seen: Vec<&'static str>,
}

impl World {
    /// What is in flight, all together.
    pub(crate) fn in_flight(&self) -> usize {
        let records = self.runs.iter().flatten();
        records.filter(|record| record.in_flight.is_some()).count()
    }

    /// A machine of this name that the provider shows: one that is destroyed if there is no other.
    pub(crate) fn find(&self, run: RunNo, attempt: u32) -> Option<Machine> {
        let named = self.machines.iter().copied();
        named
            .filter(|machine| machine.id.has_name(run, attempt) && !machine.is_hidden)
            .min_by_key(|machine| machine.is_gone)
    }

    /// The machine, if the provider shows it.
    pub(crate) fn get(&self, id: Id) -> Option<Machine> {
        let mut found = self.machines.iter().copied();
        found.find(|machine| machine.id == id && !machine.is_hidden)
    }

    /// Whether anybody's machine this is, as the listing and the runs in flight tell.
    pub(crate) fn is_owned(&self, id: Id) -> bool {
        let record = self.runs[id.run].as_ref();
        id.of == Owner::Us && record.is_some_and(|record| record.in_flight == Some(id.attempt))
    }

    /// Our machines that are not destroyed.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Machine> {
        let machines = self.machines.iter();
        machines.filter(|machine| machine.id.of == Owner::Us && !machine.is_gone)
    }

    /// Nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        let closed = |record: &Option<Record>| {
            record
                .as_ref()
                .is_some_and(|record| record.state == State::Closed)
        };
        self.entries.is_empty()
            && self.runs.iter().all(closed)
            && self.hands.iter().all(Option::is_none)
            && self.ours().next().is_none()
            && self.calls.is_empty()
    }

    /// Notes that something happened.
    pub(crate) fn see(&mut self, what: &'static str) {
        self.seen.push(what);
    }
}
