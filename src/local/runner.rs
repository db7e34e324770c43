//! What runs machines: the sandbox, or nothing at all.
//!
//! The server speaks to one [`Runner`], so that a load test without processes goes through the
//! same code as everything else.

use std::time::Duration;

use crate::local::engine::{Error, ExecOutput, Exit, OutputSink, Process, Spec};
use crate::local::simulated::{self, Simulated};

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
