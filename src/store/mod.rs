//! The door to Redis: one method per act of the pipeline, and no policy.
//!
//! Every act is one script and so one round trip; what it costs stands at the method. Redis 7.0
//! or newer, or Valkey. The data model is in [`keys`].

pub mod acts;
mod admit;
pub mod artifacts;
pub mod audit;
mod claim;
pub mod codec;
pub mod data_set;
pub mod dead;
mod dial;
mod door;
pub mod ended;
pub mod error;
pub mod fetch;
pub mod fleet;
mod follow;
pub mod guests;
pub mod health;
pub mod inspect;
pub mod keyrings;
pub mod keys;
mod locate;
pub mod logs;
mod mend;
pub mod open;
pub mod outlines;
mod pace;
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

use crate::clock::UnixMs;
use crate::config::{Redis, Retention};
use crate::run::budget;
use crate::run::day::Day;
use crate::store::data_set::DataSet;
use crate::store::door::Door;
use crate::store::fetch::Budget;
use crate::store::keys::Keys;
use crate::telemetry::RedisError as Kind;

/// The runs of one namespace, in one Redis. Clones share connections.
#[derive(Clone, Debug)]
pub struct Store {
    door: Door,
    keys: Keys,
    /// Set when Redis does not let this user ask for its own account: it is not asked again.
    tells_nothing: Arc<AtomicBool>,
    budget: Budget,
    retention: Retention,
    data: Arc<DataSet>,
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
            retention: redis.retention,
            data: Arc::default(),
        })
    }

    /// Prepares the store and checks that Redis is there and that its data are not of a later version.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it is not there, [`Error::Schema`].
    pub async fn connect(redis: &Redis) -> Result<Self, Error> {
        let store = Self::new(redis)?;
        store.check_info().await?;
        store.check_schema().await?;
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

    /// Warns of what can lose runs, as far as Redis tells: each once, at the start.
    pub async fn warn_of_risks(&self) {
        let mut info = String::new();
        for section in ["memory", "persistence"] {
            info.push_str(&self.info(section).await.unwrap_or_default());
            info.push('\n');
        }
        let field = |name: &str| field(&info, name);
        let policy = field("maxmemory_policy:");
        if !matches!(policy, "noeviction" | "") {
            warn!(
                policy,
                "redis may throw runs away when it is full: maxmemory-policy is not noeviction"
            );
        }
        if field("aof_enabled:") == "0" {
            warn!("redis keeps no append-only file: a restart can lose requests and results");
        }
        let memory = health::memory(&info);
        if memory.is_nearly_full() {
            let (used, most) = (memory.used, memory.most);
            warn!(used, most, "the memory of redis is nearly full");
        }
    }

    /// Tries the scripts that older servers lack. One round trip.
    ///
    /// # Errors
    /// [`Error::Version`] when it lacks them.
    pub async fn check_scripts(&self) -> Result<(), Error> {
        let writes: &[&[&str]] = &[&["SET", "1"], &["PEXPIRE", "60000"]];
        match self.write_small(self.keys.probe(), writes).await {
            Err(Error::Refused { message, .. }) if message.contains("ompiling script") => Err(
                Error::Version("a server without flags of scripts".to_owned()),
            ),
            done => done,
        }
    }

    /// Tries the command by which workers wait for wakeups. One round trip.
    ///
    /// # Errors
    /// [`Error::Version`] when it lacks it.
    pub async fn check_wakeups(&self) -> Result<(), Error> {
        let mut command = redis::cmd("BLMPOP");
        command.arg(0.001).arg(1).arg(self.keys.gate()).arg("LEFT");
        match self.door.query::<redis::Value>(&command).await {
            Err(error) if error.kind() == Kind::UnknownCommand => {
                Err(Error::Version("a server without BLMPOP".to_owned()))
            }
            // A list that is never there, while our slot moves: the command is known.
            Err(Error::Unavailable(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a script that counts use is given: today, and until when that is known.
    fn meter(&self, now: UnixMs) -> [String; 2] {
        [
            Day::of(now).to_string(),
            budget::after(now, self.retention.usage).to_string(),
        ]
    }

    /// Notes whether Redis tells this user of itself. What it calls itself does not matter: what it must
    /// be able to do is tried.
    async fn check_info(&self) -> Result<(), Error> {
        match self.info("server").await {
            Err(error) if error.is_denied() => {
                self.tells_nothing.store(true, Ordering::Relaxed);
                warn!(
                    %error,
                    "redis does not tell its version and memory: a full one is noticed when it \
                     refuses writes"
                );
                Ok(())
            }
            answer => answer.map(|_| ()),
        }
    }
}

/// What a line of INFO says; nothing when it is not there.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let mut lines = info.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().map(str::trim).unwrap_or_default()
}
