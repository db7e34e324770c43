//! The door to Redis: one method per act of the pipeline, and no policy.
//!
//! Every act is one script and so one round trip; what it costs stands at the method. Redis 7.0
//! or newer, or Valkey. The data model is in [`keys`].

pub mod acts;
mod admit;
mod claim;
pub mod codec;
mod dial;
mod door;
pub mod ended;
pub mod error;
pub mod fetch;
pub mod fleet;
pub mod guests;
pub mod health;
pub mod inspect;
pub mod keyrings;
pub mod keys;
mod locate;
mod mend;
mod produce;
pub mod requests;
pub mod results;
pub mod runs;
mod scripts;
pub mod tenants;
pub mod usage;
pub mod wakeups;

pub use crate::store::error::Error;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use crate::config::Redis;
use crate::store::door::Door;
use crate::store::fetch::Budget;
use crate::store::keys::Keys;

/// The runs of one namespace, in one Redis. Clones share connections.
#[derive(Clone, Debug)]
pub struct Store {
    door: Door,
    keys: Keys,
    /// Set when Redis does not let this user ask for its own account: it is not asked again.
    tells_nothing: Arc<AtomicBool>,
    budget: Budget,
}

impl Store {
    /// Prepares the store; connects only when it is first used.
    ///
    /// # Errors
    /// [`Error::Address`] when the address cannot be one.
    pub fn new(redis: &Redis) -> Result<Self, Error> {
        let keys = Keys::new(&redis.namespace);
        Ok(Self {
            door: Door::new(redis, &keys)?,
            keys,
            tells_nothing: Arc::default(),
            budget: Budget::new(),
        })
    }

    /// Prepares the store and checks that Redis is there and new enough.
    ///
    /// # Errors
    /// [`Error::Version`] when it is too old, [`Error::Unavailable`] when it is not there.
    pub async fn connect(redis: &Redis) -> Result<Self, Error> {
        let store = Self::new(redis)?;
        store.check_version().await?;
        Ok(store)
    }

    /// The names of this namespace's keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether Redis answers. One round trip.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn ping(&self) -> Result<(), Error> {
        self.door.query(&redis::cmd("PING")).await
    }

    /// Redis's own account of a section, such as `server` or `memory`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn info(&self, section: &str) -> Result<String, Error> {
        self.door.query(redis::cmd("INFO").arg(section)).await
    }

    /// One of Redis's own settings; `None` where it has none of that name.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn redis_setting(&self, name: &str) -> Result<Option<String>, Error> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        let found: HashMap<String, String> = self.door.query(&command).await?;
        Ok(found.into_values().next())
    }

    /// Goes on without a version where the user may not ask for it.
    async fn check_version(&self) -> Result<(), Error> {
        let info = match self.info("server").await {
            Err(error) if error.is_denied() => {
                self.tells_nothing.store(true, Ordering::Relaxed);
                warn!(
                    %error,
                    "redis does not tell its version and memory: a full one is noticed when it \
                     refuses writes"
                );
                return Ok(());
            }
            answer => answer?,
        };
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
                .unwrap_or_default()
        };
        if !field("valkey_version:").is_empty() {
            return Ok(());
        }
        let version = field("redis_version:");
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(major) if major >= 7 => Ok(()),
            _ => Err(Error::Version(format!("redis {version:?}"))),
        }
    }
}
