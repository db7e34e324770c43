//! What a machine is to be.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::duration::GoDuration;
use super::lenient::{Rest, or_default};
use super::words::{RestartPolicy, Signal};

/// The body of a create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateMachine {
    /// Unique among the app's machines that are not destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One region, or several in order of preference, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What the machine is to be.
    #[serde(default, deserialize_with = "or_default")]
    pub config: MachineConfig,
    /// Prepare it, do not start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_launch: Option<bool>,
    /// Do not offer its services to the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_service_registration: Option<bool>,
    /// Do not give it the app's secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_secrets: Option<bool>,
    /// Wait for this version of the app's secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_secrets_version: Option<u64>,
    /// Take a lease of this many seconds with it; the answer holds the nonce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ttl: Option<u64>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// The body of an update: the whole configuration, replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateMachine {
    /// A new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The region it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What the machine is to be from now on.
    #[serde(default, deserialize_with = "or_default")]
    pub config: MachineConfig,
    /// Refuse with 409 unless this is the machine's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    /// Do not start it afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_launch: Option<bool>,
    /// Take a lease of this many seconds with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ttl: Option<u64>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// What a machine is to be. Services, checks, mounts, processes and whatever else has no name here
/// are kept in `other`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// The image it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    /// Environment of its program.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Env::is_empty"
    )]
    pub env: Env,
    /// What it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Files placed in it before its program starts.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub files: Vec<File>,
    /// Remove it when its program has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_destroy: Option<bool>,
    /// Whether it is started again when its program has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is asked to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfig>,
    /// Words of its owner; the guest can change them.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub metadata: BTreeMap<String, String>,
    /// Its part in the private DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// Environment variables. `Debug` prints their names only: values may be secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Env(pub BTreeMap<String, String>);

impl Env {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Self(
            pairs
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// The size of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// `shared` or `performance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_kind: Option<String>,
    /// Virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// What a machine runs, where it differs from what its image says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Init {
    /// Program and arguments; overrides everything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Replaces the image's entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Give it a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    /// Swap space in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_size_mb: Option<u64>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// A file placed in a machine. `Debug` prints the length of its contents, not the contents.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path inside the machine.
    #[serde(default, deserialize_with = "or_default")]
    pub guest_path: String,
    /// Contents in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_value: Option<String>,
    /// Name of the app's secret that holds the contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// An image whose configuration is the contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_config: Option<String>,
    /// Permission bits, as a decimal number in JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("guest_path", &self.guest_path)
            .field("raw_value_bytes", &self.raw_value.as_ref().map(String::len))
            .field("secret_name", &self.secret_name)
            .field("image_config", &self.image_config)
            .field("mode", &self.mode)
            .field("other", &self.other)
            .finish()
    }
}

/// Whether a machine is started again when its program has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// When to start it again; the API takes `on-failure` when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<RestartPolicy>,
    /// How often at the most, with `on-failure`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// How a machine is asked to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StopConfig {
    /// The signal its program gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// How long it has before it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// A machine's part in the private DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    /// Keep the machine out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_registration: Option<bool>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nothing_a_client_sends_is_lost_in_the_echo() {
        let sent = json!({
            "name": "sandbox-r1-1", "region": "iad,ord", "skip_launch": false, "lease_ttl": 30,
            "hint": {"new": 1},
            "config": {
                "image": "registry.fly.io/app@sha256:00", "env": {"A": "b"},
                "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256, "gpus": 0},
                "init": {"exec": ["/bin/sleep", "inf"], "kernel_args": ["quiet"]},
                "files": [{"guest_path": "/a", "raw_value": "YQ==", "mode": 420}],
                "auto_destroy": true, "restart": {"policy": "no", "max_retries": 0},
                "stop_config": {"signal": "SIGTERM", "timeout": "5s"},
                "metadata": {"owner": "x"}, "dns": {"skip_registration": true, "searches": ["a"]},
                "services": [{"ports": [{"port": 80}]}], "checks": {"up": {"type": "tcp"}},
                "mounts": [], "schedule": "daily", "spot": {"max_price_fraction": 0.5}
            }
        });
        let read: CreateMachine = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), sent);
        assert_eq!(read.config.other.get("schedule"), Some(&json!("daily")));
    }

    #[test]
    fn absent_and_null_are_one() {
        let nulls = json!({
            "image": null, "guest": null, "env": null, "init": null, "files": null,
            "auto_destroy": null, "restart": null, "stop_config": null, "metadata": null,
            "dns": null
        });
        let read: MachineConfig = serde_json::from_value(nulls).unwrap();
        assert_eq!(read, MachineConfig::default());
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            Value::Object(serde_json::Map::new())
        );
    }

    #[test]
    fn debug_shows_no_values_of_the_guest() {
        let config: MachineConfig = serde_json::from_value(json!({
            "env": {"SANDBOX_RUN_TOKEN": "cd1.k.r.1.2.hidden"},
            "files": [{"guest_path": "/a", "raw_value": "aGlkZGVu"}],
            "processes": [{"env": {"B": "hidden"}}]
        }))
        .unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("SANDBOX_RUN_TOKEN") && shown.contains("processes"));
        assert!(
            !shown.contains("hidden") && !shown.contains("aGlkZGVu"),
            "{shown}"
        );
    }
}
