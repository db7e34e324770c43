//! Words with a fixed meaning: states, policies, signals.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An enum that stands in JSON as a word, and keeps the words it does not know.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$about])* $variant,)*
            /// A word that is not known here, as it came; empty when there was none.
            Unknown(String),
        }

        impl $name {
            /// The word as it stands in JSON.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    _ => Self::Unknown(word.to_owned()),
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Unknown(String::new())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from(String::deserialize(deserializer)?.as_str()))
            }
        }
    };
}

words! {
    /// Where a machine is in its life. A word that is not known is neither alive nor over.
    MachineState {
        /// Being made; from the create call on.
        Creating = "creating",
        /// Made, its image being fetched or about to be started.
        Created = "created",
        /// Being started.
        Starting = "starting",
        /// Running.
        Started = "started",
        /// Asked to end; its program may still run.
        Stopping = "stopping",
        /// Its program has ended.
        Stopped = "stopped",
        /// Ending, to be started again.
        Restarting = "restarting",
        /// Being written to disk.
        Suspending = "suspending",
        /// On disk, to be resumed.
        Suspended = "suspended",
        /// Being removed.
        Destroying = "destroying",
        /// Removed; reads may still find it for a time.
        Destroyed = "destroyed",
        /// Could not be started; becomes destroyed by itself.
        LaunchFailed = "launch_failed",
        /// Broken; stays until it is deleted.
        Failed = "failed",
        /// Taking on a new configuration.
        Updating = "updating",
        /// This version of it is giving way to a newer one.
        Replacing = "replacing",
        /// This version of it was replaced by a newer one.
        Replaced = "replaced",
        /// Moved to another host.
        Migrated = "migrated",
    }
}

impl MachineState {
    /// Whether the machine no longer exists, though it can still be read.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        *self == Self::Destroyed
    }

    /// Whether its program has ended and, with restart policy `no`, will not run again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(
            self,
            Self::Stopped | Self::Destroying | Self::Destroyed | Self::LaunchFailed | Self::Failed
        )
    }

    /// Whether its program has not run yet, and is about to.
    #[must_use]
    pub fn is_booting(&self) -> bool {
        matches!(self, Self::Creating | Self::Created | Self::Starting)
    }

    /// Whether it is being prepared for its start: its image is fetched and unpacked.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        matches!(self, Self::Creating | Self::Created)
    }

    /// Whether its program runs, will run or can be resumed: deleting it needs force.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Creating
            | Self::Created
            | Self::Starting
            | Self::Started
            | Self::Stopping
            | Self::Restarting
            | Self::Suspending
            | Self::Suspended
            | Self::Updating
            | Self::Replacing
            | Self::Replaced
            | Self::Migrated => true,
            Self::Stopped
            | Self::Destroying
            | Self::Destroyed
            | Self::LaunchFailed
            | Self::Failed
            | Self::Unknown(_) => false,
        }
    }
}

words! {
    /// Whether the machine's host can be reached; the configuration is incomplete when it cannot.
    HostStatus {
        /// It answers.
        Ok = "ok",
        /// Nobody knows.
        Unclear = "unknown",
        /// It does not answer.
        Unreachable = "unreachable",
    }
}

words! {
    /// Whether a machine is started again when its program has ended.
    RestartPolicy {
        /// Never.
        No = "no",
        /// Each time.
        Always = "always",
        /// When the exit code was not 0. What the API takes when no policy is given.
        OnFailure = "on-failure",
        /// When the price allows it.
        SpotPrice = "spot-price",
    }
}

/// A signal, by name (`SIGTERM`) or, as some clients send it, by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Signal {
    /// By name.
    Name(String),
    /// By number.
    Number(i64),
}

/// The signals the API names, with their numbers on Linux.
const SIGNALS: [(&str, i32); 14] = [
    ("SIGABRT", 6),
    ("SIGALRM", 14),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", 2),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGQUIT", 3),
    ("SIGSEGV", 11),
    ("SIGTERM", 15),
    ("SIGTRAP", 5),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
];

impl Signal {
    /// Its number on Linux, if it is one of those the API takes.
    #[must_use]
    pub fn number(&self) -> Option<i32> {
        SIGNALS
            .iter()
            .find(|(name, number)| match self {
                Self::Name(asked) => asked == name,
                Self::Number(asked) => *asked == i64::from(*number),
            })
            .map(|(_, number)| *number)
    }
}

impl From<&str> for Signal {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_state_is_kept_and_is_neither_alive_nor_over() {
        let state: MachineState = serde_json::from_str("\"hibernating\"").unwrap();
        assert_eq!(state, MachineState::Unknown("hibernating".to_owned()));
        assert!(!state.is_alive() && !state.is_over() && !state.is_gone());
        assert_eq!(serde_json::to_string(&state).unwrap(), "\"hibernating\"");
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        assert_eq!(Signal::from("SIGKILL").number(), Some(9));
        assert_eq!(Signal::Number(15).number(), Some(15));
        assert_eq!(Signal::from("SIGSTOP").number(), None);
        assert_eq!(Signal::Number(-1).number(), None);
    }
}
