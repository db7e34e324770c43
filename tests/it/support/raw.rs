//! Redis itself, as a producer, a consumer or an operator with `redis-cli` meets it.

use std::collections::HashMap;

use cofferdam::config;
use cofferdam::run::id::Nonce;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamPendingReply, StreamRangeReply, StreamReadReply};

use crate::support::until::LONG;

/// A connection that prefixes keys with the namespace.
pub(crate) struct Raw {
    connection: MultiplexedConnection,
    namespace: String,
}

impl Raw {
    pub(crate) async fn new(settings: &config::Redis) -> Self {
        let client = redis::Client::open(settings.url.expose().as_str()).unwrap();
        // By itself it waits for a second or less, which a busy computer may take.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LONG))
            .set_response_timeout(Some(LONG));
        let connection = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        Self {
            connection,
            namespace: settings.namespace.clone(),
        }
    }

    fn key(&self, rest: &str) -> String {
        format!("{}:{rest}", self.namespace)
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command
            .query_async(&mut self.connection.clone())
            .await
            .unwrap()
    }

    /// Any command on one key.
    pub(crate) async fn say<T: redis::FromRedisValue>(
        &self,
        command: &str,
        key: &str,
        words: &[&str],
    ) -> T {
        self.ask(redis::cmd(command).arg(self.key(key)).arg(words))
            .await
    }

    pub(crate) async fn add(&self, stream: &str, fields: &[(&str, &str)]) -> String {
        self.ask(
            redis::cmd("XADD")
                .arg(self.key(stream))
                .arg("*")
                .arg(fields),
        )
        .await
    }

    /// Whether there was room for another entry.
    pub(crate) async fn try_add(&self, stream: &str, fields: &[(&str, &str)]) -> bool {
        let mut command = redis::cmd("XADD");
        command.arg(self.key(stream)).arg("*").arg(fields);
        let mut connection = self.connection.clone();
        match command.query_async::<String>(&mut connection).await {
            Ok(_) => true,
            Err(error) if error.code() == Some("OOM") => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Raw::add`], with any bytes.
    pub(crate) async fn add_bytes(&self, stream: &str, fields: &[(Vec<u8>, Vec<u8>)]) -> String {
        let mut command = redis::cmd("XADD");
        command.arg(self.key(stream)).arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        self.ask(&command).await
    }

    /// Any command on one key, with any bytes, whose answer does not matter.
    pub(crate) async fn say_bytes(&self, command: &str, key: &str, words: &[&[u8]]) {
        let mut command = redis::cmd(command);
        command.arg(self.key(key)).arg(words);
        self.ask::<redis::Value>(&command).await;
    }

    pub(crate) async fn length(&self, stream: &str) -> usize {
        self.ask(redis::cmd("XLEN").arg(self.key(stream))).await
    }

    /// The nonce of a run that was claimed.
    pub(crate) async fn nonce(&self, run: &str) -> Option<Nonce> {
        let nonce: Option<String> = self.say("HGET", &format!("run:{run}"), &["nonce"]).await;
        nonce.map(|nonce| nonce.parse().unwrap())
    }

    pub(crate) async fn exists(&self, key: &str) -> bool {
        self.ask(redis::cmd("EXISTS").arg(self.key(key))).await
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.ask::<i64>(redis::cmd("DEL").arg(self.key(key))).await;
    }

    /// Entries of the workers' group that were read and not acknowledged.
    pub(crate) async fn pending(&self, stream: &str) -> usize {
        self.pending_of(stream, "cofferdam").await
    }

    /// Entries that the group has read and not acknowledged.
    pub(crate) async fn pending_of(&self, stream: &str, group: &str) -> usize {
        let mut command = redis::cmd("XPENDING");
        command.arg(self.key(stream)).arg(group);
        self.ask::<StreamPendingReply>(&command).await.count()
    }

    /// Consumers that the group knows.
    pub(crate) async fn consumers(&self, stream: &str, group: &str) -> usize {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(self.key(stream)).arg(group);
        self.ask::<Vec<redis::Value>>(&command).await.len()
    }

    /// Every key of a run expires some day.
    #[track_caller]
    pub(crate) fn check_times_to_live(&self, when: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let pattern = self.key("run:*");
            let keys: Vec<String> = self.ask(redis::cmd("KEYS").arg(pattern)).await;
            assert!(!keys.is_empty(), "{caller}: {when}: no run at all");
            for key in keys {
                let left: i64 = self.ask(redis::cmd("PTTL").arg(&key)).await;
                assert!(
                    left > 0,
                    "{caller}: {when}: {key} has no time to live ({left})"
                );
            }
        }
    }

    /// What a field of each entry says.
    pub(crate) async fn fields(&self, stream: &str, field: &str) -> Vec<String> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.key(stream)).arg("-").arg("+");
        let entries = self.ask::<StreamRangeReply>(&command).await.ids;
        let fields = entries.iter().filter_map(|entry| entry.get(field));
        fields.collect()
    }

    /// Removes a group.
    pub(crate) async fn destroy_group(&self, stream: &str, group: &str) {
        let mut command = redis::cmd("XGROUP");
        command.arg("DESTROY").arg(self.key(stream)).arg(group);
        self.ask::<i64>(&command).await;
    }

    pub(crate) async fn make_group(&self, stream: &str, group: impl redis::ToRedisArgs) {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(self.key(stream))
            .arg(group)
            .arg("0")
            .arg("MKSTREAM");
        self.ask::<()>(&command).await;
    }

    /// Ids of up to `count` entries that the group has not read.
    pub(crate) async fn read_group(&self, stream: &str, group: &str, count: usize) -> Vec<String> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(group)
            .arg("consumer")
            .arg("COUNT")
            .arg(count);
        command.arg("STREAMS").arg(self.key(stream)).arg(">");
        let reply: Option<StreamReadReply> = self.ask(&command).await;
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        keys.into_iter()
            .flat_map(|key| key.ids)
            .map(|entry| entry.id)
            .collect()
    }

    pub(crate) async fn acknowledge(&self, stream: &str, group: &str, entry: &str) {
        self.ask::<i64>(
            redis::cmd("XACK")
                .arg(self.key(stream))
                .arg(group)
                .arg(entry),
        )
        .await;
    }

    /// Every key of the namespace without it: type, milliseconds to live (-1: for ever), and what it
    /// holds as words: fields and values, or members and scores. Streams are left out.
    pub(crate) async fn dump(&self) -> HashMap<String, (String, i64, Vec<String>)> {
        const READ: &str = "
            local reads = {
                hash = function(key) return redis.call('HGETALL', key) end,
                zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
                set = function(key) return redis.call('SMEMBERS', key) end,
                list = function(key) return redis.call('LRANGE', key, 0, -1) end,
                string = function(key) return { redis.call('GET', key) } end,
            }
            local all = {}
            for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
                local kind = redis.call('TYPE', key).ok
                if reads[kind] then
                    local name = string.sub(key, #ARGV[1] + 2)
                    all[#all + 1] = { name, kind, redis.call('PTTL', key), reads[kind](key) }
                end
            end
            return all";
        let mut command = redis::cmd("EVAL");
        command.arg(READ).arg(0).arg(&self.namespace);
        let rows: Vec<(String, String, i64, Vec<String>)> = self.ask(&command).await;
        rows.into_iter()
            .map(|(name, kind, left, words)| (name, (kind, left, words)))
            .collect()
    }

    /// How many commands the server has run, those in scripts included.
    pub(crate) async fn commands(&self) -> u64 {
        let text: String = self.ask(redis::cmd("INFO").arg("commandstats")).await;
        let calls = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once("calls=")?;
            rest.split(',').next()?.parse::<u64>().ok()
        });
        calls.sum()
    }

    /// Any command that needs no key, and whose answer does not matter.
    pub(crate) async fn order(&self, words: &[&str]) {
        self.answer::<redis::Value>(words).await;
    }

    /// Any command that needs no key.
    pub(crate) async fn answer<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.ask(&command).await
    }

    /// A part of what the server tells of itself.
    pub(crate) async fn info(&self, part: &str) -> String {
        self.ask(redis::cmd("INFO").arg(part)).await
    }

    /// Ends every connection but this one.
    pub(crate) async fn kill_connections(&self) {
        self.order(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
    }

    pub(crate) async fn flush_scripts(&self) {
        self.ask::<()>(redis::cmd("SCRIPT").arg("FLUSH").arg("SYNC"))
            .await;
    }
}
