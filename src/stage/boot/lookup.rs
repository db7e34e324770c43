//! Whether a machine of this attempt is there or has been: asked before a create call is repeated.

use tracing::info;

use crate::machines::{self, wire};
use crate::milestone::milestone;
use crate::run::phase::State;
use crate::stage::boot::{Boot, Booted};
use crate::stage::observe::observe;
use crate::stage::{Error, spec};

impl Boot<'_> {
    /// Looks for the machine of this attempt among those that the provider still lists, the
    /// destroyed ones included: a guest can be quicker than this look.
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

    /// A look-up has found the machine. One that is over has run its program, and is judged as any
    /// machine that has ended; this attempt never makes another.
    pub(super) async fn found(&self, machine: &wire::MachineBrief) -> Result<Booted, Error> {
        let booted = self.arrived(machine).await?;
        if booted != Booted::Running || !machine.state.is_over() {
            return Ok(booted);
        }
        info!(
            run_id = self.run.id.as_str(),
            machine_id = machine.id,
            "its machine has ended before it was found"
        );
        let view = self.deps.core.store.record(&self.run.id).await?;
        milestone!("boot::found_ended");
        if let Some(view) = view {
            observe(self.deps, &view, None).await?;
        }
        Ok(booted)
    }

    /// Whether the run still waits for this boot. A machine that was made for it before, and was not
    /// found, may have brought its result; or it was cancelled meanwhile.
    pub(super) async fn is_wanted(&self) -> Result<bool, Error> {
        let view = self.deps.core.store.record(&self.run.id).await?;
        milestone!("boot::wanted");
        Ok(view.is_some_and(|view| {
            let is_this = view.attempt == self.run.attempt.0 && view.nonce == self.run.nonce;
            is_this && view.phase().state() == State::Booting
        }))
    }
}
