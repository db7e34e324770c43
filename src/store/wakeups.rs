//! Wakeups: a list on which one process tells any worker that a tear-down is owed or that there may
//! be capacity for a boot.
//!
//! A settled run is due for its tear-down at once. Its id is pushed on the list, and a worker that
//! blocks on it has the id within a round trip. A wakeup also carries what the tear-down needs, so
//! that the run need not be read. It is a hint and no record: when one is lost together with the
//! worker that took it, the run is overdue in `due` once its lease ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Store;
use crate::store::codec::{self, SettledRun, Text};
use crate::store::door::Blocking;
use crate::store::error::Error;
use crate::store::pace::Pace;

/// What stands on the list instead of a run's id when there may be capacity for a boot. No run has
/// an empty id.
const CAPACITY: &str = "";

/// What a worker is woken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// Something is owed for the run of that id.
    Run(String),
    /// The tear-down of a run is owed, and this is what it needs.
    Teardown(Box<SettledRun>),
    /// There may be capacity for another boot.
    Capacity,
}

/// Takes wakeups, on a connection of its own.
pub struct Wakeups {
    store: Store,
    connection: Option<Blocking>,
    pace: Pace,
}

impl std::fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakeups").finish_non_exhaustive()
    }
}

impl Wakeups {
    /// A listener; it connects at the first call.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            connection: None,
            pace: Pace::default(),
        }
    }

    /// Waits up to `block` and takes at most `count` wakeups. Dropping the future half-way can lose
    /// some; the sweep finds their runs overdue.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew.
    pub async fn next(&mut self, count: usize, block: Duration) -> Result<Vec<Wakeup>, Error> {
        self.next_unless(count, block, std::future::pending()).await
    }

    /// As [`Wakeups::next`], and ends the wait at `wake`.
    ///
    /// # Errors
    /// As there.
    pub async fn next_unless(
        &mut self,
        count: usize,
        block: Duration,
        wake: impl Future<Output = ()>,
    ) -> Result<Vec<Wakeup>, Error> {
        tokio::pin!(wake);
        if self.pace.is_ended_by(&mut wake).await {
            return Ok(Vec::new());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.door.blocking(block).await?,
        };
        let mut command = redis::cmd("BLMPOP");
        command
            .arg(block.as_secs_f64())
            .arg(1)
            .arg(self.store.keys.wakeups());
        command.arg("LEFT").arg("COUNT").arg(count);
        let Blocking { link, changes, id } = &mut connection;
        let begun = Instant::now();
        let (answer, id) = (command.query_async(&mut **link), *id);
        type Reply = Option<(String, Vec<Text>)>;
        let reply: Option<Reply> = self.store.door.wait(changes, id, answer, wake).await?;
        self.connection = reply.is_some().then_some(connection);
        let entries = reply.flatten().map(|(_, entries)| entries);
        let entries = entries.unwrap_or_default();
        self.pace.note(entries.is_empty(), begun, block);
        Ok(entries.into_iter().map(|Text(entry)| read(entry)).collect())
    }
}

fn read(entry: String) -> Wakeup {
    if entry == CAPACITY {
        return Wakeup::Capacity;
    }
    match codec::of_wakeup(&entry) {
        Some(run) => Wakeup::Teardown(Box::new(run)),
        None => Wakeup::Run(entry),
    }
}

impl Store {
    /// Tells some worker that there may be capacity for a boot. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn notify_capacity(&self) -> Result<(), Error> {
        self.write_small(self.keys.wakeups(), &[&["RPUSH", CAPACITY]])
            .await
    }
}
