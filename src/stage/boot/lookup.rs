//! Whether a machine of this attempt exists or has existed, asked before a create call is repeated.

use tracing::info;

use crate::machines::{self, wire};
use crate::milestone::milestone;
use crate::run::phase::State;
use crate::stage::boot::{Boot, Booted};
use crate::stage::observe::observe;
use crate::stage::{Error, spec};

impl Boot<'_> {
    /// Looks for the machine of this attempt in the provider's list, destroyed machines included,
    /// since its program may have ended already.
    pub(super) async fn look_up(&self) -> Result<Option<wire::MachineBrief>, machines::Error> {
        let filter = machines::ListFilter {
            include_deleted: true,
            ..spec::machines_of(&self.run.id)
        };
        let machines = &self.deps.machines;
        let found = machines
            .find_by_name(&self.run.app, &self.name, &filter)
            .await;
        milestone!("boot::looked_up");
        found
    }

    /// A look-up has found the machine. One that has stopped has run its program, and is judged like
    /// any machine that has stopped; this attempt never creates another.
    pub(super) async fn found(&self, machine: &wire::MachineBrief) -> Result<Booted, Error> {
        let booted = self.record_machine(machine).await?;
        if booted != Booted::Running || !machine.state.is_over() {
            return Ok(booted);
        }
        info!(
            run_id = self.run.id.as_str(),
            machine_id = machine.id,
            "its machine had stopped before it was found"
        );
        let view = self.deps.core.store.record(&self.run.id).await?;
        milestone!("boot::found_stopped");
        if let Some(view) = view {
            observe(self.deps, &view, None).await?;
        }
        Ok(booted)
    }

    /// Whether the run still waits for this boot. A machine that an earlier call created may have
    /// posted the result, or the run was cancelled.
    pub(super) async fn is_still_booting(&self) -> Result<bool, Error> {
        let view = self.deps.core.store.record(&self.run.id).await?;
        milestone!("boot::read_again");
        Ok(view.is_some_and(|view| {
            let is_this = view.attempt == self.run.attempt.0 && view.nonce == self.run.nonce;
            is_this && view.phase().state() == State::Booting
        }))
    }
}
