//! Connections: one that all short commands share, blocking ones that are their caller's own, and
//! some for large answers.
//!
//! The shared connection is checked out of the pool once and cloned for every command: commands
//! of many tasks travel in one stream and need no round trip of their own to be checked out. A
//! connection on which a command failed is given back broken, and the next caller gets a new one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolError};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
};
use url::Url;

use crate::store::error::Error;
use crate::telemetry::{Counters, RedisError as Kind};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a command may take. Longer than a slow fork or fsync, shorter than callers wait.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections in the pool: the shared one, and one that follows it.
const POOL_SIZE: usize = 4;

/// How much longer a large answer may take: 16 MiB over a link of a megabyte a second.
pub(crate) const LARGE_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections for large answers that are kept for the next one.
const LARGE_IDLE_MAX: usize = 2;

/// A query with a large answer.
pub(crate) enum LargeQuery<'a> {
    Command(&'a redis::Cmd),
    Script(&'a redis::ScriptInvocation<'a>),
}

impl LargeQuery<'_> {
    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        match self {
            Self::Command(command) => command.query_async(connection).await,
            Self::Script(invocation) => invocation.invoke_async(connection).await,
        }
    }
}

/// All connections to one Redis.
#[derive(Clone)]
pub(crate) struct Door {
    client: redis::Client,
    pool: Pool,
    shared: Arc<Mutex<Option<Shared>>>,
    /// Connections for large answers that nobody uses now.
    large: Arc<Mutex<Vec<MultiplexedConnection>>>,
    /// Where failures are counted.
    failures: Arc<OnceLock<Counters<Kind>>>,
}

struct Shared {
    object: deadpool_redis::Connection,
    connection: MultiplexedConnection,
    generation: u64,
}

/// A clone of the shared connection, and which one it is.
struct Borrowed {
    connection: MultiplexedConnection,
    generation: u64,
}

impl Door {
    /// Prepares connections to `url`; none is made yet.
    pub(crate) fn new(url: &Url) -> Result<Self, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
        let manager = Manager::new_with_config(url.as_str(), config)?;
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .build()
            .map_err(|error| Error::Address(error.to_string()))?;
        let client = redis::Client::open(url.as_str())?;
        Ok(Self {
            client,
            pool,
            shared: Arc::default(),
            large: Arc::default(),
            failures: Arc::default(),
        })
    }

    /// Sends one command.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Error> {
        let mut borrowed = self.borrow().await?;
        let answer = command.query_async(&mut borrowed.connection).await;
        self.seen(&borrowed, answer)
    }

    /// Sends several commands in one go: one round trip.
    pub(crate) async fn pipe<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Error> {
        let mut borrowed = self.borrow().await?;
        let answer = pipe.query_async(&mut borrowed.connection).await;
        self.seen(&borrowed, answer)
    }

    /// Runs one script: one round trip, and two more when Redis does not have it cached.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        invocation: &redis::ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        let mut borrowed = self.borrow().await?;
        let answer = invocation.invoke_async(&mut borrowed.connection).await;
        self.seen(&borrowed, answer)
    }

    /// A connection of the caller's own for commands that block up to `block`.
    pub(crate) async fn blocking(&self, block: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(block + COMMAND_TIMEOUT));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        connection.await.map_err(|error| self.failed(error))
    }

    /// Sends what may have a large answer, by a connection on which nobody else waits meanwhile.
    pub(crate) async fn large<T: FromRedisValue>(&self, query: LargeQuery<'_>) -> Result<T, Error> {
        loop {
            let idle = self.idle().pop();
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.blocking(LARGE_ANSWER_TIMEOUT).await?,
            };
            match query.send(&mut connection).await {
                Ok(answer) => {
                    let mut idle = self.idle();
                    if idle.len() < LARGE_IDLE_MAX {
                        idle.push(connection);
                    }
                    return Ok(answer);
                }
                // It may have been broken since long before.
                Err(error) if !is_new && error.is_connection_dropped() => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Counts failures here from now on; the first call counts.
    pub(crate) fn count_failures(&self, counters: Counters<Kind>) {
        let _ = self.failures.set(counters);
    }

    /// A call failed, whichever connection it went by: counts it.
    pub(crate) fn failed(&self, error: impl Into<Error>) -> Error {
        let error = error.into();
        if let Some(counters) = self.failures.get() {
            counters.of(error.kind()).inc();
        }
        error
    }

    async fn borrow(&self) -> Result<Borrowed, Error> {
        if let Some(shared) = self.lock().as_ref() {
            return Ok(shared.borrow());
        }
        let object = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.failed(error),
            other => self.failed(Error::Unavailable(other.to_string())),
        })?;
        let mut slot = self.lock();
        // Somebody else may have been faster; the pool takes the second connection back.
        let shared = slot.get_or_insert_with(|| Shared {
            connection: (*object).clone(),
            generation: GENERATION.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            object,
        });
        Ok(shared.borrow())
    }

    /// Passes an answer on; drops the shared connection if it is the one that broke.
    fn seen<T>(&self, borrowed: &Borrowed, answer: Result<T, RedisError>) -> Result<T, Error> {
        if let Err(error) = &answer {
            let broken = error.is_io_error()
                || error.is_timeout()
                || error.is_connection_dropped()
                || is_elsewhere(error);
            let mut slot = self.lock();
            if broken
                && slot
                    .as_ref()
                    .is_some_and(|s| s.generation == borrowed.generation)
                && let Some(shared) = slot.take()
            {
                drop(deadpool_redis::Connection::take(shared.object));
            }
        }
        answer.map_err(|error| self.failed(error))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static GENERATION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl Shared {
    fn borrow(&self) -> Borrowed {
        Borrowed {
            connection: self.connection.clone(),
            generation: self.generation,
        }
    }
}

/// Whether the server that answered is a replica: after a failover the one that takes writes may be
/// behind the same address, and a new connection finds it.
fn is_elsewhere(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}
