//! Orders → what they ask for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::milestone::milestone;
use crate::stage::control::{Obeyed, Task, obey};
use crate::store::requests::{Entry, Requests};
use crate::worker::crew::Crew;
use crate::worker::loops::{LookBack, Outage};

/// Orders read at once.
const BATCH: usize = 64;
/// Orders that one worker has in hand at the most. More are not read; others may read them.
const IN_HAND_MAX: usize = 1024;
/// Pause before an order is tried again that speaks of a request which is still on its way.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a read waits while an order goes on. Redis takes zero for ever.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Reads orders and obeys them. One that cannot be obeyed yet stays pending, in hand here, and is
/// taken over by another worker if this one dies.
pub(super) async fn control(crew: Arc<Crew>, mut orders: Requests) {
    let core = &crew.deps.core;
    let mut outage = Outage::new("control");
    let quiet = crew.shutdown.quiet();
    let mut back = LookBack::new(core.runs.lease / 2);
    let mut in_hand: Vec<Task> = Vec::new();
    let mut goes_on = false;
    let mut held: Option<Instant> = None;
    while !quiet.is_cancelled() {
        let block = match (goes_on, in_hand.is_empty()) {
            (true, _) => AT_ONCE,
            (false, false) => back.block().min(AGAIN),
            (false, true) => back.block(),
        };
        let room = IN_HAND_MAX.saturating_sub(in_hand.len()).min(BATCH);
        if room == 0 {
            tokio::time::sleep(AGAIN).await;
        } else {
            match orders.next(room, block).await {
                Ok(entries) => {
                    if !entries.is_empty() {
                        milestone!("orders::read");
                    }
                    in_hand.extend(entries.into_iter().map(Task::new));
                }
                Err(error) => {
                    outage.met(&crew, &error).await;
                    continue;
                }
            }
        }
        if back.is_due() {
            match orders.take_over(BATCH, core.runs.lease).await {
                Ok(stalled) => {
                    back.looked(stalled.has_more);
                    if !stalled.entries.is_empty() {
                        milestone!("orders::taken_over");
                    }
                    adopt(&mut in_hand, stalled.entries);
                }
                Err(error) => outage.met(&crew, &error).await,
            }
        }
        // What is in hand for long is no other worker's to take over.
        let is_held = held.is_some_and(|at| at.elapsed() < core.runs.lease / 3);
        if !in_hand.is_empty() && !is_held {
            let entries = in_hand.iter().map(|task| &task.entry);
            match orders.hold(entries).await {
                Ok(()) => held = Some(Instant::now()),
                Err(error) => outage.met(&crew, &error).await,
            }
            milestone!("orders::held");
        }
        let mut later = Vec::new();
        goes_on = false;
        for mut task in in_hand.drain(..) {
            match obey(core, &mut task).await {
                Ok(Obeyed::Done) => outage.over(),
                Ok(obeyed) => {
                    goes_on |= obeyed == Obeyed::More;
                    later.push(task);
                }
                Err(error) => {
                    later.push(task);
                    outage.met(&crew, &error).await;
                }
            }
        }
        in_hand = later;
    }
    if let Err(error) = orders.leave().await {
        warn!(%error, "the consumer stays in its group until a sweep forgets it");
    }
}

/// Takes up what another worker left; this worker's own may be among it.
fn adopt(in_hand: &mut Vec<Task>, stalled: Vec<Entry>) {
    for entry in stalled {
        if in_hand.iter().all(|known| known.entry.id != entry.id) {
            in_hand.push(Task::new(entry));
        }
    }
}
