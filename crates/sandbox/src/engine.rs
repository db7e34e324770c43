//! The one place where engines are told apart.
//!
//! An engine turns a [`Spec`] into an isolated process tree and tells how it ended. Another one (a
//! user-space kernel, a microVM) is a variant here and a module beside [`bubblewrap`]; what uses
//! this crate does not change.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::bubblewrap;
use crate::error::Error;
use crate::outcome::{ExecOutput, Exit, Process};
use crate::report::Report;
use crate::settings::{Kind, Settings};
use crate::spec::{OutputSink, Spec};

/// Runs sandboxes. Clones are the same engine; when the last one and the last sandbox are gone, it
/// is closed. If the process that holds it dies, in whatever way, its sandboxes die with it.
#[derive(Clone, Debug)]
pub enum Engine {
    /// See [`Kind::Bubblewrap`].
    Bubblewrap(bubblewrap::Engine),
}

/// A sandbox that has been started. Dropping it ends the sandbox.
#[derive(Debug)]
pub enum Running {
    /// See [`Kind::Bubblewrap`].
    Bubblewrap(bubblewrap::Running),
}

/// Acts on a running sandbox. Clones act on the same one.
#[derive(Clone, Debug)]
pub enum Handle {
    /// See [`Kind::Bubblewrap`].
    Bubblewrap(bubblewrap::Handle),
}

impl Engine {
    /// Finds out what this host can do, by running sandboxes; removes what a killed process left
    /// in the same state folder; keeps that folder to itself until it is closed.
    ///
    /// The process may become a subreaper, so that what a sandbox leaves behind comes to be its
    /// child and is reaped. To be called in a tokio runtime that outlives the engine.
    ///
    /// # Errors
    /// [`Error::Locked`] when another engine has the folder, [`Error::Unavailable`] with a remedy
    /// when sandboxes cannot be run here, [`Error::Limits`] when limits are required and do not
    /// hold. It never goes on with less isolation.
    pub async fn open(settings: Settings) -> Result<(Self, Report), Error> {
        match settings.kind {
            Kind::Bubblewrap => {
                let (engine, report) = bubblewrap::Engine::open(settings).await?;
                Ok((Self::Bubblewrap(engine), report))
            }
        }
    }

    /// What was found out when the engine was opened.
    #[must_use]
    pub fn report(&self) -> &Report {
        match self {
            Self::Bubblewrap(engine) => engine.report(),
        }
    }

    /// Starts a sandbox; returns when its program has been exec'ed. If the future is dropped the
    /// sandbox is ended.
    ///
    /// # Errors
    /// [`Error::Spec`] when it asks for what cannot be, [`Error::NotFound`],
    /// [`Error::NotExecutable`] and [`Error::Workdir`] when the program cannot be started; the
    /// others when it is not the sandbox's fault. Nothing is left of one that did not start.
    pub async fn start(&self, spec: Spec, output: OutputSink) -> Result<Running, Error> {
        match self {
            Self::Bubblewrap(engine) => engine.start(spec, output).await.map(Running::Bubblewrap),
        }
    }

    /// Runs a program in the same isolation with nothing around it and gives the time to its
    /// first byte of output. For measuring; the program gets no limits.
    ///
    /// # Errors
    /// When it cannot be started or writes nothing.
    #[doc(hidden)]
    pub async fn bare(&self, argv: Vec<String>) -> io::Result<Duration> {
        match self {
            Self::Bubblewrap(engine) => engine.bare(argv).await,
        }
    }

    /// Ends every sandbox, waits until nothing is left of any, and removes what the engine itself
    /// has made on the host. No sandbox is started any more. Safe to repeat.
    pub async fn close(&self) {
        match self {
            Self::Bubblewrap(engine) => engine.close().await,
        }
    }
}

impl Running {
    /// The sandbox's own listener: what connects to 127.0.0.1 inside of it, at the port of the
    /// spec. It is the only thing a guest can reach, and whoever connects is this sandbox. Given
    /// out once; while it is held, the sandbox's network stays, even after its end.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        match self {
            Self::Bubblewrap(running) => running.take_listener(),
        }
    }

    /// A handle by which others can act on the sandbox.
    #[must_use]
    pub fn handle(&self) -> Handle {
        match self {
            Self::Bubblewrap(running) => Handle::Bubblewrap(running.handle()),
        }
    }

    /// Waits until the sandbox is over: every process gone, its counters read, all that was made
    /// for it given back. Dropping the future ends the sandbox.
    pub async fn wait(self) -> Exit {
        match self {
            Self::Bubblewrap(running) => running.wait().await,
        }
    }
}

impl Handle {
    /// Sends a signal to the sandbox's main process.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal, `NotFound` when the process has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Self::Bubblewrap(handle) => handle.signal(signal),
        }
    }

    /// Ends every process of the sandbox at once. Safe to repeat.
    pub fn kill(&self) {
        match self {
            Self::Bubblewrap(handle) => handle.kill(),
        }
    }

    /// Runs another program in the sandbox, with the same isolation and limits, with `env` as its
    /// whole environment and `workdir` as its folder. It is killed after `timeout` (then
    /// `exit_signal` is 9); each output is cut at 256 KiB.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotExecutable`] and [`Error::Workdir`] when the program
    /// cannot be started, [`Error::Busy`] when eight run already, [`Error::Spec`] when it is too
    /// large to be passed, [`Error::Ended`] when the sandbox has ended.
    pub async fn exec(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        workdir: Option<String>,
        stdin: Vec<u8>,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        match self {
            Self::Bubblewrap(handle) => handle.exec(argv, env, workdir, stdin, timeout).await,
        }
    }

    /// The processes of the sandbox, without our own.
    ///
    /// # Errors
    /// When the sandbox has ended or they cannot be listed.
    pub fn processes(&self) -> io::Result<Vec<Process>> {
        match self {
            Self::Bubblewrap(handle) => handle.processes(),
        }
    }
}
