//! Connections: one that all short commands share, blocking ones that are their caller's own, and
//! some for large answers.
//!
//! The shared connection is cloned for every command: commands of many tasks travel in one stream. When
//! a command fails since the connection is broken, does not answer, or leads to a replica, it is
//! dropped, and the next caller makes a new one, to where our keys are then (`locate`). The redis
//! crate's `ConnectionManager` keeps one that does not answer, and one to a replica.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use redis::{FromRedisValue, Pipeline, RedisError};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::config::{Redis, Wait};
use crate::store::dial::{CONNECT_TIMEOUT, Link};
use crate::store::error::Error;
use crate::store::keys::Keys;
use crate::store::locate::Locator;
use crate::store::scripts::Invocation;
use crate::telemetry::Metrics;

/// How long a command may take. Longer than a slow fork or fsync, shorter than callers wait.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer a large answer may take: 16 MiB over a link of a megabyte a second.
pub(crate) const LARGE_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a read may wait for what may come.
pub(crate) const LONGEST_BLOCK: Duration = Duration::from_secs(30);
/// How long a wait that was told to end may go on.
const UNBLOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections for large answers that are kept for the next one.
const LARGE_IDLE_MAX: usize = 2;
/// The same where replicas are waited for.
const DECIDING_IDLE_MAX: usize = 16;

/// How long what was not done, since our keys are on their way to another server, is sent again.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before it is sent again, where another server has the keys already, and where none has yet.
const FOLLOW_PAUSE: Duration = Duration::from_millis(10);
const UNSETTLED_PAUSE: Duration = Duration::from_millis(100);

/// What is sent in one go.
pub(crate) enum Query<'a> {
    Command(&'a redis::Cmd),
    Script(&'a Invocation),
    Pipe(&'a Pipeline),
}

impl Query<'_> {
    async fn send<T: FromRedisValue>(&self, link: &mut Link) -> Result<T, RedisError> {
        match self {
            Self::Command(command) => command.query_async(&mut **link).await,
            Self::Script(invocation) => invocation.call.invoke_async(&mut **link).await,
            Self::Pipe(pipe) => pipe.query_async(&mut **link).await,
        }
    }

    /// When it is sent again after this refusal; `None` when it is not. Of several commands some may
    /// have been done.
    fn again_after(&self, error: &RedisError) -> Option<Duration> {
        if matches!(self, Self::Pipe(_)) {
            return None;
        }
        match error.code()? {
            "MOVED" => Some(FOLLOW_PAUSE),
            "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "READONLY" => Some(UNSETTLED_PAUSE),
            _ => None,
        }
    }
}

/// All connections to one Redis.
#[derive(Clone)]
pub(crate) struct Door {
    locator: Arc<Locator>,
    shared: Arc<Mutex<Option<Shared>>>,
    /// A permit to make the shared connection: one caller at a time does.
    connecting: Arc<Semaphore>,
    /// Connections for large answers that nobody uses now.
    large: Arc<Mutex<Vec<Link>>>,
    /// Where calls are measured and failures are counted.
    metrics: Arc<OnceLock<Metrics>>,
    /// Which replicas are waited for.
    wait_for: Option<Wait>,
    /// The key to which anything may be written.
    probe: Arc<str>,
    /// The key that every script names on a cluster.
    gate: Option<Arc<str>>,
}

/// The shared connection, and which one it is.
#[derive(Clone)]
struct Shared {
    connection: Link,
    generation: u64,
    /// How often the place of our keys had changed.
    place: u64,
}

/// A connection on which its owner alone waits.
#[derive(Debug)]
pub(crate) struct Blocking {
    pub(crate) link: Link,
    pub(crate) changes: watch::Receiver<u64>,
    /// How Redis calls it; `None` where it may not be asked.
    pub(crate) id: Option<i64>,
}

impl Door {
    /// Prepares connections; none is made yet.
    pub(crate) fn new(redis: &Redis, keys: &Keys) -> Result<Self, Error> {
        Ok(Self {
            locator: Arc::new(Locator::new(redis, keys)?),
            shared: Arc::default(),
            connecting: Arc::new(Semaphore::new(1)),
            large: Arc::default(),
            metrics: Arc::default(),
            wait_for: redis.wait,
            probe: keys.probe().into(),
            gate: keys.are_in_one_slot().then(|| keys.gate().into()),
        })
    }

    /// Sends one command.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Error> {
        self.send(Query::Command(command)).await
    }

    /// Sends several commands in one go: one round trip.
    pub(crate) async fn pipe<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Error> {
        self.send(Query::Pipe(pipe)).await
    }

    /// Runs one script: one round trip, and two more when Redis does not have it cached.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        invocation: &mut Invocation,
    ) -> Result<T, Error> {
        self.gate(invocation);
        self.send(Query::Script(invocation)).await
    }

    /// Runs a script that decides a run's fate. Where replicas are to have it, it counts as done when they
    /// say that they do: on a connection on which nobody else waits meanwhile. When they do not in time
    /// it is done all the same, and is said not to be: it is safe to repeat.
    pub(crate) async fn decide<T: FromRedisValue>(
        &self,
        invocation: &mut Invocation,
    ) -> Result<T, Error> {
        let Some(wait) = self.wait_for else {
            return self.script(invocation).await;
        };
        self.gate(invocation);
        let idle = self.idle().pop();
        let mut link = match idle {
            Some(link) => link,
            None => self.connect(LARGE_ANSWER_TIMEOUT + COMMAND_TIMEOUT).await?,
        };
        let answer = self.ask(&Query::Script(invocation), &mut link).await;
        let answer = answer.map_err(|error| {
            // The others that are kept may be as broken.
            if is_broken(&error) {
                self.idle().clear();
            }
            self.failed_call(error)
        })?;
        let mut pipe = redis::pipe();
        // WAIT looks at what its own connection wrote last: when the script finds its work done, that
        // would be something of before.
        pipe.cmd("SET")
            .arg(&*self.probe)
            .arg(1)
            .arg("PX")
            .arg(60_000)
            .ignore();
        let timeout_ms = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX);
        pipe.cmd("WAIT").arg(wait.replicas).arg(timeout_ms);
        let (have,): (u32,) = pipe
            .query_async(&mut *link)
            .await
            .map_err(|error| self.failed_call(error))?;
        let mut idle = self.idle();
        if idle.len() < LARGE_IDLE_MAX.max(DECIDING_IDLE_MAX) {
            idle.push(link);
        }
        drop(idle);
        if have < wait.replicas {
            let wanted = wait.replicas;
            let why = format!("{have} of {wanted} replicas have confirmed in time");
            return Err(self.failed(Error::Unavailable(why)));
        }
        Ok(answer)
    }

    /// Names a key that is never there, where there may be a cluster. While it moves our slot to another
    /// node it then refuses the script as a whole; else it would refuse in its middle the first
    /// command whose key is on the other node.
    pub(crate) fn gate(&self, invocation: &mut Invocation) {
        if let Some(gate) = &self.gate {
            invocation.key(&**gate);
        }
    }

    /// Sends what has a short answer, and sends it again to the server that has our keys now when the
    /// one before says that it was not done.
    async fn send<T: FromRedisValue>(&self, query: Query<'_>) -> Result<T, Error> {
        let begun = Instant::now();
        loop {
            let mut shared = self.shared().await?;
            let error = match self.ask(&query, &mut shared.connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if is_broken(&error) || is_elsewhere(&error) {
                self.drop_shared(shared.generation);
            }
            if error.is_timeout() {
                // Reads that wait may wait at the same dead end.
                self.locator.disturb();
            }
            match query.again_after(&error) {
                Some(pause) if begun.elapsed() + pause < FOLLOW_TIMEOUT => {
                    self.note(&error);
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(self.failed_call(error)),
            }
        }
    }

    /// A connection of the caller's own for commands that block up to `block`.
    pub(crate) async fn blocking(&self, block: Duration) -> Result<Blocking, Error> {
        let block = block.max(LONGEST_BLOCK);
        let mut link = self.connect(block + COMMAND_TIMEOUT).await?;
        let changes = self.locator.changes();
        // Without it, what ends a wait is that the connection is closed.
        let asked = redis::cmd("CLIENT").arg("ID").query_async(&mut *link).await;
        let id = asked.ok();
        Ok(Blocking { link, changes, id })
    }

    /// The answer that a connection waits for, unless our keys are found elsewhere meanwhile: then none
    /// may come. When `wake` comes first Redis is told to end the wait, so that what it has just given
    /// is not lost; `None` when it does not, and the connection is to be closed.
    pub(crate) async fn wait<T>(
        &self,
        changes: &mut watch::Receiver<u64>,
        id: Option<i64>,
        answer: impl Future<Output = Result<T, RedisError>>,
        wake: impl Future<Output = ()>,
    ) -> Result<Option<T>, Error> {
        tokio::pin!(answer);
        let told = |answer: Result<T, RedisError>| match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => Err(self.failed_call(error)),
        };
        tokio::select! {
            biased;
            answer = &mut answer => return told(answer),
            Ok(()) = changes.changed() => {
                let why = "redis has taken another place, or did not answer in time";
                return Err(self.failed(Error::Unavailable(why.into())));
            }
            () = wake => {}
        }
        let Some(id) = id else { return Ok(None) };
        let mut unblock = redis::cmd("CLIENT");
        unblock.arg("UNBLOCK").arg(id);
        if self.query::<i64>(&unblock).await.is_err() {
            return Ok(None);
        }
        match timeout(UNBLOCK_TIMEOUT, answer).await {
            Ok(answer) => told(answer),
            Err(_) => Ok(None),
        }
    }

    async fn connect(&self, answer_timeout: Duration) -> Result<Link, Error> {
        let begun = Instant::now();
        let opened = self.locator.connect(answer_timeout).await;
        self.waited_since(begun);
        opened.map_err(|error| self.failed(error))
    }

    /// A caller had no connection until now.
    fn waited_since(&self, begun: Instant) {
        if let Some(metrics) = self.metrics.get() {
            let waited = begun.elapsed().as_secs_f64();
            metrics.redis_connection_wait.observe(waited);
        }
    }

    /// Sends once, and measures how long a script's answer took, whatever it was.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        query: &Query<'_>,
        link: &mut Link,
    ) -> Result<T, RedisError> {
        let begun = Instant::now();
        let answer = query.send(link).await;
        if let (Query::Script(invocation), Some(metrics)) = (query, self.metrics.get()) {
            let took = begun.elapsed().as_secs_f64();
            metrics.redis_script(invocation.name).observe(took);
        }
        answer
    }

    /// Sends what may have a large answer, by a connection on which nobody else waits meanwhile.
    pub(crate) async fn large<T: FromRedisValue>(&self, query: Query<'_>) -> Result<T, Error> {
        loop {
            let idle = self.idle().pop();
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect(LARGE_ANSWER_TIMEOUT + COMMAND_TIMEOUT).await?,
            };
            match self.ask(&query, &mut connection).await {
                Ok(answer) => {
                    let mut idle = self.idle();
                    if idle.len() < LARGE_IDLE_MAX {
                        idle.push(connection);
                    }
                    return Ok(answer);
                }
                // It may have been broken since long before.
                Err(error)
                    if !is_new && (error.is_connection_dropped() || is_elsewhere(&error)) =>
                {
                    self.note(&error);
                }
                Err(error) => return Err(self.failed_call(error)),
            }
        }
    }

    /// Measures calls and counts failures here from now on; the first call counts.
    pub(crate) fn measure(&self, metrics: &Metrics) {
        let _ = self.metrics.set(metrics.clone());
    }

    /// A call failed, whichever connection it went by: counts it.
    pub(crate) fn failed(&self, error: impl Into<Error>) -> Error {
        let error = error.into();
        if let Some(metrics) = self.metrics.get() {
            metrics.redis_errors.of(error.kind()).inc();
        }
        error
    }

    async fn shared(&self) -> Result<Shared, Error> {
        if let Some(shared) = self.current() {
            return Ok(shared);
        }
        let begun = Instant::now();
        let Ok(permit) = timeout(CONNECT_TIMEOUT, self.connecting.acquire()).await else {
            self.waited_since(begun);
            return Err(self.failed(Error::Unavailable("no connection in time".into())));
        };
        // Whoever had the permit before may have made it.
        if let Some(shared) = self.current() {
            self.waited_since(begun);
            return Ok(shared);
        }
        let connection = self.connect(COMMAND_TIMEOUT).await?;
        let shared = Shared {
            connection,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            place: *self.locator.changes().borrow(),
        };
        *self.lock() = Some(shared.clone());
        drop(permit);
        Ok(shared)
    }

    /// The shared connection, unless our keys were found elsewhere since it was made.
    fn current(&self) -> Option<Shared> {
        let place = *self.locator.changes().borrow();
        let mut shared = self.lock();
        shared.take_if(|shared| shared.place != place);
        shared.clone()
    }

    fn drop_shared(&self, generation: u64) {
        let mut shared = self.lock();
        shared.take_if(|shared| shared.generation == generation);
    }

    /// A call failed on whichever connection: remembers where our keys are, and counts it.
    pub(crate) fn failed_call(&self, error: RedisError) -> Error {
        self.note(&error);
        self.failed(error)
    }

    fn note(&self, error: &RedisError) {
        self.locator.moved(error);
        if is_elsewhere(error) {
            self.idle().clear();
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static GENERATION: AtomicU64 = AtomicU64::new(0);

fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

/// Whether the server that answered is not, or not now, the one that has our keys and takes writes. A
/// new connection finds the one that does, behind the same address or another.
fn is_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("READONLY" | "MOVED" | "CLUSTERDOWN" | "MASTERDOWN")
    )
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}
