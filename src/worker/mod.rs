//! The worker: takes requests in, boots runs as there is room, and does what runs owe.
//!
//! ```text
//!  requests ─▶ intake ─▶ (queues in Redis) ─▶ dispatch ─▶ tasks: boots      ─▶ Machines API
//!  orders   ─▶ control ─▶ (runs end, tenants pause)
//!  wakeups ─────────────────────────────────────────────▶ tasks: tear-downs ─▶ Machines API
//!                                     sweeper ─────────▶ tasks: what is overdue
//! ```
//!
//! A run in flight costs a worker nothing: no task, no timer, no connection waits for its result.
//! A worker owns nothing that another cannot take over: requests stay pending until they are
//! admitted, boots and tear-downs are leased, and leases end.

pub(crate) mod activity;
mod control;
mod gate;
mod loops;
pub mod tasks;
mod traces;

use std::sync::Arc;

use tracing::info;

use crate::shutdown::Shutdown;
use crate::stage::Deps;
use crate::stage::key_agreement::KeyAgreement;
use crate::store::keys::Inbox;
use crate::store::requests::Requests;
use crate::store::wakeups::Wakeups;
use crate::worker::tasks::Tasks;

/// Bytes of the longest entry that is read as orders.
const ORDER_MAX_BYTES: usize = 64 << 10;

/// A unique name for a worker and its consumer.
#[must_use]
pub fn unique_name() -> String {
    format!("worker-{}", ulid::Ulid::new().to_string().to_lowercase())
}

/// Starts a worker's loops, which end with `shutdown`: they stop taking work at once, and boots and
/// tear-downs that have begun go on until the drain deadline. Returns the tasks, to which a sweeper
/// in the same process hands what is overdue. While `heartbeat` says that it is quiet, it takes no
/// requests and boots no runs.
#[must_use]
pub fn start(
    deps: Deps,
    name: &str,
    heartbeat: Arc<KeyAgreement>,
    shutdown: &Shutdown,
) -> Arc<Tasks> {
    info!(worker = name, apps = deps.apps.join(","), "worker starts");
    let requests = Requests::new(deps.core.store.clone(), name);
    let orders = Requests::of(Inbox::Control, deps.core.store.clone(), name);
    let wakeups = Wakeups::new(deps.core.store.clone());
    // A request over the limit is still read up to this length, so that its result can say so.
    let longest = deps.core.runs.request_max_bytes.saturating_mul(2);
    let (requests, orders) = (requests.leaving(longest), orders.leaving(ORDER_MAX_BYTES));
    let traced = deps.traces.clone();
    let tasks = Arc::new(Tasks::new(deps, heartbeat, shutdown.clone()));
    if let Some(traced) = traced {
        shutdown.spawn_loop("traces", traces::traces(tasks.clone(), traced));
    }
    shutdown.spawn_loop("intake", loops::intake(tasks.clone(), requests));
    shutdown.spawn_loop("control", control::control(tasks.clone(), orders));
    shutdown.spawn_loop("dispatch", loops::dispatch(tasks.clone()));
    shutdown.spawn_loop("wakeups", loops::wakeups(tasks.clone(), wakeups));
    shutdown.spawn_loop("renew", loops::renew(tasks.clone()));
    tasks
}
