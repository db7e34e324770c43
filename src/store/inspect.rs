//! What tools ask: lists of runs, results and dead entries, and Redis's own state. Nothing here is
//! part of a run's life.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::outcome::Outcome;
use crate::store::Store;
use crate::store::codec::RunRecord;
use crate::store::door::Blocking;
use crate::store::error::Error;
use crate::store::requests::{Entry, Row};

/// Results read in one round trip.
const RESULTS_STEP: usize = 500;

/// One entry of the results stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its id in the stream.
    pub entry: String,
    /// Whose result it is.
    pub run_id: String,
    /// How the run ended; `None` for a word that is not ours.
    pub outcome: Option<Outcome>,
    /// The result's JSON.
    pub result: String,
}

impl Published {
    /// What is missing, or no text, is empty: one that is not ours does not fail the others.
    fn new((entry, fields): Row) -> Self {
        let text = |field: &str| {
            let found = fields.iter().find(|(name, _)| name == field.as_bytes());
            let value = found.and_then(|(_, value)| std::str::from_utf8(value).ok());
            value.unwrap_or_default().to_owned()
        };
        Self {
            run_id: text("run_id"),
            outcome: Outcome::parse(&text("outcome")),
            result: text("result"),
            entry,
        }
    }
}

impl Store {
    /// The newest results, at most `most`, oldest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn newest_results(&self, most: usize) -> Result<Vec<Published>, Error> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("XREVRANGE");
        command
            .arg(self.keys.results())
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(most);
        let rows: Vec<Row> = self.door.query(&command).await?;
        Ok(rows.into_iter().rev().map(Published::new).collect())
    }

    /// The place behind the newest result, for [`Store::results_after`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn end_of_results(&self) -> Result<String, Error> {
        let newest = self.newest_results(1).await?;
        Ok(newest
            .into_iter()
            .next_back()
            .map_or_else(|| "0-0".to_owned(), |last| last.entry))
    }

    /// Reads results behind `place`, as they come.
    #[must_use]
    pub fn results_after(&self, place: String) -> Results {
        Results {
            store: self.clone(),
            connection: None,
            place,
        }
    }

    /// The result of a run that has ended, if it is still on its stream. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn result_of(&self, run: &RunRecord) -> Result<Option<Published>, Error> {
        let Some(entry) = &run.result_entry else {
            return Ok(None);
        };
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.results()).arg(entry).arg(entry);
        let rows: Vec<Row> = self.door.query(&command).await?;
        Ok(rows.into_iter().map(Published::new).next())
    }

    /// The newest dead entries, at most `most`, newest first. Each ends
    /// with `reason`, `source_id` and, if a recent version set it aside, `source_stream`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn newest_dead(&self, most: usize) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command
            .arg(self.keys.dead())
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(most);
        let rows: Vec<Row> = self.door.query(&command).await?;
        Ok(rows.into_iter().map(Entry::new).collect())
    }

    /// Dead entries older than `before`, or the newest, at most `most`, newest first. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn dead_before(
        &self,
        before: Option<&str>,
        most: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys.dead());
        command.arg(before.map_or_else(|| "+".to_owned(), |before| format!("({before}")));
        command.arg("-").arg("COUNT").arg(most);
        let rows: Vec<Row> = self.door.query(&command).await?;
        Ok(rows.into_iter().map(Entry::new).collect())
    }

    /// How many dead entries there are. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn count_dead(&self) -> Result<u64, Error> {
        let mut command = redis::cmd("XLEN");
        command.arg(self.keys.dead());
        self.door.query(&command).await
    }

    /// One dead entry. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn dead_entry(&self, entry: &str) -> Result<Option<Entry>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.dead()).arg(entry).arg(entry);
        let rows: Vec<Row> = self.door.query(&command).await?;
        Ok(rows.into_iter().map(Entry::new).next())
    }

    /// Deletes a dead entry. Answers whether it was there. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_dead(&self, entry: &str) -> Result<bool, Error> {
        let mut command = redis::cmd("XDEL");
        command.arg(self.keys.dead()).arg(entry);
        self.door.query(&command).await
    }

    /// Redis's clock.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn time(&self) -> Result<UnixMs, Error> {
        let (seconds, micros): (u64, u64) = self.door.query(&redis::cmd("TIME")).await?;
        Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }
}

/// Reads the results stream from one place on, without a consumer group, so it takes nothing from
/// any consumer. On a connection of its own.
pub struct Results {
    store: Store,
    connection: Option<Blocking>,
    place: String,
}

impl std::fmt::Debug for Results {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Results")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Results {
    /// Waits up to `block` for results and takes them in order. A future that is dropped half-way
    /// loses none.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew and goes on at the same place.
    pub async fn next(&mut self, block: Duration) -> Result<Vec<Published>, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.door.blocking(block).await?,
        };
        let mut command = redis::cmd("XREAD");
        command
            .arg("COUNT")
            .arg(RESULTS_STEP)
            .arg("BLOCK")
            .arg(block.as_millis().max(1) as u64);
        command
            .arg("STREAMS")
            .arg(self.store.keys.results())
            .arg(&self.place);
        let Blocking { link, changes, id } = &mut connection;
        let (answer, id) = (command.query_async(&mut **link), *id);
        type Reply = Option<Vec<(String, Vec<Row>)>>;
        let never = std::future::pending();
        let reply: Option<Reply> = self.store.door.wait(changes, id, answer, never).await?;
        self.connection = reply.is_some().then_some(connection);
        let reply = reply.flatten().unwrap_or_default().into_iter();
        let rows = reply.flat_map(|(_, rows)| rows);
        let results: Vec<_> = rows.map(Published::new).collect();
        if let Some(last) = results.last() {
            self.place.clone_from(&last.entry);
        }
        Ok(results)
    }
}
