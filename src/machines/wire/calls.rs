//! The bodies of the calls around a machine, and the body of an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::MachineConfig;
use super::duration::GoDuration;
use super::lenient::{or_default, text};
use super::words::{MachineState, Signal};

/// The body of an error, in any of the shapes seen. A body that is no JSON at all is no error of
/// its own: [`ErrorBody::read`] takes it as the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, mostly with a prefix such as `invalid_argument: `.
    #[serde(
        default,
        deserialize_with = "text",
        skip_serializing_if = "Option::is_none"
    )]
    pub error: Option<String>,
    /// A code for it, such as `insufficient_capacity`.
    #[serde(
        default,
        deserialize_with = "text",
        skip_serializing_if = "Option::is_none"
    )]
    pub status: Option<String>,
    /// What went wrong, as some calls name it.
    #[serde(
        default,
        deserialize_with = "text",
        skip_serializing_if = "Option::is_none"
    )]
    pub message: Option<String>,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl ErrorBody {
    /// An error with that text.
    #[must_use]
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            ..Self::default()
        }
    }

    /// An error with a text and a code.
    #[must_use]
    pub fn with_status(error: impl Into<String>, status: impl Into<String>) -> Self {
        Self {
            status: Some(status.into()),
            ..Self::new(error)
        }
    }

    /// Reads a body of whatever kind; what is no JSON object is taken as the text.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        if let Ok(read) = serde_json::from_slice(body) {
            return read;
        }
        let plain = String::from_utf8_lossy(body);
        let plain = plain.trim();
        Self {
            error: (!plain.is_empty()).then(|| plain.to_owned()),
            ..Self::default()
        }
    }

    /// What went wrong, wherever it stands; empty when nothing was said.
    #[must_use]
    pub fn text(&self) -> &str {
        let texts = [&self.message, &self.error];
        texts
            .into_iter()
            .flatten()
            .find(|text| !text.is_empty())
            .map_or("", String::as_str)
    }
}

/// The answer of calls that have nothing to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OkAnswer {
    /// True.
    #[serde(default, deserialize_with = "or_default")]
    pub ok: bool,
}

impl OkAnswer {
    /// `{"ok":true}`.
    pub const YES: Self = Self { ok: true };
}

/// The answer of a wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitAnswer {
    /// Whether the state was reached.
    #[serde(default, deserialize_with = "or_default")]
    pub ok: bool,
    /// The state that was reached. The next read may show an older one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<MachineState>,
    /// The version that reached it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The event that brought it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// The answer of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartAnswer {
    /// The state it was in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_state: Option<MachineState>,
    /// Whether it was moved to another host.
    #[serde(default, deserialize_with = "or_default")]
    pub migrated: bool,
    /// That host.
    #[serde(default, deserialize_with = "or_default")]
    pub new_host: String,
}

/// The body of a stop; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// The signal its program gets, instead of the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// How long it has before it is killed, instead of the configured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
}

/// The body of a signal call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRequest {
    /// The signal its program gets.
    pub signal: Signal,
}

/// The body of an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub command: Vec<String>,
    /// The older form: one line, split at spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    /// What its standard input brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// How long it may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// The container to run it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Run it outside of all containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<bool>,
}

/// The answer of an exec: 200 whatever the program did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecAnswer {
    /// Standard output.
    #[serde(default, deserialize_with = "or_default")]
    pub stdout: String,
    /// Standard error.
    #[serde(default, deserialize_with = "or_default")]
    pub stderr: String,
    /// Exit code.
    #[serde(default, deserialize_with = "or_default")]
    pub exit_code: i64,
    /// Signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_signal: Option<i64>,
}

/// One process of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStat {
    /// Process id inside the machine.
    #[serde(default, deserialize_with = "or_default")]
    pub pid: i64,
    /// Program and arguments.
    #[serde(default, deserialize_with = "or_default")]
    pub command: String,
    /// Working directory.
    #[serde(default, deserialize_with = "or_default")]
    pub directory: String,
    /// Share of processor time, in percent.
    #[serde(default, deserialize_with = "or_default")]
    pub cpu: u64,
    /// Resident memory, in bytes.
    #[serde(default, deserialize_with = "or_default")]
    pub rss: u64,
    /// Time since it was started, in seconds.
    #[serde(default, deserialize_with = "or_default")]
    pub rtime: u64,
    /// Processor time spent in the kernel, in seconds.
    #[serde(default, deserialize_with = "or_default")]
    pub stime: u64,
    /// Sockets it listens on.
    #[serde(default, deserialize_with = "or_default")]
    pub listen_sockets: Vec<ListenSocket>,
}

/// A socket a process listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSocket {
    /// Protocol.
    #[serde(default, deserialize_with = "or_default")]
    pub proto: String,
    /// Address with port.
    #[serde(default, deserialize_with = "or_default")]
    pub address: String,
}

/// One configuration a machine had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineVersion {
    /// Its version.
    #[serde(default, deserialize_with = "or_default")]
    pub version: String,
    /// The configuration.
    #[serde(default, deserialize_with = "or_default")]
    pub user_config: MachineConfig,
}

/// The body and the answer of the calls on one key of the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataValue {
    /// The key's value.
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
}

/// The body of a change to several keys of the metadata; keys that are not named stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataPatch {
    /// New values; null or empty removes the key.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, Option<String>>,
    /// Refuse with 412 unless this is the machine's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_version: Option<String>,
}

/// The body of a lease call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How long it lasts, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}

/// A lease: while it lasts only those who show its nonce may change the machine. `Debug` of the
/// nonce is fine: it protects against mistakes, not against others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The word to show in the header `fly-machine-lease-nonce`.
    #[serde(default, deserialize_with = "or_default")]
    pub nonce: String,
    /// When it ends, in seconds since the Unix epoch.
    #[serde(default, deserialize_with = "or_default")]
    pub expires_at: u64,
    /// Who holds it.
    #[serde(default, deserialize_with = "or_default")]
    pub owner: String,
    /// What it is for.
    #[serde(default, deserialize_with = "or_default")]
    pub description: String,
    /// The machine's version when it was taken.
    #[serde(default, deserialize_with = "or_default")]
    pub version: String,
}

/// A lease as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrippedLease {
    /// Who holds it.
    #[serde(default, deserialize_with = "or_default")]
    pub owner: String,
    /// When it ends, in seconds since the Unix epoch.
    #[serde(default, deserialize_with = "or_default")]
    pub expires_at: u64,
    /// What it is for.
    #[serde(default, deserialize_with = "or_default")]
    pub description: String,
}

/// The envelope around the answers of lease calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// `success`.
    #[serde(default)]
    pub status: String,
    /// What is inside.
    pub data: T,
}

impl<T> Envelope<T> {
    /// The envelope of an answer that went well.
    pub fn success(data: T) -> Self {
        Self {
            status: "success".to_owned(),
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(body: &str, text: &str, status: Option<&str>) {
        let read = ErrorBody::read(body.as_bytes());
        assert_eq!(
            (read.text(), read.status.as_deref()),
            (text, status),
            "{body}"
        );
    }

    #[test]
    fn recorded_answers_are_read() {
        let wait = include_str!("../../../tests/fixtures/machines/wait.json");
        let wait: WaitAnswer = serde_json::from_str(wait).unwrap();
        assert_eq!((wait.ok, wait.state), (true, Some(MachineState::Destroyed)));
        let start = include_str!("../../../tests/fixtures/machines/start.json");
        let start: StartAnswer = serde_json::from_str(start).unwrap();
        assert_eq!(start.previous_state, Some(MachineState::Stopped));
        check_error(
            include_str!("../../../tests/fixtures/machines/unauthorized.json"),
            "Authenticate: token validation error",
            None,
        );
    }

    #[test]
    fn errors_are_read_in_every_shape_seen() {
        check_error(
            include_str!("../../../tests/fixtures/machines/no_capacity.json"),
            "could not find a candidate host",
            Some("insufficient_capacity"),
        );
        check_error(
            r#"{"status":"error","message":"lease held"}"#,
            "lease held",
            Some("error"),
        );
        check_error(r#"{"error":"","message":null}"#, "", None);
        check_error(
            r#"{"error":{"a":1},"status":404}"#,
            r#"{"a":1}"#,
            Some("404"),
        );
        check_error("404 page not found\n", "404 page not found", None);
        check_error("", "", None);
        check_error("[1]", "[1]", None);
    }
}
