//! Everything on one machine: Redis, the local Machines server, worker, sweeper and endpoint in
//! one process, with a Redis of its own beside it.
//!
//! What the settings do not name is made and kept in the state folder. Shutdown goes backwards:
//! worker and endpoint finish their work, then the machines are removed, and Redis ends last, so
//! that every earlier step is still recorded.

pub mod keys;
pub mod own_redis;
pub mod ready;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};
use url::Url;

use crate::admin;
use crate::assembly;
use crate::config::{self, ArtifactPlace, Secret, Up};
use crate::console::{self, Console, Examine};
use crate::endpoint;
use crate::http::host::AllowedHosts;
use crate::local;
use crate::shutdown::Shutdown;
use crate::stage::operate::CancelTerms;
use crate::stage::ready::Readiness;
use crate::sweeper;
use crate::token::fleet::Use;
use crate::up::own_redis::OwnRedis;
use crate::up::ready::{LockedFolder, Ready};
use crate::worker;

/// Why not everything could be started; what was started by then has been ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder cannot be locked, or read, or written.
    #[error(transparent)]
    Folder(#[from] ready::Error),
    /// Redis does not start.
    #[error(transparent)]
    Redis(#[from] own_redis::Error),
    /// The local Machines server does not open.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// Worker and endpoint cannot be assembled.
    #[error(transparent)]
    Parts(#[from] assembly::Error),
    /// An address cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// Everything, running.
#[derive(Debug)]
pub struct Running {
    locked: LockedFolder,
    redis: Option<OwnRedis>,
    machines: Option<Machines>,
    services: Shutdown,
    drain: Duration,
    /// Where the parts are.
    pub ready: Ready,
    /// A link that logs in to the console once.
    pub login: Secret<String>,
}

/// The local Machines server, running.
#[derive(Debug)]
struct Machines {
    shutdown: Shutdown,
    url: Url,
    token: Secret<String>,
    report: String,
}

impl Running {
    /// Starts everything and returns once all of it serves. To be called on the main thread, in a
    /// runtime that outlives it (see [`own_redis`]).
    ///
    /// `adjust` may change the local server's settings, as the tests of failures do. `examine` runs the
    /// checks that the console shows.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn start(
        settings: Up,
        adjust: impl FnOnce(&mut local::ServerSettings),
        examine: Option<Examine>,
    ) -> Result<Self, Error> {
        let locked = LockedFolder::lock(&settings.state_dir)?;
        let redis = match &settings.redis_url {
            Some(_) => None,
            None => Some(OwnRedis::start(&locked.path().join("redis")).await?),
        };
        let listener = bind(settings.listen).await?;
        let endpoint = reachable(local_address(&listener)?);
        let machines = match &settings.api_url {
            Some(_) => None,
            None => Some(Machines::start(&settings, endpoint, adjust).await?),
        };
        let started = services(
            &settings,
            &locked,
            redis.as_ref(),
            machines.as_ref(),
            listener,
            examine,
        )
        .await;
        match started {
            Ok((services, ready, login)) => {
                locked.announce(&ready)?;
                Ok(Self {
                    login,
                    locked,
                    redis,
                    machines,
                    services,
                    drain: settings.daemon.drain,
                    ready,
                })
            }
            Err(error) => {
                unwind(machines, redis, settings.daemon.drain).await;
                Err(error)
            }
        }
    }

    /// What keeps local machines apart and what limits them; `None` with somebody else's API.
    #[must_use]
    pub fn isolation(&self) -> Option<&str> {
        self.machines
            .as_ref()
            .map(|machines| machines.report.as_str())
    }

    /// Returns when a part has ended unexpectedly, and says which.
    pub async fn broken(&mut self) -> String {
        let redis = async {
            match &mut self.redis {
                Some(redis) => redis.ended().await,
                None => std::future::pending().await,
            }
        };
        let machines = async {
            match &self.machines {
                Some(machines) => machines.shutdown.broken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = redis => why,
            why = machines => why,
            why = self.services.broken() => why,
        }
    }

    /// The handle on the services, for stopping them at once.
    #[must_use]
    pub fn services(&self) -> &Shutdown {
        &self.services
    }

    /// Ends everything, Redis last, within the drain deadline and a few seconds for Redis.
    pub async fn end(self) {
        // First remove the file by which other commands find this `up`.
        drop(self.locked);
        // The machines get the time that the services leave, and at least a third.
        let whole = self.drain;
        if !self.services.finish(whole.mul_f64(2.0 / 3.0)).await {
            warn!("unfinished work is resumed at the next start");
        }
        info!("worker and endpoint have ended");
        unwind(self.machines, self.redis, whole).await;
    }
}

async fn unwind(machines: Option<Machines>, redis: Option<OwnRedis>, drain: Duration) {
    if let Some(machines) = machines {
        machines.shutdown.finish(drain).await;
    }
    if let Some(redis) = redis {
        redis.end().await;
        info!("redis has ended");
    }
}

impl Machines {
    async fn start(
        settings: &Up,
        endpoint: SocketAddr,
        adjust: impl FnOnce(&mut local::ServerSettings),
    ) -> Result<Self, Error> {
        let token = match &settings.token {
            Some(token) => token.clone(),
            None => Secret::new(keys::random_hex()),
        };
        let state_dir = settings.state_dir.clone();
        let mut wanted = local::ServerSettings::new(token.expose().clone(), state_dir);
        wanted.apps.clone_from(&settings.apps);
        wanted.regions.clone_from(&settings.regions);
        wanted.endpoint = Some(endpoint.to_string());
        wanted.hosts = AllowedHosts::new(settings.allowed_hosts.clone());
        wanted.bounds.drain = settings.daemon.drain.mul_f64(1.0 / 3.0);
        if let local::Guests::Sandboxed(engine) = &mut wanted.guests {
            engine.require_limits = !settings.allow_weak_limits;
        }
        adjust(&mut wanted);
        let listener = bind(settings.machines_listen).await?;
        let address = reachable(local_address(&listener)?);
        let shutdown = Shutdown::new();
        let machines = local::LocalServer::open(wanted, &shutdown).await?;
        let report = machines.report().to_owned();
        shutdown.spawn_loop("machines", machines.serve(listener));
        let url = Url::parse(&format!("http://{address}/v1")).expect("an address fits into a URL");
        Ok(Self {
            shutdown,
            url,
            token,
            report,
        })
    }
}

/// Starts worker, sweeper, endpoint and admin with the given Redis and Machines API.
async fn services(
    settings: &Up,
    locked: &LockedFolder,
    redis: Option<&OwnRedis>,
    machines: Option<&Machines>,
    listener: TcpListener,
    examine: Option<Examine>,
) -> Result<(Shutdown, Ready, Secret<String>), Error> {
    let (settings, redis, api) = resolved(settings, locked, redis, machines)?;
    let admin_listener = bind(settings.admin_listen).await?;
    let mut artifacts = settings.artifacts.clone();
    let own_folder = || ArtifactPlace::Folder(locked.path().join("artifacts"));
    let place = artifacts.place.get_or_insert_with(own_folder).clone();
    let console_listener = bind(settings.console_listen).await?;
    let console_url = format!("http://{}", reachable(local_address(&console_listener)?));
    let ready = Ready {
        redis_url: redis.url.expose().as_str().to_owned(),
        namespace: redis.namespace.clone(),
        fly_api_url: api.api_url.to_string(),
        app: api.apps.join(","),
        fly_api_token: machines.map(|machines| machines.token.expose().clone()),
        endpoint_url: format!("http://{}", reachable(local_address(&listener)?)),
        admin_url: format!("http://{}", reachable(local_address(&admin_listener)?)),
        artifacts: Some(place.to_string()),
        console_url: console_url.clone(),
        pid: std::process::id(),
    };
    let guests = config::Guests {
        url: settings.guest_url.clone(),
        keys: settings.keys.clone().unwrap_or_default(),
        program: settings.guest_program.clone(),
    };
    let core = assembly::core(&redis, settings.runs).await?;
    assembly::check_worker(&core).await?;
    let traces = assembly::traces(&core, settings.traces.as_ref()).await?;
    let deps = assembly::deps(core.clone(), &api, &guests, Some(&place), traces)?;
    let shutdown = Shutdown::new();
    let name = worker::unique_name();
    let keys = assembly::keys(&name, Use::Both, &deps.ring, core.clock.now_ms());
    let endpoint_deps = endpoint::Deps {
        core: core.with(settings.results),
        ring: deps.ring.clone(),
        readiness: Readiness::new(core.store.clone(), None).with_keys(keys.clone()),
        artifacts: assembly::artifacts(&artifacts)?,
    };
    shutdown.spawn_loop(
        "endpoint",
        endpoint::serve(listener, endpoint_deps, shutdown.clone()),
    );
    shutdown.spawn_loop(
        "keys",
        assembly::keep_keys_published(core.clone(), keys.clone(), shutdown.clone()),
    );
    let console = Console::new(console::Deps {
        store: core.store.clone(),
        clock: core.clock.clone(),
        keys: settings.console_keys.unwrap_or_default(),
        hosts: AllowedHosts::new(settings.allowed_hosts.clone()),
        terms: CancelTerms {
            retention: core.runs.retention,
            lease: core.runs.lease,
        },
        machines: Some(console::Machines {
            client: deps.machines.clone(),
            apps: deps.apps.clone(),
        }),
        artifacts: deps.artifacts.clone(),
        examine,
    });
    let login = Secret::new(format!("{console_url}{}", console.one_time_path()));
    shutdown.spawn_loop(
        "console",
        console::serve(console_listener, console, shutdown.clone()),
    );
    let health = deps.health.clone();
    let tasks = worker::start(deps, &name, keys.clone(), &shutdown);
    sweeper::start(tasks, &name, &shutdown);
    let hosts = AllowedHosts::new(settings.allowed_hosts);
    let metrics = core.metrics;
    let readiness = Readiness::new(core.store, Some(health)).with_keys(keys);
    let probe = move || {
        let readiness = readiness.clone();
        async move { readiness.check().await }
    };
    shutdown.spawn_loop(
        "admin",
        admin::serve(admin_listener, hosts, metrics, probe, shutdown.clone()),
    );
    info!("everything is up");
    Ok((shutdown, ready, login))
}

/// The settings, completed by what was made at start.
fn resolved(
    settings: &Up,
    locked: &LockedFolder,
    redis: Option<&OwnRedis>,
    machines: Option<&Machines>,
) -> Result<(Up, config::Redis, config::Machines), Error> {
    let mut settings = settings.clone();
    if settings.keys.is_none() {
        settings.keys = Some(keys::signing(locked)?);
    }
    if settings.console_keys.is_none() {
        settings.console_keys = Some(keys::of_console(locked)?);
    }
    let own_url = redis.map(|redis| redis.url().clone());
    let redis = config::Redis {
        url: own_url
            .or_else(|| settings.redis_url.clone())
            .expect("given, or started"),
        namespace: settings.namespace.clone(),
        tls: settings.redis_tls.clone(),
        wait: None,
        retention: settings.redis_retention,
    };
    let (own_api, own_token) = machines
        .map(|machines| (machines.url.clone(), machines.token.clone()))
        .unzip();
    let api = config::Machines {
        api_url: own_api
            .or_else(|| settings.api_url.clone())
            .expect("given, or started"),
        token: own_token
            .or_else(|| settings.token.clone())
            .expect("given, or made"),
        apps: settings.apps.clone(),
    };
    Ok((settings, redis, api))
}

/// Listens on the given address, or on a free local port.
async fn bind(wanted: Option<SocketAddr>) -> Result<TcpListener, Error> {
    let address = wanted.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| Error::Listen { address, source })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, Error> {
    let address = listener.local_addr();
    address.map_err(|source| Error::Listen {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        source,
    })
}

/// An address as this computer reaches it: an unspecified one becomes loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        let reached = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reached("[::]:80"), "[::1]:80");
        assert_eq!(reached("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reached("10.0.0.1:80"), "10.0.0.1:80");
    }
}
