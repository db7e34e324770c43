//! The requests of runs. Small ones travel with what else is asked; large ones by connections of
//! their own, and never more of them at once than a budget allows: so a worker's memory is bounded,
//! and nobody waits behind a large answer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::run::id::{Attempt, Nonce, RunId};
use crate::store::Store;
use crate::store::acts::Request;
use crate::store::codec::Text;
use crate::store::door::Query;
use crate::store::error::Error;
use crate::store::scripts;

/// Bytes of large requests that a process holds at once, unless one alone is larger: two of the
/// largest that the default settings allow.
const BUDGET_BYTES: u64 = 32 << 20;
/// The budget is counted in this many bytes.
const UNIT: u64 = 1 << 10;

/// What may be held of large requests. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new() -> Self {
        let units = usize::try_from(BUDGET_BYTES / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units)))
    }

    /// Waits until so many bytes may be held.
    async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = bytes.min(BUDGET_BYTES).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // It is never closed.
        self.0.clone().acquire_many_owned(units).await.ok()
    }
}

/// A large request, and its part of the budget while it is held.
#[derive(Debug)]
pub struct Fetched {
    /// The JSON.
    pub json: String,
    part: Part,
}

/// A run's request as Redis has it.
#[derive(Debug)]
pub struct Stored {
    /// The attempt that the run is at; `None` when its hash is gone.
    pub attempt: Option<Attempt>,
    /// The run's nonce.
    pub nonce: Option<Nonce>,
    /// The request, a large one without its JSON.
    pub request: Request,
}

/// A part of the budget.
#[derive(Debug)]
pub struct Part(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Fetched {
    /// Lets go of the JSON, and keeps the part of the budget for what was made of it.
    #[must_use]
    pub fn let_go(self) -> Part {
        self.part
    }
}

impl Store {
    /// The request of a run; `None` when it is over, or not known. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn request(&self, id: &RunId) -> Result<Option<Stored>, Error> {
        let mut script = scripts::REQUEST.prepare_invoke();
        script.key(self.keys.run(id)).key(self.keys.request(id));
        let answer: Option<(Text, Text, u64, String)> = self.door.script(&mut script).await?;
        Ok(answer.map(|(Text(attempt), Text(nonce), bytes, json)| {
            let request = match json.is_empty() {
                true => Request::Large { bytes },
                false => Request::Here(json),
            };
            Stored {
                attempt: attempt.parse().map(Attempt).ok(),
                nonce: nonce.parse().ok(),
                request,
            }
        }))
    }

    /// A large request of so many bytes, once there is room for it in the budget; `None` when its
    /// run is over. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn fetch(&self, id: &RunId, bytes: u64) -> Result<Option<Fetched>, Error> {
        let part = Part(self.budget.take(bytes).await);
        let mut command = redis::cmd("GET");
        command.arg(self.keys.request(id));
        let json: Option<String> = self.door.large(Query::Command(&command)).await?;
        Ok(json.map(|json| Fetched { json, part }))
    }
}
