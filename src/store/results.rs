//! The results stream: trimming. Results are written by `settle.lua` and `admit.lua`.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use redis::FromRedisValue as _;

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;
use crate::telemetry::GroupLag;

/// Pending entries of a group that one pass reads.
const PENDING_MAX: usize = 1000;

/// Characters of a group's name that are told.
const GROUP_NAME_MAX: usize = 100;

/// A consumer group for which old results are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBack {
    /// Its name.
    pub group: String,
    /// When the first of them was published.
    pub since_ms: UnixMs,
    /// For how long they have been old.
    pub over: Duration,
}

/// What a pass over the results did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Results that were removed.
    pub removed: u64,
    /// For which groups others stay that are old enough.
    pub kept_back: Vec<KeptBack>,
}

impl Store {
    /// Removes results that are older than `retention` and that every consumer group has read and
    /// acknowledged (or deleted); above `hard_cap` entries, when one is set, the oldest go whoever
    /// has read them. Two round trips.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn trim_results(
        &self,
        now: UnixMs,
        retention: Duration,
        hard_cap: Option<u64>,
    ) -> Result<Trimmed, Error> {
        let old = StreamPoint::at(now.saturating_sub(millis(retention)));
        let groups = self.result_groups(old).await?;
        let until = groups.iter().fold(old, |until, group| group.until(until));
        let mut script = scripts::TRIM.prepare_invoke();
        script.key(self.keys.results()).key(self.keys.kept());
        script.arg(until.to_string());
        script.arg(hard_cap.unwrap_or(0)).arg(now);
        let removed: u64 = self.door.script(&mut script).await?;
        let kept_back = groups.into_iter().filter_map(|group| group.kept_back(old));
        Ok(Trimmed {
            removed,
            kept_back: kept_back.collect(),
        })
    }

    /// The consumer groups for which results are kept beyond `retention`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn results_kept_back(
        &self,
        now: UnixMs,
        retention: Duration,
    ) -> Result<Vec<KeptBack>, Error> {
        let old = StreamPoint::at(now.saturating_sub(millis(retention)));
        let groups = self.result_groups(old).await?.into_iter();
        Ok(groups.filter_map(|group| group.kept_back(old)).collect())
    }

    /// How far each consumer group of the results is, where there are results. One round trip.
    ///
    /// # Errors
    /// [`Error`], also when the stream is not there.
    pub async fn result_lags(&self) -> Result<Vec<GroupLag>, Error> {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(self.keys.results());
        let rows: Vec<HashMap<String, redis::Value>> = self.door.query(&command).await?;
        let lags = rows.into_iter().filter_map(|mut row| {
            let Text(name) = Text::from_redis_value(row.remove("name")?).ok()?;
            let mut number = |field| u64::from_redis_value(row.remove(field)?).ok();
            Some(GroupLag {
                group: name.chars().take(GROUP_NAME_MAX).collect(),
                unread: number("lag"),
                unacknowledged: number("pending")?,
            })
        });
        Ok(lags.collect())
    }

    /// What each consumer group still needs.
    async fn result_groups(&self, old: StreamPoint) -> Result<Vec<Group>, Error> {
        let mut script = scripts::NEEDED.prepare_invoke();
        script.key(self.keys.results());
        script.arg(old.to_string()).arg(PENDING_MAX);
        let rows: Vec<[Text; 4]> = self.door.script(&mut script).await?;
        rows.into_iter().map(Group::read).collect()
    }
}

/// What a consumer group still needs.
struct Group {
    name: String,
    /// The last entry it was given.
    given: StreamPoint,
    /// Before this it needs nothing of what it was given; `None` when it needs nothing of it.
    pending: Option<StreamPoint>,
    /// The first old entry that it was not given.
    unread: Option<StreamPoint>,
}

impl Group {
    fn read(
        [Text(name), Text(given), Text(pending), Text(unread)]: [Text; 4],
    ) -> Result<Self, Error> {
        let point = |text: &str| match text {
            "" => Ok(None),
            text => StreamPoint::read(text).map(Some),
        };
        Ok(Self {
            name,
            given: StreamPoint::read(&given)?,
            pending: point(&pending)?,
            unread: point(&unread)?,
        })
    }

    /// Until where results may go, of those before `until`.
    fn until(&self, until: StreamPoint) -> StreamPoint {
        until.min(self.pending.unwrap_or_else(|| self.given.next()))
    }

    fn kept_back(self, old: StreamPoint) -> Option<KeptBack> {
        let pending = self.pending.filter(|pending| *pending < old);
        let first = pending.into_iter().chain(self.unread).min()?;
        Some(KeptBack {
            group: self.name,
            since_ms: first.ms,
            over: Duration::from_millis(old.ms.saturating_sub(first.ms)),
        })
    }
}

/// An entry's id, comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StreamPoint {
    ms: u64,
    seq: u64,
}

impl fmt::Display for StreamPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl StreamPoint {
    /// The first that can be of a time.
    fn at(ms: UnixMs) -> Self {
        Self { ms, seq: 0 }
    }

    fn read(text: &str) -> Result<Self, Error> {
        text.split_once('-')
            .and_then(|(ms, seq)| {
                Some(Self {
                    ms: ms.parse().ok()?,
                    seq: seq.parse().ok()?,
                })
            })
            .ok_or_else(|| Error::Corrupt {
                what: "a stream id".into(),
                found: text.to_owned(),
            })
    }

    fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self {
                ms: self.ms + 1,
                seq: 0,
            },
        }
    }
}
