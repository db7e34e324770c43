//! `worker`, `serve` and `machines`: processes that run until a signal.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::admin;
use crate::assembly;
#[cfg(feature = "local")]
use crate::cli::args::faults::FaultArgs;
#[cfg(feature = "local")]
use crate::cli::output::Output;
use crate::cli::settings;
use crate::cli::status::Status;
#[cfg(feature = "local")]
use crate::cli::status::WrongUse;
#[cfg(feature = "local")]
use crate::config::MachinesServer;
use crate::config::{self, AdminListen, Daemon, Serve, Unknown, Worker};
use crate::endpoint;
use crate::http::host::AllowedHosts;
#[cfg(feature = "local")]
use crate::local::{self, LocalServer, Rule};
use crate::shutdown::{Shutdown, Signals};
use crate::stage::Core;
use crate::stage::ready::Readiness;
use crate::sweeper;
use crate::telemetry;
use crate::token::fleet::Use;
use crate::worker;

pub(super) async fn worker(settings: Worker) -> anyhow::Result<Status> {
    start_log(&settings.daemon)?;
    let mut signals = signals()?;
    let listener = bind_admin(settings.admin_listen).await?;
    let core = unless_signalled(&mut signals, core(&settings.redis, settings.runs)).await?;
    assembly::check_worker(&core).await?;
    let deps = assembly::deps(
        core.clone(),
        &settings.machines,
        &settings.guests,
        settings.artifacts.as_ref(),
        assembly::traces(&core, settings.traces.as_ref()).await?,
    )?;
    let health = deps.health.clone();
    let shutdown = Shutdown::new();
    let name = worker::unique_name();
    let keys = assembly::keys(&name, Use::Signs, &deps.ring, core.clock.now_ms());
    shutdown.spawn_loop(
        "keys",
        assembly::keep_keys_published(core.clone(), keys.clone(), shutdown.clone()),
    );
    let tasks = worker::start(deps, &name, keys.clone(), &shutdown);
    sweeper::start(tasks, &name, &shutdown);
    let hosts = AllowedHosts::new(settings.allowed_hosts);
    let metrics = core.metrics.clone();
    let readiness = Readiness::new(core.store.clone(), Some(health)).with_keys(keys);
    let probe = move || {
        let readiness = readiness.clone();
        async move { readiness.check().await }
    };
    shutdown.spawn_loop(
        "admin",
        admin::serve(listener, hosts, metrics, probe, shutdown.clone()),
    );
    run_until_signalled(signals, &shutdown, settings.daemon.drain).await
}

pub(super) async fn serve(settings: Serve) -> anyhow::Result<Status> {
    start_log(&settings.daemon)?;
    let mut signals = signals()?;
    let listener = bind(settings.endpoint.listen).await?;
    let admin_listener = bind_admin(settings.admin_listen).await?;
    let core = unless_signalled(&mut signals, core(&settings.redis, settings.results)).await?;
    let ring = assembly::ring(&settings.endpoint.keys)?;
    let artifacts = assembly::artifacts(&settings.artifacts)?;
    let shutdown = Shutdown::new();
    let hosts = AllowedHosts::new(settings.allowed_hosts);
    let metrics = core.metrics.clone();
    let keys = assembly::keys(
        &endpoint::unique_name(),
        Use::Verifies,
        &ring,
        core.clock.now_ms(),
    );
    shutdown.spawn_loop(
        "keys",
        assembly::keep_keys_published(core.clone(), keys.clone(), shutdown.clone()),
    );
    let readiness = Readiness::new(core.store.clone(), None).with_keys(keys);
    let deps = endpoint::Deps {
        core,
        ring,
        readiness: readiness.clone(),
        artifacts,
    };
    shutdown.spawn_loop(
        "endpoint",
        endpoint::serve(listener, deps, shutdown.clone()),
    );
    let probe = move || {
        let readiness = readiness.clone();
        async move { readiness.check().await }
    };
    shutdown.spawn_loop(
        "admin",
        admin::serve(admin_listener, hosts, metrics, probe, shutdown.clone()),
    );
    run_until_signalled(signals, &shutdown, settings.daemon.drain).await
}

#[cfg(feature = "local")]
pub(super) async fn machines(
    args: &FaultArgs,
    settings: MachinesServer,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let rules = rules(args)?;
    start_log(&settings.daemon)?;
    let signals = signals()?;
    let local = settings.local;
    let listener = bind(local.listen).await?;
    let mut wanted = local::ServerSettings::new(local.token.expose().clone(), local.state_dir);
    wanted.apps = local.apps;
    wanted.regions = local.regions;
    wanted.endpoint = Some(local.endpoint);
    wanted.hosts = AllowedHosts::new(settings.allowed_hosts);
    wanted.bounds.drain = settings.daemon.drain;
    if let local::Guests::Sandboxed(engine) = &mut wanted.guests {
        engine.require_limits = !local.allow_weak_limits;
    }
    inject_faults(&mut wanted, args, rules);
    let shutdown = Shutdown::new();
    let machines = LocalServer::open(wanted, &shutdown).await?;
    let address = listener.local_addr()?;
    out.line(&format!("http://{address}/v1  {}", machines.report()))?;
    shutdown.spawn_loop("machines", machines.serve(listener));
    run_until_signalled(signals, &shutdown, settings.daemon.drain).await
}

/// The fault rules that the arguments name.
#[cfg(feature = "local")]
pub(super) fn rules(args: &FaultArgs) -> Result<Vec<Rule>, WrongUse> {
    let rules = args.fault.iter().map(|text| text.parse::<Rule>());
    let rules: Result<Vec<_>, _> = rules.collect();
    rules.map_err(|error| WrongUse::new(error.to_string()))
}

/// Sets the faults that a local server injects.
#[cfg(feature = "local")]
pub(super) fn inject_faults(
    settings: &mut local::ServerSettings,
    args: &FaultArgs,
    rules: Vec<Rule>,
) {
    settings.faults.rules = rules;
    settings.faults.control = args.fault_control;
    settings.faults.documented_limits = args.documented_limits;
    if let Some(delay_ms) = args.simulate {
        settings.guests = local::Guests::Simulated(Duration::from_millis(delay_ms));
    }
}

/// SIGTERM and SIGINT, from before anything is started.
pub(super) fn signals() -> anyhow::Result<Signals> {
    Signals::listen().context("install the signal handlers")
}

async fn core<R>(redis: &config::Redis, runs: R) -> anyhow::Result<Core<R>> {
    Ok(Box::pin(assembly::core(redis, runs)).await?)
}

pub(super) fn start_log(daemon: &Daemon) -> anyhow::Result<()> {
    telemetry::start(&daemon.log, daemon.log_format)?;
    for Unknown { name, nearest } in settings::unknown_variables() {
        let nearest = nearest.unwrap_or("none");
        warn!(name, nearest, "unknown setting, ignored");
    }
    Ok(())
}

pub(super) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listening(address, TcpListener::bind(address).await)
}

fn listening(
    address: SocketAddr,
    bound: std::io::Result<TcpListener>,
) -> anyhow::Result<TcpListener> {
    let listener = bound.with_context(|| format!("listen on {address}"))?;
    info!(address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Binds the address for metrics and health, or a free port when that address is the default and
/// in use: a worker and an endpoint on one host have the same default.
async fn bind_admin(listen: AdminListen) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(listen.address).await;
    match bound {
        Err(error) if listen.or_free && error.kind() == ErrorKind::AddrInUse => {
            let free = SocketAddr::new(listen.address.ip(), 0);
            let listener = bind(free).await?;
            warn!(
                wanted = %listen.address,
                address = %listener.local_addr()?,
                "the port for metrics and health is in use; serving them on a free one"
            );
            Ok(listener)
        }
        bound => listening(listen.address, bound),
    }
}

/// Waits for a signal, then shuts down in two steps; a second signal stops it at once. A process with
/// a broken part shuts down in the same way and exits with a failure, so that its supervisor starts
/// another.
pub(super) async fn run_until_signalled(
    mut signals: Signals,
    shutdown: &Shutdown,
    drain: Duration,
) -> anyhow::Result<Status> {
    let broken = tokio::select! {
        () = signals.received() => None,
        why = shutdown.broken() => Some(why),
    };
    if let Some(why) = &broken {
        error!(why, "a part of this process has failed");
    }
    info!(
        drain_s = drain.as_secs(),
        "shutting down: finishing work in progress"
    );
    let is_clean = tokio::select! {
        is_clean = shutdown.finish(drain) => is_clean,
        () = abort_on_second_signal(&mut signals, shutdown) => false,
    };
    if !is_clean {
        warn!("unfinished work is left to other workers, who take it over when its lease ends");
    }
    info!("shut down");
    match broken {
        None => Ok(Status::Done),
        Some(why) => bail!(why),
    }
}

/// Aborts the work in progress at a second signal; never returns.
pub(super) async fn abort_on_second_signal(signals: &mut Signals, shutdown: &Shutdown) {
    signals.received().await;
    warn!("second signal: stopping at once");
    shutdown.abort().cancel();
    std::future::pending().await
}

/// The outcome of `start`, unless a signal comes first.
pub(super) async fn unless_signalled<T>(
    signals: &mut Signals,
    start: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        started = start => started,
        () = signals.received() => bail!("stopped by a signal before startup had finished"),
    }
}
