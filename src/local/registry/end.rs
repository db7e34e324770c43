//! The ends of machines.

use crate::clock::UnixMs;
use crate::local::registry::Registry;
use crate::local::registry::life::{self, Effect, Order};

impl Registry {
    /// Removes a machine that nothing runs for any more. It can be read for a while.
    pub(crate) fn finish(&mut self, id: &str, now: UnixMs) {
        let ended = self.with(id, now, |machine, now| {
            let weight = machine.weight;
            let first_time = !machine.state.is_gone();
            if first_time {
                life::finish(machine, now);
            }
            (first_time, weight)
        });
        let Some((true, weight)) = ended else {
            return;
        };
        self.live = self.live.saturating_sub(1);
        self.config_bytes = self.config_bytes.saturating_sub(weight);
        let Some(machine) = self.machines.get(id) else {
            return;
        };
        let known = self
            .apps
            .get_mut(&machine.app)
            .is_some_and(|app| app.retire(machine));
        if known {
            self.destroyed.push_back((now, id.to_owned()));
        } else {
            // Its app was deleted before it.
            self.machines.remove(id);
        }
    }

    /// Loses a machine, as if it never was. Says which start of it has to be ended.
    pub(crate) fn forget(&mut self, id: &str) -> Option<Effect> {
        let machine = self.machines.remove(id)?;
        if !machine.state.is_gone() {
            self.live = self.live.saturating_sub(1);
            self.config_bytes = self.config_bytes.saturating_sub(machine.weight);
        }
        if let Some(app) = self.apps.get_mut(&machine.app) {
            app.retire(&machine);
            app.gone.remove(&machine.sequence);
        }
        let process = machine.process?;
        Some(Effect::Order(process.generation, Order::Kill))
    }

    /// Lets go of destroyed machines whose time is up, and of the oldest when they are too many.
    pub(super) fn reap(&mut self, now: UnixMs) {
        let retention = u64::try_from(self.rules.retention.as_millis()).unwrap_or(u64::MAX);
        while let Some((at, _)) = self.destroyed.front() {
            let over = self.destroyed.len() > self.rules.max_destroyed;
            if !over && at.saturating_add(retention) > now {
                return;
            }
            let Some((_, id)) = self.destroyed.pop_front() else {
                return;
            };
            self.forget(&id);
        }
    }
}
