//! The Machines API on this computer: the same calls as the real service, on one Linux host, each
//! machine a real isolated process tree.
//!
//! ```text
//!  HTTP ─▶ server ─▶ routes ─▶ Action ─▶ faults ─▶ calls ─▶ host ─▶ registry (pure)
//!                                                            │ ▲        │ effects
//!                                            observations    │ │        ▼
//!                                                  keeper ◀──┘ └──── keeper ─▶ runner, relay, logs
//! ```
//!
//! - `routes` turns a request into an action; `check` says what a machine may be asked to be;
//!   `registry` is machines and their lives as values. None of them does anything.
//! - `host` carries out what the registry asks for; a `keeper` supervises one start of one
//!   machine; `runner` runs it by the crate `cofferdam_sandbox`, `relay` carries its bytes to the
//!   endpoint, `logs` keeps what it writes. What machines start from is kept by the crate
//!   `cofferdam_images`.
//! - [`faults`] is how the server is told to misbehave.
//!
//! # What differs from the real service
//!
//! - Volumes, addresses, secrets and placements are listed, and are none. The other calls on them
//!   and those on certificates, network policies and memory answer 501 with their name. So does suspend: a machine is no VM
//!   whose memory could be kept.
//! - Configurations with mounts, several processes or containers, schedules, swap, terminals or
//!   graphics processors are refused with 400. Services, checks, metrics, statics and DNS
//!   settings are kept and shown, and have no effect.
//! - Machines reach one thing, the endpoint, at the port of 127.0.0.1 that their
//!   `SANDBOX_RESULT_URL` names, else 8080. Their `private_ip` is for show, and `FLY_PUBLIC_IP` is
//!   not set.
//! - Every machine's metadata says what keeps it apart and what limits it (`cofferdam_isolation`,
//!   `cofferdam_limits`), and exit events tell beside `exit_event`, under `cofferdam`, what is
//!   known more exactly.
//! - The contents of a machine's files are left out of answers where they are larger than 256 KiB
//!   together.
//! - Regions have no geography: `any` and the names of continents stand for all of them.

mod action;
mod answer;
mod auth;
mod bearer;
mod calls;
mod check;
pub mod faults;
mod guest_call;
mod host;
mod ids;
mod image;
mod keeper;
mod log_forward;
mod logs;
mod programs;
mod refusal;
mod registry;
mod relay;
mod routes;
mod runner;
mod server;
mod settings;
mod shared;
mod simulated;
mod spec;
mod stamp;
mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_images::Store;
use cofferdam_sandbox::Engine;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpListener;
use tracing::info;

use crate::http::serve::{Limits, serve_or_sever};
use crate::local::auth::Gate;
use crate::local::calls::Calls;
use crate::local::faults::FaultInjector;
use crate::local::host::Host;
use crate::local::logs::Logs;
use crate::local::registry::{Registry, Rules};
use crate::local::relay::{Relay, endpoint_address};
use crate::local::runner::Runner;
use crate::local::server::{Deps, Server};
use crate::local::shared::Parts;
use crate::local::simulated::Simulated;
use crate::machines::wire::CreateApp;
use crate::shutdown::Shutdown;

pub use crate::local::faults::rule::{Rule, RuleError};
pub use crate::local::settings::{Bounds, FaultSettings, Guests, ServerSettings};

/// Why a Machines server does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no token that it could ask for.
    #[error("the Machines server needs a token in FLY_API_TOKEN")]
    NoToken,
    /// A setting breaks a rule.
    #[error("{0}")]
    Setting(String),
    /// Limits do not hold for a machine as a whole, and that is not allowed.
    #[error(
        "{0}. To run machines without such limits, so that one can use up the memory of this host, set COFFERDAM_ALLOW_WEAK_LIMITS=true (--allow-weak-limits true)"
    )]
    WeakLimits(cofferdam_sandbox::Error),
    /// Machines cannot be run here.
    #[error(transparent)]
    Engine(cofferdam_sandbox::Error),
    /// The store of images cannot be opened.
    #[error("open the images: {0}")]
    Images(#[from] cofferdam_images::Error),
}

impl From<cofferdam_sandbox::Error> for Error {
    fn from(error: cofferdam_sandbox::Error) -> Self {
        match error {
            cofferdam_sandbox::Error::Limits { .. } => Self::WeakLimits(error),
            _ => Self::Engine(error),
        }
    }
}

/// A Machines server that has opened, and does not serve yet.
#[derive(Debug)]
pub struct LocalServer {
    host: Host,
    server: Server,
    bounds: Bounds,
    shutdown: Shutdown,
    report: String,
}

/// Opens a Machines server and serves `listener` until `shutdown` begins; then every machine is
/// ended. Returns when nothing of them is left.
///
/// # Errors
/// As [`LocalServer::open`].
pub async fn serve(
    listener: TcpListener,
    settings: ServerSettings,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let machines = LocalServer::open(settings, &shutdown).await?;
    machines.serve(listener).await;
    Ok(())
}

impl LocalServer {
    /// Opens a server: finds out what keeps machines apart here by trying it, and cleans up what
    /// one left that was killed.
    ///
    /// # Errors
    /// Without a token, with a setting that breaks a rule, where machines cannot be run.
    pub async fn open(settings: ServerSettings, shutdown: &Shutdown) -> Result<Self, Error> {
        let gate = Gate::new(&settings.token).ok_or(Error::NoToken)?;
        if settings.org.is_empty() {
            return Err(Error::Setting("the organisation has no name".to_owned()));
        }
        let regions = check::Regions::new(settings.regions)
            .map_err(|code| Error::Setting(format!("{code:?} is no code of a region")))?;
        let endpoint = match &settings.endpoint {
            None => None,
            Some(text) => Some(endpoint_address(text).map_err(Error::Setting)?),
        };
        let shutdown = shutdown.child();
        let images = Arc::new(Store::open(&settings.state_dir)?);
        let (runner, report) = runner(settings.guests, endpoint.as_deref()).await?;
        let relay = endpoint
            .map(|endpoint| Relay::new(&endpoint, relay::Bounds::default(), shutdown.clone()));
        let bounds = settings.bounds;
        let labels = runner.labels().map(|(key, value)| (key.to_owned(), value));
        let rules = Rules {
            org: settings.org.clone(),
            max_machines: bounds.machines,
            max_apps: bounds.apps,
            max_config_bytes: bounds.memory_bytes,
            retention: bounds.retention,
            max_destroyed: bounds.destroyed,
            labels: BTreeMap::from(labels),
        };
        let parts = Parts {
            runner,
            images,
            logs: Logs::new(bounds.logs),
            relay,
            clock: settings.clock,
            shutdown: shutdown.clone(),
        };
        let host = Host::new(Registry::new(rules, seed()), parts);
        make_apps(&host, &settings.apps)?;
        let faults = settings.faults;
        let server = Server::new(Deps {
            gate,
            hosts: settings.hosts,
            faults: FaultInjector::new(faults.rules, faults.documented_limits),
            control: faults.control,
            calls: Calls {
                host: host.clone(),
                regions,
                org: settings.org,
            },
            body_bytes: bounds.body_bytes,
            memory_bytes: bounds.memory_bytes,
            seed: seed(),
        });
        Ok(Self {
            host,
            server,
            bounds,
            shutdown,
            report,
        })
    }

    /// What keeps machines apart here and what limits them: `isolation=namespaces limits=cgroup2`.
    #[must_use]
    pub fn report(&self) -> &str {
        &self.report
    }

    /// Serves `listener` until the shutdown begins that the server was opened with; then every
    /// machine is ended. Returns when nothing of them is left.
    pub async fn serve(self, listener: TcpListener) {
        let limits = Limits {
            connections: self.bounds.connections,
            ..Limits::default()
        };
        let server = self.server;
        let handler = move |request, _| server.clone().answer(request);
        let serving = serve_or_sever(listener, limits, self.shutdown.clone(), handler);
        let ending = async {
            self.shutdown.quiet().cancelled().await;
            self.host.end_all();
        };
        tokio::join!(serving, ending);
        let by_themselves = self.shutdown.finish(self.bounds.drain).await;
        self.host.parts().runner.close().await;
        info!(by_themselves, "the Machines server has ended");
    }
}

async fn runner(guests: Guests, endpoint: Option<&str>) -> Result<(Runner, String), Error> {
    match guests {
        Guests::Sandboxed(settings) => {
            let (engine, report) = Engine::open(settings).await?;
            Ok((Runner::Sandbox(engine), report.to_string()))
        }
        Guests::Simulated(delay) => {
            let endpoint = endpoint.map(Arc::from);
            let runner = Runner::Simulated(Simulated { delay, endpoint });
            Ok((runner, "isolation=none (simulated)".to_owned()))
        }
    }
}

fn make_apps(host: &Host, names: &[String]) -> Result<(), Error> {
    for name in names {
        let request = CreateApp {
            name: Some(name.clone()),
            ..CreateApp::default()
        };
        let made = host.change(|registry, now| registry.create_app(request, now));
        made.map_err(|refusal| Error::Setting(format!("app '{name}': {}", refusal.error)))?;
    }
    Ok(())
}

/// A seed for ids. They are not secret: without randomness they begin at zero.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
