//! Apps and machines as values: requests and observations in, answers and effects out.
//!
//! There is no I/O, no waiting and no clock here. Every method takes the time, does what it does
//! at once, and returns the effects to be carried out. A machine is behind an [`Arc`], so that
//! a reader takes a pointer under the lock and does the rest without it.
//!
//! - [`machine`]: what is known of one machine; [`life`]: what happens to it; [`exits`]: how its
//!   end is told.
//! - [`apps`], [`list`], [`lease`], [`metadata`]: the other calls.
//! - [`view`]: how the API shows it all.

mod apps;
mod change;
pub(crate) mod create;
mod end;
mod exits;
mod lease;
pub(crate) mod life;
pub(crate) mod list;
pub(crate) mod machine;
mod metadata;
#[cfg(test)]
mod tests;
mod update;
pub(crate) mod view;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::UnixMs;
use crate::local::faults::rule::MachineFault;
use crate::local::ids::Ids;
use crate::local::refusal::Refusal;
use crate::local::registry::apps::App;
use crate::local::registry::life::{Effect, Now, Observation};
use crate::local::registry::machine::MachineRecord;
use crate::local::registry::view::Reply;
use crate::machines::wire::{HostStatus, MachineConfig};

/// What the registry is told once.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The organisation that apps belong to when nobody names one.
    pub(crate) org: String,
    /// Machines at once that are not destroyed.
    pub(crate) max_machines: usize,
    /// Apps at once.
    pub(crate) max_apps: usize,
    /// Bytes that the configurations of all machines may take together.
    pub(crate) max_config_bytes: usize,
    /// How long a destroyed machine can be read.
    pub(crate) retention: Duration,
    /// Destroyed machines kept at once.
    pub(crate) max_destroyed: usize,
    /// Metadata that every machine carries: what isolates it and what limits it.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Apps and machines.
#[derive(Debug)]
pub(crate) struct Registry {
    rules: Rules,
    ids: Ids,
    apps: BTreeMap<String, App>,
    machines: HashMap<String, Arc<MachineRecord>>,
    /// Destroyed machines, the oldest first, with the time of their end.
    destroyed: VecDeque<(UnixMs, String)>,
    live: usize,
    /// The most that were live at once.
    most_live: usize,
    config_bytes: usize,
    sequence: u64,
    generation: u64,
}

/// The machines there are, as those count them who test what a server is asked to do.
#[derive(Debug, Serialize)]
pub(crate) struct Live {
    /// Their names.
    names: Vec<String>,
    /// The most that there were at once since the server opened.
    most: usize,
}

/// What came of a request: the answer, and what is to be done.
#[derive(Debug)]
pub(crate) struct Done {
    /// The answer.
    pub(crate) reply: Reply,
    /// What is to be done, for which machine. A machine that only changed is listed too.
    pub(crate) touched: Vec<(String, Option<Effect>)>,
}

impl Done {
    fn only(reply: Reply) -> Self {
        Self {
            reply,
            touched: Vec::new(),
        }
    }
}

impl Registry {
    /// An empty registry.
    pub(crate) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            ids: Ids::seeded(seed),
            apps: BTreeMap::new(),
            machines: HashMap::new(),
            destroyed: VecDeque::new(),
            live: 0,
            most_live: 0,
            config_bytes: 0,
            sequence: 0,
            generation: 0,
        }
    }

    /// A machine as readers see it.
    ///
    /// # Errors
    /// 404 when it is not there, not there any more, or not to be seen yet.
    pub(crate) fn read(
        &self,
        app: &str,
        id: &str,
        now: UnixMs,
    ) -> Result<Arc<MachineRecord>, Refusal> {
        self.find(app, id)
            .filter(|machine| machine.is_visible(now) && !self.is_expired(machine, now))
            .map(Arc::clone)
            .ok_or_else(Refusal::no_machine)
    }

    /// A machine, whether readers see it or not.
    pub(crate) fn find(&self, app: &str, id: &str) -> Option<&Arc<MachineRecord>> {
        self.machines.get(id).filter(|machine| machine.app == app)
    }

    /// A machine by its id alone.
    pub(crate) fn by_id(&self, id: &str) -> Option<&Arc<MachineRecord>> {
        self.machines.get(id)
    }

    /// Every machine that is not destroyed, whether readers see it or not.
    pub(crate) fn live(&self) -> Live {
        let alive = self.machines.values();
        let alive = alive.filter(|machine| !machine.state.is_gone());
        Live {
            names: alive.map(|machine| machine.name.clone()).collect(),
            most: self.most_live,
        }
    }

    /// Takes in what was seen of a machine's process. `None` for a report that came too late.
    pub(crate) fn observe(
        &mut self,
        id: &str,
        generation: u64,
        seen: Observation,
        now: UnixMs,
    ) -> Option<Option<Effect>> {
        self.with(id, now, |machine, now| {
            life::observe(machine, generation, seen, now)
        })?
    }

    /// Injects a fault into an existing machine.
    pub(crate) fn inject(&mut self, id: &str, fault: &MachineFault, now: UnixMs) {
        if let Some(machine) = self.machines.get_mut(id) {
            Arc::make_mut(machine).injected.add(fault, now);
        }
    }

    /// Changes one machine in place.
    fn with<T>(
        &mut self,
        id: &str,
        now: UnixMs,
        change: impl FnOnce(&mut MachineRecord, &mut Now<'_>) -> T,
    ) -> Option<T> {
        let machine = Arc::make_mut(self.machines.get_mut(id)?);
        let mut now = Now {
            ms: now,
            ids: &mut self.ids,
            generation: &mut self.generation,
        };
        Some(change(machine, &mut now))
    }

    fn now(&mut self, ms: UnixMs) -> Now<'_> {
        Now {
            ms,
            ids: &mut self.ids,
            generation: &mut self.generation,
        }
    }

    fn labelled(&self, config: &MachineConfig) -> BTreeMap<String, String> {
        let mut metadata = config.metadata.clone();
        metadata.extend(self.rules.labels.clone());
        metadata
    }

    fn is_expired(&self, machine: &MachineRecord, now: UnixMs) -> bool {
        let retention = u64::try_from(self.rules.retention.as_millis()).unwrap_or(u64::MAX);
        machine.state.is_gone() && machine.updated_ms.saturating_add(retention) <= now
    }
}

/// A machine whose host does not answer cannot be changed; the API gives up after a while.
fn reachable(machine: &MachineRecord) -> Result<(), Refusal> {
    match view::host_status(machine) {
        HostStatus::Ok => Ok(()),
        _ => Err(Refusal::new(
            408,
            "deadline_exceeded: the machine's host did not answer in time",
        )),
    }
}
