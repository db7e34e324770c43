//! A stream that is read from a place on without a consumer group, so that nothing is taken from any
//! consumer, on a connection of its own.

use std::time::Duration;

use crate::store::Store;
use crate::store::door::Blocking;
use crate::store::error::Error;
use crate::store::requests::Row;

/// The longest that the first read may wait for, so that its connection serves later ones.
const BLOCK_MIN: Duration = Duration::from_secs(15);

/// Reads one stream, in order.
pub(crate) struct Follow {
    store: Store,
    key: String,
    connection: Option<Blocking>,
    /// The entry that was read last.
    position: String,
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow")
            .field("key", &self.key)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Follow {
    /// From the entry behind `position` on.
    pub(crate) fn new(store: Store, key: String, position: String) -> Self {
        Self {
            store,
            key,
            connection: None,
            position,
        }
    }

    /// The next entries, at most `count`; waits up to `block` for the first if there are none, or not at
    /// all. A future that is dropped half-way loses none.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew and goes on at the same position.
    pub(crate) async fn next(
        &mut self,
        count: usize,
        block: Option<Duration>,
    ) -> Result<Vec<Row>, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let longest = block.unwrap_or_default().max(BLOCK_MIN);
                self.store.door.blocking(longest).await?
            }
        };
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(count);
        if let Some(block) = block {
            command.arg("BLOCK").arg(block.as_millis().max(1) as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(&self.position);
        let Blocking { link, changes, id } = &mut connection;
        let (answer, id) = (command.query_async(&mut **link), *id);
        type Reply = Option<Vec<(String, Vec<Row>)>>;
        let never = std::future::pending();
        let reply: Option<Reply> = self.store.door.wait(changes, id, answer, never).await?;
        self.connection = reply.is_some().then_some(connection);
        let reply = reply.flatten().unwrap_or_default().into_iter();
        let rows: Vec<Row> = reply.flat_map(|(_, rows)| rows).collect();
        if let Some((entry, _)) = rows.last() {
            self.position.clone_from(entry);
        }
        Ok(rows)
    }
}
