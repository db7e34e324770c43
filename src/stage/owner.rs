//! Whose machine is it? Nothing at the provider is removed unless it is provably ours.
//!
//! A machine's name follows from run, attempt and nonce, and the token in its environment is signed
//! over the same. A guest can rewrite the metadata of its machine, but neither of these: metadata
//! are for people, and nothing here goes by them.

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

/// For how long after its deadline a machine of ours whose run is not known here is left to those
/// who may know it: two installations that share their keys may share an app.
const SIGNED_SLACK: Duration = Duration::from_secs(15);

/// Whose a machine is that no run in flight has, as a listing tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A run in flight has it after all.
    InFlight,
    /// It is ours: its run has gone on without it, or its deadline has passed and no run is known
    /// here.
    Nobodys,
    /// Nothing shows that it is ours to remove.
    Foreign {
        /// When that may be otherwise.
        again_at_ms: Option<UnixMs>,
    },
}

/// Judges a machine by its run as Redis tells it, else by what we signed. One round trip at most.
///
/// # Errors
/// When Redis does not answer.
pub async fn whose(deps: &Deps, machine: &wire::Machine) -> Result<Whose, Error> {
    let grant = signed(deps, machine);
    let run = match &grant {
        Some(grant) => Some((grant.run.clone(), grant.attempt)),
        None => run_of_machine(&machine.name),
    };
    if let Some((run, attempt)) = run {
        let view = deps.core.store.record(&run).await?;
        milestone!("sweep::orphan_doubted");
        let of_run = view.filter(|view| follows(machine, view, attempt, grant.is_some()));
        if let Some(view) = of_run {
            return Ok(if has_machine(&view, attempt) {
                Whose::InFlight
            } else {
                Whose::Nobodys
            });
        }
    }
    let Some(grant) = grant else {
        return Ok(Whose::Foreign { again_at_ms: None });
    };
    let over = budget::after(grant.expires_s.saturating_mul(1000), SIGNED_SLACK);
    Ok(if over <= deps.core.clock.now_ms() {
        Whose::Nobodys
    } else {
        Whose::Foreign {
            again_at_ms: Some(over),
        }
    })
}

/// What we signed for this very machine: a copy of it has another name.
fn signed(deps: &Deps, machine: &wire::Machine) -> Option<Grant> {
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
    let flies = match view.phase().state() {
        State::Booting | State::Running | State::Settled => true,
        State::Queued | State::Closed => false,
    };
    flies && view.attempt == attempt.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec::of_wakeup;

    #[test]
    fn a_settled_run_still_has_its_machine_and_no_other() {
        let view = of_wakeup("pr-17 2  completed 1700000000000 app m i").expect("a wakeup");
        assert!(has_machine(&view, Attempt(2)));
        assert!(!has_machine(&view, Attempt(1)));
        assert!(!has_machine(&view, Attempt(3)));
    }
}
