//! What runs machines: the sandbox, or nothing at all.
//!
//! The server speaks to one [`Runner`], so that a load test without processes goes through the
//! same code as everything else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::debug;

use crate::local::simulated::{self, Simulated};
use cofferdam_sandbox::{Engine, Error, ExecOutput, Exit, OutputSink, Process, Spec};

/// The signal that cannot be refused.
const SIGKILL: i32 = 9;

/// What runs machines.
#[derive(Clone, Debug)]
pub(crate) enum Runner {
    /// Real processes, isolated.
    Sandbox(Engine),
    /// No process runs; the server plays the guests.
    Simulated(Simulated),
}

/// A machine's program, running.
pub(crate) enum Running {
    /// A real process.
    Sandbox(Box<Sandboxed>),
    /// Played by the server.
    Simulated(simulated::Running),
}

/// A real process, and what an exec beside it starts with.
pub(crate) struct Sandboxed {
    running: cofferdam_sandbox::Running,
    around: Arc<Around>,
}

/// What an exec starts with: the program's own environment and folder.
#[derive(Debug)]
pub(crate) struct Around {
    env: BTreeMap<String, String>,
    workdir: Option<String>,
}

/// Reaches a running program.
#[derive(Clone, Debug)]
pub(crate) enum Handle {
    /// A real process.
    Sandbox(cofferdam_sandbox::Handle, Arc<Around>),
    /// Played by the server.
    Simulated(simulated::Handle),
}

impl Runner {
    /// What keeps machines apart, and by what their limits hold, as their metadata tells it.
    pub(crate) fn labels(&self) -> [(&'static str, String); 2] {
        let (isolation, limits) = match self {
            Self::Sandbox(engine) => {
                let report = engine.report();
                (report.isolation.to_owned(), report.limits.to_string())
            }
            Self::Simulated(_) => ("none (simulated)".to_owned(), "none (simulated)".to_owned()),
        };
        [
            ("cofferdam_isolation", isolation),
            ("cofferdam_limits", limits),
        ]
    }

    /// Starts a machine's program.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) async fn start(&self, spec: Spec, output: OutputSink) -> Result<Running, Error> {
        match self {
            Self::Sandbox(engine) => {
                let around = Arc::new(Around {
                    env: spec.env.clone(),
                    workdir: spec.workdir.clone(),
                });
                let running = engine.start(spec, output).await?;
                Ok(Running::Sandbox(Box::new(Sandboxed { running, around })))
            }
            Self::Simulated(simulated) => Ok(Running::Simulated(simulated.start(spec, output))),
        }
    }

    /// Gives back what the runner holds on this host. Nothing is started afterwards.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sandbox(engine) => engine.close().await,
            Self::Simulated(_) => {}
        }
    }
}

impl Running {
    /// The listener inside the machine, the first time it is asked for.
    pub(crate) fn take_listener(&mut self) -> Option<TcpListener> {
        match self {
            Self::Sandbox(sandboxed) => sandboxed.running.take_listener(),
            Self::Simulated(_) => None,
        }
    }

    /// Reaches the program from elsewhere.
    pub(crate) fn handle(&self) -> Handle {
        match self {
            Self::Sandbox(sandboxed) => {
                Handle::Sandbox(sandboxed.running.handle(), Arc::clone(&sandboxed.around))
            }
            Self::Simulated(running) => Handle::Simulated(running.handle()),
        }
    }

    /// Waits until the program and everything it started has ended.
    pub(crate) async fn wait(self) -> Exit {
        match self {
            Self::Sandbox(sandboxed) => sandboxed.running.wait().await,
            Self::Simulated(running) => running.wait().await,
        }
    }
}

impl Handle {
    /// Passes a signal on; a program that has ended meanwhile does not mind.
    pub(crate) fn signal(&self, signal: i32) {
        match self {
            Self::Sandbox(handle, _) => {
                if let Err(error) = handle.signal(signal) {
                    debug!(%error, signal, "a signal was not delivered");
                }
            }
            Self::Simulated(handle) => handle.signal(signal),
        }
    }

    /// Ends everything at once.
    pub(crate) fn kill(&self) {
        match self {
            Self::Sandbox(handle, _) => handle.kill(),
            Self::Simulated(handle) => handle.signal(SIGKILL),
        }
    }

    /// Runs something beside the program.
    ///
    /// # Errors
    /// The engine's; what was run and failed is no error.
    pub(crate) async fn exec(
        &self,
        argv: Vec<String>,
        stdin: Vec<u8>,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        match self {
            Self::Sandbox(handle, around) => {
                let env = around.env.clone().into_iter().collect();
                handle
                    .exec(argv, env, around.workdir.clone(), stdin, timeout)
                    .await
            }
            Self::Simulated(_) => Err(Error::Spec("a simulated guest runs nothing".to_owned())),
        }
    }

    /// What runs in the machine.
    ///
    /// # Errors
    /// When the machine has ended.
    pub(crate) fn processes(&self) -> std::io::Result<Vec<Process>> {
        match self {
            Self::Sandbox(handle, _) => handle.processes(),
            Self::Simulated(_) => Ok(Vec::new()),
        }
    }
}
