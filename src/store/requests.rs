//! The streams that workers read through their group, requests and orders: read, take over what a
//! dead worker had read, set aside what is neither.

use std::time::Duration;

use redis::RedisError;
use tokio::time::Instant;

use crate::clock::UnixMs;
use crate::store::Store;
use crate::store::dial::Link;
use crate::store::door::{Blocking, LARGE_ANSWER_TIMEOUT, Query};
use crate::store::error::Error;
use crate::store::keys::{GROUP, Inbox};
use crate::store::pace::Pace;
use crate::store::scripts;

/// Fields of a dead entry that are kept: a script can take some 8000 words at once.
pub(crate) const DEAD_FIELDS_MAX: usize = 3000;

/// Consumers that one pass forgets at the most.
const FORGOTTEN_MAX: usize = 1000;

/// Bytes of entries after which no more are read at once.
const READ_BYTES: usize = 1 << 20;

/// How old an entry can be at the most, judging by its id.
const OLDEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far Redis's clock can be ahead of ours.
const AHEAD: Duration = Duration::from_secs(300);

/// One entry of the requests stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream.
    pub id: String,
    /// All its fields, names and values, as they came.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of its fields, when they are more than a worker reads and stay in Redis.
    pub unread_bytes: Option<u64>,
}

/// Entries that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The entries.
    pub entries: Vec<Entry>,
    /// There may be more: a bound was reached.
    pub has_more: bool,
}

/// An entry as our scripts answer it: with how many bytes stay in Redis.
type Travelled = (String, Vec<(Vec<u8>, Vec<u8>)>, u64);

impl Batch {
    fn new((rows, has_more): (Vec<Travelled>, bool)) -> Self {
        let rows = rows.into_iter();
        let entries = rows.map(|(id, fields, unread)| Entry {
            id,
            fields,
            unread_bytes: (unread > 0).then_some(unread),
        });
        Self {
            entries: entries.collect(),
            has_more,
        }
    }
}

/// An entry as Redis answers it: its id, and its fields in the order in which they were appended,
/// of which two may have one name. Names are bytes as values are: one that is not text must not
/// fail the answer that it is in.
pub(crate) type Row = (String, Vec<(Vec<u8>, Vec<u8>)>);

impl Entry {
    pub(crate) fn new((id, fields): Row) -> Self {
        Self {
            id,
            fields,
            unread_bytes: None,
        }
    }

    /// Bytes of its fields.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let fields = self.fields.iter();
        fields.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The request's JSON, if the entry has a field `run` that is text.
    #[must_use]
    pub fn run(&self) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == b"run")?;
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

/// Reads requests, or orders, as one consumer of the workers' group, on a connection of its own.
#[derive(Debug)]
pub struct Requests {
    store: Store,
    inbox: Inbox,
    consumer: String,
    connection: Option<Blocking>,
    /// Bytes of an entry above which its fields stay in Redis.
    entry_max: usize,
    /// More entries may be there.
    has_more: bool,
    pace: Pace,
}

impl Requests {
    /// A reader of requests named `consumer`, which must be a name that no other process ever
    /// uses.
    #[must_use]
    pub fn new(store: Store, consumer: &str) -> Self {
        Self::of(Inbox::Runs, store, consumer)
    }

    /// As [`Requests::new`], for either stream.
    #[must_use]
    pub fn of(inbox: Inbox, store: Store, consumer: &str) -> Self {
        Self {
            store,
            inbox,
            consumer: consumer.to_owned(),
            connection: None,
            entry_max: usize::MAX,
            has_more: true,
            pace: Pace::default(),
        }
    }

    /// The fields of entries of more bytes than this stay in Redis.
    #[must_use]
    pub fn leaving(mut self, entry_max: usize) -> Self {
        self.entry_max = entry_max;
        self
    }

    /// Waits up to `block` for new requests and takes at most `count`, and of these no more than
    /// [`READ_BYTES`] and one entry. One round trip, and one more when several came at once.
    ///
    /// Dropping the future half-way can leave entries taken and unseen; another worker takes them
    /// over once they have been idle for the lease.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew.
    pub async fn next(&mut self, count: usize, block: Duration) -> Result<Vec<Entry>, Error> {
        self.next_unless(count, block, std::future::pending()).await
    }

    /// As [`Requests::next`], and ends the wait at `wake`.
    ///
    /// # Errors
    /// As there.
    pub async fn next_unless(
        &mut self,
        count: usize,
        block: Duration,
        wake: impl Future<Output = ()>,
    ) -> Result<Vec<Entry>, Error> {
        tokio::pin!(wake);
        if self.pace.is_ended_by(&mut wake).await {
            return Ok(Vec::new());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.store.ensure_group_of(self.inbox).await?;
                self.store
                    .door
                    .blocking(block + LARGE_ANSWER_TIMEOUT)
                    .await?
            }
        };
        let Blocking { link, changes, id } = &mut connection;
        let (door, id) = (self.store.door.clone(), *id);
        let reading = self.read(link, count, block);
        let entries = door.wait(changes, id, reading, wake).await?;
        self.connection = entries.is_some().then_some(connection);
        Ok(entries.unwrap_or_default())
    }

    async fn read(
        &mut self,
        connection: &mut Link,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, RedisError> {
        let mut entries = Vec::new();
        if !self.has_more {
            entries = self.wait(connection, block).await?;
            let is_large = entries.iter().any(|entry| entry.bytes() >= READ_BYTES);
            if !self.has_more || is_large || entries.len() >= count {
                return Ok(entries);
            }
        }
        let mut script = scripts::READ.prepare_invoke();
        script.key(self.store.keys.inbox(self.inbox));
        script.arg(GROUP).arg(&self.consumer);
        script.arg(count - entries.len()).arg(READ_BYTES);
        script.arg(self.entry_max);
        self.store.door.gate(&mut script);
        let asked = Query::Script(&script);
        let batch = Batch::new(self.store.door.ask(&asked, connection).await?);
        self.has_more = batch.has_more;
        entries.extend(batch.entries);
        if entries.is_empty() {
            return self.wait(connection, block).await;
        }
        Ok(entries)
    }

    /// Waits for one entry: a read that waits can have no bound in bytes. Notes whether there may
    /// be more of them.
    async fn wait(
        &mut self,
        connection: &mut Link,
        block: Duration,
    ) -> Result<Vec<Entry>, RedisError> {
        let key = self.store.keys.inbox(self.inbox);
        let mut pipe = redis::pipe();
        pipe.cmd("XREADGROUP").arg("GROUP").arg(GROUP);
        pipe.arg(&self.consumer).arg("COUNT").arg(1);
        pipe.arg("BLOCK").arg(millis(block));
        pipe.arg("STREAMS").arg(&key).arg(">");
        pipe.xlen(&key);
        let begun = Instant::now();
        type Reply = Option<Vec<(String, Vec<Row>)>>;
        let (reply, left): (Reply, usize) = pipe.query_async(&mut **connection).await?;
        let streams = reply.unwrap_or_default().into_iter();
        let entries: Vec<Entry> = streams.flat_map(|(_, rows)| rows).map(Entry::new).collect();
        self.pace.note(entries.is_empty(), begun, block);
        // What others have read and not disposed of counts too: then there may be none.
        self.has_more = left > entries.len();
        Ok(entries)
    }

    /// Takes over at most `count` requests that some worker read and did not admit for `idle`, and
    /// of these no more than [`READ_BYTES`] and one entry. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn take_over(&self, count: usize, idle: Duration) -> Result<Batch, Error> {
        let mut script = scripts::TAKE_OVER.prepare_invoke();
        script.key(self.store.keys.inbox(self.inbox));
        script.arg(GROUP).arg(&self.consumer);
        script.arg(count).arg(READ_BYTES).arg(self.entry_max);
        script.arg(millis(idle));
        self.store.door.gate(&mut script);
        let answer = self.store.door.large(Query::Script(&script)).await;
        answer.map(Batch::new)
    }

    /// This consumer still holds entries that it read: nobody takes them over before they
    /// have been idle from now on. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hold(&self, entries: impl Iterator<Item = &Entry>) -> Result<(), Error> {
        let mut command = redis::cmd("XCLAIM");
        command.arg(self.store.keys.inbox(self.inbox));
        command.arg(GROUP).arg(&self.consumer).arg(0);
        for entry in entries {
            command.arg(&entry.id);
        }
        command.arg("JUSTID");
        self.store.door.query::<redis::Value>(&command).await?;
        Ok(())
    }

    /// Leaves the group. Only for a consumer that has nothing pending; otherwise it stays, and
    /// what is pending is taken over later.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn leave(self) -> Result<(), Error> {
        let (store, name) = (&self.store, self.consumer.as_str());
        let forgotten = store.forget(self.inbox, Duration::ZERO, name).await;
        forgotten.map(drop)
    }
}

impl Store {
    /// Makes the workers' group, at the stream's beginning, unless it is there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ensure_group(&self) -> Result<(), Error> {
        self.ensure_group_of(Inbox::Runs).await
    }

    async fn ensure_group_of(&self, inbox: Inbox) -> Result<(), Error> {
        let mut script = scripts::GROUP.prepare_invoke();
        script.key(self.keys.inbox(inbox)).arg(GROUP).arg("0");
        self.door.script(&mut script).await
    }

    /// Removes consumers of the group that have nothing pending and were not seen for `idle`.
    /// Says how many. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn forget_consumers(&self, inbox: Inbox, idle: Duration) -> Result<usize, Error> {
        self.forget(inbox, idle, "").await
    }

    async fn forget(&self, inbox: Inbox, idle: Duration, only: &str) -> Result<usize, Error> {
        let mut script = scripts::FORGET.prepare_invoke();
        script.key(self.keys.inbox(inbox)).arg(GROUP);
        script.arg(millis(idle)).arg(FORGOTTEN_MAX).arg(only);
        self.door.script(&mut script).await
    }

    /// Sets an entry aside that is not what its stream is for: as it came, with the reason, on the
    /// dead stream, and acknowledged and deleted. Of an entry with more fields than a script can
    /// take the first ones are kept, and the reason says so. Safe to repeat. One round trip.
    ///
    /// # Errors
    /// [`Error`]; it may have happened.
    pub async fn dead_letter(
        &self,
        inbox: Inbox,
        entry: &Entry,
        reason: &str,
    ) -> Result<(), Error> {
        let mut script = scripts::DEAD_LETTER.prepare_invoke();
        script.key(self.keys.inbox(inbox)).key(self.keys.dead());
        script.arg(GROUP).arg(&entry.id).arg(self.retention.dead);
        script.arg(2 * DEAD_FIELDS_MAX);
        let left_out = entry.fields.len().saturating_sub(DEAD_FIELDS_MAX);
        let reason = match left_out {
            0 => reason.to_owned(),
            more => format!("{reason} ({more} of its fields are left out)"),
        };
        script.arg(reason).arg(inbox.word());
        self.door.script(&mut script).await
    }

    /// Acknowledges and deletes an entry with which nothing more is to be done. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn done(&self, inbox: Inbox, entry: &Entry) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        self.dispose(pipe.atomic(), inbox, entry);
        self.door.pipe::<()>(&pipe).await
    }

    fn dispose(&self, pipe: &mut redis::Pipeline, inbox: Inbox, entry: &Entry) {
        let key = self.keys.inbox(inbox);
        let acknowledge = pipe.cmd("XACK").arg(&key);
        acknowledge.arg(GROUP).arg(&entry.id).ignore();
        pipe.cmd("XDEL").arg(&key).arg(&entry.id).ignore();
    }

    /// Whether every request that was appended before an order has been admitted. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn intake_is_past(&self, order: &Entry) -> Result<bool, Error> {
        let mut script = scripts::UNREAD.prepare_invoke();
        script.key(self.keys.runs()).arg(&order.id);
        let unread: u64 = self.door.script(&mut script).await?;
        Ok(unread == 0)
    }
}

/// Milliseconds of a duration, as Redis wants them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
