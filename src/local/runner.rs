//! What runs machines: the sandbox, or nothing at all.
//!
//! The server speaks to one [`Runner`], so that a load test without processes goes through the
//! same code as everything else.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::local::engine::{Error, ExecOutput, Exit, OutputSink, Process, Spec};
use crate::local::simulated::{self, Simulated};

/// The signal that cannot be refused.
const SIGKILL: i32 = 9;

/// What runs machines.
#[derive(Clone, Debug)]
pub(crate) enum Runner {
    /// No process runs; the server plays the guests.
    Simulated(Simulated),
}

/// A machine's program, running.
pub(crate) enum Running {
    /// Played by the server.
    Simulated(simulated::Running),
}

/// Reaches a running program.
#[derive(Clone, Debug)]
pub(crate) enum Handle {
    /// Played by the server.
    Simulated(simulated::Handle),
}

impl Runner {
    /// What keeps machines apart, and by what their limits hold, as their metadata tells it.
    pub(crate) fn labels(&self) -> [(&'static str, String); 2] {
        let (isolation, limits) = match self {
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
            Self::Simulated(simulated) => Ok(Running::Simulated(simulated.start(spec, output))),
        }
    }
}

impl Running {
    /// The listener inside the machine, the first time it is asked for.
    pub(crate) fn take_listener(&mut self) -> Option<TcpListener> {
        match self {
            Self::Simulated(_) => None,
        }
    }

    /// Reaches the program from elsewhere.
    pub(crate) fn handle(&self) -> Handle {
        match self {
            Self::Simulated(running) => Handle::Simulated(running.handle()),
        }
    }

    /// Waits until the program and everything it started has ended.
    pub(crate) async fn wait(self) -> Exit {
        match self {
            Self::Simulated(running) => running.wait().await,
        }
    }
}

impl Handle {
    /// Passes a signal on; a program that has ended meanwhile does not mind.
    pub(crate) fn signal(&self, signal: i32) {
        match self {
            Self::Simulated(handle) => handle.signal(signal),
        }
    }

    /// Ends everything at once.
    pub(crate) fn kill(&self) {
        match self {
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
        let _ = (argv, stdin, timeout);
        match self {
            Self::Simulated(_) => Err(Error::Spec("a simulated guest runs nothing".to_owned())),
        }
    }

    /// What runs in the machine.
    ///
    /// # Errors
    /// When the machine has ended.
    pub(crate) fn processes(&self) -> std::io::Result<Vec<Process>> {
        match self {
            Self::Simulated(_) => Ok(Vec::new()),
        }
    }
}
