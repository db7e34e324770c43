//! What the host and its keepers share: the registry under its lock, the orders for each process,
//! and the calls that wait. Nothing here starts anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_images::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::{Clock, UnixMs};
use crate::local::action::MachineAction;
use crate::local::logs::Logs;
use crate::local::registry::Registry;
use crate::local::registry::life::{Effect, Observation, Order};
use crate::local::registry::machine::MachineRecord;
use crate::local::relay::Relay;
use crate::local::runner::{Handle, Runner};
use crate::local::waits::Hub;
use crate::shutdown::Shutdown;

/// Orders that a keeper has not taken yet.
const ORDERS_WAITING: usize = 32;

/// The machines of this computer, as a keeper sees them. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    processes: Mutex<HashMap<String, ProcessControl>>,
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

/// How one start of a machine is controlled from outside its keeper.
#[derive(Debug)]
struct ProcessControl {
    generation: u64,
    orders: mpsc::Sender<Order>,
    kill: CancellationToken,
    handle: Option<Handle>,
}

impl Shared {
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

    /// Wakes the calls that wait for a machine.
    pub(crate) fn waits(&self) -> &Hub {
        &self.0.waits
    }

    /// The time.
    pub(crate) fn now(&self) -> UnixMs {
        self.0.parts.clock.now_ms()
    }

    /// Reads the registry under its lock.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        read(&self.registry())
    }

    /// The registry, locked.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // The registry's own invariants are checked where it is read; a panic in one call does not
        // take all other machines with it.
        self.0
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a machine as deleted, whose program its keeper then kills. A lease on it, or a host that
    /// does not answer, refuses that; the program is killed all the same.
    pub(crate) fn delete(&self, app: &str, id: &str) {
        let delete = MachineAction::Delete { force: true };
        let _ = self.registry().apply(app, id, None, delete, self.now());
        self.0.waits.notify(id);
    }

    /// Takes in what was observed of a machine. Returns the machine as it is then, and what is to
    /// be done; `None` when the report is of an earlier start.
    pub(crate) fn observe(
        &self,
        id: &str,
        generation: u64,
        seen: Observation,
    ) -> Option<(Arc<MachineRecord>, Option<Effect>)> {
        let now = self.now();
        let mut registry = self.registry();
        let effect = registry.observe(id, generation, seen, now)?;
        let machine = registry.by_id(id).map(Arc::clone)?;
        drop(registry);
        debug!(machine_id = id, state = %machine.state, "machine changed");
        self.0.waits.notify(id);
        Some((machine, effect))
    }

    /// Registers a start that is about to be made: what it receives orders by, and what kills it.
    pub(crate) fn register(
        &self,
        id: &str,
        generation: u64,
    ) -> (mpsc::Receiver<Order>, CancellationToken) {
        let (orders, waiting) = mpsc::channel(ORDERS_WAITING);
        let kill = CancellationToken::new();
        let control = ProcessControl {
            generation,
            orders,
            kill: kill.clone(),
            handle: None,
        };
        self.processes().insert(id.to_owned(), control);
        (waiting, kill)
    }

    /// Makes a running program reachable for orders and execs.
    pub(crate) fn attach(&self, id: &str, generation: u64, handle: Handle) {
        if let Some(process) = self.processes().get_mut(id)
            && process.generation == generation
        {
            process.handle = Some(handle);
        }
    }

    /// Removes a start that is over.
    pub(crate) fn detach(&self, id: &str, generation: u64) {
        let mut processes = self.processes();
        if processes
            .get(id)
            .is_some_and(|process| process.generation == generation)
        {
            processes.remove(id);
        }
    }

    /// The running program of a machine.
    pub(crate) fn handle(&self, id: &str) -> Option<Handle> {
        self.processes().get(id)?.handle.clone()
    }

    /// Passes an order to the keeper of a start.
    pub(crate) fn order(&self, id: &str, generation: u64, order: Order) {
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

    /// Ends every process, because the server ends.
    pub(crate) fn kill_all(&self) {
        for process in self.processes().values() {
            process.kill.cancel();
        }
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<String, ProcessControl>> {
        self.0
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
