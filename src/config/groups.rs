//! Groups of settings, each as one part of the program gets it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::keys::{self, SigningKey};
use crate::config::reader::{self, Reader, host_and_port, rate, whole};
use crate::config::secret::Secret;
use crate::config::table;
use crate::run::request::CaptureLimits;

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
const YEAR_S: u64 = 365 * DAY_S;

/// The Machines API and what may be used of it.
#[derive(Clone, Debug)]
pub struct Machines {
    /// Base URL, `…/v1`.
    pub api_url: Url,
    /// Bearer token.
    pub token: Secret<String>,
    /// Apps that machines are booted in; never empty, no name twice.
    pub apps: Vec<String>,
}

/// How a worker runs them: times, sizes, numbers.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Image for requests that name none.
    pub image: Option<String>,
    /// Region, or regions in order of preference, for requests that name none.
    pub region: Option<String>,
    /// Machines alive at once, whole fleet.
    pub max_in_flight: NonZeroU32,
    /// Machines alive at once in one app; `None` for no limit.
    pub app_max_in_flight: Option<u32>,
    /// The same of one tenant; 0 for no limit, `None` to [share](crate::run::share) the fleet.
    pub tenant_max_in_flight: Option<u32>,
    /// Runs that may wait, all together; `None` for no limit.
    pub backlog_max: Option<u64>,
    /// Bytes of requests that may wait, all together; `None` for no limit.
    pub backlog_max_bytes: Option<u64>,
    /// Runs that may wait, of one tenant without a limit of its own; `None` for no limit.
    pub tenant_backlog_max: Option<u64>,
    /// Boots per second and app, whole fleet; 0 for no limit.
    pub boot_rate: f64,
    /// Boots that may come at once before the rate holds.
    pub boot_burst: NonZeroU32,
    /// From boot to the deadline, unless the request asks for less.
    pub run_timeout: Duration,
    /// How long the provider may prepare a machine before the boot counts as failed.
    pub image_pull_timeout: Duration,
    /// What the start of a prepared machine may take before the boot counts as failed.
    pub boot_timeout: Duration,
    /// How long a run may be refused by the provider, from the first refusal, before it ends.
    pub refused_max: Duration,
    /// Boots that are tried for one run.
    pub max_attempts: NonZeroU32,
    /// How long a worker that died keeps a boot or a tear-down from the others.
    pub lease: Duration,
    /// How long a guest may take to exit after its result.
    pub grace: Duration,
    /// Boots that one worker drives at once, and as many tear-downs.
    pub concurrency: NonZeroU32,
    /// How long a run can be looked up after its end.
    pub retention: Duration,
    /// How long results stay on their stream.
    pub results_retention: Duration,
    /// Results kept at the most, read or unread; `None` for no cap.
    pub results_hard_cap: Option<u64>,
    /// Bytes of one request's JSON.
    pub request_max_bytes: usize,
    /// Processors that a request may ask for.
    pub max_cpus: u32,
    /// Memory that a request may ask for, in MiB.
    pub max_memory_mb: u32,
    /// Bounds of `capture`.
    pub capture: CaptureLimits,
    /// Between two sweeps.
    pub sweep: Duration,
}

/// What guests are told and how their tokens are made.
#[derive(Clone, Debug)]
pub struct Guests {
    /// Base URL under which guests reach the endpoint.
    pub url: Url,
    /// The first signs, all verify; never empty.
    pub keys: Vec<SigningKey>,
    /// Path of the guest agent in the machines; `None` to send it along.
    pub program: Option<String>,
}

/// The endpoint that guests post to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub listen: SocketAddr,
    /// All verify; never empty.
    pub keys: Vec<SigningKey>,
}

/// The local Machines server.
#[derive(Clone, Debug)]
pub struct Local {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Apps that are there from the start.
    pub apps: Vec<String>,
    /// The endpoint's `host:port`, as this server reaches it.
    pub endpoint: String,
    /// Images and machines live below this folder.
    pub state_dir: PathBuf,
    /// The one bearer token it accepts.
    pub token: Secret<String>,
    /// Its regions; none for any.
    pub regions: Vec<String>,
    /// Start even where limits do not hold for a machine as a whole.
    pub allow_weak_limits: bool,
}

/// Where metrics and health are served.
#[derive(Clone, Copy, Debug)]
pub struct AdminListen {
    /// The address.
    pub address: SocketAddr,
    /// Whether a free port will do when this one is taken, since it is the default of several.
    pub or_free: bool,
}

/// What every long-running process reads.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// How long a process may take to finish its work after a signal.
    pub drain: Duration,
    /// What is logged, as directives of `tracing`'s `EnvFilter`.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; with colours on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Machines {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            api_url: reader.url(&table::FLY_API_URL),
            token: reader.secret(&table::FLY_API_TOKEN),
            apps: reader.read(&table::APPS, apps, Vec::new()),
        }
    }
}

impl Runs {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut cap = |setting| Some(reader.number(setting, 0..=1_000_000_000)).filter(|n| *n > 0);
        let results_hard_cap = cap(&table::RESULTS_HARD_CAP);
        let backlog_max = cap(&table::BACKLOG_MAX);
        let tenant_backlog_max = cap(&table::TENANT_BACKLOG_MAX);
        let backlog_max_bytes = backlog_max_bytes(reader);
        let mut machines = |setting| {
            let most = reader.number(setting, 0..=1_000_000);
            u32::try_from(most).ok().filter(|n| *n > 0)
        };
        let app_max_in_flight = machines(&table::APP_MAX_IN_FLIGHT);
        let tenant_max_in_flight = reader.read(
            &table::TENANT_MAX_IN_FLIGHT,
            |text| whole(text, 0..=1_000_000, "").map(|n| u32::try_from(n).ok()),
            None,
        );
        Self {
            image: reader.optional(&table::IMAGE),
            region: reader.optional(&table::REGION),
            max_in_flight: reader.count(&table::MAX_IN_FLIGHT, 1_000_000),
            app_max_in_flight,
            tenant_max_in_flight,
            backlog_max,
            backlog_max_bytes,
            tenant_backlog_max,
            boot_rate: reader.read(&table::BOOT_RATE, rate, 0.0),
            boot_burst: reader.count(&table::BOOT_BURST, 10_000),
            run_timeout: reader.seconds(&table::RUN_TIMEOUT_S, 7 * DAY_S),
            image_pull_timeout: reader.seconds(&table::IMAGE_PULL_TIMEOUT_S, HOUR_S),
            boot_timeout: reader.seconds(&table::BOOT_TIMEOUT_S, HOUR_S),
            refused_max: reader.seconds(&table::REFUSED_MAX_S, DAY_S),
            max_attempts: reader.count(&table::MAX_ATTEMPTS, 100),
            lease: lease(reader),
            grace: reader.seconds(&table::GRACE_S, HOUR_S),
            concurrency: reader.count(&table::CONCURRENCY, 10_000),
            retention: retention(reader),
            results_retention: results_retention(reader),
            results_hard_cap,
            request_max_bytes: reader.bytes(&table::REQUEST_MAX_BYTES, 512 * 1024 * 1024),
            max_cpus: reader.count(&table::MAX_CPUS, 1024).get(),
            max_memory_mb: reader.count(&table::MAX_MEMORY_MB, 16 * 1024 * 1024).get(),
            // What guests are told completes it, where a worker is put together.
            capture: CaptureLimits {
                output_bytes: reader.bytes(&table::OUTPUT_BYTES, 64 << 20),
                output_max_bytes: reader.bytes(&table::OUTPUT_MAX_BYTES, 64 << 20),
                has_image_commands: false,
                is_plain_http: true,
            },
            sweep: reader.seconds(&table::SWEEP_S, HOUR_S),
        }
    }
}

impl Guests {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.url(&table::GUEST_URL),
            keys: signing_keys(reader),
            program: reader.read_given(&table::GUEST_PROGRAM, guest_program),
        }
    }
}

impl Endpoint {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            listen: reader.address(&table::LISTEN),
            keys: signing_keys(reader),
        }
    }
}

impl Local {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            listen: reader.address(&table::MACHINES_LISTEN),
            apps: reader.read_given(&table::APPS, apps).unwrap_or_default(),
            endpoint: reader.read(&table::MACHINES_ENDPOINT, host_and_port, String::new()),
            state_dir: state_dir(reader),
            token: reader.secret(&table::FLY_API_TOKEN),
            regions: reader
                .read_given(&table::MACHINES_REGIONS, regions)
                .unwrap_or_default(),
            allow_weak_limits: reader.flag(&table::ALLOW_WEAK_LIMITS),
        }
    }
}

impl AdminListen {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        match reader.read_given(&table::ADMIN_LISTEN, reader::socket_address) {
            Some(address) => Self {
                address,
                or_free: false,
            },
            None => Self {
                address: reader.address(&table::ADMIN_LISTEN),
                or_free: true,
            },
        }
    }
}

impl Daemon {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            drain: reader.seconds(&table::DRAIN_S, HOUR_S),
            log: reader.read(&table::LOG, log_filter, String::new()),
            log_format: reader.read(&table::LOG_FORMAT, log_format, LogFormat::Text),
        }
    }
}

/// The folder for what stays on this computer.
pub(crate) fn state_dir(reader: &mut Reader<'_>) -> PathBuf {
    let derived = derived_state_dir(reader);
    reader.path(&table::STATE_DIR, derived)
}

/// Where the folder is when it is not given. A relative `XDG_STATE_HOME` is to be ignored, as the
/// XDG specification asks.
pub(crate) fn derived_state_dir(reader: &Reader<'_>) -> Option<PathBuf> {
    let stated = reader.system("XDG_STATE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(reader.system("HOME")?).join(".local/state"));
    let base = stated.filter(|path| path.is_absolute()).or_else(home)?;
    Some(base.join("cofferdam"))
}

pub(crate) fn lease(reader: &mut Reader<'_>) -> Duration {
    reader.seconds(&table::LEASE_S, HOUR_S)
}

pub(crate) fn retention(reader: &mut Reader<'_>) -> Duration {
    reader.seconds(&table::RETENTION_S, YEAR_S)
}

pub(crate) fn results_retention(reader: &mut Reader<'_>) -> Duration {
    reader.seconds(&table::RESULTS_RETENTION_S, YEAR_S)
}

pub(crate) fn backlog_max_bytes(reader: &mut Reader<'_>) -> Option<u64> {
    Some(reader.number(&table::BACKLOG_MAX_BYTES, 0..=1 << 50)).filter(|bytes| *bytes > 0)
}

fn signing_keys(reader: &mut Reader<'_>) -> Vec<SigningKey> {
    reader.read(&table::SIGNING_KEYS, keys::parse, Vec::new())
}

/// First part of every key. A colon would blur where it ends; braces are for Redis Cluster.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let inner = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or(text);
    let is_sound = (1..=64).contains(&inner.len())
        && inner
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if is_sound {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not 1 to 64 of A-Z a-z 0-9 _ - . (all of it may stand in braces)"
    ))
}

pub(crate) fn guest_program(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && !text.ends_with('/') && !text.contains('\0');
    if is_path && text.len() <= 1024 {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not an absolute path of a program"))
}

pub(crate) fn apps(text: &str) -> Result<Vec<String>, String> {
    let mut apps: Vec<String> = Vec::new();
    for app in text.split(',').map(str::trim) {
        let is_sound = (1..=63).contains(&app.len())
            && app
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if !is_sound {
            return Err(format!("{app:?} is not an app's name"));
        }
        if apps.iter().any(|known| known == app) {
            return Err(format!("{app:?} is listed twice"));
        }
        apps.push(app.to_owned());
    }
    Ok(apps)
}

pub(crate) fn regions(text: &str) -> Result<Vec<String>, String> {
    let codes = text.split(',').map(str::trim);
    codes
        .map(|code| match is_region_code(code) {
            true => Ok(code.to_owned()),
            false => Err(format!(
                "{code:?} is no region: lower-case letters and digits, {REGION_MAX_BYTES} at most"
            )),
        })
        .collect()
}

pub(crate) fn allowed_hosts(reader: &mut Reader<'_>) -> Vec<String> {
    let given = reader.read_given(&table::ALLOWED_HOSTS, host_names);
    given.unwrap_or_default()
}

fn host_names(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(str::trim);
    names
        .map(|name| match url::Host::parse(name) {
            Ok(url::Host::Domain(name)) if !name.contains('*') => Ok(name),
            _ => Err(format!("{name:?} is not a host name")),
        })
        .collect()
}

/// Longest code of a region, in bytes. The real service's have three letters.
pub(crate) const REGION_MAX_BYTES: usize = 16;

/// Whether a word can be the code of a region.
pub(crate) fn is_region_code(word: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=REGION_MAX_BYTES).contains(&word.len()) && word.bytes().all(fits)
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?} is not a log filter: {error}")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is neither text nor json")),
    }
}
