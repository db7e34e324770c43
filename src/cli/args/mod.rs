//! The arguments of every command, with examples in their help texts.

pub(crate) mod faults;
pub(crate) mod fleet;
pub(crate) mod run;
pub(crate) mod submit;
pub(crate) mod tenants;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cli::args::faults::FaultArgs;
use crate::cli::args::fleet::{Priority, Rerun, Top, Workers};
use crate::cli::args::run::Run;
use crate::cli::args::submit::Submit;
use crate::cli::args::tenants::{Tenants, Usage};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs strangers' code: one throw-away machine per request, exactly one result, nothing left
/// behind
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, styles = STYLES, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = "\
Everything on one machine:
  cofferdam up
  cofferdam run -- sh -c 'echo hello'

Each setting is an environment variable and a flag of the command that uses it.
Exit status: 0 done, 1 failed, 2 wrong use, 3 a run that was waited for did not complete; `run` has that
of its command.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: Redis, the local Machines server, worker, endpoint
    #[command(after_help = "\
Examples:
  cofferdam up
  cofferdam up --state-dir /tmp/try --allow-weak-limits true
  REDIS_URL=redis://127.0.0.1 cofferdam up      # with your own Redis

It prints a line when it is ready; `submit`, `show` and the others then find it by themselves.
Ctrl-C or SIGTERM stops everything that it started.")]
    Up(FaultArgs),
    /// Boot a machine for each request, tear it down after its result, sweep up orphans
    #[command(after_help = "\
Examples:
  cofferdam worker --apps sandboxes --guest-url http://cofferdam.internal:8080
  cofferdam worker --help | less               # every setting

Any number of workers share the work. SIGTERM drains: nothing new is taken, and work in progress
is finished or left to another worker.")]
    Worker,
    /// Serve the endpoint that guests post their results to
    #[command(after_help = "\
Examples:
  cofferdam serve
  cofferdam serve --listen 127.0.0.1:8080 --admin-listen 127.0.0.1:9091")]
    Serve,
    /// Serve the Machines API on this machine, each machine an isolated process tree
    #[command(after_help = "\
Examples:
  FLY_API_TOKEN=secret cofferdam machines
  FLY_API_TOKEN=secret cofferdam machines --allow-weak-limits true
  FLY_API_TOKEN=secret cofferdam machines --fault 'create nth=2: lose'")]
    Machines(FaultArgs),
    /// Import, list and remove the images that local machines start from
    #[command(
        subcommand,
        after_help = "\
Examples:
  docker save alpine:3 | cofferdam images import alpine:3 -
  cofferdam images import tools ./rootfs
  cofferdam images list"
    )]
    Images(Images),
    /// Run one command in a machine: its output comes as it is written, its exit code is this one's
    #[command(after_help = "\
Examples:
  cofferdam run --image host -- sh -c 'echo hi; exit 7'
  cofferdam run --image python:3.13 --dir . -- python -m pytest -q
  cofferdam run --dir . --out built -- sh -c 'mkdir out; make; cp program out'
  cofferdam run --image host --stdin words.txt -- sort -u

Exit status: the command's own, 128 and the signal's number for one that was killed; 125 for what the
platform did (no machine, deadline passed, cancelled); 130 after Ctrl-C, which cancels the run.")]
    Run(Box<Run>),
    /// Submit one run request, or many
    #[command(after_help = "\
Examples:
  cofferdam submit --image host --wait -- sh -c 'exit 3'
  cofferdam submit --image alpine:3 --input '{\"n\":1}' --env LEVEL=debug --timeout 60
  cofferdam submit --file /repo.bundle=./repo.bundle --input @input.json --wait --json
  jq -c '.[]' requests.json | cofferdam submit - --wait

Exit status with --wait: 0 all completed, 3 one did not.")]
    Submit(Box<Submit>),
    /// Show one run: its state, times, machine and result
    #[command(after_help = "\
Examples:
  cofferdam show pr-17
  cofferdam show pr-17 --json | jq .result.payload")]
    Show(Show),
    /// Print what the guest of a run wrote
    #[command(after_help = "\
Examples:
  cofferdam logs pr-17
  cofferdam logs pr-17 --follow --timestamps

What a guest wrote on standard error is printed there. Output is kept as long as the run, the newest
COFFERDAM_LOG_BYTES of it. On Fly it is that of runs with `capture`, and of guests that post their output
to SANDBOX_LOG_URL; on one host it is that of every guest.")]
    Logs(Logs),
    /// List the artifacts of a run, and fetch them
    #[command(after_help = "\
Examples:
  cofferdam artifacts pr-17
  cofferdam artifacts pr-17 out/report.html -o report.html
  cofferdam artifacts pr-17 --output results/      # all of them
  cofferdam artifacts pr-17 --json | jq -r .sha256

What was fetched is what was put: its digest is checked. Artifacts are kept as long as results.")]
    Artifacts(Artifacts),
    /// List runs, newest first
    #[command(after_help = "\
Examples:
  cofferdam runs
  cofferdam runs --state running --tenant acme
  cofferdam runs --outcome failed --since 2h
  cofferdam runs --reason oom_killed --image registry.example/app:1
  cofferdam runs --limit 1000 --json | jq -r .run_id

Runs that have ended are found by index, for as long as Redis has their hashes: the newest million, and
of each outcome, reason and tenant the newest 10,000.")]
    Runs(Runs),
    /// Print results, oldest first
    #[command(after_help = "\
Examples:
  cofferdam results --limit 5
  cofferdam results --follow --json

This reads the stream without a consumer group, so it takes nothing from any consumer.")]
    Results(Results),
    /// Cancel runs: each ends with a result that says so, and its machine is torn down
    #[command(after_help = "\
Examples:
  cofferdam cancel pr-17 pr-18
  cofferdam cancel --tenant acme

A run that has ended stays as it is. Producers do the same without this command:
  XADD cofferdam:control * cancel pr-17")]
    Cancel(Cancel),
    /// Ask for runs again, by their own requests under new ids, which it prints
    #[command(after_help = "\
Examples:
  cofferdam rerun pr-17
  cofferdam runs --reason machine_lost --since 1h --json | jq -r .run_id | xargs cofferdam rerun

The request of a run is kept while it has not ended, and after that only if it ended without a result of
its guest, or with one where `serve` has COFFERDAM_KEEP_REQUESTS=true: up to 64 KiB each and as long as
there is room.")]
    Rerun(Rerun),
    /// Change the priority of a waiting run
    #[command(after_help = "\
Examples:
  cofferdam priority pr-17 0")]
    Priority(Priority),
    /// Show workers and endpoints, and keep a worker from taking work
    #[command(after_help = "\
Examples:
  cofferdam workers
  cofferdam workers quiet worker-01k5xq2m3n4p5q6r7s8t9v0w1x")]
    Workers(Workers),
    /// Watch the fleet in the terminal
    #[command(after_help = "\
Examples:
  cofferdam top
  cofferdam top --interval 5
  cofferdam top --json | jq .queued")]
    Top(Top),
    /// Serve the console: what an operator sees and does in a browser
    #[command(after_help = "\
Examples:
  COFFERDAM_CONSOLE_KEYS=operator:$(openssl rand -hex 32) cofferdam console
  cofferdam console --console-listen '[::]:9091' --console-keys-file /run/secrets/console-keys")]
    Console,
    /// Show tenants and change what is set for them: machines, share, backlog, budget, pause
    #[command(after_help = "\
Examples:
  cofferdam tenants
  cofferdam tenants set acme --max-in-flight 5 --weight 3
  cofferdam tenants set acme --budget-s 36000 --backlog-max none
  cofferdam tenants pause acme
  cofferdam tenants pause --all")]
    Tenants(Tenants),
    /// Print what tenants used: machine seconds by size and day, runs by how they ended
    #[command(after_help = "\
Examples:
  cofferdam usage --tenant acme --since 2026-11-01
  cofferdam usage --json | jq -s 'map(.machine_s) | add'

Days are UTC. A machine's time counts on the day on which it was gone.")]
    Usage(Usage),
    /// List requests that could not be read, put them back, or delete them
    #[command(after_help = "\
Examples:
  cofferdam dead
  cofferdam dead show 1732000000000-0
  cofferdam dead requeue 1732000000000-0
  cofferdam dead requeue --all
  cofferdam dead delete 1732000000000-0")]
    Dead(Dead),
    /// Check Redis, the Machines API, keys, addresses and clocks, and say what to do
    #[command(after_help = "\
Where the Machines API is a server on this host, trial machines show whether sandboxes work here and
which limits hold.

Examples:
  cofferdam doctor
  cofferdam doctor --sandbox
  cofferdam doctor --json

Exit status: 0 nothing failed, 1 something did.")]
    Doctor(Doctor),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  cofferdam completions bash > /etc/bash_completion.d/cofferdam
  cofferdam completions zsh > ~/.zfunc/_cofferdam")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the guest agent to a file, for images that bring it
    #[command(hide = true)]
    GuestProgram {
        /// The file
        file: PathBuf,
    },
    /// Write the manual pages of all commands, for packages
    #[command(hide = true)]
    Man {
        /// The folder, made if it is not there
        folder: PathBuf,
    },
}

/// Whether a command prints for people or for programs.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Print JSON, one value a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Id of the run
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Id of the run
    pub(crate) run: String,
    /// Go on until the run's machine is gone
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Begin each line with the time at which it came in
    #[arg(long, conflicts_with = "json")]
    pub(crate) timestamps: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Artifacts {
    /// Id of the run
    pub(crate) run: String,
    /// Name of the one to fetch; without it they are listed
    pub(crate) name: Option<String>,
    /// File to fetch it into, `-` for standard output; without a name, the folder for all of them
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Only runs in this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<StateName>,
    /// Only runs that ended so: completed, failed, timed_out, cancelled, rejected
    #[arg(long)]
    pub(crate) outcome: Option<String>,
    /// Only runs that ended for this reason, such as oom_killed
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only runs of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only runs that asked for this image
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Only runs that ended since: a length of time such as 30m, 2h, 3d, or a time in UTC
    #[arg(long, value_name = "SINCE")]
    pub(crate) since: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// A state of a run, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StateName {
    Queued,
    Booting,
    Running,
    Settled,
    Closed,
}

#[derive(Debug, Args)]
pub(crate) struct Results {
    /// Keep printing results as they are published
    #[arg(long)]
    pub(crate) follow: bool,
    /// At most this many of the results that are there, the newest
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Ids of the runs
    #[arg(
        required_unless_present = "tenant",
        conflicts_with = "tenant",
        value_name = "RUN"
    )]
    pub(crate) runs: Vec<String>,
    /// Every run that this tenant has asked for
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    pub(crate) command: Option<DeadCommand>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Entries that are listed unless another number is asked for.
pub(crate) const DEAD_LISTED: u32 = 50;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List them, newest first; so does `dead` alone
    List {
        /// At most this many
        #[arg(long, default_value_t = DEAD_LISTED, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Put entries back on the request stream, as they came
    Requeue {
        /// Ids of the entries, as `dead list` shows them
        #[arg(
            required_unless_present = "all",
            conflicts_with = "all",
            value_name = "ENTRY"
        )]
        entries: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Show one entry with all its fields
    Show {
        /// Its id, as `dead list` shows it
        entry: String,
    },
    /// Delete entries for good
    Delete {
        /// Ids of the entries, as `dead list` shows them
        #[arg(
            required_unless_present = "all",
            conflicts_with = "all",
            value_name = "ENTRY"
        )]
        entries: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// Import an image: a folder, an OCI layout, or a `docker save` archive
    Import {
        /// Name that requests will use
        name: String,
        /// Folder or archive; `-` for an archive from standard input
        source: PathBuf,
    },
    /// List the images that are there
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Remove an image
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Run trial machines here, wherever the Machines API is
    #[arg(long)]
    pub(crate) sandbox: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}
