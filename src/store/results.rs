//! The results stream: trimming. Results are written by `settle.lua` and `admit.lua`.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::error::Error;
use crate::store::requests::millis;

impl Store {
    /// Removes results that are older than `retention` and that every consumer group has read and
    /// acknowledged; above `hard_cap` entries, when one is set, the oldest go whoever has read
    /// them. Says how many were removed. Two or three round trips and one per group.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn trim_results(
        &self,
        now: UnixMs,
        retention: Duration,
        hard_cap: Option<u64>,
    ) -> Result<u64, Error> {
        let mut until = StreamPoint {
            ms: now.saturating_sub(millis(retention)),
            seq: 0,
        };
        for group in self.result_groups().await? {
            until = until.min(group);
        }
        let key = self.keys.results();
        let mut command = redis::cmd("XTRIM");
        command
            .arg(&key)
            .arg("MINID")
            .arg(format!("{}-{}", until.ms, until.seq));
        let mut removed: u64 = self.door.query(&command).await?;
        if let Some(most) = hard_cap {
            let mut command = redis::cmd("XTRIM");
            command.arg(&key).arg("MAXLEN").arg(most);
            removed += self.door.query::<u64>(&command).await?;
        }
        Ok(removed)
    }

    /// The first entry that each consumer group still needs.
    async fn result_groups(&self) -> Result<Vec<StreamPoint>, Error> {
        let key = self.keys.results();
        let mut command = redis::cmd("EXISTS");
        command.arg(&key);
        if !self.door.query::<bool>(&command).await? {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(&key);
        let groups: Vec<HashMap<String, redis::Value>> = self.door.query(&command).await?;
        let mut points = Vec::with_capacity(groups.len());
        for group in groups {
            let text = |field: &str| -> Option<String> {
                group
                    .get(field)
                    .and_then(|value| redis::from_redis_value(value.clone()).ok())
            };
            let (Some(name), Some(delivered)) = (text("name"), text("last-delivered-id")) else {
                continue;
            };
            points.push(StreamPoint::read(&delivered)?.next());
            let mut command = redis::cmd("XPENDING");
            command.arg(&key).arg(name);
            let (count, first): (u64, Option<String>) = match self.door.query(&command).await? {
                redis::Value::Array(parts) => {
                    let mut parts = parts.into_iter();
                    let mut next = || parts.next().unwrap_or(redis::Value::Nil);
                    (
                        redis::from_redis_value(next()).unwrap_or(0),
                        redis::from_redis_value(next()).unwrap_or(None),
                    )
                }
                _ => (0, None),
            };
            if let (true, Some(first)) = (count > 0, first) {
                points.push(StreamPoint::read(&first)?);
            }
        }
        Ok(points)
    }
}

/// An entry's id, comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StreamPoint {
    ms: u64,
    seq: u64,
}

impl StreamPoint {
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
