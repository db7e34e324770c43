//! What all workers share: who sweeps, which apps must wait, what is in flight.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::id::{Attempt, RunId};
use crate::store::Store;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;

/// How many of what there is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Runs waiting for a machine.
    pub queued: u64,
    /// Runs that may have a machine.
    pub in_flight: u64,
    /// Requests that no worker has read.
    pub unread: u64,
    /// Runs at which somebody should have looked by now.
    pub overdue: u64,
    /// Tear-downs that no worker has taken up.
    pub duties: u64,
}

impl Store {
    /// Becomes or stays the one that sweeps, for `lease`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn lead(&self, who: &str, lease: Duration) -> Result<bool, Error> {
        let mut script = scripts::LEAD.prepare_invoke();
        script.key(self.keys.sweeper()).arg(who).arg(millis(lease));
        self.door.script(&script).await
    }

    /// Nobody boots in `app` before `until`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hold(&self, app: &str, until: UnixMs, now: UnixMs) -> Result<(), Error> {
        let key = self.keys.bucket(app);
        let mut pipe = redis::pipe();
        pipe.hset(&key, "hold_until_ms", until).ignore();
        let for_ms = until.saturating_sub(now).saturating_add(60_000);
        pipe.cmd("PEXPIRE").arg(&key).arg(for_ms).ignore();
        self.door.pipe(&pipe).await
    }

    /// Every run that may have a machine in `app`, with its attempt. As many round trips as there
    /// are thousands of them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn in_flight(&self, app: &str) -> Result<HashMap<RunId, Attempt>, Error> {
        let mut all = HashMap::new();
        let mut cursor = 0u64;
        loop {
            let mut command = redis::cmd("HSCAN");
            command
                .arg(self.keys.inflight(app))
                .arg(cursor)
                .arg("COUNT")
                .arg(1000);
            let (next, page): (u64, Vec<(String, u32)>) = self.door.query(&command).await?;
            for (id, attempt) in page {
                if let Ok(id) = id.parse() {
                    all.insert(id, Attempt(attempt));
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(all);
            }
        }
    }

    /// Every app that ever had a machine in flight. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn apps(&self) -> Result<Vec<String>, Error> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(self.keys.apps());
        self.door.query(&command).await
    }

    /// Counts what there is. Two round trips.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn census(&self, now: UnixMs) -> Result<Census, Error> {
        let apps = self.apps().await?;
        let mut pipe = redis::pipe();
        pipe.zcard(self.keys.due())
            .zcount(self.keys.due(), "-inf", now);
        pipe.llen(self.keys.duties()).xlen(self.keys.runs());
        for app in &apps {
            pipe.hlen(self.keys.inflight(app));
        }
        let counts: Vec<u64> = self.door.pipe(&pipe).await?;
        let (fixed, per_app) = counts.split_at(counts.len().min(4));
        let count = |index: usize| fixed.get(index).copied().unwrap_or(0);
        let in_flight = per_app.iter().sum();
        Ok(Census {
            queued: count(0).saturating_sub(in_flight),
            overdue: count(1),
            duties: count(2),
            unread: count(3),
            in_flight,
        })
    }
}
