//! Runs one program in isolation on a Linux host, with limits, and tells how it ended.
//!
//! ```text
//!  Spec ─▶ Engine ─▶ Running ─▶ Exit          Handle: signal, kill, exec, processes
//!            │           └──▶ OutputSink, a listener at 127.0.0.1
//!            └──▶ Report: what holds on this host, found out by trying it
//! ```
//!
//! It knows nothing of what the program is for. Its words are: a [`Spec`] (root file system,
//! command, files, limits), an [`OutputSink`] that takes what the program writes, and an [`Exit`].
//!
//! In reading order: `settings`, `spec`, `outcome`, `report` and `error` are values; `engine` is the one
//! dispatch between engines, of which there is `bubblewrap`. What engines share: `limits`,
//! `cgroup` and `output` say how much a sandbox may use, `seccomp` what it may ask of the kernel,
//! `uids` who it is; `pidfd` follows processes, `procfs` reads `/proc`; `init` is the first program
//! in a sandbox, `control` the conversation with it, and `exit` what an end means.

mod bubblewrap;
mod cgroup;
mod control;
mod engine;
mod error;
mod exit;
mod init;
mod limits;
mod outcome;
mod output;
mod pidfd;
mod procfs;
mod report;
mod seccomp;
mod settings;
mod spec;
mod uids;

pub use crate::engine::{Engine, Handle, Running};
pub use crate::error::Error;
pub use crate::outcome::{ExecOutput, Exit, Process};
pub use crate::report::{Enforcement, Files, Limits, Report};
pub use crate::settings::{Kind, PROGRAM_PATH, Settings};
pub use crate::spec::{GuestFile, OutputSink, Root, Spec, Stream};
