//! The steps of the pipeline, one file each, in the order of the flow: [`intake`], [`report`].
//!
//! A step is a function over the doors. It can be run twice, and by any worker: what is owed is
//! read from the run, and the worker that does it at once and the sweeper that does it late run
//! the same code.

pub mod intake;
pub mod report;

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Runs;
use crate::run::request::Limits;
use crate::store::{self, Store};
use crate::telemetry::Metrics;

/// What every step needs.
#[derive(Clone, Debug)]
pub struct Core {
    /// The runs.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where counts go.
    pub metrics: Arc<Metrics>,
    /// Bounds and times of runs.
    pub runs: Arc<Runs>,
}

impl Core {
    /// The bounds that requests are checked against.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            image: self.runs.image.clone(),
            region: self.runs.region.clone(),
            run_timeout: self.runs.run_timeout,
            max_cpus: self.runs.max_cpus,
            max_memory_mb: self.runs.max_memory_mb,
        }
    }
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis did not do its part. The step can be repeated.
    #[error(transparent)]
    Store(#[from] store::Error),
}
