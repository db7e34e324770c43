//! Logs, which the service keeps beside the Machines API.

use serde::{Deserialize, Serialize};

use super::lenient::{Rest, or_default};

/// One page of an app's logs, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogPage {
    /// The lines.
    #[serde(default, deserialize_with = "or_default")]
    pub data: Vec<LogEntry>,
    /// Where to go on.
    #[serde(default, deserialize_with = "or_default")]
    pub meta: LogMeta,
}

/// Where a page of logs goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMeta {
    /// What to ask for as `next_token`. There is one even when no line is there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

/// One line of a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// What kind of entry it is: `log`.
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub kind: String,
    /// What is in it.
    #[serde(default, deserialize_with = "or_default")]
    pub attributes: LogAttributes,
}

/// What is in a line of a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogAttributes {
    /// When, RFC 3339.
    #[serde(default, deserialize_with = "or_default")]
    pub timestamp: String,
    /// The line.
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    /// `info`, `error`, …
    #[serde(default, deserialize_with = "or_default")]
    pub level: String,
    /// The machine that wrote it.
    #[serde(default, deserialize_with = "or_default")]
    pub instance: String,
    /// Where that machine is.
    #[serde(default, deserialize_with = "or_default")]
    pub region: String,
    /// More about it.
    #[serde(default, deserialize_with = "or_default")]
    pub meta: Rest,
}
