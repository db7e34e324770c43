//! The end of artifacts: those whose results are gone, and what was left over.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use crate::stage::Error;
use crate::stage::artifacts::{count, expire, remove_left_over};
use crate::sweeper::Sweeper;

/// Turns of removing at once; what is left waits for the next pass.
const TURNS_MAX: usize = 10;

impl Sweeper {
    /// Removes artifacts, if this worker leads and knows where they are kept.
    pub(super) async fn artifacts(self: Arc<Self>) -> Result<(), Error> {
        let deps = self.deps();
        let Some(store) = &deps.artifacts else {
            return Ok(());
        };
        let core = &deps.core;
        if !self.leads.load(Ordering::SeqCst) {
            core.metrics.artifact_bytes.set(0);
            return Ok(());
        }
        for _ in 0..TURNS_MAX {
            match expire(core, store).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    warn!(%error, "artifacts that have expired could not be removed");
                    break;
                }
            }
        }
        let mut looked_to = self.looked_to.lock().await;
        match remove_left_over(core, store, looked_to.take()).await {
            Ok(next) => *looked_to = next,
            Err(error) => warn!(%error, "artifacts that are left over could not be removed"),
        }
        count(core, &core.metrics).await
    }
}
