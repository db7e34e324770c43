//! Everything that can happen next.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use cofferdam::run::id::Attempt;
use cofferdam::run::outcome::ReasonCode;
use cofferdam::run::phase::State;
use cofferdam::run::step::Event;
use stateright::{Model, Property};

use crate::tasks::{Boot, BootTask, Finding, Task};
use crate::world::{Call, Due, Entry, Id, Left, Owner, RunNo, WorkerNo, World};

/// How large the world is, and how much goes wrong in it.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) runs: usize,
    pub(crate) workers: usize,
    /// Boots that count, for each run.
    pub(crate) attempts: u32,
    /// Machines in flight at once.
    pub(crate) cap: usize,
    pub(crate) crashes: u8,
    pub(crate) lost_answers: u8,
    pub(crate) refusals: u8,
    pub(crate) vanishings: u8,
    pub(crate) late_calls: u8,
    pub(crate) cancels: u8,
    /// Machines may be hidden when they are new.
    pub(crate) hidden: bool,
    /// Machines may destroy themselves when their programs have ended.
    pub(crate) quick: bool,
    /// Another installation makes machines in the same app.
    pub(crate) shared: bool,
    /// Workers may be stopped for longer than their leases, between any two steps.
    pub(crate) stalls: bool,
    /// Each request comes twice.
    pub(crate) doubled: bool,
    /// Runs may not start before their time.
    pub(crate) delayed: bool,
    /// What has been come upon anywhere.
    pub(crate) seen: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Setting {
    /// Two boots for each run, room for all, and nothing goes wrong.
    pub(crate) fn plain(runs: usize, workers: usize) -> Self {
        Self {
            runs,
            workers,
            attempts: 2,
            cap: runs,
            crashes: 0,
            lost_answers: 0,
            refusals: 0,
            vanishings: 0,
            late_calls: 0,
            cancels: 0,
            hidden: false,
            quick: false,
            shared: false,
            stalls: false,
            doubled: false,
            delayed: false,
            seen: Arc::default(),
        }
    }
}

/// One step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A worker reads a request, or takes one over.
    Read(WorkerNo, Entry),
    /// A worker claims a run.
    Claim(WorkerNo, RunNo),
    /// A worker takes up what an overdue run owes.
    TakeUp(WorkerNo, RunNo),
    /// A worker takes the next step of what it has in hand.
    GoOn(WorkerNo),
    /// A worker lists the machines.
    List(WorkerNo),
    /// A worker goes after what a listing told.
    Pursue(WorkerNo, Finding),
    /// A worker waits no longer for the answer of its create call.
    GiveUp(WorkerNo),
    /// A worker dies.
    Crash(WorkerNo),
    /// The provider does what a call asks for.
    Commit {
        call: Call,
        is_hidden: bool,
        is_lost: bool,
    },
    /// The provider refuses a call.
    Refuse(Call),
    /// A call of a worker that waits no longer never arrives.
    Drop(Call),
    /// A guest posts its result.
    Post(Id),
    /// A guest's program ends.
    Exit(Id),
    /// A machine whose program has ended destroys itself.
    Destroy(Id),
    /// The other installation makes or deletes its machine.
    Theirs,
    /// The provider loses a machine.
    Vanish(Id),
    /// A hidden machine is shown.
    Show(Id),
    /// A lease ends.
    LeaseEnds(RunNo),
    /// A run's deadline passes.
    Deadline(RunNo),
    /// A run's time has come.
    Ripe(RunNo),
    /// Someone cancels a run.
    Cancel(RunNo),
}

impl Setting {
    fn idle(world: &World) -> impl Iterator<Item = WorkerNo> {
        let idle = |worker: &WorkerNo| world.hands[*worker].is_none();
        (0..world.hands.len())
            .filter(idle)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn workers_steps(&self, world: &World, actions: &mut Vec<Action>) {
        for (worker, hand) in world.hands.iter().enumerate() {
            match hand {
                None => continue,
                Some(Task::Boot(boot)) if matches!(boot.at, Boot::Waits) => {
                    if world.left.late_calls > 0 {
                        actions.push(Action::GiveUp(worker));
                    }
                }
                Some(Task::Survey { listed, running }) => {
                    let found = world.findings(listed, running);
                    if found.is_empty() {
                        actions.push(Action::GoOn(worker));
                    }
                    actions.extend(found.into_iter().map(|one| Action::Pursue(worker, one)));
                }
                Some(_) => actions.push(Action::GoOn(worker)),
            }
            if world.left.crashes > 0 {
                actions.push(Action::Crash(worker));
            }
        }
        for worker in Self::idle(world) {
            let entries: BTreeSet<Entry> = world.entries.iter().copied().collect();
            // What another has just read is its own until it dies or is stopped.
            let free = entries.into_iter().filter(|entry| match entry {
                Entry::New(_) => true,
                Entry::Pending(run) => {
                    self.stalls || !world.hands.contains(&Some(Task::Admit(*run)))
                }
            });
            actions.extend(free.map(|entry| Action::Read(worker, entry)));
            for (run, record) in world.runs.iter().enumerate() {
                let Some(record) = record else { continue };
                if record.is_queued && world.in_flight() < self.cap {
                    actions.push(Action::Claim(worker, run));
                }
                if record.due == Due::Now {
                    actions.push(Action::TakeUp(worker, run));
                }
            }
            if !world.findings(&listing(world), &running(world)).is_empty() {
                actions.push(Action::List(worker));
            }
        }
    }

    fn providers_steps(&self, world: &World, actions: &mut Vec<Action>) {
        for &call in &world.calls {
            for is_hidden in [false, true] {
                for is_lost in [false, true] {
                    let may_hide = self.hidden || !is_hidden;
                    let may_lose = !is_lost || (world.left.lost_answers > 0 && !call.is_late);
                    if may_hide && may_lose {
                        actions.push(Action::Commit {
                            call,
                            is_hidden,
                            is_lost,
                        });
                    }
                }
            }
            if call.is_late {
                actions.push(Action::Drop(call));
            } else if world.left.refusals > 0 {
                actions.push(Action::Refuse(call));
            }
        }
        if self.shared {
            actions.push(Action::Theirs);
        }
        let ours = world.machines.iter();
        for machine in ours.filter(|machine| machine.id.of == Owner::Us) {
            if self.quick && machine.is_over && !machine.is_gone {
                actions.push(Action::Destroy(machine.id));
            }
            if !machine.is_over {
                actions.push(Action::Post(machine.id));
                actions.push(Action::Exit(machine.id));
            }
            if machine.is_hidden {
                actions.push(Action::Show(machine.id));
            }
            if world.left.vanishings > 0 && !machine.is_gone {
                actions.push(Action::Vanish(machine.id));
            }
        }
    }

    fn times_steps(&self, world: &World, actions: &mut Vec<Action>) {
        for (run, record) in world.runs.iter().enumerate() {
            let Some(record) = record else { continue };
            let is_alive = record
                .holder
                .is_some_and(|holder| world.works_for(holder, run));
            // A lease that is renewed does not end; and it ends later than a call that was sent.
            let may_end = self.stalls || !(is_alive || world.may_come(run, record.attempt));
            let is_leased = matches!(record.state, State::Booting | State::Settled);
            if is_leased && record.due == Due::Later && may_end {
                actions.push(Action::LeaseEnds(run));
            }
            if matches!(record.state, State::Booting | State::Running) && !record.is_late {
                actions.push(Action::Deadline(run));
            }
            if record.is_delayed {
                actions.push(Action::Ripe(run));
            }
            if world.left.cancels > 0 {
                actions.push(Action::Cancel(run));
            }
        }
    }

    fn act(&self, world: &mut World, action: Action) -> bool {
        match action {
            Action::Read(worker, entry) => {
                let place = world.entries.iter().position(|one| *one == entry).unwrap();
                let (Entry::New(run) | Entry::Pending(run)) = entry;
                world.entries[place] = Entry::Pending(run);
                world.entries.sort_unstable();
                world.hands[worker] = Some(Task::Admit(run));
            }
            Action::Claim(worker, run) => {
                let Some(attempt) = world.claim(run, worker) else {
                    return false;
                };
                let at = Boot::Begins;
                world.hands[worker] = Some(Task::Boot(BootTask { run, attempt, at }));
                let waiting = world.runs.iter().flatten();
                if waiting.filter(|record| record.is_queued).count() > 0
                    && world.in_flight() >= self.cap
                {
                    world.see("a run waited for room");
                }
            }
            Action::TakeUp(worker, run) => world.take_up(worker, run),
            Action::GoOn(worker) => return world.go_on(worker, self),
            Action::List(worker) => {
                let (listed, running) = (listing(world), running(world));
                world.hands[worker] = Some(Task::Survey { listed, running });
            }
            Action::Pursue(worker, finding) => world.pursue(worker, finding),
            Action::GiveUp(worker) => {
                world.left.late_calls -= 1;
                world.desert(worker);
                if let Some(Task::Boot(boot)) = &mut world.hands[worker] {
                    boot.at = Boot::LooksUp;
                }
            }
            Action::Crash(worker) => {
                world.left.crashes -= 1;
                world.see("a worker died");
                world.desert(worker);
                world.hands[worker] = None;
                world.noted[worker].clear();
            }
            Action::Commit {
                call,
                is_hidden,
                is_lost,
            } => {
                world.left.lost_answers -= u8::from(is_lost);
                world.commit(call, is_hidden, is_lost);
            }
            Action::Refuse(call) => {
                world.left.refusals -= 1;
                world.calls.remove(&call);
                if let Some(Task::Boot(boot)) = &mut world.hands[call.worker] {
                    boot.at = Boot::Defers;
                }
            }
            Action::Drop(call) => {
                world.calls.remove(&call);
            }
            Action::Post(id) => {
                return world.settle(
                    id.run,
                    &Event::Posted {
                        attempt: Attempt(id.attempt),
                    },
                );
            }
            Action::Exit(id) => world.change(id, |machine| machine.is_over = true),
            Action::Show(id) => world.change(id, |machine| machine.is_hidden = false),
            Action::Destroy(id) => world.change(id, |machine| machine.is_gone = true),
            Action::Theirs => world.theirs(),
            Action::Vanish(id) => {
                world.left.vanishings -= 1;
                world.delete(id);
            }
            Action::LeaseEnds(run) => {
                let record = world.runs[run].as_mut().unwrap();
                record.due = Due::Now;
                record.holder = None;
            }
            Action::Deadline(run) => {
                let record = world.runs[run].as_mut().unwrap();
                record.is_late = true;
                if record.state == State::Running {
                    record.due = Due::Now;
                }
            }
            Action::Ripe(run) => {
                let record = world.runs[run].as_mut().unwrap();
                record.is_delayed = false;
                record.is_queued = true;
            }
            Action::Cancel(run) => {
                world.left.cancels -= 1;
                return world.end(run, None, ReasonCode::Cancelled);
            }
        }
        true
    }
}

/// The machines as the provider lists them.
fn listing(world: &World) -> Vec<crate::world::Machine> {
    let shown = world
        .machines
        .iter()
        .filter(|machine| !machine.is_hidden && !machine.is_gone);
    shown.copied().collect()
}

/// The runs that are running.
fn running(world: &World) -> Vec<(RunNo, u32)> {
    let records = world.runs.iter().enumerate();
    let known = records.filter_map(|(run, record)| Some((run, record.as_ref()?)));
    let running = known.filter(|(_, record)| record.state == State::Running);
    running.map(|(run, record)| (run, record.attempt)).collect()
}

impl World {
    /// Nobody waits any more for the answers of this worker's calls.
    fn desert(&mut self, worker: WorkerNo) {
        let calls = std::mem::take(&mut self.calls);
        self.calls = calls
            .into_iter()
            .map(|call| Call {
                is_late: call.is_late || call.worker == worker,
                ..call
            })
            .collect();
    }

    fn change(&mut self, id: Id, change: impl Fn(&mut crate::world::Machine)) {
        let machines = std::mem::take(&mut self.machines);
        self.machines = machines
            .into_iter()
            .map(|mut machine| {
                if machine.id == id {
                    change(&mut machine);
                }
                machine
            })
            .collect();
    }
}

impl Model for Setting {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let copies = if self.doubled { 2 } else { 1 };
        let mut entries: Vec<Entry> = (0..self.runs)
            .flat_map(|run| vec![Entry::New(run); copies])
            .collect();
        entries.sort_unstable();
        vec![World {
            entries,
            runs: vec![None; self.runs],
            results: Vec::new(),
            hands: vec![None; self.workers],
            noted: vec![BTreeSet::new(); self.workers],
            machines: BTreeSet::new(),
            made: BTreeSet::new(),
            calls: BTreeSet::new(),
            theirs: false,
            left: Left {
                crashes: self.crashes,
                lost_answers: self.lost_answers,
                refusals: self.refusals,
                vanishings: self.vanishings,
                late_calls: self.late_calls,
                cancels: self.cancels,
            },
            seen: Vec::new(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.workers_steps(world, actions);
        self.providers_steps(world, actions);
        self.times_steps(world, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let is_change = self.act(&mut next, action);
        if !next.seen.is_empty() {
            self.seen.lock().unwrap().extend(next.seen.drain(..));
        }
        is_change.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::check::properties()
    }
}
