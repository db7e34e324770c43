//! The requests stream: read, take over what a dead worker had read, set aside what is no request.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::error::Error;
use crate::store::keys::GROUP;

/// How many dead entries are kept.
const DEAD_MAX: usize = 10_000;

/// How old an entry can be at the most, judging by its id.
const OLDEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far Redis's clock can be ahead of ours.
const AHEAD: Duration = Duration::from_secs(300);

/// One entry of the requests stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream.
    pub id: String,
    /// All its fields, as they came.
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn new(entry: StreamId) -> Self {
        let fields = entry
            .map
            .into_iter()
            .map(|(name, value)| (name, redis::from_redis_value(value).unwrap_or_default()))
            .collect();
        Self {
            id: entry.id,
            fields,
        }
    }

    /// The request's JSON, if the entry has a field `run` that is text.
    #[must_use]
    pub fn run(&self) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == "run")?;
        std::str::from_utf8(value).ok()
    }

    /// When it was appended, by Redis's clock: the first half of its id. An id that a producer
    /// made up may be no time; then it counts as appended `now`.
    #[must_use]
    pub fn appended_at_ms(&self, now: UnixMs) -> UnixMs {
        let appended = self
            .id
            .split('-')
            .next()
            .and_then(|ms| ms.parse().ok())
            .unwrap_or(0);
        let earliest = now.saturating_sub(millis(OLDEST));
        let latest = now.saturating_add(millis(AHEAD));
        if (earliest..=latest).contains(&appended) {
            appended
        } else {
            now
        }
    }
}

/// Reads requests as one consumer of the workers' group, on a connection of its own.
#[derive(Debug)]
pub struct Requests {
    store: Store,
    consumer: String,
    connection: Option<Blocking>,
}

struct Blocking(MultiplexedConnection);

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocking")
    }
}

impl Requests {
    /// A reader named `consumer`, which must be a name that no other process ever uses.
    #[must_use]
    pub fn new(store: Store, consumer: &str) -> Self {
        Self {
            store,
            consumer: consumer.to_owned(),
            connection: None,
        }
    }

    /// Waits up to `block` for new requests and takes at most `count`.
    ///
    /// Dropping the future half-way can leave entries taken and unseen; another worker takes them
    /// over once they have been idle for the lease.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew.
    pub async fn next(&mut self, count: usize, block: Duration) -> Result<Vec<Entry>, Error> {
        let mut connection = match self.connection.take() {
            Some(Blocking(connection)) => connection,
            None => {
                self.ensure_group().await?;
                self.store.door.blocking(block).await?
            }
        };
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.consumer);
        command
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            .arg(millis(block));
        command.arg("STREAMS").arg(self.store.keys.runs()).arg(">");
        let reply: Option<StreamReadReply> = command.query_async(&mut connection).await?;
        self.connection = Some(Blocking(connection));
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        Ok(keys
            .into_iter()
            .flat_map(|key| key.ids)
            .map(Entry::new)
            .collect())
    }

    /// Takes over at most `count` requests that some worker read and did not admit for `idle`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn take_over(&self, count: usize, idle: Duration) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("XAUTOCLAIM");
        command
            .arg(self.store.keys.runs())
            .arg(GROUP)
            .arg(&self.consumer);
        command.arg(millis(idle)).arg("0-0").arg("COUNT").arg(count);
        let reply: StreamAutoClaimReply = self.store.door.query(&command).await?;
        Ok(reply.claimed.into_iter().map(Entry::new).collect())
    }

    /// Leaves the group. Only for a consumer that has nothing pending; otherwise it stays, and
    /// what is pending is taken over later.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn leave(self) -> Result<(), Error> {
        let mut command = redis::cmd("XPENDING");
        command
            .arg(self.store.keys.runs())
            .arg(GROUP)
            .arg("-")
            .arg("+")
            .arg(1)
            .arg(&self.consumer);
        let pending: Vec<redis::Value> = self.store.door.query(&command).await?;
        if !pending.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XGROUP");
        command
            .arg("DELCONSUMER")
            .arg(self.store.keys.runs())
            .arg(GROUP)
            .arg(&self.consumer);
        let _: i64 = self.store.door.query(&command).await?;
        Ok(())
    }

    async fn ensure_group(&self) -> Result<(), Error> {
        self.store.ensure_group().await
    }
}

impl Store {
    /// Makes the workers' group, at the stream's beginning, unless it is there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ensure_group(&self) -> Result<(), Error> {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(self.keys.runs())
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM");
        match self.door.query::<redis::Value>(&command).await {
            Err(Error::Unavailable(text)) if text.contains("BUSYGROUP") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes consumers of the group that have nothing pending and were not seen for `idle`.
    /// Says how many.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn forget_consumers(&self, idle: Duration) -> Result<usize, Error> {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(self.keys.runs()).arg(GROUP);
        let consumers: Vec<HashMap<String, redis::Value>> = self.door.query(&command).await?;
        let mut pipe = redis::pipe();
        for consumer in consumers {
            let number = |field: &str| {
                consumer
                    .get(field)
                    .and_then(|v| redis::from_redis_value::<u64>(v.clone()).ok())
            };
            let unused = number("pending") == Some(0)
                && number("idle").is_some_and(|for_ms| for_ms > millis(idle));
            let name: Option<String> = consumer
                .get("name")
                .and_then(|v| redis::from_redis_value(v.clone()).ok());
            if let (true, Some(name)) = (unused, name) {
                pipe.cmd("XGROUP")
                    .arg("DELCONSUMER")
                    .arg(self.keys.runs())
                    .arg(GROUP)
                    .arg(name);
            }
        }
        if pipe.is_empty() {
            return Ok(0);
        }
        let removed: Vec<i64> = self.door.pipe(&pipe).await?;
        Ok(removed.len())
    }

    /// Sets an entry aside that is no request: as it came, with the reason, on the dead stream.
    /// Acknowledged and deleted in the same transaction.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn bury(&self, entry: &Entry, reason: &str) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        let add = pipe.atomic().cmd("XADD").arg(self.keys.dead());
        add.arg("MAXLEN").arg("~").arg(DEAD_MAX).arg("*");
        for (name, value) in &entry.fields {
            add.arg(name).arg(value);
        }
        add.arg("reason")
            .arg(reason)
            .arg("source_id")
            .arg(&entry.id)
            .ignore();
        pipe.cmd("XACK")
            .arg(self.keys.runs())
            .arg(GROUP)
            .arg(&entry.id)
            .ignore();
        pipe.cmd("XDEL")
            .arg(self.keys.runs())
            .arg(&entry.id)
            .ignore();
        self.door.pipe::<()>(&pipe).await
    }
}

/// Milliseconds of a duration, as Redis wants them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
