//! `up`: everything on this machine, until a signal.

use anyhow::bail;
use tokio::time::Instant;
use tracing::{error, info};

use crate::cli::args::faults::FaultArgs;
use crate::cli::console::examine;
use crate::cli::human;
use crate::cli::output::{Output, Tone};
use crate::cli::service::{
    abort_on_second_signal, inject_faults, rules, signals, start_log, unless_signalled,
};
use crate::cli::status::Status;
use crate::cli::target;
use crate::config::{self, Up};
use crate::up::Running;

pub(super) async fn run(
    args: &FaultArgs,
    settings: Up,
    doctor: config::Doctor,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let rules = rules(args)?;
    start_log(&settings.daemon)?;
    let mut signals = signals()?;
    let begun = Instant::now();
    let folder = settings.state_dir.display().to_string();
    let adjust = |local: &mut _| inject_faults(local, args, rules);
    let start = Box::pin(Running::start(settings, adjust, Some(examine(doctor))));
    let mut running = unless_signalled(&mut signals, async { Ok(start.await?) }).await?;
    print_ready(out, &running, &folder, begun)?;
    let services = running.services().clone();
    let broken = tokio::select! {
        () = signals.received() => None,
        broken = running.broken() => Some(broken),
    };
    if let Some(why) = &broken {
        error!(why, "a part of this process has failed");
    }
    info!("shutting down");
    tokio::select! {
        () = running.end() => {}
        () = abort_on_second_signal(&mut signals, &services) => {}
    }
    match broken {
        None => Ok(Status::Done),
        Some(what) => bail!(what),
    }
}

/// The ready line, and where everything is.
fn print_ready(
    out: &mut Output,
    running: &Running,
    folder: &str,
    begun: Instant,
) -> anyhow::Result<()> {
    let ready = &running.ready;
    let head = out.paint(Tone::Good, "cofferdam is up");
    out.line(&format!(
        "{head} after {}",
        human::duration(begun.elapsed())
    ))?;
    let redis = target::address_of(ready)?.shown().to_owned();
    let machines = match running.isolation() {
        Some(isolation) => format!("{}  {isolation}", ready.fly_api_url),
        None => ready.fly_api_url.clone(),
    };
    let lines = [
        ("redis", redis),
        ("machines", machines),
        ("endpoint", ready.endpoint_url.clone()),
        ("metrics", format!("{}/metrics", ready.admin_url)),
        ("console", ready.console_url.clone()),
        (
            "",
            format!(
                "{}  opens it once, within 15 minutes",
                running.login.expose()
            ),
        ),
        ("state", folder.to_owned()),
    ];
    for (head, text) in lines {
        let head = out.paint(Tone::Faint, &format!("  {head:<10}"));
        out.line(&format!("{head}{text}"))?;
    }
    Ok(())
}
