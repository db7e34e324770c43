//! Orders → what they ask for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::milestone::milestone;
use crate::stage::control::{OpenOrder, Progress, carry_out};
use crate::store::requests::{Entry, Requests};
use crate::worker::loops::{Outage, TakeOverTimer};
use crate::worker::tasks::Tasks;

/// Orders read at once.
const BATCH: usize = 64;
/// Orders that one worker has open at the most. More are not read; other workers may read them.
const OPEN_MAX: usize = 1024;
/// Pause before an order is tried again whose request has not been taken in yet.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a read blocks while an order goes on. Zero would block for ever.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Reads orders and carries them out. One that cannot be carried out yet stays pending and open
/// here, and is taken over by another worker if this one dies.
pub(super) async fn control(tasks: Arc<Tasks>, mut orders: Requests) {
    let core = &tasks.deps.core;
    let mut outage = Outage::new("control");
    let quiet = tasks.shutdown.quiet();
    let mut take_over = TakeOverTimer::new(core.runs.lease / 2);
    let mut open: Vec<OpenOrder> = Vec::new();
    let mut goes_on = false;
    let mut renewed: Option<Instant> = None;
    while !quiet.is_cancelled() {
        let block = match (goes_on, open.is_empty()) {
            (true, _) => AT_ONCE,
            (false, false) => take_over.block(&tasks).min(AGAIN),
            (false, true) => take_over.block(&tasks),
        };
        let room = OPEN_MAX.saturating_sub(open.len()).min(BATCH);
        if room == 0 {
            tokio::time::sleep(AGAIN).await;
        } else {
            match orders.next_unless(room, block, tasks.ends_waiting()).await {
                Ok(entries) => {
                    if !entries.is_empty() {
                        milestone!("orders::read");
                        tasks.activity.note();
                    }
                    open.extend(entries.into_iter().map(OpenOrder::new));
                }
                Err(error) => {
                    outage.pause(&tasks, &error).await;
                    continue;
                }
            }
        }
        if take_over.is_due(&tasks) {
            match orders.take_over(BATCH, core.runs.lease).await {
                Ok(stalled) => {
                    take_over.done(stalled.has_more);
                    if !stalled.entries.is_empty() {
                        milestone!("orders::taken_over");
                    }
                    adopt(&mut open, stalled.entries);
                }
                Err(error) => outage.pause(&tasks, &error).await,
            }
        }
        // Orders that stay open are renewed, or another worker would take them over.
        let is_fresh = renewed.is_some_and(|at| at.elapsed() < core.runs.lease / 3);
        if !open.is_empty() && !is_fresh {
            let entries = open.iter().map(|order| &order.entry);
            match orders.hold(entries).await {
                Ok(()) => renewed = Some(Instant::now()),
                Err(error) => outage.pause(&tasks, &error).await,
            }
            milestone!("orders::renewed");
        }
        let mut later = Vec::new();
        goes_on = false;
        for mut order in open.drain(..) {
            match carry_out(core, &mut order).await {
                Ok(Progress::Done) => outage.recovered(),
                Ok(progress) => {
                    goes_on |= progress == Progress::More;
                    later.push(order);
                }
                Err(error) => {
                    later.push(order);
                    outage.pause(&tasks, &error).await;
                }
            }
        }
        open = later;
    }
    if let Err(error) = orders.leave().await {
        warn!(%error, "the consumer stays in its group until a sweep removes it");
    }
}

/// Opens orders that another worker left. This worker's own may be among them.
fn adopt(open: &mut Vec<OpenOrder>, stalled: Vec<Entry>) {
    for entry in stalled {
        if open.iter().all(|known| known.entry.id != entry.id) {
            open.push(OpenOrder::new(entry));
        }
    }
}
