//! The engine that runs machines as bubblewrap sandboxes.
//!
//! A machine is a tree of processes in namespaces of its own, under a system call filter, with
//! limits, as a user of its own where the server is root. It shares the kernel with the host: one
//! hole in the kernel that can be reached through the filter ends the isolation, and nothing here
//! calls it a virtual machine.
//!
//! In reading order: [`path`], [`place`], [`layout`], [`roots`] and [`sandbox`] decide what a
//! machine sees, [`seccomp`] what it may ask of the kernel, [`limits`], [`cgroup`] and [`output`]
//! how much it may use, [`uids`] who it is; [`process`] starts and ends processes, [`procfs`] reads
//! `/proc`, [`wire`] and [`control`] are the conversation with the machine's init; [`launch`] and
//! [`boot`] bring a machine up, [`machine`] is one that runs, [`end`] follows it to its end; [`open`]
//! and [`trial`] find out what this host can do.
//!
//! Not here: a daemon, a helper process, a shell, a mount that the host can see. All that a server
//! that is killed can leave behind are control groups, and the next one removes them.

mod bare;
mod boot;
mod cgroup;
mod control;
mod core;
mod end;
mod exit;
mod launch;
mod layout;
mod limits;
mod machine;
mod open;
mod output;
mod path;
mod plan;
mod process;
mod procfs;
mod resolve;
mod roots;
mod sandbox;
mod seccomp;
mod tree;
mod trial;
mod uids;
#[path = "../../init/wire.rs"]
mod wire;

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use crate::local::bwrap::cgroup::Groups;
use crate::local::bwrap::core::Core;
use crate::local::bwrap::limits::Quota;
use crate::local::engine::{Error, OutputSink, Report, Settings, Spec};

pub use crate::local::bwrap::machine::{Handle, Running};

/// Runs machines. Clones are the same engine; when the last one and the last machine are gone, it
/// is closed. If the process that holds it dies, in whatever way, its machines die with it.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
    groups: Option<Groups>,
    report: Arc<Report>,
    /// Held as long as the engine is open; the system lets go of it if the process dies.
    _lock: Arc<File>,
}

impl Engine {
    /// Finds out what this host can do, by running machines; removes what a killed server left in
    /// the same state folder; keeps that folder to itself until it is closed.
    ///
    /// The process becomes a subreaper: sandboxes whose outer process was killed come to be its
    /// children and are reaped. To be called in a tokio runtime that outlives the engine.
    ///
    /// # Errors
    /// [`Error::Locked`] when another engine has the folder, [`Error::Unavailable`] with a remedy
    /// when machines cannot be run here, [`Error::Limits`] when limits are required and do not
    /// hold. It never goes on with less isolation.
    pub async fn open(settings: Settings) -> Result<(Self, Report), Error> {
        let engine = open::open(settings).await?;
        let report = engine.report().clone();
        Ok((engine, report))
    }

    /// What was found out when the engine was opened.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Starts a machine; returns when the guest's program has been exec'ed. If the future is
    /// dropped the machine is ended.
    ///
    /// # Errors
    /// [`Error::Spec`] when it asks for what cannot be, [`Error::NotFound`],
    /// [`Error::NotExecutable`] and [`Error::Workdir`] when the program cannot be started; the
    /// others when it is not the machine's fault. Nothing is left of a machine that did not start.
    pub async fn start(&self, spec: Spec, output: OutputSink) -> Result<Running, Error> {
        let quota = Quota::of(&spec);
        boot::start(&self.core, spec, quota, self.groups.clone(), output).await
    }

    /// Runs a program in the same sandbox with nothing around it and gives the time to its first
    /// byte of output. For measuring; the program gets no limits.
    ///
    /// # Errors
    /// When it cannot be started or writes nothing.
    #[doc(hidden)]
    pub async fn bare(&self, argv: Vec<String>) -> std::io::Result<std::time::Duration> {
        self.core.bare(argv).await
    }

    /// Ends every machine, waits until nothing is left of any, and removes what the engine itself
    /// has made on the host. No machine is started any more. Safe to repeat.
    pub async fn close(&self) {
        self.core.close(self.groups.as_ref()).await;
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.report)
    }
}
