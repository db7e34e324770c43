//! The command line: arguments and settings, and a call of the command that they name.
//!
//! Each command is a file here. [`main`] reads the arguments and the command's settings, and
//! runs it only if both are valid.

mod args;
mod artifacts;
mod cancel;
mod console;
mod dead;
mod doctor;
mod human;
#[cfg(feature = "local")]
mod images;
mod live_log;
mod logs;
mod man;
mod output;
mod progress;
mod rerun;
mod results;
mod run;
mod runs;
mod service;
mod settings;
mod show;
mod status;
mod submit;
mod target;
mod tenants;
mod timeout;
mod top;
#[cfg(feature = "local")]
mod up;
mod usage;
mod view;
mod workers;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use crate::cli::args::{Cli, Command};
use crate::cli::output::Output;
use crate::cli::status::Status;
use crate::config::{self, Serve, Tool, Worker};
use crate::descriptors;

/// Runs the command that the arguments of this process name.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "milestones")]
    let _armed = crate::milestone::arm();
    descriptors::raise();
    let matches = settings::with_flags(Cli::command()).get_matches();
    // It fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut out = Output::new();
    let status = run(&matches, &mut out);
    status
        .unwrap_or_else(|error| status::report(&mut out, &error))
        .into()
}

fn run(matches: &ArgMatches, out: &mut Output) -> anyhow::Result<Status> {
    let cli = Cli::from_arg_matches(matches).context("read the command line")?;
    let runtime = match cli.command {
        // They mostly wait, and more of them can be started: several threads in one process spent a
        // sixth of its processor time on waking each other.
        Command::Worker | Command::Serve => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    }
    .enable_all()
    .build()
    .context("start the runtime")?;
    let own = matches.subcommand().map_or(matches, |(_, own)| own);
    let lookup = |name: &str| settings::lookup(own, name);
    let status = runtime.block_on(dispatch(&cli.command, &lookup, out));
    // Only a thread that is blocked in a read of standard input can still be there.
    runtime.shutdown_background();
    status
}

async fn dispatch(
    command: &Command,
    lookup: &dyn Fn(&str) -> Option<String>,
    out: &mut Output,
) -> anyhow::Result<Status> {
    match command {
        Command::Run(args) => run::run(args, &config::RunTool::parse(lookup)?, out).await,
        Command::Submit(args) => submit::run(args, &Tool::parse(lookup)?, out).await,
        Command::Show(args) => show::run(args, &Tool::parse(lookup)?, out).await,
        Command::Runs(args) => runs::run(args, &Tool::parse(lookup)?, out).await,
        Command::Results(args) => results::run(args, &Tool::parse(lookup)?, out).await,
        Command::Artifacts(args) => {
            artifacts::run(args, &config::ArtifactsTool::parse(lookup)?, out).await
        }
        Command::Cancel(args) => cancel::run(args, &config::Cancel::parse(lookup)?, out).await,
        Command::Rerun(args) => rerun::run(args, &Tool::parse(lookup)?, out).await,
        Command::Priority(args) => rerun::priority(args, &Tool::parse(lookup)?, out).await,
        Command::Workers(args) => workers::run(args, &Tool::parse(lookup)?, out).await,
        Command::Top(args) => Box::pin(top::run(args, &Tool::parse(lookup)?, out)).await,
        Command::Console => {
            let (doctor, _) = config::Doctor::examine(lookup);
            console::run(config::Console::parse(lookup)?, doctor).await
        }
        Command::Tenants(args) => tenants::run(args, &Tool::parse(lookup)?, out).await,
        Command::Usage(args) => usage::run(args, &Tool::parse(lookup)?, out).await,
        Command::Dead(args) => dead::run(args, &Tool::parse(lookup)?, out).await,
        Command::Worker => service::worker(Worker::parse(lookup)?).await,
        Command::Serve => service::serve(Serve::parse(lookup)?).await,
        Command::Logs(args) => logs::run(args, &Tool::parse(lookup)?, out).await,
        Command::Doctor(args) => doctor::run(args, config::Doctor::examine(lookup), out).await,
        #[cfg(feature = "local")]
        Command::Images(args) => images::run(args, &config::Images::parse(lookup)?, out),
        #[cfg(feature = "local")]
        Command::Up(args) => {
            let (doctor, _) = config::Doctor::examine(lookup);
            up::run(args, config::Up::parse(lookup)?, doctor, out).await
        }
        #[cfg(feature = "local")]
        Command::Machines(args) => {
            service::machines(args, config::MachinesServer::parse(lookup)?, out).await
        }
        #[cfg(not(feature = "local"))]
        Command::Images(_) | Command::Up(_) | Command::Machines(_) => {
            Err(status::WrongUse::new(NO_LOCAL_SERVER).into())
        }
        Command::Completions { shell } => Ok(completions(*shell)),
        Command::Man { folder } => man::write(folder),
        Command::GuestProgram { file } => write_guest_program(file),
    }
}

/// Why a command of the local Machines server is not there.
#[cfg(not(feature = "local"))]
const NO_LOCAL_SERVER: &str =
    "this build has no local Machines server: it was built without the cargo feature `local`";

fn write_guest_program(file: &Path) -> anyhow::Result<Status> {
    let write = || {
        fs::write(file, cofferdam_guest::PROGRAM)?;
        fs::set_permissions(file, Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("write {}", file.display()))?;
    Ok(Status::Done)
}

fn completions(shell: clap_complete::Shell) -> Status {
    let mut command = settings::with_flags(Cli::command());
    clap_complete::generate(shell, &mut command, "cofferdam", &mut std::io::stdout());
    Status::Done
}
