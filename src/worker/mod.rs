//! The worker: takes requests in, boots runs as there is room, and does what runs owe.
//!
//! ```text
//!  requests ─▶ intake ─▶ (queues in Redis) ─▶ pump ─▶ crew: boots        ─▶ Machines API
//!  orders   ─▶ control ─▶ (runs end, tenants pause)
//!  duties   ─▶ bell ───────────────────────────────▶ crew: tear-downs   ─▶ Machines API
//!                                 sweeper ─────────▶ crew: what is overdue
//! ```
//!
//! A run in flight costs a worker nothing: no task, no timer, no connection waits for its result.
//! Nothing is held that another worker cannot take over: requests stay pending until they are
//! admitted, boots and tear-downs are leased, and leases end.

mod control;
pub mod crew;
mod gate;
mod loops;

use std::sync::Arc;

use tracing::info;

use crate::shutdown::Shutdown;
use crate::stage::Deps;
use crate::store::keys::Inbox;
use crate::store::requests::Requests;
use crate::store::wakeups::Wakeups;
use crate::worker::crew::Crew;

/// Bytes of the longest entry that is read as orders.
const ORDER_MAX_BYTES: usize = 64 << 10;

/// A name for a worker's consumer that no other process ever has.
#[must_use]
pub fn unique_name() -> String {
    format!("worker-{}", ulid::Ulid::new().to_string().to_lowercase())
}

/// Starts a worker's loops, which end with `shutdown`: they stop taking work at once, and boots
/// and tear-downs in hand go on until the drain deadline. Answers the crew, which a sweeper in the
/// same process hands what is overdue to.
#[must_use]
pub fn start(deps: Deps, name: &str, shutdown: &Shutdown) -> Arc<Crew> {
    info!(worker = name, apps = deps.apps.join(","), "worker starts");
    let requests = Requests::new(deps.core.store.clone(), name);
    let orders = Requests::of(Inbox::Control, deps.core.store.clone(), name);
    let wakeups = Wakeups::new(deps.core.store.clone());
    // One that is too long, and no longer than this, still ends as a result that says so.
    let longest = deps.core.runs.request_max_bytes.saturating_mul(2);
    let (requests, orders) = (requests.leaving(longest), orders.leaving(ORDER_MAX_BYTES));
    let crew = Arc::new(Crew::new(deps, shutdown.clone()));
    shutdown.spawn_loop("intake", loops::intake(crew.clone(), requests));
    shutdown.spawn_loop("control", control::control(crew.clone(), orders));
    shutdown.spawn_loop("pump", loops::pump(crew.clone()));
    shutdown.spawn_loop("bell", loops::bell(crew.clone(), wakeups));
    shutdown.spawn_loop("renew", loops::renew(crew.clone()));
    crew
}
