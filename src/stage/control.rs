//! Orders: cancel a run or all of a tenant's, pause and resume.
//!
//! `XADD <ns>:control * cancel RUN`, and in the same way `cancel_tenant TENANT`, `pause TENANT`
//! and `resume TENANT`, where `*` stands for everything. One entry may have several orders, which
//! are carried out in turn. Every order can be carried out twice, and late: of those that pause and
//! resume the last one on the stream counts.

use futures_util::StreamExt as _;
use futures_util::stream;
use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::milestone::milestone;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::{Ending, ReasonCode};
use crate::stage::settle::settle;
use crate::stage::{Core, Error};
use crate::store::acts::Transition;
use crate::store::keys::Inbox;
use crate::store::requests::Entry;
use crate::store::tenants::Walk;

/// Runs that are cancelled at once.
const AT_ONCE: usize = 64;
/// Passes over a tenant's runs: one may move to another index during a pass.
const PASSES_MAX: usize = 5;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// This run ends.
    Cancel(RunId),
    /// Every run of a tenant that was submitted before the order ends.
    CancelTenant(Tenant),
    /// No run of a tenant boots; `None` for no run at all.
    Pause(Option<Tenant>),
    /// Runs of the tenant, or of all, boot again.
    Resume(Option<Tenant>),
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything is done.
    Done,
    /// The next step can follow at once, after a step of each other order.
    More,
    /// It names a request that has not been taken in yet: to be tried again soon.
    NotYet,
}

/// An entry of the control stream that is being carried out, step by step, so that a large order does
/// not delay the others.
#[derive(Debug)]
pub struct OpenOrder {
    /// The entry.
    pub entry: Entry,
    /// How many of its orders are done.
    done: usize,
    /// A tenant whose runs are being cancelled.
    cancelling: Option<Cancelling>,
}

impl OpenOrder {
    /// An entry of which nothing is done.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self {
            entry,
            done: 0,
            cancelling: None,
        }
    }
}

/// How far the runs of a tenant have been cancelled.
#[derive(Debug)]
struct Cancelling {
    /// Whether every request that was on the stream before the order had been admitted when this began.
    is_past: bool,
    walk: Walk,
    passes: usize,
    in_pass: usize,
    cancelled: usize,
}

/// Reads the orders of an entry.
///
/// # Errors
/// What is wrong with it.
pub fn orders(entry: &Entry) -> Result<Vec<Order>, String> {
    if let Some(bytes) = entry.unread_bytes {
        return Err(format!("it has {bytes} bytes, too many for an order"));
    }
    let mut orders = Vec::with_capacity(entry.fields.len());
    for (word, value) in &entry.fields {
        let (word, value) = (
            String::from_utf8_lossy(word),
            String::from_utf8_lossy(value),
        );
        let scope = || match value.as_ref() {
            "*" => Ok(None),
            tenant => tenant
                .parse()
                .map(Some)
                .map_err(|error| format!("{word}: a tenant {error}, or *")),
        };
        orders.push(match word.as_ref() {
            "cancel" => Order::Cancel(
                value
                    .parse()
                    .map_err(|error| format!("cancel: a run's id {error}"))?,
            ),
            "cancel_tenant" => Order::CancelTenant(
                value
                    .parse()
                    .map_err(|error| format!("cancel_tenant: a tenant {error}"))?,
            ),
            "pause" => Order::Pause(scope()?),
            "resume" => Order::Resume(scope()?),
            other => return Err(format!("{other:?} is not an order")),
        });
    }
    Ok(orders)
}

/// Carries out one step of an entry of the control stream, and removes the entry when it is done. An
/// entry that is not an order is set aside as dead.
///
/// # Errors
/// When Redis does not answer. The entry stays, and can be carried out again.
pub async fn carry_out(core: &Core, open: &mut OpenOrder) -> Result<Progress, Error> {
    let entry = &open.entry;
    let orders = match orders(entry) {
        Ok(orders) => orders,
        Err(reason) => {
            warn!(
                entry = entry.id,
                reason, "an entry is not an order; set aside as dead"
            );
            core.store
                .dead_letter(Inbox::Control, entry, &reason)
                .await?;
            milestone!("control::dead_lettered");
            return Ok(Progress::Done);
        }
    };
    for order in orders.iter().skip(open.done) {
        let progress = match order {
            Order::Cancel(id) => cancel_when_known(core, id, entry).await?,
            Order::CancelTenant(tenant) => {
                cancel_tenant(core, tenant, entry, &mut open.cancelling).await?
            }
            Order::Pause(scope) => pause(core, scope.as_ref(), true, entry).await?,
            Order::Resume(scope) => pause(core, scope.as_ref(), false, entry).await?,
        };
        if progress != Progress::Done {
            return Ok(progress);
        }
        open.done += 1;
    }
    core.store.done(Inbox::Control, entry).await?;
    milestone!("control::done");
    Ok(Progress::Done)
}

/// Settles a run as `cancelled`, unless it is settled. One round trip.
///
/// # Errors
/// When Redis does not answer; it may have happened, and is safe to repeat.
pub async fn cancel(core: &Core, id: &RunId) -> Result<Transition, Error> {
    let ending = Ending::without(ReasonCode::Cancelled, "someone cancelled it");
    settle(core, id, None, &ending).await
}

/// Cancels a run whose request may still be unread.
async fn cancel_when_known(core: &Core, id: &RunId, order: &Entry) -> Result<Progress, Error> {
    // Read first: a request that is admitted meanwhile is then found.
    let is_past = core.store.intake_is_past(order).await?;
    milestone!("control::run_asked");
    match cancel(core, id).await? {
        Transition::Unknown if !is_past => return Ok(Progress::NotYet),
        Transition::Unknown => {
            warn!(run_id = id.as_str(), "there is no such run to cancel");
        }
        Transition::Over => info!(
            run_id = id.as_str(),
            "not cancelled: it was settled already"
        ),
        Transition::Done(_)
        | Transition::Repeated
        | Transition::OverBudget
        | Transition::Older
        | Transition::Refused => {}
    }
    Ok(Progress::Done)
}

/// Cancels a page of a tenant's runs that were submitted before the order: one round trip for each,
/// and three more.
async fn cancel_tenant(
    core: &Core,
    tenant: &Tenant,
    order: &Entry,
    cancelling: &mut Option<Cancelling>,
) -> Result<Progress, Error> {
    let mut state = match cancelling.take() {
        Some(state) => state,
        None => {
            // Read first: a request that is admitted meanwhile is then found.
            let is_past = core.store.intake_is_past(order).await?;
            milestone!("control::tenant_asked");
            Cancelling {
                is_past,
                walk: Walk::new(tenant),
                passes: 1,
                in_pass: 0,
                cancelled: 0,
            }
        }
    };
    let page = core.store.step(&mut state.walk).await?;
    milestone!("control::tenant_walked");
    if let Some(ids) = page {
        let until = order.appended_at_ms(core.clock.now_ms());
        let cancelled = cancel_page(core, &ids, until).await?;
        state.in_pass += cancelled;
        state.cancelled += cancelled;
    } else if state.in_pass > 0 && state.passes < PASSES_MAX {
        state.walk = Walk::new(tenant);
        state.passes += 1;
        state.in_pass = 0;
    } else {
        let cancelled = state.cancelled;
        info!(
            tenant = tenant.as_str(),
            cancelled, "cancelled a tenant's runs"
        );
        return Ok(match state.is_past {
            true => Progress::Done,
            false => Progress::NotYet,
        });
    }
    *cancelling = Some(state);
    Ok(Progress::More)
}

/// Cancels those of some runs that were submitted until `until`. Returns how many.
async fn cancel_page(core: &Core, ids: &[RunId], until: UnixMs) -> Result<usize, Error> {
    let views = core.store.records(ids).await?;
    milestone!("control::tenant_read");
    let views = views.into_iter().flatten();
    let ids = views
        .filter(|view| view.submitted_at_ms.is_none_or(|at| at <= until))
        .map(|view| view.id);
    let acts = stream::iter(ids).map(async |id| cancel(core, &id).await);
    let mut acts = std::pin::pin!(acts.buffer_unordered(AT_ONCE));
    let mut cancelled = 0;
    while let Some(act) = acts.next().await {
        cancelled += usize::from(matches!(act?, Transition::Done(_)));
    }
    Ok(cancelled)
}

/// Pauses or resumes, unless a later order was carried out already.
async fn pause(
    core: &Core,
    scope: Option<&Tenant>,
    is_paused: bool,
    order: &Entry,
) -> Result<Progress, Error> {
    let is_latest = core.store.pause(scope, is_paused, Some(&order.id)).await?;
    match scope {
        Some(tenant) => {
            milestone!("control::tenant_paused");
            info!(
                tenant = tenant.as_str(),
                is_paused, is_latest, "pause of a tenant set"
            );
        }
        None => {
            milestone!("control::all_paused");
            info!(is_paused, is_latest, "pause of everything set");
            if !is_paused && is_latest {
                core.store.lift_holds().await?;
                milestone!("control::app_pauses_lifted");
            }
        }
    }
    Ok(Progress::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        Entry {
            id: "1732000000000-0".into(),
            fields: fields
                .iter()
                .map(|(word, value)| (word.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
            unread_bytes: None,
        }
    }

    #[test]
    fn orders_are_read_in_turn() {
        let entry = entry(&[
            ("cancel", "pr-17"),
            ("cancel_tenant", "acme:eu"),
            ("pause", "*"),
            ("resume", "acme"),
        ]);
        let (run, tenant) = ("pr-17".parse().unwrap(), "acme:eu".parse().unwrap());
        let expected = [
            Order::Cancel(run),
            Order::CancelTenant(tenant),
            Order::Pause(None),
            Order::Resume(Some("acme".parse().unwrap())),
        ];
        assert_eq!(orders(&entry).unwrap(), expected);
    }

    #[test]
    fn what_is_not_an_order_is_named() {
        for (word, value, expected) in [
            ("cancel", "a b", "cancel: a run's id must be 1 to 64"),
            ("cancel_tenant", "*", "cancel_tenant: a tenant must be"),
            ("pause", "", "pause: a tenant must be"),
            ("abolish", "x", "\"abolish\" is not an order"),
        ] {
            let error = orders(&entry(&[(word, value)])).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
