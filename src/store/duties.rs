//! The bell for owed tear-downs, and for room that became free.
//!
//! A run that settles is due for its tear-down at once. Its id is pushed on a list from which a
//! worker takes it within a round trip; that is a bell and not a record. With the id comes what the
//! tear-down needs, so that it need not be read. If the bell is lost with
//! the worker that heard it, the run is overdue in `due` when its lease ends.

use std::time::Duration;

use redis::aio::MultiplexedConnection;

use crate::store::Store;
use crate::store::codec::{self, Text, View};
use crate::store::error::Error;

/// What the bell says instead of a run's id when there may be room for a boot. No run has an
/// empty id.
const ROOM: &str = "";

/// What a worker is called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Something is owed for a run of that id.
    Owed(String),
    /// The tear-down of a run is owed, and this is what it needs.
    Teardown(Box<View>),
    /// There may be room for another boot.
    Room,
}

/// Hears the bell, on a connection of its own.
pub struct Duties {
    store: Store,
    connection: Option<MultiplexedConnection>,
}

impl std::fmt::Debug for Duties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Duties").finish_non_exhaustive()
    }
}

impl Duties {
    /// A listener; it connects at the first call.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            connection: None,
        }
    }

    /// Waits up to `block` and takes at most `count` calls. Dropping the future half-way can lose
    /// calls; the sweep makes up for them.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew.
    pub async fn next(&mut self, count: usize, block: Duration) -> Result<Vec<Call>, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.door.blocking(block).await?,
        };
        let mut command = redis::cmd("BLMPOP");
        command
            .arg(block.as_secs_f64())
            .arg(1)
            .arg(self.store.keys.duties());
        command.arg("LEFT").arg("COUNT").arg(count);
        let reply: Option<(String, Vec<Text>)> = command
            .query_async(&mut connection)
            .await
            .map_err(|error| self.store.door.failed(error))?;
        self.connection = Some(connection);
        let calls = reply.map(|(_, calls)| calls).unwrap_or_default();
        Ok(calls
            .into_iter()
            .map(|Text(call)| {
                if call == ROOM {
                    return Call::Room;
                }
                codec::called(&call)
                    .map_or_else(|| Call::Owed(call), |run| Call::Teardown(Box::new(run)))
            })
            .collect())
    }
}

impl Store {
    /// Tells some worker that there may be room for a boot. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ring_for_room(&self) -> Result<(), Error> {
        self.write_small(self.keys.duties(), &[&["RPUSH", ROOM]])
            .await
    }
}
