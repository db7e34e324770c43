//! The command: words to settings to parts to one call.
//!
//! Each command is a file here. [`main`] reads the words, finds the command's settings and runs it;
//! nothing is touched before both are known to be sound.

mod args;
mod cancel;
mod dead;
mod doctor;
mod human;
mod images;
mod logs;
mod man;
mod patience;
mod place;
mod progress;
mod results;
mod runs;
mod say;
mod service;
mod settings;
mod show;
mod status;
mod submit;
mod tenants;
mod up;
mod usage;
mod view;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use crate::cli::args::{Cli, Command};
use crate::cli::say::Say;
use crate::cli::status::Status;
use crate::config::{self, MachinesServer, Serve, Tool, Up, Worker};
use crate::descriptors;

/// Runs the command that the arguments of this process name.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "milestones")]
    let _armed = crate::milestone::arm();
    descriptors::raise();
    let matches = settings::with_flags(Cli::command()).get_matches();
    // It fails only where it was done before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut say = Say::new();
    let status = run(&matches, &mut say);
    status
        .unwrap_or_else(|error| status::told(&mut say, &error))
        .into()
}

fn run(matches: &ArgMatches, say: &mut Say) -> anyhow::Result<Status> {
    let cli = Cli::from_arg_matches(matches).context("read the command line")?;
    let runtime = match cli.command {
        // They wait more than they work, and there can be any number of them: what threads save
        // in one process they cost in waking each other, a sixth of its processor time.
        Command::Worker | Command::Serve => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    }
    .enable_all()
    .build()
    .context("start the runtime")?;
    let own = matches.subcommand().map_or(matches, |(_, own)| own);
    let lookup = |name: &str| settings::lookup(own, name);
    let status = runtime.block_on(dispatch(&cli.command, &lookup, say));
    // A thread may hang in a read of standard input; nothing else is left.
    runtime.shutdown_background();
    status
}

async fn dispatch(
    command: &Command,
    lookup: &dyn Fn(&str) -> Option<String>,
    say: &mut Say,
) -> anyhow::Result<Status> {
    match command {
        Command::Submit(args) => submit::run(args, &Tool::parse(lookup)?, say).await,
        Command::Show(args) => show::run(args, &Tool::parse(lookup)?, say).await,
        Command::Runs(args) => runs::run(args, &Tool::parse(lookup)?, say).await,
        Command::Results(args) => results::run(args, &Tool::parse(lookup)?, say).await,
        Command::Cancel(args) => cancel::run(args, &Tool::parse(lookup)?, say).await,
        Command::Tenants(args) => tenants::run(args, &Tool::parse(lookup)?, say).await,
        Command::Usage(args) => usage::run(args, &Tool::parse(lookup)?, say).await,
        Command::Dead(args) => dead::run(args, &Tool::parse(lookup)?, say).await,
        Command::Worker => service::worker(Worker::parse(lookup)?).await,
        Command::Serve => service::serve(Serve::parse(lookup)?).await,
        Command::Logs(args) => logs::run(args, &Tool::parse(lookup)?, say).await,
        Command::Doctor(args) => doctor::run(args, Tool::examine(lookup), say).await,
        Command::Images(args) => images::run(args, &config::Images::parse(lookup)?, say),
        Command::Up(args) => up::run(args, Up::parse(lookup)?, say).await,
        Command::Machines(args) => {
            service::machines(args, MachinesServer::parse(lookup)?, say).await
        }
        Command::Completions { shell } => Ok(completions(*shell)),
        Command::Man { folder } => man::write(folder),
    }
}

fn completions(shell: clap_complete::Shell) -> Status {
    let mut words = settings::with_flags(Cli::command());
    clap_complete::generate(shell, &mut words, "cofferdam", &mut std::io::stdout());
    Status::Done
}
