//! Settings of the commands that ask and report: each reads what is given, and requires nothing.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::address::{self, RedisUrl};
use crate::config::artifacts::ArtifactPlace;
use crate::config::groups;
use crate::config::keys::{self, SigningKey};
use crate::config::reader::{self, Fault, Faults, Reader};
use crate::config::retention::Retention;
use crate::config::secret::Secret;
use crate::config::tls::RedisTls;
use crate::config::{Lookup, table};

/// Settings of the commands that need Redis alone: `submit`, `show`, `runs` and the like. What is
/// `None` was not given, and may be found in the state folder of a running `up`.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Where Redis is.
    pub redis_url: Option<Secret<RedisUrl>>,
    /// How its TLS is checked.
    pub redis_tls: RedisTls,
    /// How much Redis keeps of what is no run and no result.
    pub redis_retention: Retention,
    /// First part of every key.
    pub namespace: Option<String>,
    /// Where a running `up` would be found; `None` where there is no home.
    pub state_dir: Option<PathBuf>,
}

/// The Machines API, as far as the settings of a tool name it.
#[derive(Clone, Debug)]
pub struct MachinesApi {
    /// Base URL.
    pub url: Option<Url>,
    /// Bearer token.
    pub token: Option<Secret<String>>,
}

/// Settings of `run`.
#[derive(Clone, Debug)]
pub struct RunTool {
    /// How a run is cancelled, and which Redis.
    pub cancel: Cancel,
    /// Where artifacts are kept.
    pub artifacts: Option<ArtifactPlace>,
}

/// Settings of `artifacts`.
#[derive(Clone, Debug)]
pub struct ArtifactsTool {
    /// Which Redis.
    pub tool: Tool,
    /// Where artifacts are kept.
    pub place: Option<ArtifactPlace>,
}

/// Settings of `cancel`.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Which Redis.
    pub tool: Tool,
    /// How long a run can be looked up after its end.
    pub retention: Duration,
    /// How long a worker that died keeps a tear-down from the others.
    pub lease: Duration,
}

/// Settings of `doctor`.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// Which Redis.
    pub tool: Tool,
    /// Which Machines API.
    pub api: MachinesApi,
    /// Apps that machines are booted in.
    pub apps: Option<Vec<String>>,
    /// Keys for the guests' tokens.
    pub keys: Option<Vec<SigningKey>>,
    /// Base URL under which guests reach the endpoint.
    pub guest_url: Option<Url>,
    /// Bytes of requests that may wait; `None` for no limit.
    pub backlog_max_bytes: Option<u64>,
    /// How long results stay on their stream.
    pub results_retention: Duration,
}

impl Tool {
    /// Reads what is given of these settings, none of which is required.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let tool = Self::read(&mut reader);
        reader.finish(tool)
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let derived = groups::derived_state_dir(reader);
        let is_given = reader.given(&table::STATE_DIR).is_some();
        let redis_url = reader.read_given(&table::REDIS_URL, address::redis_url);
        let redis_tls = RedisTls::read(reader, redis_url.as_ref().map(Secret::expose));
        Self {
            redis_url,
            redis_tls,
            redis_retention: Retention::default(),
            namespace: reader.read_given(&table::NAMESPACE, groups::namespace),
            state_dir: (is_given || derived.is_some())
                .then(|| reader.path(&table::STATE_DIR, derived)),
        }
    }
}

impl MachinesApi {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.read_given(&table::FLY_API_URL, reader::http_url),
            token: reader
                .read_given(&table::FLY_API_TOKEN, reader::token)
                .map(Secret::new),
        }
    }
}

impl RunTool {
    /// Reads what is given of these settings, none of which is required.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let parsed = Self {
            cancel: Cancel::read(&mut reader),
            artifacts: ArtifactPlace::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

impl ArtifactsTool {
    /// Reads what is given of these settings, none of which is required.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let parsed = Self {
            tool: Tool::read(&mut reader),
            place: ArtifactPlace::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

impl Cancel {
    /// Reads what is given of these settings, none of which is required.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let parsed = Self::read(&mut reader);
        reader.finish(parsed)
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let mut tool = Tool::read(reader);
        tool.redis_retention = Retention::read(reader);
        Self {
            tool,
            retention: groups::retention(reader),
            lease: groups::lease(reader),
        }
    }
}

impl Doctor {
    /// Reads what can be read, and returns the faults beside it.
    #[must_use]
    pub fn examine(lookup: Lookup<'_>) -> (Self, Vec<Fault>) {
        let mut reader = Reader::new(lookup);
        let doctor = Self {
            tool: Tool::read(&mut reader),
            api: MachinesApi::read(&mut reader),
            apps: reader.read_given(&table::APPS, groups::apps),
            keys: reader.read_given(&table::SIGNING_KEYS, keys::parse),
            guest_url: reader.read_given(&table::GUEST_URL, reader::http_url),
            backlog_max_bytes: groups::backlog_max_bytes(&mut reader),
            results_retention: groups::results_retention(&mut reader),
        };
        (doctor, reader.into_faults())
    }
}
