//! A machine as a value: what it is to be, where it is in its life, what happened to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::UnixMs;
use crate::local::faults::rule::{MachineFault, StuckIn};
use crate::local::ids::Ids;
use crate::local::image::Image;
use crate::machines::wire::{ImageRef, MachineConfig, MachineEvent, MachineState};

/// Events kept of one machine, as many as a call can ask for.
const EVENTS_KEPT: usize = 50;
/// Changes of state kept of one machine: more than happen between two checks of a wait.
const CHANGES_KEPT: usize = 64;
/// Older versions kept of one machine.
const VERSIONS_KEPT: usize = 20;

/// One machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineRecord {
    /// 14 hexadecimal digits.
    pub(crate) id: String,
    /// Its app's name.
    pub(crate) app: String,
    /// Unique among the app's machines that are not destroyed.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) region: String,
    /// A ULID; each configuration has its own.
    pub(crate) version: String,
    /// What it is to be, as it was sent.
    pub(crate) config: Arc<MachineConfig>,
    /// Its metadata as it is now.
    pub(crate) metadata: BTreeMap<String, String>,
    /// What it starts from, resolved.
    pub(crate) image: Arc<Image>,
    /// The same, as the API shows it.
    pub(crate) image_ref: Arc<ImageRef>,
    /// Where it is in its life.
    pub(crate) state: MachineState,
    /// What happened to it, newest first.
    pub(crate) events: VecDeque<MachineEvent>,
    /// The states it was in, oldest first.
    pub(crate) changes: VecDeque<Change>,
    /// Its place among all machines, by creation.
    pub(crate) sequence: u64,
    /// When it was created.
    pub(crate) created_ms: UnixMs,
    /// When it last changed.
    pub(crate) updated_ms: UnixMs,
    /// Who alone may change it.
    pub(crate) lease: Option<Lease>,
    /// The proxy is to leave it alone.
    pub(crate) cordoned: bool,
    /// The configurations it had before, oldest first.
    pub(crate) versions: VecDeque<Version>,
    /// The process that runs it or is about to.
    pub(crate) process: Option<Process>,
    /// What follows when that process has ended.
    pub(crate) next: Next,
    /// How often it was started again after ending by itself.
    pub(crate) restarts: u32,
    /// Faults injected into it.
    pub(crate) injected: InjectedFaults,
    /// How many bytes its configuration took on the wire.
    pub(crate) weight: usize,
}

/// A state that a machine came into.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The state.
    pub(crate) state: MachineState,
    /// The version that came into it.
    pub(crate) version: String,
    /// The last event up to then.
    pub(crate) event_id: String,
}

/// A configuration that a machine had.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// Its version.
    pub(crate) version: String,
    /// The configuration.
    pub(crate) config: Arc<MachineConfig>,
}

/// The process that runs a machine. Each start has a number of its own, so that a report of an
/// earlier one is not taken for a later one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// The number of the start.
    pub(crate) generation: u64,
    /// Whether the guest's program runs.
    pub(crate) up: bool,
}

/// What follows when a machine's process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// What its restart policy says: nobody asked for its end.
    Policy,
    /// It stays stopped.
    Stop,
    /// It is started again.
    Restart,
    /// Its new version is started, or stays stopped.
    Replace {
        /// Whether it is started.
        start: bool,
    },
    /// It is destroyed.
    Destroy,
}

/// Faults injected into a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct InjectedFaults {
    /// It cannot be seen before that time.
    pub(crate) hidden_until_ms: UnixMs,
    /// Its image takes so long to come.
    pub(crate) slow_pull: Duration,
    /// It stays in a state, for ever or for so long.
    pub(crate) stick: Option<(StuckIn, Option<Duration>)>,
    /// Its host does not answer.
    pub(crate) unreachable: bool,
}

/// The exclusive right to change a machine, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The word that shows it.
    pub(crate) nonce: String,
    /// When it ends.
    pub(crate) expires_ms: UnixMs,
    /// What it is for.
    pub(crate) description: String,
    /// The machine's version when it was taken.
    pub(crate) version: String,
}

/// What an event says, besides its time and id.
#[derive(Clone, Debug)]
pub(crate) struct EventDetails {
    /// What kind of thing.
    pub(crate) kind: &'static str,
    /// Where it led.
    pub(crate) status: &'static str,
    /// Who did it: `user` or `flyd`.
    pub(crate) source: &'static str,
    /// More about it.
    pub(crate) request: Value,
}

impl InjectedFaults {
    /// Adds a fault. `Forget` is carried out by the registry instead.
    pub(crate) fn add(&mut self, fault: &MachineFault, now: UnixMs) {
        match fault {
            MachineFault::Hide(length) => {
                let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                self.hidden_until_ms = now.saturating_add(length_ms);
            }
            MachineFault::SlowPull(length) => self.slow_pull += *length,
            MachineFault::Stick(state, length) => self.stick = Some((*state, *length)),
            MachineFault::Unreachable => self.unreachable = true,
            MachineFault::Forget => {}
        }
    }
}

impl EventDetails {
    /// Something that somebody asked for.
    pub(crate) fn asked(kind: &'static str, status: &'static str) -> Self {
        Self {
            kind,
            status,
            source: "user",
            request: Value::Null,
        }
    }

    /// Something that the host did or saw.
    pub(crate) fn seen(kind: &'static str, status: &'static str) -> Self {
        Self {
            source: "flyd",
            ..Self::asked(kind, status)
        }
    }
}

impl MachineRecord {
    /// Notes an event.
    pub(crate) fn note(&mut self, what: EventDetails, now: UnixMs, ids: &mut Ids) {
        self.events.push_front(MachineEvent {
            id: Some(ids.ulid(now)),
            kind: what.kind.to_owned(),
            status: what.status.to_owned(),
            source: what.source.to_owned(),
            timestamp: now,
            request: (!what.request.is_null()).then_some(what.request),
        });
        self.events.truncate(EVENTS_KEPT);
        self.updated_ms = now;
    }

    /// Comes into a state. What brought it there was noted before.
    pub(crate) fn enter(&mut self, state: MachineState, now: UnixMs) {
        self.state = state.clone();
        self.changes.push_back(Change {
            state,
            version: self.version.clone(),
            event_id: self.last_event_id().to_owned(),
        });
        while self.changes.len() > CHANGES_KEPT {
            self.changes.pop_front();
        }
        self.updated_ms = now;
    }

    /// Takes on a new configuration under a new version; the old one is kept for a while.
    pub(crate) fn replace_config(&mut self, version: String, config: MachineConfig) {
        let old = Version {
            version: std::mem::replace(&mut self.version, version),
            config: std::mem::replace(&mut self.config, Arc::new(config)),
        };
        self.versions.push_back(old);
        while self.versions.len() > VERSIONS_KEPT {
            self.versions.pop_front();
        }
    }

    /// The id of the newest event.
    pub(crate) fn last_event_id(&self) -> &str {
        let newest = self.events.front();
        newest.and_then(|event| event.id.as_deref()).unwrap_or("")
    }

    /// The lease that holds now.
    pub(crate) fn live_lease(&self, now: UnixMs) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| lease.expires_ms > now)
    }

    /// Whether readers can see it yet.
    pub(crate) fn is_visible(&self, now: UnixMs) -> bool {
        self.injected.hidden_until_ms <= now
    }

    /// An address in the format of the real service. Nothing listens there.
    pub(crate) fn private_ip(&self) -> String {
        let bits = u64::from_str_radix(&self.id, 16).unwrap_or_default();
        let part = |shift: u32| (bits >> shift) & 0xffff;
        format!(
            "fdaa:0:{:x}:a7b:{:x}:{:x}:{:x}:2",
            part(48),
            part(32),
            part(16),
            part(0)
        )
    }

    /// Lets go of what a destroyed machine no longer needs: its image, the contents of its files,
    /// and its older versions.
    pub(crate) fn strip(&mut self) {
        self.image = Arc::default();
        self.versions.clear();
        self.weight = 0;
        if self
            .config
            .files
            .iter()
            .any(|file| file.raw_value.is_some())
        {
            for file in &mut Arc::make_mut(&mut self.config).files {
                file.raw_value = None;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine that was in these states one after the other. Its events are numbered from 1, its
    /// version is `v1`, and it had a version `v0` before.
    pub(crate) fn machine_that_was(states: &[&str]) -> MachineRecord {
        let mut machine = MachineRecord {
            id: "1857156b526dd8".to_owned(),
            app: "boxes".to_owned(),
            name: "quiet-river-1".to_owned(),
            region: "local".to_owned(),
            version: "v1".to_owned(),
            config: Arc::default(),
            metadata: BTreeMap::new(),
            image: Arc::default(),
            image_ref: Arc::default(),
            state: MachineState::Created,
            events: VecDeque::new(),
            changes: VecDeque::new(),
            sequence: 1,
            created_ms: 0,
            updated_ms: 0,
            lease: None,
            cordoned: false,
            versions: VecDeque::from([Version {
                version: "v0".to_owned(),
                config: Arc::default(),
            }]),
            process: None,
            next: Next::Policy,
            restarts: 0,
            injected: InjectedFaults::default(),
            weight: 0,
        };
        for (at, state) in states.iter().enumerate() {
            machine.note(EventDetails::seen("test", "test"), 0, &mut Ids::seeded(0));
            machine.events[0].id = Some((at + 1).to_string());
            machine.enter(MachineState::from(*state), 0);
        }
        machine
    }

    #[test]
    fn what_is_kept_of_a_machine_is_bounded() {
        let mut machine = machine_that_was(&["created"]);
        let mut ids = Ids::seeded(1);
        for at in 0..200 {
            machine.note(EventDetails::seen("start", "started"), at, &mut ids);
            machine.enter(MachineState::Started, at);
            machine.replace_config(ids.ulid(at), MachineConfig::default());
        }
        assert_eq!(machine.events.len(), EVENTS_KEPT);
        assert_eq!(machine.changes.len(), CHANGES_KEPT);
        assert_eq!(machine.versions.len(), VERSIONS_KEPT);
        assert_eq!(machine.events[0].timestamp, 199, "the newest comes first");
    }

    #[test]
    fn addresses_differ_as_ids_do() {
        let machine = machine_that_was(&["created"]);
        assert_eq!(machine.private_ip(), "fdaa:0:18:a7b:5715:6b52:6dd8:2");
    }
}
