//! Apps, which hold machines, and tokens.

use serde::{Deserialize, Serialize};

use super::lenient::{Rest, or_default};

/// The body of an app's creation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateApp {
    /// Its name, unique on the whole service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The same, under the name that the service's guides give it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_name: Option<String>,
    /// The organisation it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_slug: Option<String>,
    /// The private network it is in, for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Makes a repeat of this request safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

impl CreateApp {
    /// The name that is asked for, in either field.
    #[must_use]
    pub fn wanted_name(&self) -> Option<&str> {
        self.name.as_deref().or(self.app_name.as_deref())
    }
}

/// The answer of an app's creation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreatedApp {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// When, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<u64>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// An app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Whether something runs in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The private network it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The organisation it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<AppOrganization>,
    /// Its machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_count: Option<u64>,
    /// Its volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_count: Option<u64>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// The organisation of an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppOrganization {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// Fields that have no name here.
    #[serde(flatten)]
    pub other: Rest,
}

/// A listing of apps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppList {
    /// How many there are.
    #[serde(default, deserialize_with = "or_default")]
    pub total_apps: u64,
    /// The apps.
    #[serde(default, deserialize_with = "or_default")]
    pub apps: Vec<App>,
    /// Where the next page begins, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What the token of a request may do. Never the token itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CurrentToken {
    /// The tokens that were sent together.
    #[serde(default, deserialize_with = "or_default")]
    pub tokens: Vec<TokenInfo>,
}

/// What one token may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub token_id: String,
    /// The organisation it is for.
    #[serde(default, deserialize_with = "or_default")]
    pub org_slug: String,
    /// The same, as an older field.
    #[serde(default, deserialize_with = "or_default")]
    pub organization: String,
    /// The apps it is for; empty for all of the organisation.
    #[serde(default, deserialize_with = "or_default")]
    pub apps: Vec<String>,
    /// The user it belongs to, if to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The machine that asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_machine_id: Option<String>,
    /// The only machine it can be used from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restricted_to_machine: Option<String>,
}
