//! The engine that runs sandboxes by bubblewrap.
//!
//! A sandbox is a tree of processes in namespaces of its own, under a system call filter, with
//! limits, as a user of its own where the server is root. It shares the kernel with the host: one
//! hole in the kernel that can be reached through the filter ends the isolation, and nothing here
//! calls it a virtual machine.
//!
//! In reading order: [`path`], [`tree`], [`resolve`], [`layout`], [`roots`], [`additions`] and
//! [`arguments`] decide what a sandbox sees; [`starter`], [`view`] and [`process`] start bubblewrap; [`plan`], [`launch`] and
//! [`boot`] bring a sandbox up, [`running`] is one that runs, [`supervisor`] follows it to its end;
//! [`core`] is what all share; [`open`] and [`trial`] find out what this host can do.
//!
//! Not here: a daemon, a helper process, a shell, a mount that the host can see. All that a server
//! that is killed can leave behind are control groups, and the next one removes them.

mod additions;
mod arguments;
mod bare;
mod boot;
mod core;
mod launch;
mod layout;
mod open;
mod path;
mod plan;
mod process;
mod resolve;
mod roots;
mod running;
mod starter;
mod supervisor;
mod tree;
mod trial;
mod view;

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use crate::bubblewrap::core::Core;
use crate::cgroup::Groups;
use crate::error::Error;
use crate::limits::Quota;
use crate::report::Report;
use crate::settings::Settings;
use crate::spec::{OutputSink, Spec};

pub(crate) use crate::bubblewrap::running::{Handle, Running};

/// Runs sandboxes. Clones are the same engine; when the last one and the last sandbox are gone, it
/// is closed. If the process that holds it dies, in whatever way, its sandboxes die with it.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
    groups: Option<Groups>,
    report: Arc<Report>,
    /// Held as long as the engine is open; the system lets go of it if the process dies.
    _lock: Arc<File>,
}

impl Engine {
    /// Finds out what this host can do, by running sandboxes; removes what a killed server left in
    /// the same state folder; keeps that folder to itself until it is closed.
    ///
    /// The process becomes a subreaper: sandboxes whose outer process was killed come to be its
    /// children and are reaped. To be called in a tokio runtime that outlives the engine.
    ///
    /// # Errors
    /// [`Error::Locked`] when another engine has the folder, [`Error::Unavailable`] with a remedy
    /// when sandboxes cannot be run here, [`Error::Limits`] when limits are required and do not
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

    /// Starts a sandbox; returns when the guest's program has been exec'ed. If the future is
    /// dropped the sandbox is ended.
    ///
    /// # Errors
    /// [`Error::Spec`] when it asks for what cannot be, [`Error::NotFound`],
    /// [`Error::NotExecutable`] and [`Error::Workdir`] when the program cannot be started; the
    /// others when it is not the sandbox's fault. Nothing is left of a sandbox that did not start.
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

    /// Ends every sandbox, waits until nothing is left of any, and removes what the engine itself
    /// has made on the host. No sandbox is started any more. Safe to repeat.
    pub async fn close(&self) {
        self.core.close(self.groups.as_ref()).await;
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.report)
    }
}
