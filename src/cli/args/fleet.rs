//! The arguments of `workers`, `rerun`, `priority` and `top`.

use clap::{Args, Subcommand};

use crate::cli::args::Format;

#[derive(Args, Debug)]
pub(crate) struct Workers {
    #[command(subcommand)]
    pub(crate) command: Option<WorkersCommand>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List workers and endpoints; so does `workers` alone
    List,
    /// Let a worker take no more work, for a day; what it has in hand goes on
    Quiet {
        /// Its name, as the list shows it, or that name's first word
        worker: String,
    },
    /// Let a quiet worker take work again
    Resume {
        /// Its name, as the list shows it, or that name's first word
        worker: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Rerun {
    /// Ids of the runs
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct Priority {
    /// Id of the run
    pub(crate) run: String,
    /// 0 goes first, 9 last
    #[arg(value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: u8,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Seconds between two pictures
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) interval: u32,
    /// Draw one picture and end, as when standard output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}
