//! The heartbeats of the fleet's processes: what each is and has in hand, and which signing keys it
//! has, by their fingerprints.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;
use crate::telemetry::DataChange;
use crate::token::fleet::Holder;

/// How long the keys that a process announced count: some of its beats.
const STANDS: Duration = Duration::from_secs(60);

/// Processes that are kept at the most.
const HOLDERS_MAX: usize = 256;

/// How long a worker stays quiet that is not told otherwise.
const QUIET_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Every process, this one included.
    pub holders: Vec<Holder>,
    /// This one is to take no more work.
    pub is_quiet: bool,
    /// Redis's clock; `None` when this user may not read it.
    pub time_ms: Option<UnixMs>,
    /// The data are others than at the heartbeat before.
    pub change: Option<DataChange>,
}

impl Store {
    /// Tells of this process, and answers what all of them told, itself included. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tell_keys(&self, own: &Holder, now: UnixMs) -> Result<Heard, Error> {
        let told = serde_json::to_string(own).expect("names and digits are JSON");
        self.exchange_keys(&own.name, &told, now).await
    }

    /// This process ends, and its keys do not count any more. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn withdraw_keys(&self, own: &Holder, now: UnixMs) -> Result<(), Error> {
        self.exchange_keys(&own.name, "", now).await.map(drop)
    }

    async fn exchange_keys(&self, name: &str, told: &str, now: UnixMs) -> Result<Heard, Error> {
        let mut script = scripts::KEYRINGS.prepare_invoke();
        script.key(self.keys.keyrings()).key(self.keys.quiet());
        script.arg(name).arg(told);
        script.arg(now).arg(millis(STANDS)).arg(HOLDERS_MAX);
        script.key(self.keys.meta()).arg(&self.data.words());
        type Answer = (Vec<Text>, bool, Vec<u64>, Vec<Text>);
        let (told, is_quiet, time, data): Answer = self.door.script(&mut script).await?;
        let holders = told.iter().filter_map(|Text(keys)| read(keys)).collect();
        let time_ms = match time.as_slice() {
            [seconds, micros, ..] => Some(seconds.saturating_mul(1000) + micros / 1000),
            _ => None,
        };
        Ok(Heard {
            holders,
            is_quiet,
            time_ms,
            change: self.data.look(&data)?,
        })
    }

    /// A worker takes no more work, from its next heartbeat on and for a day, or takes work again.
    /// Answers whether there was room for another. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_quiet(&self, name: &str, is_quiet: bool) -> Result<bool, Error> {
        let mut script = scripts::QUIET.prepare_invoke();
        script.key(self.keys.quiet()).arg(name);
        script.arg(if is_quiet { "1" } else { "" });
        script.arg(HOLDERS_MAX).arg(millis(QUIET_KEPT));
        self.door.script(&mut script).await
    }

    /// What processes told of themselves lately. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn keyrings(&self, now: UnixMs) -> Result<Vec<Holder>, Error> {
        let mut command = redis::cmd("HVALS");
        command.arg(self.keys.keyrings());
        let told: Vec<Text> = self.door.query(&command).await?;
        let stands = |text: &Text| {
            let (at, keys) = text.0.split_once(' ')?;
            let age = at.parse::<UnixMs>().ok()?.abs_diff(now);
            (age < millis(STANDS)).then(|| read(keys)).flatten()
        };
        Ok(told.iter().filter_map(stands).collect())
    }
}

/// What is not ours is passed over.
fn read(keys: &str) -> Option<Holder> {
    serde_json::from_str(keys).ok()
}
