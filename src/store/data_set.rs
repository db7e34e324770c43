//! Whether the data in Redis are still those that this process knows, and written by a version that it
//! knows.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::telemetry::DataChange;

/// The version of the data model that this program writes. A program never writes to data of a later
/// one.
pub const SCHEMA: u32 = 1;

/// What this process knows of the data.
#[derive(Debug, Default)]
pub(crate) struct DataSet {
    seen: Mutex<Option<Seen>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    epoch: String,
    beats: u64,
}

/// When a process last missed data, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// `emptied`, `set_back` or `foreign`.
    pub how: String,
    /// When.
    pub at_ms: UnixMs,
}

impl Loss {
    /// How long it is told.
    const TOLD: Duration = Duration::from_secs(7 * 24 * 3600);

    /// How long ago it was; `None` where that is too long to be told.
    #[must_use]
    pub fn recent(&self, now: UnixMs) -> Option<Duration> {
        let ago = Duration::from_millis(now.saturating_sub(self.at_ms));
        (ago <= Self::TOLD).then_some(ago)
    }
}

impl DataSet {
    /// What a heartbeat brings along: the epoch to be, the one that is known, our version.
    pub(crate) fn words(&self) -> [String; 3] {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.as_ref().map(|seen| seen.epoch.clone());
        [
            // Another each time: data that are gone do not come back by their name.
            ulid::Ulid::new().to_string().to_lowercase(),
            known.unwrap_or_default(),
            SCHEMA.to_string(),
        ]
    }

    /// Looks at what a heartbeat was answered, and remembers it.
    pub(crate) fn look(&self, words: &[Text]) -> Result<Option<DataChange>, Error> {
        let [epoch, before, schema, beats] = words else {
            return Ok(None);
        };
        check_schema(&schema.0)?;
        let now = Seen {
            epoch: epoch.0.clone(),
            beats: beats.0.parse().unwrap_or(0),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let change = seen.as_ref().and_then(|then| judge(then, &now, &before.0));
        *seen = Some(now);
        Ok(change)
    }
}

/// What happened between two heartbeats. Each counts one up, whichever process has it.
fn judge(then: &Seen, now: &Seen, before: &str) -> Option<DataChange> {
    if now.epoch == then.epoch {
        return (now.beats <= then.beats).then_some(DataChange::SetBack);
    }
    if before == then.epoch {
        return Some(DataChange::Emptied);
    }
    Some(DataChange::Foreign)
}

fn check_schema(found: &str) -> Result<(), Error> {
    match found.parse::<u32>() {
        Ok(found) if found > SCHEMA => Err(Error::Schema { found }),
        _ => Ok(()),
    }
}

impl Store {
    /// Sees that no later version has written here. One round trip.
    ///
    /// # Errors
    /// [`Error::Schema`] when one has.
    pub(crate) async fn check_schema(&self) -> Result<(), Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.meta()).arg("schema");
        match self.door.query::<Option<Text>>(&command).await {
            Ok(found) => check_schema(&found.map_or_else(String::new, |found| found.0)),
            Err(error) if error.is_denied() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes down that data were missed, for `doctor`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn note_loss(&self, how: &str, now: UnixMs) -> Result<(), Error> {
        let at = now.to_string();
        let words = ["HSET", "lost", how, "lost_at_ms", &at];
        self.write_small(self.keys.meta(), &[&words]).await
    }

    /// When data were missed last. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn last_loss(&self) -> Result<Option<Loss>, Error> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.meta()).arg(&["lost", "lost_at_ms"]);
        let (how, at): (Option<Text>, Option<UnixMs>) = self.door.query(&command).await?;
        Ok(how.zip(at).map(|(how, at_ms)| Loss { how: how.0, at_ms }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_are_others_than_before_are_told() {
        let data = DataSet::default();
        let look = |words: [&str; 4]| data.look(&words.map(|word| Text(word.to_owned())));
        let is = |words, change| assert_eq!(look(words).unwrap(), change, "{words:?}");
        is(["a", "", "1", "7"], None);
        is(["a", "", "1", "9"], None);
        is(["a", "", "1", "9"], Some(DataChange::SetBack));
        is(["a", "", "1", "3"], Some(DataChange::SetBack));
        is(["a", "", "1", "4"], None);
        is(["b", "a", "1", "1"], Some(DataChange::Emptied));
        is(["b", "a", "1", "2"], None);
        is(["c", "", "1", "800"], Some(DataChange::Foreign));
        assert_eq!(data.words()[1], "c");
        assert!(look(["c", "", "2", "801"]).is_err());
        is(["c", "", "", "802"], None);
    }
}
