//! Runs that have ended, read by index: page by page, and counted by minute. What is read has a bound
//! that does not depend on how many there are.

use std::collections::HashMap;

use crate::clock::UnixMs;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::{Outcome, ReasonCode};
use crate::run::spread::Spread;
use crate::store::Store;
use crate::store::codec::{IMAGE_FIELDS, RunRecord, Text};
use crate::store::error::Error;
use crate::store::requests::Row;

/// Entries of an index that one page goes through at the most: each is a run's hash to read.
pub const READ_MAX: usize = 1000;

/// Entries read in one round trip.
const STEP: usize = 200;

/// A minute in milliseconds.
const MINUTE_MS: UnixMs = 60_000;

/// Which ended runs to list; `None` for whichever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedFilter {
    /// How they ended.
    pub outcome: Option<Outcome>,
    /// Why.
    pub reason: Option<ReasonCode>,
    /// Whose they were.
    pub tenant: Option<Tenant>,
    /// The image that they asked for, whole.
    pub image: Option<String>,
    /// Only those that ended at this time or later.
    pub since_ms: Option<UnixMs>,
    /// Only those that ended before this time.
    pub until_ms: Option<UnixMs>,
}

/// A run that has ended, with the image that it asked for.
#[derive(Clone, Debug)]
pub struct EndedRun {
    /// Its hash.
    pub record: RunRecord,
    /// The image, where it is known.
    pub image: Option<String>,
}

/// A page of ended runs, newest first.
#[derive(Clone, Debug, Default)]
pub struct EndedPage {
    /// The runs.
    pub runs: Vec<EndedRun>,
    /// Where the next page begins, if there may be more.
    pub older: Option<String>,
}

/// What ended in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// When it began.
    pub begins_ms: UnixMs,
    /// How many, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
    /// How long their last boots were waited for.
    pub wait: Spread,
    /// How long those took.
    pub boot: Spread,
    /// From the machine to the result.
    pub run: Spread,
}

impl Minute {
    fn read(begins_ms: UnixMs, counts: &HashMap<String, u64>) -> Self {
        let mut minute = Self {
            begins_ms,
            ..Self::default()
        };
        for (outcome, slot) in Outcome::ALL.iter().zip(&mut minute.outcomes) {
            *slot = counts.get(outcome.as_str()).copied().unwrap_or(0);
        }
        for (field, count) in counts {
            let Some((kind, bucket)) = field.split_at_checked(1) else {
                continue;
            };
            let Ok(bucket) = bucket.parse() else { continue };
            match kind {
                "w" => minute.wait.add(bucket, *count),
                "b" => minute.boot.add(bucket, *count),
                "r" => minute.run.add(bucket, *count),
                _ => {}
            }
        }
        minute
    }
}

impl EndedFilter {
    fn lets_pass(&self, run: &EndedRun) -> bool {
        let record = &run.record;
        let reason = record.reason.as_ref().map(|reason| reason.code);
        self.outcome
            .is_none_or(|wanted| record.outcome == Some(wanted))
            && self.reason.is_none_or(|wanted| reason == Some(wanted))
            && (self.tenant.as_ref()).is_none_or(|tenant| record.tenant == tenant.as_str())
            && (self.image.as_ref()).is_none_or(|image| run.image.as_ref() == Some(image))
    }
}

impl Store {
    /// Ended runs that pass `filter`, at most `most`, newest first; from `before` on, which is where an
    /// earlier page ended. The narrowest index is read, and of it no more than [`READ_MAX`] runs: a
    /// page can be empty, and the next one not. Two round trips for each two hundred of them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ended(
        &self,
        filter: &EndedFilter,
        before: Option<&str>,
        most: usize,
    ) -> Result<EndedPage, Error> {
        let keys = &self.keys;
        let key = match filter {
            EndedFilter {
                reason: Some(code), ..
            } => keys.ended_of_reason(code.as_str()),
            EndedFilter {
                outcome: Some(outcome),
                tenant: None,
                ..
            } if *outcome != Outcome::Completed => keys.ended_of_outcome(outcome.as_str()),
            EndedFilter {
                tenant: Some(tenant),
                ..
            } => keys.ended_of_tenant(tenant.as_str()),
            _ => keys.ended(),
        };
        let until = filter.until_ms.map(|at| format!("({at}-0"));
        let mut end = match before {
            Some(before) => format!("({before}"),
            None => until.unwrap_or_else(|| "+".to_owned()),
        };
        let begin = filter
            .since_ms
            .map_or_else(|| "-".to_owned(), |at| at.to_string());
        let (mut page, mut read) = (EndedPage::default(), 0);
        loop {
            let mut command = redis::cmd("XREVRANGE");
            command
                .arg(&key)
                .arg(&end)
                .arg(&begin)
                .arg("COUNT")
                .arg(STEP);
            let rows: Vec<Row> = self.door.query(&command).await?;
            let is_last = rows.len() < STEP;
            let entries: Vec<(String, RunId)> = rows.into_iter().filter_map(entry).collect();
            let ids: Vec<RunId> = entries.iter().map(|(_, id)| id.clone()).collect();
            read += ids.len();
            let runs = self.with_images(&ids).await?;
            for ((place, _), run) in entries.iter().zip(runs) {
                if page.runs.len() == most {
                    return Ok(page);
                }
                // What follows begins behind the last one that was looked at.
                page.older = Some(place.clone());
                page.runs
                    .extend(run.filter(|run| is_over(run) && filter.lets_pass(run)));
            }
            if is_last {
                page.older = None;
                return Ok(page);
            }
            if read >= READ_MAX {
                return Ok(page);
            }
            let Some((last, _)) = entries.last() else {
                return Ok(page);
            };
            end = format!("({last}");
        }
    }

    /// These runs with the images that they asked for. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn with_images(&self, ids: &[RunId]) -> Result<Vec<Option<EndedRun>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.records(ids);
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.keys.run(id)).arg(&IMAGE_FIELDS);
        }
        let pieces = self.door.pipe::<Vec<Vec<Option<Text>>>>(&pipe);
        let (records, pieces) = tokio::try_join!(records, pieces)?;
        let runs = records.into_iter().zip(pieces).map(|(record, pieces)| {
            let image: String = pieces
                .into_iter()
                .flatten()
                .map(|Text(piece)| piece)
                .collect();
            Some(EndedRun {
                record: record?,
                image: (!image.is_empty()).then_some(image),
            })
        });
        Ok(runs.collect())
    }

    /// What ended in each of the last `minutes` minutes, this one included, oldest first. One round
    /// trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn minutes(&self, minutes: u32, now: UnixMs) -> Result<Vec<Minute>, Error> {
        let this = now - now % MINUTE_MS;
        let begins = (0..u64::from(minutes)).rev();
        let begins: Vec<UnixMs> = begins.map(|n| this.saturating_sub(n * MINUTE_MS)).collect();
        let mut pipe = redis::pipe();
        for at in &begins {
            pipe.hgetall(self.keys.minute(*at));
        }
        let rows: Vec<HashMap<String, u64>> = self.door.pipe(&pipe).await?;
        let read = begins.iter().zip(&rows);
        Ok(read.map(|(at, counts)| Minute::read(*at, counts)).collect())
    }
}

/// Whether it has ended, and is not another run that has the id by now.
fn is_over(run: &EndedRun) -> bool {
    run.record.outcome.is_some()
}

/// What is not ours is passed over.
fn entry((place, fields): Row) -> Option<(String, RunId)> {
    let (_, id) = fields.into_iter().find(|(name, _)| name == b"id")?;
    Some((place, std::str::from_utf8(&id).ok()?.parse().ok()?))
}
