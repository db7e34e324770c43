//! Tells of runs that have ended, where there are traces.

use std::sync::Arc;
use std::time::Duration;

use crate::stage::outline::Teller;
use crate::traces::Traces;
use crate::worker::tasks::Tasks;

/// Between two looks whether the last task of this worker has ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);
/// How long the last look may take, when the process ends.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Looks until the shutdown begins, and once more when the last task has ended.
pub(super) async fn traces(tasks: Arc<Tasks>, traces: Traces) {
    let core = &tasks.deps.core;
    let mut teller = Teller::new(core.store.clone(), traces);
    let quiet = tasks.shutdown.quiet();
    while !quiet.is_cancelled() {
        let pause = teller.look(core.clock.now_ms()).await;
        let _ = quiet.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    while !tasks.leased().is_empty() {
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
    // What is not told by then another worker tells, or this one when it is there again.
    let last = teller.look(core.clock.now_ms());
    let _ = tokio::time::timeout(LAST_LOOK, last).await;
}
