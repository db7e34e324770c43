//! Redis as producers and consumers meet it: a connection that is made anew when it was lost.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
};
use tokio::time::sleep;

/// How long Redis may take to answer, longer than it is ever stopped.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a replica may take to have what was done.
const REPLICA_PATIENCE_MS: u32 = 3000;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection to Redis.
pub(crate) struct Link {
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// Replicas that must have what was done, for it to be done.
    replicas: u32,
}

impl Link {
    /// Connects when it is first needed. What is done counts when so many replicas have it.
    pub(crate) fn new(url: &str, replicas: u32) -> Self {
        Self {
            client: Client::open(url).unwrap(),
            connection: None,
            replicas,
        }
    }

    /// Sends these commands and gives their answers. When the connection is lost on the way some
    /// may have been carried out.
    pub(crate) async fn once<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> RedisResult<T> {
        let answer = self.try_once(pipe).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn try_once<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> RedisResult<T> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(PATIENCE));
                let made = self
                    .client
                    .get_multiplexed_async_connection_with_config(&config);
                self.connection.insert(made.await?)
            }
        };
        let answer = pipe.query_async(connection).await?;
        if self.replicas > 0 {
            let mut wait = redis::cmd("WAIT");
            wait.arg(self.replicas).arg(REPLICA_PATIENCE_MS);
            let have: u32 = wait.query_async(connection).await?;
            if have < self.replicas {
                return Err(RedisError::from((ErrorKind::Io, "no replica has it")));
            }
        }
        Ok(answer)
    }

    /// As [`Link::once`], until it has been answered: each command is carried out at least once.
    pub(crate) async fn surely<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> T {
        loop {
            match self.once(pipe).await {
                Ok(answer) => return answer,
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// One command, surely.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut pipe = redis::pipe();
        pipe.cmd(words[0]).arg(&words[1..]);
        let (answer,): (T,) = self.surely(&pipe).await;
        answer
    }
}
