//! Orders → what they ask for.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::milestone::milestone;
use crate::stage::control::{Obeyed, obey};
use crate::store::requests::{Entry, Requests};
use crate::worker::crew::Crew;
use crate::worker::loops::{LookBack, Outage};

/// Orders read at once.
const BATCH: usize = 64;
/// Orders that one worker has in hand at the most. More are not read; others may read them.
const IN_HAND_MAX: usize = 1024;
/// Pause before an order is tried again that speaks of a request which is still on its way.
const AGAIN: Duration = Duration::from_millis(100);

/// Reads orders and obeys them. One that cannot be obeyed yet stays pending, in hand here, and is
/// taken over by another worker if this one dies.
pub(super) async fn control(crew: Arc<Crew>, mut orders: Requests) {
    let core = &crew.deps.core;
    let mut outage = Outage::new("control");
    let quiet = crew.shutdown.quiet();
    let mut back = LookBack::new(core.runs.lease / 2);
    let mut in_hand: Vec<Entry> = Vec::new();
    while !quiet.is_cancelled() {
        let block = if in_hand.is_empty() {
            back.block()
        } else {
            back.block().min(AGAIN)
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
                    in_hand.extend(entries);
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
        let mut later = Vec::new();
        for entry in in_hand.drain(..) {
            match obey(core, &entry).await {
                Ok(Obeyed::Done) => outage.over(),
                Ok(Obeyed::NotYet) => later.push(entry),
                Err(error) => {
                    later.push(entry);
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
fn adopt(in_hand: &mut Vec<Entry>, stalled: Vec<Entry>) {
    for entry in stalled {
        if in_hand.iter().all(|known| known.id != entry.id) {
            in_hand.push(entry);
        }
    }
}
