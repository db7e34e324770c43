//! Bounds how many calls of one run are open at once, so that a run cannot take the capacity of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::run::id::RunId;

/// Calls of one run and kind that are served at once; further ones wait.
const SERVED: usize = 2;
/// Posts of output of one run that are served at once: one, so that pieces stay in order.
const LOGS_SERVED: usize = 1;
/// Calls of one run that are open at once, those that wait included; further ones are refused.
const OPEN_MAX: usize = 16;
/// How long a call waits.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a guest calls for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Post,
    Input,
    Log,
    Artifact,
}

/// The open calls of every run. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    runs: Arc<Mutex<HashMap<RunId, Run>>>,
}

#[derive(Debug)]
struct Run {
    open: usize,
    posts: Arc<Semaphore>,
    inputs: Arc<Semaphore>,
    logs: Arc<Semaphore>,
    artifacts: Arc<Semaphore>,
}

/// One call that is served; ended when dropped.
#[derive(Debug)]
pub(super) struct Call {
    _open: Open,
    _permit: OwnedSemaphorePermit,
}

/// One call that waits or is served.
#[derive(Debug)]
struct Open {
    calls: Calls,
    run: RunId,
}

impl Calls {
    /// Waits until the call may be served. `None` when too many calls of the run are open, or it waits
    /// too long.
    pub(super) async fn begin(&self, run: &RunId, kind: Kind) -> Option<Call> {
        let (open, permits) = self.open(run, kind)?;
        let permit = tokio::time::timeout(WAIT_TIMEOUT, permits.acquire_owned());
        Some(Call {
            _open: open,
            _permit: permit.await.ok()?.ok()?,
        })
    }

    fn open(&self, run: &RunId, kind: Kind) -> Option<(Open, Arc<Semaphore>)> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = runs.entry(run.clone()).or_insert_with(|| Run {
            open: 0,
            posts: Arc::new(Semaphore::new(SERVED)),
            inputs: Arc::new(Semaphore::new(SERVED)),
            logs: Arc::new(Semaphore::new(LOGS_SERVED)),
            artifacts: Arc::new(Semaphore::new(SERVED)),
        });
        if calls.open >= OPEN_MAX {
            return None;
        }
        calls.open += 1;
        let permits = match kind {
            Kind::Post => &calls.posts,
            Kind::Input => &calls.inputs,
            Kind::Log => &calls.logs,
            Kind::Artifact => &calls.artifacts,
        };
        let open = Open {
            calls: self.clone(),
            run: run.clone(),
        };
        Some((open, Arc::clone(permits)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let runs = &self.calls.runs;
        let mut runs = runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = runs.get_mut(&self.run) {
            calls.open = calls.open.saturating_sub(1);
            if calls.open == 0 {
                runs.remove(&self.run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_has_two_calls_of_a_kind_served_and_nothing_stays_of_those_that_ended() {
        let calls = Calls::default();
        let (run, other) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = calls.begin(&run, Kind::Post).await.unwrap();
        let second = calls.begin(&run, Kind::Post).await.unwrap();
        assert!(calls.begin(&run, Kind::Post).await.is_none());
        let input = calls.begin(&run, Kind::Input).await.unwrap();
        let others = calls.begin(&other, Kind::Post).await.unwrap();
        drop(first);
        let third = calls.begin(&run, Kind::Post).await.unwrap();
        drop((second, third, input, others));
        assert!(calls.runs.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_sixteen_calls_of_one_run_are_refused_at_once() {
        let calls = Calls::default();
        let run: RunId = "a".parse().unwrap();
        let open: Vec<_> = (0..OPEN_MAX)
            .map(|_| calls.open(&run, Kind::Post).unwrap())
            .collect();
        assert!(calls.open(&run, Kind::Input).is_none());
        drop(open);
        assert!(calls.open(&run, Kind::Input).is_some());
    }
}
