//! Where Redis is, as `REDIS_URL` says it, and how its TLS is checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::config::groups;
use crate::config::reader::Reader;
use crate::config::retention::Retention;
use crate::config::secret::Secret;
use crate::config::table;
use crate::config::tls::RedisTls;
use crate::config::wait::{self, Wait};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Hosts that an address may name.
const SERVERS_MAX: usize = 32;

/// Which Redis, and which keys in it.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Its address, which may hold a password.
    pub url: Secret<RedisUrl>,
    /// First part of every key.
    pub namespace: String,
    /// Whom TLS trusts, and how we show who we are.
    pub tls: RedisTls,
    /// Which replicas are waited for; `None` for none.
    pub wait: Option<Wait>,
    /// How much is kept of what is no run and no result.
    pub retention: Retention,
}

impl Redis {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let url = reader.read(&table::REDIS_URL, redis_url, Secret::new(RedisUrl::blank()));
        let namespace = reader.read(&table::NAMESPACE, groups::namespace, String::new());
        let tls = RedisTls::read(reader, Some(url.expose()));
        let wait = reader.read_given(&table::REDIS_WAIT, wait::parse);
        Self {
            url,
            namespace,
            tls,
            wait,
            retention: Retention::read(reader),
        }
    }

    /// The default Redis.
    #[must_use]
    pub fn nearby() -> Self {
        Self::read(&mut Reader::new(&|_| None))
    }
}

/// An address of Redis. Its text may hold passwords: it is shown by [`RedisUrl::shown`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    text: String,
    /// What is between `://` and `/` without user and password, or the path of a socket.
    shown: String,
    /// Where it is looked for.
    pub place: Place,
    /// Whether what is sent is encrypted.
    pub is_tls: bool,
    /// Who we are to Redis.
    pub login: Login,
    /// The database.
    pub db: u32,
    /// Whether the third version of the protocol is spoken.
    pub resp3: bool,
}

/// Where Redis is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the socket of this path.
    Socket(PathBuf),
    /// At one of these: the first that answers, or the node of their cluster that has our keys.
    Servers(Vec<Server>),
    /// Where Sentinel says.
    Sentinels {
        /// Each of the sentinels.
        sentinels: Vec<Server>,
        /// The name under which they watch our primary.
        service: String,
        /// Who we are to them.
        login: Login,
    },
}

/// A user and a password, as far as they are needed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; `None` for the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its name or address; one of IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl RedisUrl {
    /// The text that it was read from, with its passwords.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address as it may be printed: without passwords.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Stands in for an address that could not be read.
    pub(crate) fn blank() -> Self {
        Self::socket("unset")
    }

    /// The socket of that path.
    #[must_use]
    pub fn socket(path: &str) -> Self {
        let text = format!("unix://{}", escaped_path(path));
        Self {
            shown: text.clone(),
            text,
            place: Place::Socket(PathBuf::from(path)),
            is_tls: false,
            login: Login::default(),
            db: 0,
            resp3: false,
        }
    }
}

/// A path as it can stand in an address.
fn escaped_path(path: &str) -> String {
    path.replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
}

/// A Redis address. It may hold a password, so a problem does not repeat it.
pub(crate) fn redis_url(text: &str) -> Result<Secret<RedisUrl>, String> {
    text.parse().map(Secret::new)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Servers,
    Sentinels,
    Socket,
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it; never its text.
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("is not a URL: it does not begin with redis:// or the like")?;
        let (kind, is_tls) = match scheme {
            "redis" | "valkey" => (Kind::Servers, false),
            "rediss" | "valkeys" => (Kind::Servers, true),
            "redis+sentinel" | "valkey+sentinel" => (Kind::Sentinels, false),
            "rediss+sentinel" | "valkeys+sentinel" => (Kind::Sentinels, true),
            "unix" | "redis+unix" | "valkey+unix" => (Kind::Socket, false),
            other if other.len() <= 20 && !other.contains('@') => {
                return Err(format!(
                    "begins with {other}:, which is none of redis:, rediss:, valkey:, valkeys:, \
                     redis+sentinel:, rediss+sentinel:, unix:"
                ));
            }
            _ => return Err("is not a URL: it does not begin with redis:// or the like".to_owned()),
        };
        if rest.contains('#') {
            return Err("has a # in it; in a password it is written %23".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let query = Query::read(query, kind)?;
        if kind == Kind::Socket {
            return socket(text, scheme, rest, query);
        }
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path.trim_end_matches('/')),
            None => (rest, ""),
        };
        let (info, hosts) = match authority.rsplit_once('@') {
            Some((info, hosts)) => (Some(info), hosts),
            None => (None, authority),
        };
        let port = match kind {
            Kind::Sentinels => SENTINEL_PORT,
            _ => REDIS_PORT,
        };
        let servers = servers(hosts, port)?;
        let shown = format!("{scheme}://{}{hosts}", masked(info));
        let (place, db) = if kind == Kind::Sentinels {
            let service = decoded(path, "the service")?;
            if service.is_empty() || service.contains('/') {
                return Err(
                    "names no service: it ends with / and the name under which Sentinel watches \
                     the primary"
                        .to_owned(),
                );
            }
            let place = Place::Sentinels {
                sentinels: servers,
                service,
                login: query.sentinel,
            };
            (place, query.db)
        } else {
            (Place::Servers(servers), database(path, query.db)?)
        };
        let shown = match path {
            "" => shown,
            path => format!("{shown}/{path}"),
        };
        Ok(Self {
            text: text.to_owned(),
            shown,
            place,
            is_tls,
            login: info.map(login).transpose()?.unwrap_or_default(),
            db: db.unwrap_or(0),
            resp3: query.resp3,
        })
    }
}

fn socket(text: &str, scheme: &str, path: &str, query: Query) -> Result<RedisUrl, String> {
    // `unix://localhost/path` is the same as `unix:///path`.
    let path = path.strip_prefix("localhost").unwrap_or(path);
    if !path.starts_with('/') || path.len() < 2 {
        return Err("has no path, such as unix:///run/redis.sock".to_owned());
    }
    Ok(RedisUrl {
        text: text.to_owned(),
        shown: format!("{scheme}://{path}"),
        place: Place::Socket(PathBuf::from(decoded(path, "the path")?)),
        is_tls: false,
        login: query.redis,
        db: query.db.unwrap_or(0),
        resp3: query.resp3,
    })
}

/// The parameters behind `?`.
#[derive(Default)]
struct Query {
    db: Option<u32>,
    resp3: bool,
    redis: Login,
    sentinel: Login,
}

impl Query {
    fn read(text: &str, kind: Kind) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (name, kind) {
                ("db", _) => query.db = Some(number(value)?),
                ("protocol", _) => {
                    query.resp3 = match value {
                        "resp3" | "3" => true,
                        "resp2" | "2" => false,
                        _ => return Err("has a protocol that is neither resp2 nor resp3".into()),
                    }
                }
                ("user", Kind::Socket) => query.redis.user = Some(decoded(value, "the user")?),
                ("pass", Kind::Socket) => {
                    query.redis.password = Some(decoded(value, "the password")?);
                }
                ("sentinel_user", Kind::Sentinels) => {
                    query.sentinel.user = Some(decoded(value, "sentinel_user")?);
                }
                ("sentinel_password", Kind::Sentinels) => {
                    query.sentinel.password = Some(decoded(value, "sentinel_password")?);
                }
                _ => {
                    let known = match kind {
                        Kind::Servers => "db, protocol",
                        Kind::Sentinels => "db, protocol, sentinel_user, sentinel_password",
                        Kind::Socket => "db, protocol, user, pass",
                    };
                    // Its name may be a piece of a password with a question mark in it.
                    return Err(format!("has a parameter that is none of {known}"));
                }
            }
        }
        Ok(query)
    }
}

fn servers(hosts: &str, port: u16) -> Result<Vec<Server>, String> {
    if hosts.is_empty() {
        return Err("has no host".to_owned());
    }
    let servers: Result<Vec<_>, _> = hosts.split(',').map(|text| server(text, port)).collect();
    let servers = servers?;
    if servers.len() > SERVERS_MAX {
        return Err(format!("names more than {SERVERS_MAX} hosts"));
    }
    Ok(servers)
}

fn server(text: &str, usual: u16) -> Result<Server, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or("no"))),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let unsound = "has a host or port that is none: it reads host:port, and in a user name or a \
                   password / ? # @ : , and % are written %2F %3F %23 %40 %3A %2C and %25";
    let port = match port {
        None => usual,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(unsound.to_owned()),
        },
    };
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if !is_v6 && url::Host::parse(host).is_err() {
        return Err(unsound.to_owned());
    }
    Ok(Server {
        host: host.to_owned(),
        port,
    })
}

/// What stands before `@`. A word that stands alone is a password: a user without one cannot log in,
/// and providers write their addresses so.
fn login(info: &str) -> Result<Login, String> {
    let given = |text: &str, what| match text {
        "" => Ok(None),
        text => decoded(text, what).map(Some),
    };
    let (user, password) = info.split_once(':').unwrap_or(("", info));
    Ok(Login {
        user: given(user, "the user")?,
        password: given(password, "the password")?,
    })
}

/// What stands before `@`, as it may be printed.
fn masked(info: Option<&str>) -> String {
    match info.map(|info| info.split_once(':')) {
        None => String::new(),
        Some(None) => "***@".to_owned(),
        Some(Some((user, ""))) => format!("{user}@"),
        Some(Some((user, _))) => format!("{user}:***@"),
    }
}

fn decoded(text: &str, what: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(|text| text.into_owned())
        .map_err(|_| format!("{what} in it is not UTF-8"))
}

/// The database, which may stand in the path, behind `?`, or in both alike.
fn database(path: &str, query: Option<u32>) -> Result<Option<u32>, String> {
    let path = match path {
        "" => None,
        path => Some(number(path)?),
    };
    match (path, query) {
        (Some(one), Some(other)) if one != other => {
            Err(format!("names two databases, {one} and {other}"))
        }
        (one, other) => Ok(one.or(other)),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse::<u16>()
        .map(u32::from)
        .map_err(|_| "has a database that is not a number from 0 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RedisUrl {
        text.parse()
            .unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    fn words(login: &Login) -> (Option<&str>, Option<&str>) {
        (login.user.as_deref(), login.password.as_deref())
    }

    #[test]
    fn addresses_say_where_who_and_which_database() {
        for (text, place, is_tls, login, db) in [
            ("redis://host", "host:6379", false, (None, None), 0),
            ("rediss://host:1/2", "host:1", true, (None, None), 2),
            ("redis://host?db=3", "host:6379", false, (None, None), 3),
            ("redis://host/3?db=3", "host:6379", false, (None, None), 3),
            (
                "redis://:hush@host",
                "host:6379",
                false,
                (None, Some("hush")),
                0,
            ),
            (
                "redis://hush@host",
                "host:6379",
                false,
                (None, Some("hush")),
                0,
            ),
            (
                "redis://default:a%2Fb@host:5/0",
                "host:5",
                false,
                (Some("default"), Some("a/b")),
                0,
            ),
            (
                "redis://a@b:c@host",
                "host:6379",
                false,
                (Some("a@b"), Some("c")),
                0,
            ),
            ("redis://[::1]:7", "[::1]:7", false, (None, None), 0),
        ] {
            let url = read(text);
            let Place::Servers(servers) = &url.place else {
                panic!("{text}");
            };
            assert_eq!(servers[0].to_string(), place, "{text}");
            assert_eq!((url.is_tls, url.db), (is_tls, db), "{text}");
            assert_eq!(words(&url.login), login, "{text}");
        }
        let socket = read("unix:///run/a%20b.sock?db=3&user=u&pass=p");
        assert_eq!(socket.place, Place::Socket("/run/a b.sock".into()));
        assert_eq!(
            (words(&socket.login), socket.db),
            ((Some("u"), Some("p")), 3)
        );
        assert_eq!(
            read(RedisUrl::socket("/a?b%c").as_str()).place,
            Place::Socket("/a?b%c".into())
        );
    }

    #[test]
    fn sentinels_have_credentials_of_their_own() {
        let url = read(
            "rediss+sentinel://u:p@one,two:5,[::1]/mine?db=2&sentinel_user=s&sentinel_password=q",
        );
        let Place::Sentinels {
            sentinels,
            service,
            login,
        } = &url.place
        else {
            panic!();
        };
        let shown: Vec<_> = sentinels.iter().map(Server::to_string).collect();
        assert_eq!(shown, ["one:26379", "two:5", "[::1]:26379"]);
        assert_eq!((service.as_str(), url.db, url.is_tls), ("mine", 2, true));
        assert_eq!(words(&url.login), (Some("u"), Some("p")));
        assert_eq!(words(login), (Some("s"), Some("q")));
    }

    #[test]
    fn what_cannot_be_an_address_is_told_without_its_text() {
        for text in [
            "hush",
            "http://hush",
            "redis://",
            "redis://u:hush@",
            "redis://u:hu/sh@host",
            "redis://u:hu?sh@host",
            "redis://u:hu#sh@host",
            "redis://u:hush@host:0",
            "redis://u:hush@host:99999",
            "redis://u:hush@host/zero",
            "redis://u:hush@host/1?db=2",
            "redis://u:hush@host?sslmode=hush",
            "redis://u:hush@ho st",
            "redis+sentinel://u:hush@host",
            "redis+sentinel://u:hush@host/",
            "unix://",
            "unix:///",
            "hush@x://host",
        ] {
            let problem = text.parse::<RedisUrl>().expect_err(text);
            assert!(!problem.contains("hu"), "{text}: {problem}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("redis://:hush@host:1/2", "redis://:***@host:1/2"),
            ("redis://hush@host:1", "redis://***@host:1"),
            ("rediss://me:hush@host", "rediss://me:***@host"),
            ("unix:///run/redis.sock?pass=hush", "unix:///run/redis.sock"),
            ("redis://host", "redis://host"),
            (
                "redis+sentinel://:hush@a,b:2/mine?sentinel_password=hush",
                "redis+sentinel://:***@a,b:2/mine",
            ),
        ] {
            let url = read(text);
            assert_eq!(url.shown(), shown);
            assert!(!format!("{url:?} {:?}", url.login).contains("hush"));
            assert_eq!(url.as_str(), text);
        }
    }
}
