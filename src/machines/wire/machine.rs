//! A machine as the API shows it: state, events, exits.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::calls::StrippedLease;
use super::config::MachineConfig;
use super::lenient::{Rest, or_default};
use super::words::{HostStatus, MachineState};

/// Events that end a machine's program.
const ENDS: [&str; 5] = ["stop", "restart", "suspend", "update", "destroy"];

/// A machine. Only its id must be there; an answer without one is no machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its id, 14 hexadecimal digits on the real service.
    pub id: String,
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Where it is in its life.
    #[serde(default, deserialize_with = "or_default")]
    pub state: MachineState,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its version, a ULID; each configuration has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The older name of `version`, with the same value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Its address in the private network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    /// What it is to be; left out of summaries, and while its host cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// What is known of its configuration while its host cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete_config: Option<MachineConfig>,
    /// The image it was started from, resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_ref: Option<ImageRef>,
    /// When it was created, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// When it last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// What happened to it, newest first.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub events: Vec<MachineEvent>,
    /// Its health checks.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub checks: Vec<CheckStatus>,
    /// Whether its host can be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_status: Option<HostStatus>,
    /// The nonce of the lease taken with the create.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Whether the proxy leaves it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// Who holds it, when leases were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<StrippedLease>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

impl Machine {
    /// Its version under either name.
    #[must_use]
    pub fn version_id(&self) -> Option<&str> {
        let version = self.version.as_deref().or(self.instance_id.as_deref());
        version.filter(|version| !version.is_empty())
    }

    /// A value of its metadata. The guest can write there: a hint, never proof.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let config = self.config.as_ref().or(self.incomplete_config.as_ref())?;
        config.metadata.get(key).map(String::as_str)
    }

    /// How its program last ended: the exit of the newest event that has one.
    #[must_use]
    pub fn last_exit(&self) -> Option<ExitEvent> {
        let exits = self
            .events
            .iter()
            .rev()
            .filter_map(|event| Some((event.timestamp, event.exit_event()?)));
        // Of two with the same time the last seen wins; turned round, that is the first listed.
        let newest = exits.max_by_key(|(timestamp, _)| *timestamp)?;
        Some(newest.1)
    }

    /// Whether somebody had asked for its end before its program ended: by a stop, or by removing or
    /// replacing it.
    #[must_use]
    pub fn was_asked_to_end(&self) -> bool {
        if self.last_exit().is_some_and(|exit| exit.requested_stop) {
            return true;
        }
        let exits = self.events.iter().filter(|e| e.exit_event().is_some());
        let ended = exits.map(|event| event.timestamp).max();
        self.events.iter().any(|event| {
            event.source == "user"
                && ENDS.contains(&event.kind.as_str())
                && ended.is_some_and(|ended| event.timestamp <= ended)
        })
    }

    /// When its program was last started, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn started_at_ms(&self) -> Option<u64> {
        self.events
            .iter()
            .filter(|event| event.kind == "start" && event.status == "started")
            .map(|event| event.timestamp)
            .max()
    }
}

/// The few fields of a machine that its maker and a survey need. An answer can be large, and most
/// of one is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct MachineBrief {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Where it is in its life.
    #[serde(default, deserialize_with = "or_default")]
    pub state: MachineState,
    /// Where it is.
    pub region: Option<String>,
    version: Option<String>,
    instance_id: Option<String>,
}

impl MachineBrief {
    /// Its version under either name.
    #[must_use]
    pub fn version_id(&self) -> Option<&str> {
        let version = self.version.as_deref().or(self.instance_id.as_deref());
        version.filter(|version| !version.is_empty())
    }
}

impl From<Machine> for MachineBrief {
    fn from(machine: Machine) -> Self {
        Self {
            id: machine.id,
            name: machine.name,
            state: machine.state,
            region: machine.region,
            version: machine.version,
            instance_id: machine.instance_id,
        }
    }
}

/// The image a machine was started from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Registry, such as `registry.fly.io`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Tag, when it was named by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Labels of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Map<String, Value>>,
}

/// The state of one health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `passing`, `warning` or `critical`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What it last printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// When it last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// Something that happened to a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineEvent {
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is: `launch`, `start`, `exit`, `stop`, `destroy`, …
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub kind: String,
    /// The state it led to.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// `user`, or `flyd` for what the platform did by itself.
    #[serde(default, deserialize_with = "or_default")]
    pub source: String,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "or_default")]
    pub timestamp: u64,
    /// What belongs to its kind; absent on most. Untyped, as in the API's own description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Value>,
}

impl MachineEvent {
    /// The exit it tells of. It may stand one level deeper, and that one is the better of the two.
    #[must_use]
    pub fn exit_event(&self) -> Option<ExitEvent> {
        let request = self.request.as_ref()?;
        [
            request.pointer("/MonitorEvent/exit_event"),
            request.get("exit_event"),
        ]
        .into_iter()
        .flatten()
        .filter(|found| found.is_object())
        .find_map(|found| ExitEvent::deserialize(found).ok())
    }
}

/// How a machine's program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitEvent {
    /// Exit code of the program; a zero may be left out. Read it with [`ExitEvent::code`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Exit code of the machine itself, 0 on every clean shutdown: not the program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_exit_code: Option<i64>,
    /// Signal that ended the machine itself; -1 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_signal: Option<i64>,
    /// Signal that ended the program; -1 for none. Read it with [`ExitEvent::ended_by`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    /// The kernel killed the program because it ran out of memory.
    #[serde(default, deserialize_with = "or_default")]
    pub oom_killed: bool,
    /// Someone asked the machine to stop.
    #[serde(default, deserialize_with = "or_default")]
    pub requested_stop: bool,
    /// It is being started again.
    #[serde(default, deserialize_with = "or_default")]
    pub restarting: bool,
    /// What went wrong, as the platform sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What went wrong, as the machine sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_error: Option<String>,
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exited_at: Option<String>,
}

impl ExitEvent {
    /// The program's exit code. An exit without one was clean: the API leaves a zero out.
    #[must_use]
    pub fn code(&self) -> i64 {
        self.exit_code.unwrap_or(0)
    }

    /// The signal that ended the program, if one did.
    #[must_use]
    pub fn ended_by(&self) -> Option<i64> {
        self.signal.filter(|signal| *signal > 0)
    }

    /// The `request` of an exit event, as a server sends it.
    #[must_use]
    pub fn into_request(self, restart_count: u32) -> Value {
        json!({ "exit_event": self, "restart_count": restart_count })
    }
}

/// A machine in the listing of a whole organisation, which may lag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OrgMachine {
    /// The app it belongs to.
    #[serde(default, deserialize_with = "or_default")]
    pub app_name: String,
    /// The machine; its configuration has image, guest and metadata only.
    #[serde(flatten)]
    pub machine: Machine,
}

/// One page of the listing of a whole organisation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OrgMachines {
    /// The machines.
    #[serde(default, deserialize_with = "or_default")]
    pub machines: Vec<OrgMachine>,
    /// Where the next page begins, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Regions that could not be asked.
    #[serde(default, deserialize_with = "or_default")]
    pub error_regions: Vec<String>,
    /// The last machine of this page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_machine_id: Option<String>,
    /// When that one last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated_at: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(events: &Value) -> Machine {
        let body = json!({ "id": "1857156b526dd8", "state": "stopped", "events": events });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn the_newest_exit_counts_wherever_it_stands() {
        let machine = machine(&json!([
            {"type": "destroy", "status": "destroyed", "timestamp": 9, "request": null},
            {"type": "exit", "timestamp": 3, "request": {"exit_event": {"exit_code": 1}}},
            {"type": "exit", "timestamp": 7, "request": {
                "exit_event": {"exit_code": 2},
                "MonitorEvent": {"exit_event": {"exit_code": 40, "guest_exit_code": 0, "signal": -1}}
            }},
        ]));
        let exit = machine.last_exit().unwrap();
        assert_eq!((exit.code(), exit.ended_by()), (40, None));
    }

    #[test]
    fn a_missing_exit_code_is_zero_only_where_there_is_an_exit() {
        let clean = machine(&json!([
            {"type": "exit", "timestamp": 1, "request": {"exit_event": {"signal": -1}}}
        ]));
        assert_eq!(clean.last_exit().unwrap().code(), 0);
        let unknown = machine(&json!([
            {"type": "exit", "timestamp": 1, "request": {"exit_event": null}},
            {"type": "exit", "timestamp": 1, "request": "stopped"},
            {"type": "exit", "timestamp": 1, "request": null},
            {"type": "exit", "timestamp": 1}
        ]));
        assert_eq!(unknown.last_exit(), None);
    }

    #[test]
    fn an_end_that_somebody_asked_for_is_told_from_one_that_was_not() {
        let asked = |event: Value, requested_stop: bool| {
            let exit = json!({"exit_event": {"exit_code": 0, "requested_stop": requested_stop}});
            let exit = json!({"type": "exit", "source": "flyd", "timestamp": 5, "request": exit});
            machine(&json!([event, exit])).was_asked_to_end()
        };
        let event = |kind, source, at| json!({"type": kind, "source": source, "timestamp": at});
        assert!(asked(event("start", "flyd", 1), true));
        assert!(!asked(event("start", "user", 1), false));
        assert!(asked(event("stop", "user", 4), false));
        assert!(asked(event("destroy", "user", 5), false));
        // It had ended before, or removes itself.
        assert!(!asked(event("destroy", "user", 6), false));
        assert!(!asked(event("destroy", "flyd", 4), false));
        assert!(!machine(&json!([event("stop", "user", 4)])).was_asked_to_end());
    }

    #[test]
    fn the_start_is_the_newest_one() {
        let machine = machine(&json!([
            {"type": "start", "status": "started", "timestamp": 5},
            {"type": "start", "status": "starting", "timestamp": 8},
            {"type": "start", "status": "started", "timestamp": 6}
        ]));
        assert_eq!(machine.started_at_ms(), Some(6));
    }

    #[test]
    fn nulls_everywhere_are_read() {
        let read: Machine = serde_json::from_value(json!({
            "id": "a", "name": null, "state": null, "config": null, "events": null,
            "checks": null, "host_status": null, "lease": null, "version": "", "instance_id": null
        }))
        .unwrap();
        assert_eq!(
            read,
            Machine {
                id: "a".into(),
                version: Some(String::new()),
                ..Machine::default()
            }
        );
        assert_eq!(read.version_id(), None);
        assert!(serde_json::from_value::<Machine>(json!({})).is_err());
    }

    #[test]
    fn recorded_answers_are_read_and_come_back_whole() {
        let create = include_str!("../../../tests/fixtures/machines/create.json");
        let machine: Machine = serde_json::from_str(create).unwrap();
        assert_eq!(machine.state, MachineState::Created);
        assert_eq!(machine.version_id(), Some("01HEPA330HZ37A78TK080NAK1M"));
        let sent: Value = serde_json::from_str(create).unwrap();
        assert_eq!(serde_json::to_value(&machine).unwrap(), sent);

        let exit = include_str!("../../../tests/fixtures/machines/exit_event.json");
        let event: MachineEvent = serde_json::from_str(exit).unwrap();
        let exit = event.exit_event().unwrap();
        assert_eq!((exit.code(), exit.guest_exit_code), (40, Some(0)));
    }
}
