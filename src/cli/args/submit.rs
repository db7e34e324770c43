//! The arguments of `submit`.

use clap::Args;

use crate::cli::args::Format;

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// `-` to read requests as JSON lines from standard input
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = REQUEST_ARGS)]
    pub(crate) lines: Option<String>,
    /// Idempotency key; a second request with the id of a known run changes nothing
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Machine image; without it, the worker's own default
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Input for the guest: JSON, or `@FILE` (`@-`: standard input)
    #[arg(long, value_name = "JSON")]
    pub(crate) input: Option<String>,
    /// A variable for the guest; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// A file for the machine, or a folder with all its files, with their modes; can be repeated
    #[arg(long, value_name = "GUEST_PATH=FILE")]
    pub(crate) file: Vec<String>,
    /// Processors
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// `shared` or `performance`
    #[arg(long, value_name = "KIND")]
    pub(crate) cpu_kind: Option<String>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mb: Option<u32>,
    /// Region, or several in order of preference (`ams,eu`)
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Seconds from boot to the deadline
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Give up if not started after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) queue_ttl: Option<u64>,
    /// Whose run it is
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Its place among the tenant's own: 0 goes first, 9 last
    #[arg(long, value_name = "N")]
    pub(crate) priority: Option<u8>,
    /// Do not start before: Unix milliseconds, or `+SECONDS` from now
    #[arg(long, value_name = "TIME")]
    pub(crate) not_before: Option<String>,
    /// A JSON object that comes back with the result
    #[arg(long, value_name = "JSON")]
    pub(crate) metadata: Option<String>,
    /// Run the command by the guest agent, which posts its output and exit code as the result
    #[arg(long)]
    pub(crate) capture: bool,
    /// What stands before the command, a word each time; without it, the image's own
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// Wait for the result and print it; what the guest writes comes on standard error
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop waiting after this many seconds; the run goes on
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(crate) wait_timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) format: Format,
    /// Command to run in the machine; without it, the image's own
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) cmd: Vec<String>,
}

/// The arguments of a single request, which conflict with `-`.
const REQUEST_ARGS: [&str; 18] = [
    "id",
    "image",
    "input",
    "env",
    "file",
    "cpus",
    "cpu_kind",
    "memory_mb",
    "region",
    "timeout",
    "queue_ttl",
    "tenant",
    "priority",
    "not_before",
    "metadata",
    "capture",
    "entrypoint",
    "cmd",
];
