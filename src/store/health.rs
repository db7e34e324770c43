//! Whether Redis serves us, and how full it is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::store::Store;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;
use crate::telemetry::{Metrics, RedisError as Kind};

/// How long what a probe wrote lives.
const PROBE_KEPT: Duration = Duration::from_secs(60);

/// What Redis's memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes used.
    pub used: u64,
    /// Bytes that may be used; `None` for no bound.
    pub most: Option<u64>,
}

impl Memory {
    /// Percent of its memory from which on Redis is nearly full: requests stay unread then, unless there is
    /// room for their machines. What is left is for results, for hashes, and for what is sent meanwhile.
    const NEARLY_FULL_PERCENT: u64 = 80;

    /// Whether it is nearly full.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.most
            .is_some_and(|most| self.used >= most / 100 * Self::NEARLY_FULL_PERCENT)
    }
}

/// What decides whether more requests are taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Redis's memory; `None` when this user may not ask, as was seen at the start.
    pub memory: Option<Memory>,
    /// Bytes of the requests of all runs that have not ended.
    pub backlog_bytes: u64,
    /// Runs that are not closed.
    pub open: u64,
}

impl Store {
    /// Measures the scripts of this store and of its clones, and counts every call that fails.
    pub fn measure(&self, metrics: &Metrics) {
        self.door.measure(metrics);
    }

    /// Whether Redis takes our writes, and the keys that others can make are of their types. One
    /// round trip.
    ///
    /// # Errors
    /// [`Error`], with the reason.
    pub async fn probe(&self) -> Result<(), Error> {
        let keys = &self.keys;
        let looked_at = [
            (keys.runs(), "stream"),
            (keys.control(), "stream"),
            (keys.results(), "stream"),
            (keys.dead(), "stream"),
            (keys.due(), "zset"),
            (keys.tenants(), "zset"),
        ];
        let mut script = scripts::PROBE.prepare_invoke();
        script.key(keys.probe()).arg(millis(PROBE_KEPT));
        for (key, kind) in &looked_at {
            script.key(key).arg(*kind);
        }
        let wrong: Option<(String, String)> = self.door.script(&mut script).await?;
        match wrong {
            None => Ok(()),
            Some((key, found)) => Err(self.door.failed(Error::Refused {
                kind: Kind::WrongType,
                message: format!("{key} is a {found}"),
            })),
        }
    }

    /// How full Redis is, and how much waits. Two round trips.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn load(&self) -> Result<Load, Error> {
        let memory = if self.tells_nothing.load(Ordering::Relaxed) {
            None
        } else {
            Some(memory(&self.info("memory").await?))
        };
        let mut pipe = redis::pipe();
        pipe.get(self.keys.backlog_bytes()).zcard(self.keys.due());
        let (bytes, open): (Option<i64>, u64) = self.door.pipe(&pipe).await?;
        Ok(Load {
            memory,
            backlog_bytes: u64::try_from(bytes.unwrap_or(0)).unwrap_or(0),
            open,
        })
    }

    /// Makes small writes to one key, also when Redis is full. Each is the command and its words
    /// after the key. One round trip.
    pub(crate) async fn write_small(&self, key: String, writes: &[&[&str]]) -> Result<(), Error> {
        let mut script = scripts::SMALL.prepare_invoke();
        script.key(key);
        for words in writes {
            script.arg(words.len()).arg(*words);
        }
        self.door.script(&mut script).await
    }
}

/// What the section `memory` says.
pub(crate) fn memory(info: &str) -> Memory {
    let number = |name: &str| {
        let found = info.lines().find_map(|line| line.trim().strip_prefix(name));
        found.and_then(|number| number.parse::<u64>().ok())
    };
    Memory {
        used: number("used_memory:").unwrap_or(0),
        most: number("maxmemory:").filter(|most| *most > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_redis_tells() {
        let info =
            "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nmaxmemory:2097152\r\n";
        let read = memory(info);
        assert_eq!((read.used, read.most), (1 << 20, Some(2 << 20)));
        assert_eq!(memory("maxmemory:0\r\n").most, None);
    }
}
