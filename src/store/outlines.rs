//! Runs that have ended and whose traces are to be told: the index of ended runs, read by a group of
//! its own, so that a run of which nobody has told comes again.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::id::RunId;
use crate::run::trace::TraceParent;
use crate::store::Store;
use crate::store::codec::{self, FIELDS, IMAGE_FIELDS, RunRecord, Text};
use crate::store::error::Error;
use crate::store::open::PastAttempt;
use crate::store::requests::{Row, millis};
use crate::store::scripts;

/// The group on the index of ended runs.
const GROUP: &str = "cofferdam-traces";
/// Its one consumer: what a worker read and did not dispose of is known by how long that is ago.
const CONSUMER: &str = "worker";
/// Fields beside those of a record.
const OTHERS: [&str; 2] = ["past", "posted_at_ms"];

/// Where a new group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the runs that end from now on.
    Now,
    /// With all that are known.
    Start,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its entry in the index.
    pub entry: String,
    /// Which run; `None` for an entry that is not ours.
    pub run: Option<RunId>,
}

/// What is known of a run once it has ended.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Its hash.
    pub record: RunRecord,
    /// The image that it asked for.
    pub image: Option<String>,
    /// Boots that came to nothing, oldest first.
    pub past: Vec<PastAttempt>,
    /// When the post of its result began.
    pub posted_at_ms: Option<UnixMs>,
}

impl Store {
    /// Makes the group unless it is there. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ensure_outlines(&self, from: From) -> Result<(), Error> {
        let mut script = scripts::GROUP.prepare_invoke();
        script.key(self.keys.ended()).arg(GROUP).arg(match from {
            From::Now => "$",
            From::Start => "0",
        });
        self.door.script(&mut script).await
    }

    /// At most `most` runs that have ended and of which no worker knows yet, oldest first. One round
    /// trip; does not wait.
    ///
    /// # Errors
    /// [`Error`]; also when there is no group (any more).
    pub async fn newly_ended(&self, most: usize) -> Result<Vec<Told>, Error> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(CONSUMER);
        command.arg("COUNT").arg(most);
        command.arg("STREAMS").arg(self.keys.ended()).arg(">");
        let read: Option<Vec<(String, Vec<Row>)>> = self.door.query(&command).await?;
        let rows = read.into_iter().flatten().flat_map(|(_, rows)| rows);
        Ok(rows.map(told).collect())
    }

    /// At most `most` runs of which some worker has known for `idle` without telling. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn untold(&self, most: usize, idle: Duration) -> Result<Vec<Told>, Error> {
        let mut command = redis::cmd("XAUTOCLAIM");
        command.arg(self.keys.ended()).arg(GROUP).arg(CONSUMER);
        command.arg(millis(idle)).arg("0").arg("COUNT").arg(most);
        type Claimed = (String, Vec<Row>, Vec<String>);
        let (_, rows, _): Claimed = self.door.query(&command).await?;
        Ok(rows.into_iter().map(told).collect())
    }

    /// These runs have been told. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tell(&self, entries: &[String]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XACK");
        command.arg(self.keys.ended()).arg(GROUP).arg(entries);
        self.door.query(&command).await
    }

    /// What is known of these runs; `None` for one that is gone, or cannot be read. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn outlines(&self, ids: &[RunId]) -> Result<Vec<Option<Outline>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.keys.run(id));
            pipe.arg(&FIELDS).arg(&OTHERS).arg(&IMAGE_FIELDS);
        }
        let rows: Vec<Vec<Option<Text>>> = self.door.pipe(&pipe).await?;
        Ok(ids
            .iter()
            .zip(rows)
            .map(|(id, row)| outline(id, row))
            .collect())
    }

    /// The span that a run belongs to, as its request says. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn traceparent(&self, id: &RunId) -> Result<Option<TraceParent>, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.run(id)).arg("traceparent");
        let text: Option<Text> = self.door.query(&command).await?;
        Ok(text.and_then(|Text(text)| text.parse().ok()))
    }
}

fn told((entry, fields): Row) -> Told {
    let id = fields.into_iter().find(|(name, _)| name == b"id");
    let id = id.and_then(|(_, id)| String::from_utf8(id).ok());
    Told {
        entry,
        run: id.and_then(|id| id.parse().ok()),
    }
}

fn outline(id: &RunId, mut row: Vec<Option<Text>>) -> Option<Outline> {
    let mut others = row.split_off(row.len().min(FIELDS.len())).into_iter();
    let mut other = || others.next().flatten().map(|Text(text)| text);
    let (past, posted_at_ms) = (other(), other());
    let image: String = others.flatten().map(|Text(piece)| piece).collect();
    Some(Outline {
        record: codec::record(id, row).ok().flatten()?,
        image: (!image.is_empty()).then_some(image),
        past: past
            .and_then(|json| serde_json::from_str(&json).ok())
            .unwrap_or_default(),
        posted_at_ms: posted_at_ms.and_then(|ms| ms.parse().ok()),
    })
}
