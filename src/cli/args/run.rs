//! The arguments of `run`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Machine image; without it, the worker's own default
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// A folder that the command finds as its working folder, without what `.gitignore` and
    /// `.cofferdamignore` name
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// Put the files that the command makes below this folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Which files, as a glob below the working folder; can be repeated. With --out, `out/**` unless
    /// given
    #[arg(long, value_name = "GLOB")]
    pub(crate) artifact: Vec<String>,
    /// A file that the command reads as its standard input (`-`: this one's)
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// A variable for the command; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Seconds from boot to the deadline
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Processors
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// `shared` or `performance`
    #[arg(long, value_name = "KIND")]
    pub(crate) cpu_kind: Option<String>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mb: Option<u32>,
    /// Whose run it is
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Command to run in the machine
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) cmd: Vec<String>,
}
