//! Waiting for a machine to reach a state.
//!
//! [`parse`] and [`check`] are the rules and touch nothing. [`Hub`] wakes waiting calls: one
//! channel for each machine that is waited for, none for the others, so that many waits and
//! many machines are both cheap.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::local::refusal::Refusal;
use crate::local::registry::machine::{Change, MachineRecord};
use crate::local::routes::query::Query;
use crate::machines::wire::{MachineState, WaitAnswer};

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitQuery {
    /// Any of these states will do.
    pub(crate) targets: Vec<Target>,
    /// For so long.
    pub(crate) timeout: Duration,
    /// Only this version of the machine counts.
    pub(crate) version: Option<String>,
    /// Only what happens after this event counts.
    pub(crate) from_event_id: Option<String>,
}

/// A state that can be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// That one.
    State(MachineState),
    /// Any in which a machine can stay.
    Settled,
}

/// Where a wait stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WaitStatus {
    /// The state was reached.
    Reached(WaitAnswer),
    /// Not yet.
    NotYet,
    /// It never will be: the machine is gone.
    Gone,
    /// It never will be: that version was replaced.
    Replaced,
}

/// Reads a wait's query.
///
/// # Errors
/// 400 for a time outside of 1 to 60 seconds, and for a state that cannot be waited for.
pub(crate) fn parse(query: &Query) -> Result<WaitQuery, Refusal> {
    let mut targets = Vec::new();
    for word in query.list("state") {
        targets.push(target(word)?);
    }
    if targets.is_empty() {
        targets.push(Target::State(MachineState::Started));
    }
    let seconds = match query.text("timeout") {
        None => Some(60),
        Some(text) => text.parse::<i64>().ok(),
    };
    let seconds = seconds
        .and_then(|s| u64::try_from(s).ok())
        .filter(|s| (1..=60).contains(s))
        .ok_or_else(|| {
            Refusal::invalid(
                "invalid WaitMachineRequest.Timeout: \
                 value must be inside range [1s, 1m0s]",
            )
        })?;
    Ok(WaitQuery {
        targets,
        timeout: Duration::from_secs(seconds),
        version: query
            .owned("version")
            .or_else(|| query.owned("instance_id")),
        from_event_id: query.owned("from_event_id"),
    })
}

fn target(word: &str) -> Result<Target, Refusal> {
    match MachineState::from(word) {
        state @ (MachineState::Started
        | MachineState::Stopped
        | MachineState::Suspended
        | MachineState::Destroyed
        | MachineState::Failed) => Ok(Target::State(state)),
        _ if word == "settled" => Ok(Target::Settled),
        _ => {
            let word: String = word.chars().take(32).collect();
            Err(Refusal::invalid(format!("invalid state '{word}'")))
        }
    }
}

/// Compares a wait with a machine. `since` is the event after which changes count even if the
/// machine has left their state again; a state reached and left between two checks is not missed.
pub(crate) fn check(machine: &MachineRecord, query: &WaitQuery, since: &str) -> WaitStatus {
    if let Some(version) = &query.version
        && *version != machine.version
    {
        return match machine.versions.iter().any(|old| old.version == *version) {
            true => WaitStatus::Replaced,
            false => WaitStatus::Gone,
        };
    }
    let after = query.from_event_id.as_deref();
    let counts = |change: &&Change| {
        let fresh = change.event_id.as_str() > after.unwrap_or(since);
        fresh && query.version.as_ref().is_none_or(|v| *v == change.version)
    };
    let matches = |state: &MachineState| query.targets.iter().any(|t| t.includes(state));
    let mut passed = machine.changes.iter().filter(counts);
    if let Some(change) = passed.find(|change| matches(&change.state)) {
        return WaitStatus::Reached(answer(change));
    }
    match machine.changes.back() {
        Some(last) if after.is_none() && matches(&last.state) => WaitStatus::Reached(answer(last)),
        _ if machine.state.is_gone() => WaitStatus::Gone,
        _ => WaitStatus::NotYet,
    }
}

fn answer(change: &Change) -> WaitAnswer {
    WaitAnswer {
        ok: true,
        state: Some(change.state.clone()),
        version: Some(change.version.clone()),
        event_id: Some(change.event_id.clone()),
    }
}

/// 408 as the API words it.
pub(crate) fn timed_out(query: &WaitQuery, current: &str) -> Refusal {
    let wanted: Vec<&str> = query.targets.iter().map(Target::as_str).collect();
    Refusal::new(
        408,
        format!(
            "deadline_exceeded: machine failed to reach desired state, {}, currently {current}",
            wanted.join(" or ")
        ),
    )
}

impl Target {
    fn includes(&self, state: &MachineState) -> bool {
        match self {
            Self::State(wanted) => wanted == state,
            Self::Settled => matches!(
                state,
                MachineState::Started
                    | MachineState::Stopped
                    | MachineState::Suspended
                    | MachineState::Failed
                    | MachineState::Destroyed
            ),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Settled => "settled",
        }
    }
}

/// Wakes waiting calls.
#[derive(Debug, Default)]
pub(crate) struct Hub(Mutex<HashMap<String, watch::Sender<()>>>);

impl Hub {
    /// A receiver that is told of every change of a machine from now on.
    pub(crate) fn subscribe(&self, id: &str) -> watch::Receiver<()> {
        match self.locked().entry(id.to_owned()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.get().subscribe(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let (sender, receiver) = watch::channel(());
                entry.insert(sender);
                receiver
            }
        }
    }

    /// Gives a receiver back; the channel goes with its last one.
    pub(crate) fn leave(&self, id: &str, receiver: watch::Receiver<()>) {
        let mut channels = self.locked();
        drop(receiver);
        if channels
            .get(id)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            channels.remove(id);
        }
    }

    /// Tells those who wait for a machine that it has changed.
    pub(crate) fn notify(&self, id: &str) {
        if let Some(sender) = self.locked().get(id) {
            sender.send_replace(());
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::registry::machine::tests::machine_that_was;

    fn query(text: &str) -> Result<WaitQuery, Refusal> {
        parse(&Query::parse(Some(text)))
    }

    #[test]
    fn waits_have_the_bounds_and_the_words_of_the_api() {
        for timeout in ["0", "61", "-1", "abc", "10s"] {
            let refusal = query(&format!("timeout={timeout}")).expect_err(timeout);
            assert_eq!(refusal.status, 400);
            assert_eq!(
                refusal.error,
                "invalid_argument: invalid WaitMachineRequest.Timeout: \
                 value must be inside range [1s, 1m0s]"
            );
        }
        let plain = query("").expect("all of it may be left out");
        assert_eq!(plain.timeout, Duration::from_secs(60));
        assert_eq!(plain.targets, [Target::State(MachineState::Started)]);
        let many = query("state=stopped,destroyed&state=settled&instance_id=V").expect("sound");
        assert_eq!(many.targets.len(), 3);
        assert_eq!(many.version.as_deref(), Some("V"));
        assert_eq!(query("state=happy").expect_err("unknown").status, 400);
        let late = timed_out(&plain, "stopped");
        assert_eq!(
            late.error,
            "deadline_exceeded: machine failed to reach desired state, started, currently stopped"
        );
    }

    #[track_caller]
    fn check_wait(text: &str, was: &[&str], since: &str, expected: &str) {
        let machine = machine_that_was(was);
        let found = match check(&machine, &query(text).expect("sound"), since) {
            WaitStatus::Reached(answer) => answer.state.expect("it is set").to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{text} {was:?} since {since:?}");
    }

    // `machine_that_was` numbers its events 1, 2, 3, … in the order of the states.
    #[test]
    fn a_wait_sees_the_state_and_what_passed_since() {
        check_wait("", &["created"], "1", "NotYet");
        check_wait("", &["created", "started"], "2", "started");
        check_wait("", &["created", "started", "stopped"], "1", "started");
        check_wait("", &["created", "started", "stopped"], "3", "NotYet");
        check_wait("state=stopped", &["created", "destroyed"], "1", "Gone");
        check_wait(
            "state=destroyed",
            &["created", "destroyed"],
            "2",
            "destroyed",
        );
        check_wait(
            "state=stopped,destroyed",
            &["created", "destroyed"],
            "2",
            "destroyed",
        );
        check_wait("state=settled", &["created"], "1", "NotYet");
        check_wait("state=settled", &["created", "stopped"], "2", "stopped");
    }

    #[test]
    fn an_event_to_start_after_hides_what_was_before() {
        check_wait("from_event_id=2", &["created", "started"], "2", "NotYet");
        check_wait("from_event_id=1", &["created", "started"], "2", "started");
    }

    #[test]
    fn a_version_that_is_not_current_is_replaced_or_unknown() {
        check_wait("version=v1", &["created", "started"], "2", "started");
        check_wait("version=v0", &["created", "started"], "2", "Replaced");
        check_wait("version=other", &["created", "started"], "2", "Gone");
    }

    #[test]
    fn channels_are_kept_only_while_someone_waits() {
        let hub = Hub::default();
        let first = hub.subscribe("m");
        let second = hub.subscribe("m");
        hub.notify("m");
        assert_eq!(first.has_changed().ok(), Some(true));
        hub.leave("m", first);
        assert_eq!(hub.locked().len(), 1);
        hub.leave("m", second);
        assert!(hub.locked().is_empty());
        hub.notify("m");
    }
}
