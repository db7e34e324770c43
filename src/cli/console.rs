//! `console`: the console as a process of its own.

use std::sync::Arc;

use crate::artifacts::ArtifactStore;
use crate::assembly;
use crate::cli::doctor;
use crate::cli::service::{bind, run_until_signalled, signals, start_log, unless_signalled};
use crate::cli::status::Status;
use crate::clock::Clock;
use crate::config;
use crate::console::{self, Console, Deps, Examine, Finding, Machines};
use crate::http::host::AllowedHosts;
use crate::machines::{Client, ClientSettings, Token};
use crate::shutdown::Shutdown;
use crate::stage::operate::CancelTerms;
use crate::store::Store;

pub(super) async fn run(
    settings: config::Console,
    doctor: config::Doctor,
) -> anyhow::Result<Status> {
    start_log(&settings.daemon)?;
    let mut signals = signals()?;
    let listener = bind(settings.listen).await?;
    // It says that Redis is away, should it be, and needs no other than a new enough one.
    let store = unless_signalled(&mut signals, async { Ok(Store::new(&settings.redis)?) }).await?;
    let clock = Clock::steady();
    let shutdown = Shutdown::new();
    shutdown.spawn_loop(
        "clock",
        assembly::keep_store_clock_synced(store.clone(), clock.clone(), shutdown.clone()),
    );
    let console = Console::new(Deps {
        store,
        clock,
        keys: settings.keys,
        hosts: AllowedHosts::new(settings.allowed_hosts),
        terms: CancelTerms {
            retention: settings.retention,
            lease: settings.lease,
        },
        machines: machines(&settings.api, settings.apps)?,
        artifacts: settings
            .artifacts
            .as_ref()
            .map(ArtifactStore::open)
            .transpose()?,
        examine: Some(examine(doctor)),
    });
    shutdown.spawn_loop(
        "console",
        console::serve(listener, console, shutdown.clone()),
    );
    run_until_signalled(signals, &shutdown, settings.daemon.drain).await
}

/// The provider, where there is a token for it.
fn machines(api: &config::MachinesApi, apps: Vec<String>) -> anyhow::Result<Option<Machines>> {
    let Some(token) = &api.token else {
        return Ok(None);
    };
    let url = api.url.clone().unwrap_or_else(config::usual_api_url);
    let settings = ClientSettings::new(url, Token::new(token.expose().as_str()));
    let client = Client::new(settings)?;
    Ok(Some(Machines { client, apps }))
}

/// The checks of `doctor`, as often as they are asked for.
pub(super) fn examine(settings: config::Doctor) -> Examine {
    let settings = Arc::new(settings);
    Arc::new(move || {
        let settings = settings.clone();
        Box::pin(async move {
            let findings = doctor::findings(&settings).await;
            findings.into_iter().map(Finding::from).collect()
        })
    })
}
