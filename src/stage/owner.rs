//! To whom a machine belongs. Nothing at the provider is deleted unless it is provably ours.
//!
//! The name of a machine is derived from run, attempt and nonce, and the token in its environment is
//! signed over the same. A guest can rewrite the metadata of its machine, but neither of these: the
//! metadata are for people, and are not used here.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::machines::wire;
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, machine_name, run_of_machine};
use crate::run::phase::State;
use crate::stage::spec::RUN_TOKEN;
use crate::stage::{Deps, Error};
use crate::store::codec::RunRecord;
use crate::token::Grant;

/// How long after its deadline a machine of ours is kept whose run is not known here: another
/// installation with the same keys and app may know it.
const SIGNED_SLACK: Duration = Duration::from_secs(15);

/// To whom a machine belongs that the list of runs in flight does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// To a run in flight after all.
    InFlight,
    /// It is ours and has no run: the run went on without it, or the deadline has passed and the run
    /// is not known here.
    Orphan,
    /// Nothing proves that it is ours to delete.
    Foreign {
        /// When that may have changed.
        again_at_ms: Option<UnixMs>,
    },
}

/// Judges a machine by its run in Redis, else by its signed token. One round trip at most.
///
/// # Errors
/// When Redis does not answer.
pub async fn ownership(deps: &Deps, machine: &wire::Machine) -> Result<Ownership, Error> {
    let grant = signed(deps, machine);
    let run = match &grant {
        Some(grant) => Some((grant.run.clone(), grant.attempt)),
        None => run_of_machine(&machine.name),
    };
    if let Some((run, attempt)) = run {
        let view = deps.core.store.record(&run).await?;
        milestone!("reconcile::orphan_checked");
        let of_run = view.filter(|view| follows(machine, view, attempt, grant.is_some()));
        if let Some(view) = of_run {
            return Ok(if has_machine(&view, attempt) {
                Ownership::InFlight
            } else {
                Ownership::Orphan
            });
        }
    }
    let Some(grant) = grant else {
        return Ok(Ownership::Foreign { again_at_ms: None });
    };
    let over = budget::after(grant.expires_s.saturating_mul(1000), SIGNED_SLACK);
    Ok(if over <= deps.core.clock.now_ms() {
        Ownership::Orphan
    } else {
        Ownership::Foreign {
            again_at_ms: Some(over),
        }
    })
}

/// The grant that we signed for this machine. A machine that copies the token has another name.
#[must_use]
pub fn signed(deps: &Deps, machine: &wire::Machine) -> Option<Grant> {
    let token = machine.config.as_ref()?.env.0.get(RUN_TOKEN)?;
    let grant = deps.ring.read(token).ok()?;
    let name = machine_name(&grant.run, grant.attempt, grant.nonce.as_ref());
    (machine.name == name).then_some(grant)
}

/// Whether the machine's name is that of an attempt of this run. A name without a tag, which a
/// version without nonces gave, can be anybody's; a signed token cannot.
fn follows(machine: &wire::Machine, view: &RunRecord, attempt: Attempt, is_signed: bool) -> bool {
    let is_tagged = view
        .nonce
        .as_ref()
        .is_some_and(|nonce| machine.name == machine_name(&view.id, attempt, Some(nonce)));
    is_tagged || is_signed && machine.name == machine_name(&view.id, attempt, None)
}

/// Whether the run may have a machine of this attempt.
fn has_machine(view: &RunRecord, attempt: Attempt) -> bool {
    let has_machine = match view.phase().state() {
        State::Booting | State::Running | State::Settled => true,
        State::Queued | State::Closed => false,
    };
    has_machine && view.attempt == attempt.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec::{FIELDS, Text, record};

    #[test]
    fn a_settled_run_still_has_its_machine_and_no_other() {
        let fields = [
            ("state", "settled"),
            ("attempt", "2"),
            ("outcome", "completed"),
        ];
        let value = |name: &&str| fields.iter().find(|(field, _)| field == name);
        let values = FIELDS
            .iter()
            .map(|name| value(name).map(|(_, word)| Text((*word).into())));
        let view = record(&"pr-17".parse().unwrap(), values.collect())
            .unwrap()
            .unwrap();
        assert!(has_machine(&view, Attempt(2)));
        assert!(!has_machine(&view, Attempt(1)));
        assert!(!has_machine(&view, Attempt(3)));
    }
}
