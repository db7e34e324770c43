//! What a producer does: append requests. And the way back for those that were set aside.

use crate::store::Store;
use crate::store::error::Error;
use crate::store::scripts;

/// Requests appended in one round trip.
const STEP: usize = 100;

impl Store {
    /// Appends requests, in order, and answers the ids of their entries. As many round trips as
    /// there are hundreds of them. It checks no rule: the worker does.
    ///
    /// # Errors
    /// [`Error`]; some may have been appended. A request with an id of its own is safe to repeat.
    pub async fn submit(&self, requests: &[String]) -> Result<Vec<String>, Error> {
        let mut entries = Vec::with_capacity(requests.len());
        for step in requests.chunks(STEP) {
            let mut pipe = redis::pipe();
            for request in step {
                pipe.cmd("XADD")
                    .arg(self.keys.runs())
                    .arg("*")
                    .arg("run")
                    .arg(request);
            }
            entries.extend(self.door.pipe::<Vec<String>>(&pipe).await?);
        }
        Ok(entries)
    }

    /// Appends an order for the workers and answers its id. One round trip.
    ///
    /// # Errors
    /// [`Error`]; it may have been appended. Every order is safe to repeat.
    pub async fn order(&self, word: &str, value: &str) -> Result<String, Error> {
        let mut command = redis::cmd("XADD");
        command
            .arg(self.keys.control())
            .arg("*")
            .arg(word)
            .arg(value);
        self.door.query(&command).await
    }

    /// Puts a dead entry back on the stream that it came from and answers its new id; `None` when there is
    /// no such entry. One round trip.
    ///
    /// # Errors
    /// [`Error`]; it may have happened, and is safe to repeat.
    pub async fn revive(&self, entry: &str) -> Result<Option<String>, Error> {
        let mut script = scripts::REVIVE.prepare_invoke();
        script
            .key(self.keys.dead())
            .key(self.keys.runs())
            .key(self.keys.control())
            .arg(entry);
        self.door.script(&mut script).await
    }
}
