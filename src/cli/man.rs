//! `man`: the manual pages, made from the help texts. For whoever makes a package.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::args::Cli;
use crate::cli::settings;
use crate::cli::status::Status;

/// Writes a page for each command and subcommand that is not hidden.
pub(super) fn write(folder: &Path) -> anyhow::Result<Status> {
    fs::create_dir_all(folder).context("make the folder for the manual pages")?;
    let words = settings::with_flags(Cli::command());
    clap_mangen::generate_to(words, folder).context("write the manual pages")?;
    Ok(Status::Done)
}
