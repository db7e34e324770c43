//! The arguments of `tenants` and `usage`.

use clap::{Args, Subcommand};

use crate::cli::args::Format;

#[derive(Args, Debug)]
pub(crate) struct Tenants {
    #[command(subcommand)]
    pub(crate) command: Option<TenantsCommand>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantsCommand {
    /// List tenants that have settings, waiting runs or machines; so does `tenants` alone
    List,
    /// Show one tenant
    Show {
        /// Its name
        tenant: String,
    },
    /// Change what is set for a tenant; what is not named stays
    Set(Set),
    /// Boot no more machines, of one tenant or of all; running machines go on, requests wait
    Pause(Scope),
    /// Boot again; with --all also in apps that waited because of an answer of the provider
    Resume(Scope),
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// Its name
    pub(crate) tenant: String,
    /// Machines alive at once: a number, `none` for no limit but the fleet's, or `default`
    #[arg(long, value_name = "N")]
    pub(crate) max_in_flight: Option<String>,
    /// Its share of the turns, 0.01 to 100, or `default` for 1
    #[arg(long, value_name = "W")]
    pub(crate) weight: Option<String>,
    /// Runs that may wait: a number, `none` for no limit but that of all, or `default`
    #[arg(long, value_name = "N")]
    pub(crate) backlog_max: Option<String>,
    /// Machine seconds on one UTC day, or `none`
    #[arg(long, value_name = "SECONDS")]
    pub(crate) budget_s: Option<String>,
    /// Bytes of results that are kept: a number, `none` for no limit but that of all, or `default`
    #[arg(long, value_name = "BYTES")]
    pub(crate) results_bytes: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Scope {
    /// Its name
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) tenant: Option<String>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Usage {
    /// Only this tenant; without it every tenant, found by going through all keys
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// From this UTC day on, such as 2026-11-01; 30 days back without it
    #[arg(long, value_name = "DAY")]
    pub(crate) since: Option<String>,
    /// Until this UTC day
    #[arg(long, value_name = "DAY")]
    pub(crate) until: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}
