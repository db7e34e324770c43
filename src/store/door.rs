//! Connections: one that all short commands share, blocking ones that are their caller's own, and
//! some for large answers.
//!
//! The shared connection is cloned for every command: commands of many tasks travel in one stream. When
//! a command fails since the connection is broken, does not answer, or leads to a replica, it is
//! dropped, and the next caller makes a new one. The redis crate's `ConnectionManager` keeps one that
//! does not answer, and one to a replica.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::Url;

use crate::store::error::Error;
use crate::telemetry::{Counters, RedisError as Kind};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a command may take. Longer than a slow fork or fsync, shorter than callers wait.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

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
    shared: Arc<Mutex<Option<Shared>>>,
    /// A permit to make the shared connection: one caller at a time does.
    connecting: Arc<Semaphore>,
    /// Connections for large answers that nobody uses now.
    large: Arc<Mutex<Vec<MultiplexedConnection>>>,
    /// Where failures are counted.
    failures: Arc<OnceLock<Counters<Kind>>>,
}

/// The shared connection, and which one it is.
#[derive(Clone)]
struct Shared {
    connection: MultiplexedConnection,
    generation: u64,
}

impl Door {
    /// Prepares connections to `url`; none is made yet.
    pub(crate) fn new(url: &Url) -> Result<Self, Error> {
        Ok(Self {
            client: redis::Client::open(url.as_str())?,
            shared: Arc::default(),
            connecting: Arc::new(Semaphore::new(1)),
            large: Arc::default(),
            failures: Arc::default(),
        })
    }

    /// Sends one command.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Error> {
        let mut shared = self.shared().await?;
        let answer = command.query_async(&mut shared.connection).await;
        self.seen(shared.generation, answer)
    }

    /// Sends several commands in one go: one round trip.
    pub(crate) async fn pipe<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Error> {
        let mut shared = self.shared().await?;
        let answer = pipe.query_async(&mut shared.connection).await;
        self.seen(shared.generation, answer)
    }

    /// Runs one script: one round trip, and two more when Redis does not have it cached.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        invocation: &redis::ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        let mut shared = self.shared().await?;
        let answer = invocation.invoke_async(&mut shared.connection).await;
        self.seen(shared.generation, answer)
    }

    /// A connection of the caller's own for commands that block up to `block`.
    pub(crate) async fn blocking(&self, block: Duration) -> Result<MultiplexedConnection, Error> {
        self.connect(block + COMMAND_TIMEOUT).await
    }

    async fn connect(&self, answer_timeout: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(answer_timeout));
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

    async fn shared(&self) -> Result<Shared, Error> {
        if let Some(shared) = self.lock().clone() {
            return Ok(shared);
        }
        let Ok(permit) = timeout(CONNECT_TIMEOUT, self.connecting.acquire()).await else {
            return Err(self.failed(Error::Unavailable("no connection in time".into())));
        };
        // Whoever had the permit before may have made it.
        if let Some(shared) = self.lock().clone() {
            return Ok(shared);
        }
        let shared = Shared {
            connection: self.connect(COMMAND_TIMEOUT).await?,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
        };
        *self.lock() = Some(shared.clone());
        drop(permit);
        Ok(shared)
    }

    /// Passes an answer on; drops the shared connection if it is the one that broke.
    fn seen<T>(&self, generation: u64, answer: Result<T, RedisError>) -> Result<T, Error> {
        if let Err(error) = &answer {
            let broken = error.is_io_error()
                || error.is_timeout()
                || error.is_connection_dropped()
                || is_elsewhere(error);
            let mut shared = self.lock();
            if broken
                && shared
                    .as_ref()
                    .is_some_and(|it| it.generation == generation)
            {
                *shared = None;
            }
        }
        answer.map_err(|error| self.failed(error))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static GENERATION: AtomicU64 = AtomicU64::new(0);

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
