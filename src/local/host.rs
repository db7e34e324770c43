//! The machines of this computer: the registry, the processes behind it, and what ties them.
//!
//! Every change goes through here: the registry changes under its lock, the lock is given back,
//! and what the registry asks for is carried out. One task for each start of a machine
//! ([`keeper`]) reports back what it sees.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cofferdam_images::Store;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::{Clock, UnixMs};
use crate::local::faults::rule::{MachineFault, StuckIn};
use crate::local::keeper;
use crate::local::logs::Logs;
use crate::local::refusal::Refusal;
use crate::local::registry::life::{Effect, Observation, Order};
use crate::local::registry::machine::MachineRecord;
use crate::local::registry::view::Reply;
use crate::local::registry::{Done, Registry};
use crate::local::relay::Relay;
use crate::local::runner::{Handle, Runner};
use crate::local::waits::{self, Hub, Target, WaitQuery, WaitStatus};
use crate::machines::wire::{MachineState, WaitAnswer};
use crate::shutdown::Shutdown;

/// Orders that a process has not looked at yet.
const ORDERS_WAITING: usize = 32;
/// How long the answer to a delete waits for the machine's processes.
const DESTROYING_MAX: Duration = Duration::from_secs(2);

/// The machines of this computer. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    processes: Mutex<HashMap<String, Process>>,
    parts: Parts,
    waits: Hub,
}

/// What the machines depend on.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What runs them.
    pub(crate) runner: Runner,
    /// What they start from.
    pub(crate) images: Arc<Store>,
    /// What they write.
    pub(crate) logs: Logs,
    /// What they reach.
    pub(crate) relay: Option<Relay>,
    /// Tells the time.
    pub(crate) clock: Clock,
    /// Ends them.
    pub(crate) shutdown: Shutdown,
}

/// The channel to the task that supervises a process.
#[derive(Debug)]
struct Process {
    generation: u64,
    orders: mpsc::Sender<Order>,
    kill: CancellationToken,
    handle: Option<Handle>,
}

impl Host {
    /// The machines of `registry`, on top of `parts`.
    pub(crate) fn new(registry: Registry, parts: Parts) -> Self {
        Self(Arc::new(Inner {
            registry: Mutex::new(registry),
            processes: Mutex::default(),
            parts,
            waits: Hub::default(),
        }))
    }

    /// What the machines depend on.
    pub(crate) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// The time.
    pub(crate) fn now(&self) -> UnixMs {
        self.0.parts.clock.now_ms()
    }

    /// Reads the registry under its lock.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        read(&self.registry())
    }

    /// Changes something, and carries out what follows.
    ///
    /// # Errors
    /// What the change itself is refused with; then nothing was changed.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut Registry, UnixMs) -> Result<Done, Refusal>,
    ) -> Result<Reply, Refusal> {
        let now = self.now();
        let done = change(&mut self.registry(), now)?;
        for (id, effect) in done.touched {
            self.carry_out(&id, effect);
        }
        Ok(done.reply)
    }

    /// Takes in what a keeper saw, and gives the machine as it is then. `None` when the keeper is
    /// no longer the machine's own.
    pub(crate) fn observe(
        &self,
        id: &str,
        generation: u64,
        seen: Observation,
    ) -> Option<Arc<MachineRecord>> {
        let now = self.now();
        let mut registry = self.registry();
        let effect = registry.observe(id, generation, seen, now)?;
        let machine = registry.by_id(id).map(Arc::clone)?;
        drop(registry);
        debug!(machine_id = id, state = %machine.state, "machine changed");
        self.carry_out(id, effect);
        Some(machine)
    }

    /// Injects a fault into an existing machine.
    pub(crate) fn inject(&self, id: &str, fault: &MachineFault) {
        let now = self.now();
        if *fault == MachineFault::Forget {
            let effect = self.registry().forget(id);
            self.carry_out(id, effect);
            self.parts().logs.retire(id);
            return;
        }
        self.registry().inject(id, fault, now);
    }

    /// Makes what runs a machine reachable for orders and execs.
    pub(crate) fn attach(&self, id: &str, generation: u64, handle: Handle) {
        if let Some(process) = self.processes().get_mut(id)
            && process.generation == generation
        {
            process.handle = Some(handle);
        }
    }

    /// Forgets what ran a machine.
    pub(crate) fn detach(&self, id: &str, generation: u64) {
        let mut processes = self.processes();
        if processes
            .get(id)
            .is_some_and(|process| process.generation == generation)
        {
            processes.remove(id);
        }
    }

    /// What runs a started machine.
    ///
    /// # Errors
    /// 404 without the machine, 412 when it does not run.
    pub(crate) fn running(&self, app: &str, id: &str) -> Result<Handle, Refusal> {
        let now = self.now();
        let machine = self.read(|registry| registry.read(app, id, now))?;
        let handle = self
            .processes()
            .get(id)
            .and_then(|process| process.handle.clone());
        match handle {
            Some(handle) if machine.state == MachineState::Started => Ok(handle),
            _ => Err(Refusal::precondition(format!(
                "machine is not running, currently '{}'",
                machine.state
            ))),
        }
    }

    /// Waits until a machine reaches a state.
    ///
    /// # Errors
    /// 404 when it is not there or is gone, 408 when the time is up, 503 when the server ends.
    pub(crate) async fn wait(
        &self,
        app: &str,
        id: &str,
        query: &WaitQuery,
    ) -> Result<WaitAnswer, Refusal> {
        let deadline = Instant::now() + query.timeout;
        let mut changes = self.0.waits.subscribe(id);
        let mut since = None;
        let outcome = loop {
            let now = self.now();
            let machine = match self.read(|registry| registry.read(app, id, now)) {
                Ok(machine) => machine,
                Err(refusal) => break Err(refusal),
            };
            let since = since.get_or_insert_with(|| machine.last_event_id().to_owned());
            match waits::check(&machine, query, since) {
                WaitStatus::Reached(answer) => break Ok(answer),
                WaitStatus::Gone => break Err(Refusal::no_machine()),
                WaitStatus::Replaced => break Err(waits::timed_out(query, "replaced")),
                WaitStatus::NotYet => {}
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    break Err(waits::timed_out(query, machine.state.as_str()));
                }
                () = self.parts().shutdown.quiet().cancelled() => break Err(Refusal::ending()),
            }
        };
        self.0.waits.leave(id, changes);
        outcome
    }

    /// Waits until the processes of a deleted machine have ended, as far as that takes no longer
    /// than [`DESTROYING_MAX`]: a client that was told so may create another in its place.
    pub(crate) async fn await_destroyed(&self, app: &str, id: &str) {
        let stick = self.read(|registry| registry.by_id(id)?.injected.stick);
        if matches!(stick, Some((StuckIn::Destroying, _))) {
            return;
        }
        let query = WaitQuery {
            targets: vec![Target::State(MachineState::Destroyed)],
            timeout: DESTROYING_MAX,
            version: None,
            from_event_id: None,
        };
        let _ = self.wait(app, id, &query).await;
    }

    /// Ends every process, because the server ends. None is started from then on.
    pub(crate) fn end_all(&self) {
        for process in self.processes().values() {
            process.kill.cancel();
        }
    }

    /// Carries out what the registry asks for, and wakes those who wait for the machine.
    fn carry_out(&self, id: &str, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Launch {
                generation,
                pause,
                prepare_only,
            }) => self.launch(id, generation, pause, prepare_only),
            Some(Effect::Order(generation, order)) => self.order(id, generation, order),
            Some(Effect::Finish) => self.finish(id),
        }
        self.0.waits.notify(id);
    }

    fn launch(&self, id: &str, generation: u64, pause: Duration, prepare_only: bool) {
        if self.parts().shutdown.quiet().is_cancelled() {
            return;
        }
        let (orders, waiting) = mpsc::channel(ORDERS_WAITING);
        let kill = CancellationToken::new();
        let process = Process {
            generation,
            orders,
            kill: kill.clone(),
            handle: None,
        };
        self.processes().insert(id.to_owned(), process);
        let start = keeper::Start {
            id: id.to_owned(),
            generation,
            pause,
            prepare_only,
            orders: waiting,
            kill: kill.clone(),
        };
        self.parts()
            .shutdown
            .spawn(keeper::keep(self.clone(), start));
        // The shutdown may have begun between the check above and the insertion.
        if self.parts().shutdown.quiet().is_cancelled() {
            kill.cancel();
        }
    }

    fn order(&self, id: &str, generation: u64, order: Order) {
        let processes = self.processes();
        let Some(process) = processes.get(id).filter(|p| p.generation == generation) else {
            // It has ended, or has not begun and will see what is asked of the machine.
            return;
        };
        if order == Order::Kill {
            process.kill.cancel();
        } else if process.orders.try_send(order).is_err() {
            warn!(
                machine_id = id,
                "an order was dropped: too many wait already"
            );
        }
    }

    /// Removes a machine that nothing runs for any more, unless a fault keeps it.
    fn finish(&self, id: &str) {
        let stick = self.read(|registry| registry.by_id(id).and_then(|m| m.injected.stick));
        match stick {
            Some((StuckIn::Destroying, None)) => {}
            Some((StuckIn::Destroying, Some(length))) => {
                let (host, id) = (self.clone(), id.to_owned());
                self.parts().shutdown.spawn(async move {
                    let quiet = host.parts().shutdown.quiet();
                    let _ = quiet.run_until_cancelled(tokio::time::sleep(length)).await;
                    host.destroyed(&id);
                });
            }
            _ => self.destroyed(id),
        }
    }

    fn destroyed(&self, id: &str) {
        let now = self.now();
        self.registry().finish(id, now);
        self.parts().logs.retire(id);
        self.0.waits.notify(id);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // The registry's own invariants are checked where it is read; a panic in one call does not
        // take all other machines with it.
        self.0
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<String, Process>> {
        self.0
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
