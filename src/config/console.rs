//! Settings of `console`, and the text of its keys: `role:KEY[,role:KEY…]`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::groups;
use crate::config::reader::{self, Faults, Reader};
use crate::config::secret::Secret;
use crate::config::tools::MachinesApi;
use crate::config::{ArtifactPlace, Daemon, Lookup, Redis, table};

/// Characters of a key at the least.
const KEY_MIN: usize = 32;
/// Characters of a key at the most, and keys at the most.
const KEY_MAX: usize = 512;
const KEYS_MAX: usize = 64;

/// What somebody with a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleRole {
    /// Look.
    Viewer,
    /// Look, and act.
    Operator,
}

/// One key of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleKey {
    /// What it opens.
    pub role: ConsoleRole,
    /// The key itself.
    pub key: Secret<String>,
}

/// Settings of `console`.
#[derive(Clone, Debug)]
pub struct Console {
    /// Which Redis.
    pub redis: Redis,
    /// Where the console listens.
    pub listen: SocketAddr,
    /// Who may come in.
    pub keys: Vec<ConsoleKey>,
    /// The Machines API, where it is known.
    pub api: MachinesApi,
    /// Apps that machines are booted in, where they are named.
    pub apps: Vec<String>,
    /// Where artifacts are kept, if that is known here.
    pub artifacts: Option<ArtifactPlace>,
    /// Further names by which it may be addressed.
    pub allowed_hosts: Vec<String>,
    /// How long a run can be looked up after its end.
    pub retention: Duration,
    /// How long a worker that died keeps a tear-down from the others.
    pub lease: Duration,
    /// What every long-running process reads.
    pub daemon: Daemon,
}

impl Console {
    /// Reads the settings of `console`.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let mut redis = Redis::read(&mut reader);
        redis.retention.read_deeds(&mut reader);
        let parsed = Self {
            redis,
            listen: reader.address(&table::CONSOLE_LISTEN),
            keys: reader.read(&table::CONSOLE_KEYS, parse_keys, Vec::new()),
            api: MachinesApi::read(&mut reader),
            apps: reader
                .read_given(&table::APPS, groups::apps)
                .unwrap_or_default(),
            artifacts: ArtifactPlace::read(&mut reader),
            allowed_hosts: groups::allowed_hosts(&mut reader),
            retention: groups::retention(&mut reader),
            lease: groups::lease(&mut reader),
            daemon: Daemon::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

/// Where the console of `up` listens, and who may come in; `None` for what is made at start.
pub(super) fn of_up(reader: &mut Reader<'_>) -> (Option<SocketAddr>, Option<Vec<ConsoleKey>>) {
    (
        reader.read_given(&table::CONSOLE_LISTEN, reader::socket_address),
        reader.read_given(&table::CONSOLE_KEYS, parse_keys),
    )
}

/// Reads keys. A problem names the key's place and never its text.
pub(crate) fn parse_keys(text: &str) -> Result<Vec<ConsoleKey>, String> {
    let mut keys: Vec<ConsoleKey> = Vec::new();
    for (index, part) in text.split(',').enumerate() {
        let key = parse_one(part.trim()).map_err(|why| format!("key {}: {why}", index + 1))?;
        if keys.iter().any(|known| known.key == key.key) {
            return Err(format!("key {}: is given twice", index + 1));
        }
        keys.push(key);
    }
    if keys.len() > KEYS_MAX {
        return Err(format!("has {} keys; {KEYS_MAX} at most", keys.len()));
    }
    Ok(keys)
}

fn parse_one(part: &str) -> Result<ConsoleKey, String> {
    let (role, key) = part.split_once(':').ok_or("is not of the form role:KEY")?;
    let role = match role {
        "viewer" => ConsoleRole::Viewer,
        "operator" => ConsoleRole::Operator,
        _ => return Err("its role is neither viewer nor operator".to_owned()),
    };
    if !(KEY_MIN..=KEY_MAX).contains(&key.len()) {
        let found = key.len();
        return Err(format!(
            "has {found} characters; {KEY_MIN} to {KEY_MAX} are needed"
        ));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "has characters that cannot stand in a header; take letters and digits".to_owned(),
        );
    }
    Ok(ConsoleKey {
        role,
        key: Secret::new(key.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_role_and_are_long() {
        let (one, two) = ("o".repeat(32), "v".repeat(64));
        let keys = parse_keys(&format!("operator:{one}, viewer:{two}")).unwrap();
        assert_eq!(keys[0].role, ConsoleRole::Operator);
        assert_eq!(keys[1].key.expose(), &two);
        for (text, part) in [
            (String::new(), "key 1: is not of the form"),
            (format!("operator:{}", "o".repeat(31)), "has 31 characters"),
            (format!("admin:{one}"), "neither viewer nor operator"),
            (
                format!("operator:{one},viewer:{one}"),
                "key 2: is given twice",
            ),
            (
                format!("operator:{}", "ä".repeat(32)),
                "cannot stand in a header",
            ),
        ] {
            let why = parse_keys(&text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
            assert!(!why.contains(&one));
        }
    }
}
