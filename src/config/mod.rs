//! The settings: read once, typed at once, every fault reported at once.
//!
//! Each command has a type here, with what it reads and no more, and a `parse` that takes a lookup
//! closure, so that tests pass a map and only the command line knows of the environment. Nothing is
//! done before all of a command's settings are valid. [`table`] holds every name, default and reason.

pub mod address;
mod artifacts;
mod console;
mod groups;
mod keys;
mod reader;
mod results;
mod retention;
mod secret;
pub mod table;
mod tls;
mod tools;
mod traces;
mod unknown;
pub mod usage;
mod wait;

use std::net::SocketAddr;
use std::path::PathBuf;
use url::Url;

pub use crate::config::address::{Redis, RedisUrl};
pub use crate::config::artifacts::{ArtifactBounds, ArtifactPlace, Artifacts, Bucket};
pub use crate::config::console::{Console, ConsoleKey, ConsoleRole};
pub use crate::config::groups::{
    AdminListen, Daemon, Endpoint, Guests, Local, LogFormat, Machines, Runs,
};
#[cfg(feature = "local")]
pub(crate) use crate::config::groups::{REGION_MAX_BYTES, is_region_code};
pub use crate::config::keys::{MAX_KID_LEN, MIN_KEY_BYTES, SigningKey};
pub use crate::config::reader::{Fault, Faults};
pub use crate::config::results::Results;
pub use crate::config::retention::Retention;
pub use crate::config::secret::Secret;
pub use crate::config::tls::{Identity, RedisTls};
pub use crate::config::tools::{ArtifactsTool, Cancel, Doctor, MachinesApi, RunTool, Tool};
pub use crate::config::traces::{Sampling, Traces};
pub use crate::config::unknown::{Unknown, unknown};
pub use crate::config::wait::Wait;

use crate::config::reader::Reader;
use crate::run::request::LOCAL_AGENT;

/// Finds the text of a setting, or of a variable of the system such as `HOME`, by its name.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The commands that have settings.
#[expect(missing_docs, reason = "each is the command of the same name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Up,
    Worker,
    Serve,
    Machines,
    Images,
    Run,
    Submit,
    Show,
    Logs,
    Runs,
    Results,
    Artifacts,
    Cancel,
    Tenants,
    Usage,
    Dead,
    Doctor,
    Rerun,
    Priority,
    Workers,
    Top,
    Console,
}

impl Command {
    /// Every one of them.
    pub const ALL: [Self; 22] = [
        Self::Up,
        Self::Worker,
        Self::Serve,
        Self::Machines,
        Self::Images,
        Self::Run,
        Self::Submit,
        Self::Show,
        Self::Logs,
        Self::Runs,
        Self::Results,
        Self::Artifacts,
        Self::Cancel,
        Self::Tenants,
        Self::Usage,
        Self::Dead,
        Self::Doctor,
        Self::Rerun,
        Self::Priority,
        Self::Workers,
        Self::Top,
        Self::Console,
    ];
}

/// Settings of `worker`, which boots, tears down and sweeps.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Which Redis.
    pub redis: Redis,
    /// The Machines API.
    pub machines: Machines,
    /// How runs are run.
    pub runs: Runs,
    /// What guests are told.
    pub guests: Guests,
    /// Where artifacts are kept, if they are.
    pub artifacts: Option<ArtifactPlace>,
    /// Where traces go, if there are any.
    pub traces: Option<Traces>,
    /// Where metrics and health are served.
    pub admin_listen: AdminListen,
    /// Further names by which they may be addressed.
    pub allowed_hosts: Vec<String>,
    /// What every long-running process reads.
    pub daemon: Daemon,
}

/// Settings of `serve`, the endpoint.
#[derive(Clone, Debug)]
pub struct Serve {
    /// Which Redis.
    pub redis: Redis,
    /// How results are accepted.
    pub results: Results,
    /// How artifacts are kept.
    pub artifacts: Artifacts,
    /// Where guests post to.
    pub endpoint: Endpoint,
    /// Where metrics and health are served.
    pub admin_listen: AdminListen,
    /// Further names by which they may be addressed.
    pub allowed_hosts: Vec<String>,
    /// What every long-running process reads.
    pub daemon: Daemon,
}

/// Settings of `machines`, the local Machines server.
#[derive(Clone, Debug)]
pub struct MachinesServer {
    /// The server itself.
    pub local: Local,
    /// Further names by which it may be addressed.
    pub allowed_hosts: Vec<String>,
    /// What every long-running process reads.
    pub daemon: Daemon,
}

/// Settings of `up`: everything on one machine. What is `None` here is made at start.
#[derive(Clone, Debug)]
pub struct Up {
    /// For its Redis, keys, images and machines.
    pub state_dir: PathBuf,
    /// Somebody's Redis; `None` to start one.
    pub redis_url: Option<Secret<RedisUrl>>,
    /// How its TLS is checked.
    pub redis_tls: RedisTls,
    /// How much Redis keeps of what is no run and no result.
    pub redis_retention: Retention,
    /// First part of every key.
    pub namespace: String,
    /// Somebody's Machines API; `None` to start the local server.
    pub api_url: Option<Url>,
    /// Token for the Machines API; always there with `api_url`.
    pub token: Option<Secret<String>>,
    /// Apps that machines are booted in; never empty.
    pub apps: Vec<String>,
    /// The first signs, all verify; `None` for the state folder's own key.
    pub keys: Option<Vec<SigningKey>>,
    /// Base URL under which guests reach the endpoint.
    pub guest_url: Url,
    /// Path of the guest agent in the machines of a provider; its own server's machines have it.
    pub guest_program: Option<String>,
    /// Where the endpoint listens; `None` for a free local port.
    pub listen: Option<SocketAddr>,
    /// Where metrics and health are served; `None` for a free local port.
    pub admin_listen: Option<SocketAddr>,
    /// Further names by which these and the local Machines server may be addressed.
    pub allowed_hosts: Vec<String>,
    /// Where the local Machines server listens; `None` for a free local port.
    pub machines_listen: Option<SocketAddr>,
    /// Regions of the local Machines server; none for any.
    pub regions: Vec<String>,
    /// Start even where limits do not hold for a machine as a whole.
    pub allow_weak_limits: bool,
    /// How runs are run.
    pub runs: Runs,
    /// How results are accepted.
    pub results: Results,
    /// How artifacts are kept.
    pub artifacts: Artifacts,
    /// Where the console listens; `None` for a free local port.
    pub console_listen: Option<SocketAddr>,
    /// Who may come into the console; `None` for the state folder's own keys.
    pub console_keys: Option<Vec<ConsoleKey>>,
    /// Where traces go, if there are any.
    pub traces: Option<Traces>,
    /// What every long-running process reads.
    pub daemon: Daemon,
}

/// Settings of `images`.
#[derive(Clone, Debug)]
pub struct Images {
    /// The folder for images and machines.
    pub state_dir: PathBuf,
    /// Bytes that a layer may decompress to, for each byte of it.
    pub max_ratio: u64,
}

impl Worker {
    /// Reads the settings of `worker`.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let mut redis = Redis::read(&mut reader);
        redis.retention.read_dead(&mut reader);
        let parsed = Self {
            redis,
            machines: Machines::read(&mut reader),
            runs: Runs::read(&mut reader),
            guests: Guests::read(&mut reader),
            artifacts: ArtifactPlace::read(&mut reader),
            traces: Traces::read(&mut reader),
            admin_listen: AdminListen::read(&mut reader),
            allowed_hosts: groups::allowed_hosts(&mut reader),
            daemon: Daemon::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

impl Serve {
    /// Reads the settings of `serve`.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let parsed = Self {
            redis: Redis::read(&mut reader),
            results: Results::read(&mut reader),
            artifacts: Artifacts::read(&mut reader),
            endpoint: Endpoint::read(&mut reader),
            admin_listen: AdminListen::read(&mut reader),
            allowed_hosts: groups::allowed_hosts(&mut reader),
            daemon: Daemon::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

impl MachinesServer {
    /// Reads the settings of `machines`.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let parsed = Self {
            local: Local::read(&mut reader),
            allowed_hosts: groups::allowed_hosts(&mut reader),
            daemon: Daemon::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

impl Up {
    /// Reads the settings of `up`. Without `FLY_API_URL` the local server is meant, and what
    /// depends on it has defaults of its own.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let given = |name: &str| lookup(name).filter(|text| !text.trim().is_empty());
        let is_local = given(table::FLY_API_URL.name).is_none();
        let with_local = |name: &str| {
            given(name).or_else(|| local_default(name).filter(|_| is_local).map(str::to_owned))
        };
        let mut reader = Reader::new(&with_local);
        let redis_url = reader.read_given(&table::REDIS_URL, address::redis_url);
        let (console_listen, console_keys) = console::of_up(&mut reader);
        let mut redis_retention = Retention::read(&mut reader);
        redis_retention.read_dead(&mut reader);
        redis_retention.read_deeds(&mut reader);
        let parsed = Self {
            console_listen,
            console_keys,
            state_dir: groups::state_dir(&mut reader),
            redis_retention,
            redis_tls: RedisTls::read(&mut reader, redis_url.as_ref().map(Secret::expose)),
            redis_url,
            namespace: reader.read(&table::NAMESPACE, groups::namespace, String::new()),
            api_url: reader.read_given(&table::FLY_API_URL, reader::http_url),
            token: if is_local {
                reader
                    .read_given(&table::FLY_API_TOKEN, reader::token)
                    .map(Secret::new)
            } else {
                Some(reader.secret(&table::FLY_API_TOKEN))
            },
            apps: reader.read(&table::APPS, groups::apps, Vec::new()),
            keys: reader.read_given(&table::SIGNING_KEYS, keys::parse),
            guest_url: reader.url(&table::GUEST_URL),
            guest_program: reader.read_given(&table::GUEST_PROGRAM, groups::guest_program),
            listen: reader.read_given(&table::LISTEN, reader::socket_address),
            admin_listen: reader.read_given(&table::ADMIN_LISTEN, reader::socket_address),
            allowed_hosts: groups::allowed_hosts(&mut reader),
            machines_listen: reader.read_given(&table::MACHINES_LISTEN, reader::socket_address),
            regions: reader
                .read_given(&table::MACHINES_REGIONS, groups::regions)
                .unwrap_or_default(),
            allow_weak_limits: reader.flag(&table::ALLOW_WEAK_LIMITS),
            runs: Runs::read(&mut reader),
            traces: Traces::read(&mut reader),
            results: Results::read(&mut reader),
            artifacts: Artifacts::read(&mut reader),
            daemon: Daemon::read(&mut reader),
        };
        reader.finish(parsed)
    }
}

impl Images {
    /// Reads the settings of `images`.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(lookup: Lookup<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let parsed = Self {
            state_dir: groups::state_dir(&mut reader),
            max_ratio: reader.number(&table::IMAGE_MAX_RATIO, 1..=1_000_000),
        };
        reader.finish(parsed)
    }
}

/// What `up` with its own Machines server assumes.
fn local_default(name: &str) -> Option<&'static str> {
    [
        (&table::APPS, "sandboxes"),
        (&table::GUEST_URL, "http://127.0.0.1:4281"),
        (&table::GUEST_PROGRAM, LOCAL_AGENT),
        (&table::IMAGE, "host"),
        (&table::BOOT_RATE, "0"),
        (&table::SWEEP_S, "2"),
    ]
    .into_iter()
    .find_map(|(setting, text)| (setting.name == name).then_some(text))
}

/// The default Machines API.
#[must_use]
pub fn usual_api_url() -> Url {
    Reader::new(&|_| None).url(&table::FLY_API_URL)
}

/// Reads signing keys as `COFFERDAM_SIGNING_KEYS` has them.
///
/// # Errors
/// What is wrong with the first key that is unsound; never its text.
pub fn signing_keys(text: &str) -> Result<Vec<SigningKey>, String> {
    keys::parse(text)
}

/// Reads keys of the console as `COFFERDAM_CONSOLE_KEYS` has them.
///
/// # Errors
/// What is wrong with the first key that is unsound; never its text.
pub fn console_keys(text: &str) -> Result<Vec<ConsoleKey>, String> {
    console::parse_keys(text)
}

#[cfg(test)]
mod tests;
