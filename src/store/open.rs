//! Runs that have not ended, read by index: pages, samples, earlier attempts. What is read has a bound
//! that does not depend on how many there are.

use serde::Deserialize;

use crate::clock::UnixMs;
use crate::run::id::{Attempt, Nonce, RunId, Tenant};
use crate::run::phase::State;
use crate::run::wait::Waiting;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::ended::{EndedRun, READ_MAX};
use crate::store::error::Error;
use crate::store::fleet::Flight;

/// Entries read in one round trip.
const STEP: usize = 200;
/// Runs of a tenant with machines that are read.
const BUSY_MAX: usize = 1000;

/// Which open runs to list; `None` for whichever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenFilter {
    /// In this state.
    pub state: Option<State>,
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// With this image, whole.
    pub image: Option<String>,
}

/// A page of open runs.
#[derive(Clone, Debug, Default)]
pub struct OpenPage {
    /// The runs.
    pub runs: Vec<EndedRun>,
    /// Where the next page begins, if there may be more.
    pub next: Option<usize>,
}

/// A boot of a run that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PastAttempt {
    /// Its number.
    pub attempt: u32,
    /// Where it was.
    pub app: String,
    /// Its machine; empty if it never had one.
    pub machine: String,
    /// `failed`, `refused` or `held`.
    pub why: String,
    /// When it began.
    #[serde(default)]
    pub booting_at_ms: Option<UnixMs>,
    /// When the provider had its machine.
    #[serde(default)]
    pub running_at_ms: Option<UnixMs>,
    /// When it was given up.
    pub ended_at_ms: UnixMs,
}

impl OpenFilter {
    fn lets_pass(&self, run: &EndedRun) -> bool {
        let record = &run.record;
        record.state != State::Closed.as_str()
            && self
                .state
                .is_none_or(|state| record.state == state.as_str())
            && (self.tenant.as_ref()).is_none_or(|tenant| record.tenant == tenant.as_str())
            && (self.image.as_ref()).is_none_or(|image| run.image.as_ref() == Some(image))
    }
}

impl Store {
    /// Open runs that pass `filter`, at most `most`, from place `from` of their index on: of a tenant
    /// those with machines, then those of its queue; of all by when somebody must look at them. At most
    /// [`READ_MAX`] runs are read, so a page can be empty and the next one not. Places shift as runs
    /// come and go. Two round trips for each two hundred.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn open_runs(
        &self,
        filter: &OpenFilter,
        from: usize,
        most: usize,
    ) -> Result<OpenPage, Error> {
        let mut page = OpenPage::default();
        let key = match &filter.tenant {
            None => self.keys.due(),
            Some(tenant) => {
                if from == 0 {
                    let ids = self.busy_ids(tenant).await?;
                    for step in ids.chunks(STEP) {
                        let runs = self.with_images(step).await?.into_iter().flatten();
                        page.runs.extend(runs.filter(|run| filter.lets_pass(run)));
                    }
                    page.runs.truncate(most);
                }
                self.keys.queue(tenant.as_str())
            }
        };
        let (mut at, mut read) = (from, 0);
        while page.runs.len() < most && read < READ_MAX {
            let mut command = redis::cmd("ZRANGE");
            command.arg(&key).arg(at).arg(at + STEP - 1);
            let ids: Vec<Text> = self.door.query(&command).await?;
            let count = ids.len();
            let ids: Vec<RunId> = ids.iter().filter_map(|id| id.0.parse().ok()).collect();
            for run in self.with_images(&ids).await? {
                if page.runs.len() == most {
                    break;
                }
                at += 1;
                page.runs.extend(run.filter(|run| filter.lets_pass(run)));
            }
            read += count;
            if count < STEP && page.runs.len() < most {
                return Ok(page);
            }
        }
        page.next = Some(at);
        Ok(page)
    }

    async fn busy_ids(&self, tenant: &Tenant) -> Result<Vec<RunId>, Error> {
        let mut command = redis::cmd("SSCAN");
        command.arg(self.keys.busy(tenant.as_str())).arg(0);
        command.arg("COUNT").arg(BUSY_MAX);
        let (_, ids): (u64, Vec<Text>) = self.door.query(&command).await?;
        let ids = ids.iter().take(BUSY_MAX);
        Ok(ids.filter_map(|id| id.0.parse().ok()).collect())
    }

    /// Why some waiting runs wait: the first of each of at most `most` tenants, half of them tenants
    /// that may go and half such that may not. Some round trips, and one for each run.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn sample_waiting(&self, most: usize, now: UnixMs) -> Result<Vec<Waiting>, Error> {
        let last = most.div_ceil(3).saturating_sub(1);
        let mut pipe = redis::pipe();
        for key in [self.keys.tenants(), self.keys.parked(), self.keys.delayed()] {
            pipe.cmd("ZRANGE").arg(key).arg(0).arg(last);
        }
        let lists: Vec<Vec<Text>> = self.door.pipe(&pipe).await?;
        let mut pipe = redis::pipe();
        let mut tenants: Vec<&Text> = lists.iter().flatten().collect();
        tenants.truncate(most);
        for Text(tenant) in &tenants {
            for key in [self.keys.queue(tenant), self.keys.delayed_of(tenant)] {
                pipe.cmd("ZRANGE").arg(key).arg(0).arg(0);
            }
        }
        if tenants.is_empty() {
            return Ok(Vec::new());
        }
        let firsts: Vec<Vec<Text>> = self.door.pipe(&pipe).await?;
        let mut ids: Vec<RunId> = Vec::new();
        for Text(id) in firsts.iter().flatten() {
            if let Ok(id) = id.parse()
                && !ids.contains(&id)
                && ids.len() < most
            {
                ids.push(id);
            }
        }
        let asked = ids.iter().map(|id| self.why_waiting(id, now));
        let answers = futures_util::future::try_join_all(asked).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// As [`Store::each_in_flight`], until about `most` have been given. Says whether that was all of
    /// them.
    ///
    /// # Errors
    /// As there.
    pub async fn some_in_flight(
        &self,
        app: &str,
        most: usize,
        mut each: impl FnMut(RunId, Attempt, Option<Nonce>),
    ) -> Result<bool, Error> {
        let mut each = |run: Flight| each(run.id, run.attempt, run.nonce);
        let (mut cursor, mut given) = (0, 0);
        while given < most {
            let read;
            (cursor, read) = self.some_flights(app, cursor, &mut each).await?;
            given += read;
            if cursor == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those of these runs that may have a machine in `app`, with attempt and nonce. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn in_flight_of(
        &self,
        app: &str,
        ids: &[RunId],
    ) -> Result<Vec<(RunId, Attempt, Option<Nonce>)>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.inflight(app));
        for id in ids {
            command.arg(id.as_str());
        }
        let found: Vec<Option<Text>> = self.door.query(&command).await?;
        let flights = ids.iter().zip(found).filter_map(|(id, who)| {
            let run = Flight::read(id.as_str(), &who?.0)?;
            Some((run.id, run.attempt, run.nonce))
        });
        Ok(flights.collect())
    }

    /// Boots of a run that came to nothing, the last ten, oldest first. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn past_attempts(&self, id: &RunId) -> Result<Vec<PastAttempt>, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.run(id)).arg("past");
        let past: Option<Text> = self.door.query(&command).await?;
        // What is not ours is passed over.
        let past = past.and_then(|Text(json)| serde_json::from_str(&json).ok());
        Ok(past.unwrap_or_default())
    }

    /// Machines in flight at the most, as the workers announced it; `None` when none did lately. One
    /// round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn fleet_limit(&self) -> Result<Option<u32>, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.fleet()).arg("max_in_flight");
        let most: Option<Text> = self.door.query(&command).await?;
        Ok(most.and_then(|Text(most)| most.parse().ok()))
    }
}
