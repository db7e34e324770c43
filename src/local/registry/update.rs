//! New configurations for machines that are there.

use std::sync::Arc;

use crate::clock::UnixMs;
use crate::local::image::Image;
use crate::local::refusal::Refusal;
use crate::local::registry::create::shown_image;
use crate::local::registry::life;
use crate::local::registry::machine::MachineRecord;
use crate::local::registry::view::{Reply, Shown};
use crate::local::registry::{Done, Registry, lease, reachable};
use crate::machines::wire::{MachineState, UpdateMachine};

impl Registry {
    /// Gives a machine a new configuration.
    ///
    /// # Errors
    /// 404, 409 for a version that is not current, a name that is taken or a lease that is held,
    /// 412 for a machine that is on its way out.
    pub(crate) fn update(
        &mut self,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        request: UpdateMachine,
        (image, weight): (Arc<Image>, usize),
        now: UnixMs,
    ) -> Result<Done, Refusal> {
        let machine = self.find(app, id).ok_or_else(Refusal::no_machine)?;
        lease::guard(machine, nonce, now)?;
        self.may_update(machine, &request)?;
        let (version, metadata) = (self.ids.ulid(now), self.labelled(&request.config));
        if let Some(name) = request.name.as_deref().filter(|name| !name.is_empty()) {
            self.rename(app, id, name)?;
        }
        let old_weight = self.with(id, now, |machine, now| {
            let old_weight = std::mem::replace(&mut machine.weight, weight);
            machine.metadata = metadata;
            machine.image_ref = Arc::new(shown_image(&request.config, &image));
            machine.image = image;
            machine.replace_config(version, request.config);
            let nonce = request
                .lease_ttl
                .filter(|&ttl| ttl > 0)
                .map(|ttl| lease::take(machine, None, ttl, now.ms, now.ids));
            let effect = life::replace(machine, request.skip_launch != Some(true), now);
            (old_weight, nonce, effect)
        });
        let (old_weight, nonce, effect) = old_weight.ok_or_else(Refusal::no_machine)?;
        self.config_bytes = self.config_bytes.saturating_sub(old_weight) + weight;
        let machine = self
            .by_id(id)
            .map(Arc::clone)
            .ok_or_else(Refusal::no_machine)?;
        let mut shown = Shown::whole(machine);
        shown.nonce = nonce;
        Ok(Done {
            reply: Reply::Machine(Box::new(shown)),
            touched: vec![(id.to_owned(), effect)],
        })
    }

    fn may_update(&self, machine: &MachineRecord, request: &UpdateMachine) -> Result<(), Refusal> {
        reachable(machine)?;
        let stale = request
            .current_version
            .as_ref()
            .is_some_and(|version| *version != machine.version);
        match &machine.state {
            MachineState::Destroyed => return Err(Refusal::no_machine()),
            MachineState::Destroying | MachineState::LaunchFailed => {
                return Err(Refusal::precondition(format!(
                    "unable to update machine from current state: '{}'",
                    machine.state
                )));
            }
            MachineState::Replacing => return Err(concurrent_update()),
            _ if stale => return Err(concurrent_update()),
            _ => {}
        }
        match &request.region {
            Some(region) if !region.is_empty() && *region != machine.region => {
                Err(Refusal::invalid(format!(
                    "machine is in region '{}' and stays there",
                    machine.region
                )))
            }
            _ => Ok(()),
        }
    }

    fn rename(&mut self, app: &str, id: &str, name: &str) -> Result<(), Refusal> {
        let Some(machine) = self.machines.get_mut(id).filter(|m| m.name != name) else {
            return Ok(());
        };
        let Some(app) = self.apps.get_mut(app) else {
            return Err(Refusal::no_app(app));
        };
        app.check_free(name)?;
        app.names.remove(&machine.name);
        app.names.insert(name.to_owned(), id.to_owned());
        Arc::make_mut(machine).name = name.to_owned();
        Ok(())
    }
}

fn concurrent_update() -> Refusal {
    Refusal::new(
        409,
        "aborted: machine update failed due to concurrent update",
    )
}
