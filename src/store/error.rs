//! What can go wrong between us and Redis.

use crate::telemetry::RedisError as Kind;

/// Why an act on the store did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis cannot be reached, or does not serve yet. The act may have happened; every act is
    /// safe to repeat.
    #[error("redis is not available: {0}")]
    Unavailable(String),
    /// Redis is there and says no. Nothing is done by a command that was refused; of a script the
    /// commands before it are.
    #[error("{}: {message}", meaning(*.kind))]
    Refused {
        /// What kind of no.
        kind: Kind,
        /// Redis's own words.
        message: String,
    },
    /// Redis is too old, or not Redis.
    #[error("redis 7.0 or newer, or valkey, is needed; found {0}")]
    Version(String),
    /// TLS with Redis is refused, by us or by Redis: what, and the setting that mends it.
    #[error("{0}")]
    Tls(String),
    /// A later version has written here.
    #[error(
        "redis holds the data of a newer cofferdam (schema {found}, and this one knows {}): upgrade this process",
        crate::store::data_set::SCHEMA
    )]
    Schema {
        /// The version of its data model.
        found: u32,
    },
    /// The address cannot be used.
    #[error("redis address: {0}")]
    Address(String),
    /// Redis holds, or answered, something that is not ours.
    #[error("{what} is not as cofferdam writes it: {found}")]
    Corrupt {
        /// Which key or script.
        what: String,
        /// What was found.
        found: String,
    },
}

impl Error {
    /// Its kind, as it is counted.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_) => Kind::Unavailable,
            Self::Refused { kind, .. } => *kind,
            Self::Corrupt { .. } => Kind::Unreadable,
            Self::Tls(_) => Kind::Tls,
            Self::Version(_) | Self::Schema { .. } | Self::Address(_) => Kind::Other,
        }
    }

    /// Whether it passes by itself, or when somebody looks after Redis: worth waiting for at a
    /// start.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self.kind(),
            Kind::Unavailable
                | Kind::OutOfMemory
                | Kind::ReadOnly
                | Kind::Misconfigured
                | Kind::TooFewReplicas
        )
    }

    /// Whether this user may not run a command, or the server has it under another name.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Refused { kind, message } => match kind {
                // A wrong password is of that kind too.
                Kind::NoPermission => message.starts_with("NOPERM"),
                kind => *kind == Kind::UnknownCommand,
            },
            _ => false,
        }
    }

    /// Whether Redis answers and takes no writes of ours.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        matches!(
            self.kind(),
            Kind::OutOfMemory
                | Kind::ReadOnly
                | Kind::Misconfigured
                | Kind::TooFewReplicas
                | Kind::NoPermission
        )
    }
}

/// What a refusal means, in words for an operator.
fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::OutOfMemory => "redis is full, its maxmemory is reached",
        Kind::ReadOnly => "redis takes no writes, it is a replica",
        Kind::Misconfigured => "redis takes no writes, it cannot save them",
        Kind::TooFewReplicas => {
            "redis takes no writes, it has fewer replicas than min-replicas-to-write"
        }
        Kind::NoPermission => "redis does not let this user do that",
        Kind::WrongType => "a key in redis has another type than cofferdam gives it",
        Kind::CrossSlot => {
            "the keys lie in several slots of a redis cluster, write the namespace in braces"
        }
        Kind::Moved => "the keys lie on another node of the redis cluster",
        Kind::UnknownCommand => "redis does not know a command",
        Kind::Unavailable | Kind::Tls | Kind::Unreadable | Kind::Other => "redis refuses",
    }
}

/// What an error reply is, by its first word; inside a script Redis puts some behind an `ERR`.
fn classify(code: &str, message: &str) -> Kind {
    match code {
        "OOM" => Kind::OutOfMemory,
        "READONLY" => Kind::ReadOnly,
        "MISCONF" => Kind::Misconfigured,
        "NOREPLICAS" => Kind::TooFewReplicas,
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Kind::NoPermission,
        "WRONGTYPE" => Kind::WrongType,
        "CROSSSLOT" => Kind::CrossSlot,
        "MOVED" | "ASK" => Kind::Moved,
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" => Kind::Unavailable,
        _ => {
            let message = message.to_ascii_lowercase();
            let says = |words: &str| message.contains(words);
            if says("unknown command")
                || says("unknown redis command")
                || says("unknown subcommand")
            {
                Kind::UnknownCommand
            } else if says("max number of clients") {
                Kind::Unavailable
            } else if says("user executing the script")
                || says("no permissions")
                || says("acl failure")
            {
                Kind::NoPermission
            } else if says("non local key in a cluster") {
                Kind::Moved
            } else if says("keys that don't hash to the same slot")
                || says("do not hash to the same slot")
            {
                Kind::CrossSlot
            } else {
                Kind::Other
            }
        }
    }
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        use redis::ErrorKind;
        match error.kind() {
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::Corrupt {
                what: "an answer".into(),
                found: error.to_string(),
            },
            ErrorKind::InvalidClientConfig => Self::Address(error.to_string()),
            ErrorKind::AuthenticationFailed => Self::Refused {
                kind: Kind::NoPermission,
                message: error.to_string(),
            },
            ErrorKind::Server(_) | ErrorKind::Extension => {
                let code = error.code().unwrap_or_default();
                let message = error.detail().unwrap_or_default();
                match classify(code, message) {
                    Kind::Unavailable => Self::Unavailable(error.to_string()),
                    kind => Self::Refused {
                        kind,
                        message: format!("{code} {message}").trim().to_owned(),
                    },
                }
            }
            // What else there is, is of the connection, and passes.
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_known_by_its_words() {
        let says = |text: &str| {
            let (code, message) = text.split_once(' ').unwrap();
            classify(code, message)
        };
        for (text, kind) in [
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Kind::OutOfMemory,
            ),
            (
                "READONLY You can't write against a read only replica.",
                Kind::ReadOnly,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                Kind::Misconfigured,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                Kind::TooFewReplicas,
            ),
            (
                "NOPERM User app has no permissions to run the 'info' command",
                Kind::NoPermission,
            ),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                Kind::NoPermission,
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned",
                Kind::NoPermission,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                Kind::WrongType,
            ),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                Kind::CrossSlot,
            ),
            ("MOVED 3999 127.0.0.1:6381", Kind::Moved),
            (
                "ERR Script attempted to access a non local key in a cluster node",
                Kind::Moved,
            ),
            (
                "ERR unknown command 'BLMPOP', with args beginning with: ",
                Kind::UnknownCommand,
            ),
            (
                "ERR Unknown Redis command called from script script: 1, on @user_script:1.",
                Kind::UnknownCommand,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                Kind::Unavailable,
            ),
            ("ERR max number of clients reached", Kind::Unavailable),
            ("ERR value is not an integer or out of range", Kind::Other),
        ] {
            assert_eq!(says(text), kind, "{text}");
        }
    }
}
