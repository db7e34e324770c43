//! `worker`, `serve` and `machines`: processes that stay until they are told to end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::admin;
use crate::assembly;
use crate::cli::args::Misbehave;
use crate::cli::say::Say;
use crate::cli::settings;
use crate::cli::status::{Status, WrongUse};
use crate::config::{self, AdminListen, Daemon, MachinesServer, Runs, Serve, Unknown, Worker};
use crate::endpoint;
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
    let core = unless_told(&mut signals, core(&settings.redis, settings.runs)).await?;
    let deps = assembly::deps(core.clone(), &settings.machines, &settings.guests)?;
    let health = deps.health.clone();
    let shutdown = Shutdown::new();
    let name = worker::unique_name();
    let keys = assembly::keys(&name, Use::Signs, &deps.ring);
    shutdown.spawn_loop(
        "keys",
        assembly::keep_keys(core.clone(), keys.clone(), shutdown.clone()),
    );
    let crew = worker::start(deps, &name, &shutdown);
    sweeper::start(crew, &name, &shutdown);
    shutdown.spawn_loop("clock", assembly::keep_time(core.clone(), shutdown.clone()));
    let metrics = core.metrics.clone();
    let readiness = Readiness::new(core.store.clone(), Some(health)).with_keys(keys);
    let probe = move || {
        let readiness = readiness.clone();
        async move { readiness.look().await }
    };
    shutdown.spawn_loop(
        "admin",
        admin::serve(listener, metrics, probe, shutdown.clone()),
    );
    until_told(signals, &shutdown, settings.daemon.drain).await
}

pub(super) async fn serve(settings: Serve) -> anyhow::Result<Status> {
    start_log(&settings.daemon)?;
    let mut signals = signals()?;
    let listener = bind(settings.endpoint.listen).await?;
    let admin_listener = bind_admin(settings.admin_listen).await?;
    let core = unless_told(&mut signals, core(&settings.redis, settings.runs)).await?;
    let ring = assembly::ring(&settings.endpoint.keys)?;
    let shutdown = Shutdown::new();
    shutdown.spawn_loop("clock", assembly::keep_time(core.clone(), shutdown.clone()));
    let metrics = core.metrics.clone();
    let keys = assembly::keys(&endpoint::unique_name(), Use::Verifies, &ring);
    shutdown.spawn_loop(
        "keys",
        assembly::keep_keys(core.clone(), keys.clone(), shutdown.clone()),
    );
    let readiness = Readiness::new(core.store.clone(), None).with_keys(keys);
    let deps = endpoint::Deps {
        core,
        ring,
        readiness: readiness.clone(),
    };
    shutdown.spawn_loop(
        "endpoint",
        endpoint::serve(listener, deps, shutdown.clone()),
    );
    let probe = move || {
        let readiness = readiness.clone();
        async move { readiness.look().await }
    };
    shutdown.spawn_loop(
        "admin",
        admin::serve(admin_listener, metrics, probe, shutdown.clone()),
    );
    until_told(signals, &shutdown, settings.daemon.drain).await
}

pub(super) async fn machines(
    args: &Misbehave,
    settings: MachinesServer,
    say: &mut Say,
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
    wanted.bounds.drain = settings.daemon.drain;
    if let local::Guests::Sandboxed(engine) = &mut wanted.guests {
        engine.require_limits = local.require_limits;
    }
    misbehaving(&mut wanted, args, rules);
    let shutdown = Shutdown::new();
    let machines = LocalServer::open(wanted, &shutdown).await?;
    let address = listener.local_addr()?;
    say.line(&format!("http://{address}/v1  {}", machines.report()))?;
    shutdown.spawn_loop("machines", machines.serve(listener));
    until_told(signals, &shutdown, settings.daemon.drain).await
}

/// The faults that the words ask for.
pub(super) fn rules(args: &Misbehave) -> Result<Vec<Rule>, WrongUse> {
    let rules = args.fault.iter().map(|text| text.parse::<Rule>());
    let rules: Result<Vec<_>, _> = rules.collect();
    rules.map_err(|error| WrongUse::new(error.to_string()))
}

/// Lets a local server misbehave as it is told.
pub(super) fn misbehaving(
    settings: &mut local::ServerSettings,
    args: &Misbehave,
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
    Signals::listen().context("hear signals")
}

async fn core(redis: &config::Redis, runs: Runs) -> anyhow::Result<Core> {
    Ok(Box::pin(assembly::core(redis, runs)).await?)
}

pub(super) fn start_log(daemon: &Daemon) -> anyhow::Result<()> {
    telemetry::start(&daemon.log, daemon.log_format)?;
    for Unknown { name, nearest } in settings::misspelt() {
        let nearest = nearest.unwrap_or("none");
        warn!(name, nearest, "no setting has this name; it has no effect");
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

/// Takes the address for metrics and health, or a free port when that is the default and taken: a
/// worker and an endpoint on one host have the same default.
async fn bind_admin(listen: AdminListen) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(listen.address).await;
    match bound {
        Err(error) if listen.or_free && error.kind() == ErrorKind::AddrInUse => {
            let free = SocketAddr::new(listen.address.ip(), 0);
            let listener = bind(free).await?;
            warn!(
                wanted = %listen.address,
                address = %listener.local_addr()?,
                "the port for metrics and health is taken; serving them on a free one"
            );
            Ok(listener)
        }
        bound => listening(listen.address, bound),
    }
}

/// Waits to be told to end, then ends in two steps; told again, it ends at once. A process that is
/// broken ends in the same way, and fails: others do its work, and whoever started it starts another.
async fn until_told(
    mut signals: Signals,
    shutdown: &Shutdown,
    drain: Duration,
) -> anyhow::Result<Status> {
    let broken = tokio::select! {
        () = signals.told() => None,
        why = shutdown.broken() => Some(why),
    };
    if let Some(why) = &broken {
        error!(why, "this process is broken");
    }
    info!(
        drain_s = drain.as_secs(),
        "ending: what is in hand is finished"
    );
    let is_clean = tokio::select! {
        is_clean = shutdown.finish(drain) => is_clean,
        () = hurried(&mut signals, shutdown) => false,
    };
    if !is_clean {
        warn!("what was in hand is left to others, who take it up when its lease ends");
    }
    info!("ended");
    match broken {
        None => Ok(Status::Done),
        Some(why) => bail!(why),
    }
}

/// Ends what is in hand when this process is told to end a second time; never returns.
pub(super) async fn hurried(signals: &mut Signals, shutdown: &Shutdown) {
    signals.told().await;
    warn!("told again: ending at once");
    shutdown.abort().cancel();
    std::future::pending().await
}

/// What comes of starting, unless this process is told to end first.
pub(super) async fn unless_told<T>(
    signals: &mut Signals,
    start: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        started = start => started,
        () = signals.told() => bail!("told to end before everything was there"),
    }
}
