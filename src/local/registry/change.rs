//! Requests about one machine.

use crate::clock::UnixMs;
use crate::local::action::MachineAction;
use crate::local::refusal::Refusal;
use crate::local::registry::life;
use crate::local::registry::view::{Reply, Shown};
use crate::local::registry::{Done, Registry, lease, metadata, reachable};
use crate::machines::wire::StartAnswer;

impl Registry {
    /// Carries out a request about one machine, as far as that needs no waiting and no image.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn apply(
        &mut self,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        action: MachineAction,
        now: UnixMs,
    ) -> Result<Done, Refusal> {
        self.reap(now);
        let shown = self.read(app, id, now);
        match action {
            MachineAction::Get { version, leases } => {
                let shown = Shown::version(shown?, version.as_deref(), leases, now)?;
                return Ok(Done::only(Reply::Machine(Box::new(shown))));
            }
            MachineAction::Events { limit } => {
                let events = shown?.events.iter().take(limit).cloned().collect();
                return Ok(Done::only(Reply::Events(events)));
            }
            MachineAction::Versions => return Ok(Done::only(Reply::Versions(shown?))),
            MachineAction::Metadata => {
                return Ok(Done::only(Reply::Metadata(shown?.metadata.clone())));
            }
            MachineAction::MetadataKey(key) => {
                return metadata::key(&*shown?, &key).map(Done::only);
            }
            MachineAction::Lease => return lease::show(&*shown?, now).map(Done::only),
            _ => {}
        }
        if self.find(app, id).is_none() {
            return Err(Refusal::no_machine());
        }
        self.change(id, nonce, action, now)
    }

    fn change(
        &mut self,
        id: &str,
        nonce: Option<&str>,
        action: MachineAction,
        now: UnixMs,
    ) -> Result<Done, Refusal> {
        let labels = self.rules.labels.clone();
        let done = self.with(id, now, |machine, now| -> Result<_, Refusal> {
            if needs_lease(&action) {
                lease::guard(machine, nonce, now.ms)?;
            }
            reachable(machine)?;
            let ok = |effect| (Reply::Ok, effect);
            Ok(match action {
                MachineAction::Start => {
                    let answer = StartAnswer {
                        previous_state: Some(machine.state.clone()),
                        ..StartAnswer::default()
                    };
                    (Reply::Start(answer), Some(life::start(machine, now)?))
                }
                MachineAction::Stop(ending) => ok(life::stop(machine, ending, now)?),
                MachineAction::Restart { ending, force_stop } => {
                    ok(life::restart(machine, ending, force_stop, now)?)
                }
                MachineAction::Signal(signal) => ok(Some(life::pass_signal(machine, signal)?)),
                MachineAction::Delete { force } => ok(life::destroy(machine, force, now)?),
                MachineAction::Cordon(cordoned) => {
                    machine.cordoned = cordoned;
                    ok(None)
                }
                MachineAction::TakeLease(request) => (
                    lease::acquire(machine, nonce, request, now.ms, now.ids)?,
                    None,
                ),
                MachineAction::ReleaseLease => (lease::release(machine, nonce, now.ms)?, None),
                MachineAction::PatchMetadata(patch) => {
                    (metadata::patch(machine, patch, &labels, now.ms)?, None)
                }
                MachineAction::SetMetadata(key, value) => (
                    metadata::set(machine, key, Some(value), &labels, now.ms)?,
                    None,
                ),
                MachineAction::RemoveMetadata(key) => {
                    (metadata::set(machine, key, None, &labels, now.ms)?, None)
                }
                MachineAction::Suspend => {
                    return Err(Refusal::unimplemented(
                        "Machines_suspend is not available, since a machine is no VM whose \
                         memory could be kept,",
                    ));
                }
                _ => return Err(Refusal::unknown_route()),
            })
        });
        let (reply, effect) = done.ok_or_else(Refusal::no_machine)??;
        Ok(Done {
            reply,
            touched: vec![(id.to_owned(), effect)],
        })
    }
}

/// The calls that a lease forbids to those who do not hold it.
fn needs_lease(action: &MachineAction) -> bool {
    matches!(
        action,
        MachineAction::Start
            | MachineAction::Stop(_)
            | MachineAction::Suspend
            | MachineAction::Restart { .. }
            | MachineAction::Delete { .. }
            | MachineAction::Cordon(_)
    )
}
