//! Finds the server that has our keys and takes writes: the one of the address, the primary that
//! Sentinel names, or the node of a cluster that owns our slot.
//!
//! All keys lie in one slot, so one node has them all, and a connection to it is enough. It is asked
//! for a key of ours; a node that does not own the slot answers `MOVED` and says who does. When a
//! connection breaks, or a node says that it is no longer the one, the next connection looks again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::info;

use crate::config::Redis;
use crate::config::address::{Place, Server};
use crate::store::dial::{Dialer, Link, Target};
use crate::store::error::Error;
use crate::store::keys::Keys;
use crate::telemetry::RedisError as Kind;

/// How long one sentinel may take to answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Servers that are tried for one connection, redirections included.
const TRIES_MAX: usize = 16;
/// Nodes of a cluster that are remembered.
const NODES_MAX: usize = 64;

/// Finds the server, and connects to it.
pub(crate) struct Locator {
    dialer: Dialer,
    /// Keys of ours, by which a node of a cluster tells whether it owns our slot.
    keys: [String; 3],
    keys_are_in_one_slot: bool,
    namespace: String,
    known: Mutex<Known>,
    /// How often the place of our keys has changed.
    changes: watch::Sender<u64>,
}

/// What was learnt so far.
#[derive(Default)]
struct Known {
    /// Where our keys were last.
    owner: Option<Server>,
    /// The nodes of the cluster; `None` while it is not known whether it is one.
    nodes: Option<Vec<Server>>,
    /// The sentinel that answered last.
    sentinel: usize,
}

impl Locator {
    pub(crate) fn new(redis: &Redis, keys: &Keys) -> Result<Self, Error> {
        Ok(Self {
            dialer: Dialer::new(redis)?,
            keys: [keys.probe(), keys.runs(), keys.due()],
            keys_are_in_one_slot: keys.are_in_one_slot(),
            namespace: keys.namespace().to_owned(),
            known: Mutex::default(),
            changes: watch::Sender::default(),
        })
    }

    /// A connection to the server that has our keys, on which an answer may take `answer_timeout`.
    pub(crate) async fn connect(&self, answer_timeout: Duration) -> Result<Link, Error> {
        match &self.dialer.url.place {
            Place::Socket(path) => {
                self.dialer
                    .redis(&Target::Socket(path), answer_timeout)
                    .await
            }
            Place::Servers(servers) => self.of_servers(servers, answer_timeout).await,
            Place::Sentinels {
                sentinels, service, ..
            } => self.of_sentinels(sentinels, service, answer_timeout).await,
        }
    }

    /// Changes each time our keys are found at another server.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The server does not answer: whoever waits at it is to look again.
    pub(crate) fn disturb(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// A node says that another owns our slot.
    pub(crate) fn moved(&self, error: &RedisError) {
        if let Some((host, port)) = redirection(error) {
            let mut known = self.lock();
            let server = at(host, port, known.owner.as_ref(), &self.dialer.url.place);
            known.owner = Some(server);
        }
    }

    /// Tries where the keys were, the servers of the address, and the nodes of the cluster that these
    /// have told of.
    async fn of_servers(
        &self,
        servers: &[Server],
        answer_timeout: Duration,
    ) -> Result<Link, Error> {
        let mut next = Vec::new();
        {
            let known = self.lock();
            let nodes = known.nodes.iter().flatten();
            for server in known.owner.iter().chain(servers).chain(nodes) {
                if !next.contains(server) {
                    next.push(server.clone());
                }
            }
        }
        next.reverse();
        let mut refusal = Error::Unavailable("no server is known".to_owned());
        for _ in 0..TRIES_MAX {
            let Some(server) = next.pop() else { break };
            let mut link = match self
                .dialer
                .redis(&Target::Server(&server), answer_timeout)
                .await
            {
                Ok(link) => link,
                Err(error) => {
                    refusal = error;
                    continue;
                }
            };
            let asked: Result<Value, RedisError> = redis::cmd("EXISTS")
                .arg(&self.keys)
                .query_async(&mut *link)
                .await;
            if let Err(error) = asked {
                if let Some((host, port)) = redirection(&error) {
                    let owner = at(host, port, Some(&server), &self.dialer.url.place);
                    refusal = error.into();
                    self.lock().nodes.take_if(|nodes| nodes.is_empty());
                    self.learn_nodes(&mut link, &server).await;
                    next.retain(|other| *other != owner);
                    next.push(owner);
                    continue;
                }
                // Of a slot that is on its way: it is here still.
                let is_here = matches!(error.code(), Some("ASK" | "TRYAGAIN"));
                let error = Error::from(error);
                match error.kind() {
                    Kind::CrossSlot => return Err(self.without_braces()),
                    Kind::Unavailable if !is_here => {
                        refusal = error;
                        continue;
                    }
                    // Another refusal, such as that of a command, tells nothing of the place.
                    _ => {}
                }
            }
            if servers.len() > 1 && !is_primary(&mut link).await {
                refusal = Error::Unavailable(format!("{server} is a replica"));
                continue;
            }
            self.learn_nodes(&mut link, &server).await;
            self.found(server);
            return Ok(link);
        }
        Err(refusal)
    }

    /// Asks the sentinels one after another for the primary, beginning with the one that answered
    /// last.
    async fn of_sentinels(
        &self,
        sentinels: &[Server],
        service: &str,
        answer_timeout: Duration,
    ) -> Result<Link, Error> {
        let first = self.lock().sentinel;
        let mut refusal = Error::Unavailable("no sentinel is known".to_owned());
        for offset in 0..sentinels.len() {
            let index = (first + offset) % sentinels.len();
            let Some(sentinel) = sentinels.get(index) else {
                continue;
            };
            let asked = timeout(SENTINEL_TIMEOUT, self.ask(sentinel, service)).await;
            let primary = match asked {
                Ok(Ok(primary)) => primary,
                Ok(Err(error)) => {
                    refusal = error;
                    continue;
                }
                Err(_) => {
                    let why = format!("the sentinel {sentinel} does not answer in time");
                    refusal = Error::Unavailable(why);
                    continue;
                }
            };
            let opened = self
                .dialer
                .redis(&Target::Server(&primary), answer_timeout)
                .await;
            let mut link = match opened {
                Ok(link) => link,
                Err(error) => {
                    refusal = error;
                    continue;
                }
            };
            if !is_primary(&mut link).await {
                let why = format!("{primary} is no primary yet, or no longer");
                refusal = Error::Unavailable(why);
                continue;
            }
            self.lock().sentinel = index;
            self.found(primary);
            return Ok(link);
        }
        Err(refusal)
    }

    /// What one sentinel says.
    async fn ask(&self, sentinel: &Server, service: &str) -> Result<Server, Error> {
        let of_sentinel = |error: Error| match error {
            Error::Unavailable(why) => Error::Unavailable(format!("sentinel {why}")),
            Error::Refused { kind, message } => Error::Refused {
                kind,
                message: format!("the sentinel {sentinel} says: {message}"),
            },
            other => other,
        };
        let opened = self.dialer.sentinel(sentinel).await;
        let mut link = opened.map_err(of_sentinel)?;
        let answer: Result<Option<(String, u16)>, RedisError> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(service)
            .query_async(&mut *link)
            .await;
        match answer.map_err(|error| of_sentinel(error.into()))? {
            Some((host, port)) => Ok(Server { host, port }),
            None => Err(Error::Unavailable(format!(
                "the sentinel {sentinel} watches no primary of the name {service:?}"
            ))),
        }
    }

    /// Remembers the nodes of the cluster that `server` is in. A user who may not ask goes on with
    /// those of the address.
    async fn learn_nodes(&self, link: &mut Link, server: &Server) {
        // Without braces no cluster serves us, and a server that is none need not be asked.
        let is_asked = self.lock().nodes.as_ref().is_some_and(Vec::is_empty);
        if is_asked || !self.keys_are_in_one_slot {
            return;
        }
        let asked: Result<Value, RedisError> = redis::cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(&mut **link)
            .await;
        let mut nodes = Vec::new();
        if let Ok(slots) = asked {
            collect(&slots, server, &mut nodes);
        }
        self.lock().nodes = Some(nodes);
    }

    fn without_braces(&self) -> Error {
        Error::Refused {
            kind: Kind::CrossSlot,
            message: format!("set COFFERDAM_NAMESPACE to {{{}}}", self.namespace),
        }
    }

    fn found(&self, server: Server) {
        let mut known = self.lock();
        let before = known.owner.replace(server.clone());
        drop(known);
        let Some(before) = before.filter(|before| *before != server) else {
            return;
        };
        info!(%before, now = %server, "redis has taken another place");
        self.disturb();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server says that it takes writes. One that does not tell is believed: it refuses the
/// first write if not.
async fn is_primary(link: &mut Link) -> bool {
    let role: Result<Value, RedisError> = redis::cmd("ROLE").query_async(&mut **link).await;
    match role {
        Ok(Value::Array(words)) => match words.first() {
            Some(Value::BulkString(role)) => role.as_slice() == b"master",
            Some(Value::SimpleString(role)) => role == "master",
            _ => true,
        },
        Ok(_) => true,
        Err(error) => !error.is_io_error() && !error.is_timeout(),
    }
}

/// Where `MOVED` points to.
fn redirection(error: &RedisError) -> Option<(&str, u16)> {
    let is_moved = error.code() == Some("MOVED");
    let (address, _) = error.redirect_node().filter(|_| is_moved)?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// A node that is told of without its host is where the one is that told.
fn at(host: &str, port: u16, told_by: Option<&Server>, place: &Place) -> Server {
    let usual = match place {
        Place::Servers(servers) => servers.first(),
        Place::Socket(_) | Place::Sentinels { .. } => None,
    };
    let host = match host.trim_matches(['[', ']']) {
        "" | "?" => told_by.or(usual).map_or("", |server| &server.host),
        host => host,
    };
    Server {
        host: host.to_owned(),
        port,
    }
}

/// The nodes in the answer of `CLUSTER SLOTS`: ranges of slots, each with its nodes.
fn collect(slots: &Value, told_by: &Server, nodes: &mut Vec<Server>) {
    let Value::Array(ranges) = slots else { return };
    for range in ranges {
        let Value::Array(range) = range else { continue };
        for node in range.iter().skip(2) {
            let Value::Array(node) = node else { continue };
            let [host, Value::Int(port), ..] = node.as_slice() else {
                continue;
            };
            let host = match host {
                Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
                Value::SimpleString(host) => host.clone(),
                _ => String::new(),
            };
            let Ok(port) = u16::try_from(*port) else {
                continue;
            };
            let place = Place::Servers(Vec::new());
            let server = at(&host, port, Some(told_by), &place);
            if nodes.len() < NODES_MAX && !nodes.contains(&server) {
                nodes.push(server);
            }
        }
    }
}
