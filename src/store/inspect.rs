//! What tools ask: lists of runs, results and dead entries, and Redis's own state. Nothing here is
//! part of a run's life.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::outcome::Outcome;
use crate::store::Store;
use crate::store::codec::RunRecord;
use crate::store::error::Error;
use crate::store::follow::Follow;
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
        Results(Follow::new(self.clone(), self.keys.results(), place))
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
#[derive(Debug)]
pub struct Results(Follow);

impl Results {
    /// Waits up to `block` for results and takes them in order. A future that is dropped half-way
    /// loses none.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew and goes on at the same place.
    pub async fn next(&mut self, block: Duration) -> Result<Vec<Published>, Error> {
        let rows = self.0.next(RESULTS_STEP, Some(block)).await?;
        Ok(rows.into_iter().map(Published::new).collect())
    }
}
