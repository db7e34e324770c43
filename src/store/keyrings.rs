//! Which signing keys the processes of the fleet have, by their fingerprints.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;
use crate::token::fleet::Holder;

/// How long the keys that a process announced count: some of its beats.
const STANDS: Duration = Duration::from_secs(60);

/// Processes that are kept at the most.
const HOLDERS_MAX: usize = 256;

impl Store {
    /// Tells of this process's keys, and answers those of all, itself included. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tell_keys(&self, own: &Holder, now: UnixMs) -> Result<Vec<Holder>, Error> {
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

    async fn exchange_keys(
        &self,
        name: &str,
        told: &str,
        now: UnixMs,
    ) -> Result<Vec<Holder>, Error> {
        let mut script = scripts::KEYRINGS.prepare_invoke();
        script.key(self.keys.keyrings()).arg(name).arg(told);
        script.arg(now).arg(millis(STANDS)).arg(HOLDERS_MAX);
        let told: Vec<Text> = self.door.script(&script).await?;
        Ok(told.iter().filter_map(|Text(keys)| read(keys)).collect())
    }

    /// The keys that processes announced lately. One round trip.
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
