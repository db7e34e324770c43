//! `up`: everything on this machine, until it is told to end.

use anyhow::bail;
use tokio::time::Instant;
use tracing::{error, info};

use crate::cli::args::Misbehave;
use crate::cli::human;
use crate::cli::place;
use crate::cli::say::{Say, Tone};
use crate::cli::service::{hurried, misbehaving, rules, signals, start_log, unless_told};
use crate::cli::status::Status;
use crate::config::Up;
use crate::up::Running;

pub(super) async fn run(args: &Misbehave, settings: Up, say: &mut Say) -> anyhow::Result<Status> {
    let rules = rules(args)?;
    start_log(&settings.daemon)?;
    let mut signals = signals()?;
    let begun = Instant::now();
    let folder = settings.state_dir.display().to_string();
    let start = Box::pin(Running::start(settings, |local| {
        misbehaving(local, args, rules);
    }));
    let mut running = unless_told(&mut signals, async { Ok(start.await?) }).await?;
    tell(say, &running, &folder, begun)?;
    let services = running.services().clone();
    let broken = tokio::select! {
        () = signals.told() => None,
        broken = running.broken() => Some(broken),
    };
    if let Some(why) = &broken {
        error!(why, "a part of this process is broken");
    }
    info!("ending");
    tokio::select! {
        () = running.end() => {}
        () = hurried(&mut signals, &services) => {}
    }
    match broken {
        None => Ok(Status::Done),
        Some(what) => bail!(what),
    }
}

/// The ready line, and where everything is.
fn tell(say: &mut Say, running: &Running, folder: &str, begun: Instant) -> anyhow::Result<()> {
    let ready = &running.ready;
    let head = say.paint(Tone::Good, "cofferdam is up");
    say.line(&format!(
        "{head} after {}",
        human::duration(begun.elapsed())
    ))?;
    let redis = place::without_password(&ready.redis_url.parse()?);
    let machines = match running.isolation() {
        Some(isolation) => format!("{}  {isolation}", ready.fly_api_url),
        None => ready.fly_api_url.clone(),
    };
    let lines = [
        ("redis", redis),
        ("machines", machines),
        ("endpoint", ready.endpoint_url.clone()),
        ("metrics", format!("{}/metrics", ready.admin_url)),
        ("state", folder.to_owned()),
    ];
    for (head, text) in lines {
        let head = say.paint(Tone::Faint, &format!("  {head:<10}"));
        say.line(&format!("{head}{text}"))?;
    }
    Ok(())
}
