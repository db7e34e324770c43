//! Orders: cancel a run or all of a tenant's, pause and resume.
//!
//! `XADD <ns>:control * cancel RUN`, and in the same way `cancel_tenant TENANT`, `pause TENANT`
//! and `resume TENANT`, where `*` stands for everything. One entry may hold several orders, which
//! are obeyed in turn. Every order can be obeyed twice, and late: of those that pause and resume
//! the last one on the stream holds.

use futures_util::StreamExt as _;
use futures_util::stream;
use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::milestone::milestone;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::{Ending, ReasonCode};
use crate::stage::{Core, Error, end};
use crate::store::acts::Transition;
use crate::store::keys::Inbox;
use crate::store::requests::Entry;
use crate::store::tenants::Walk;

/// Runs that are cancelled at once.
const AT_ONCE: usize = 64;
/// Passes over a tenant's runs: one may change its place while it is looked for.
const PASSES_MAX: usize = 5;

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// This run ends.
    Cancel(RunId),
    /// Every run of a tenant that was asked for before ends.
    CancelTenant(Tenant),
    /// Nothing of a tenant boots; `None` for nothing at all.
    Pause(Option<Tenant>),
    /// It goes on.
    Resume(Option<Tenant>),
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// Nothing more is to be done.
    Done,
    /// The next step can come at once, after those of other orders.
    More,
    /// It speaks of what is still on its way: to be obeyed again, soon.
    NotYet,
}

/// An entry of the control stream that is being obeyed, step by step: no order keeps the others
/// waiting, however much it asks for.
#[derive(Debug)]
pub struct Task {
    /// The entry.
    pub entry: Entry,
    /// How many of its orders have been obeyed.
    obeyed: usize,
    /// A tenant whose runs are being cancelled.
    cancelling: Option<Cancelling>,
}

impl Task {
    /// An entry of which nothing has been obeyed.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self {
            entry,
            obeyed: 0,
            cancelling: None,
        }
    }
}

/// How far the runs of a tenant have been cancelled.
#[derive(Debug)]
struct Cancelling {
    /// Whether every request that was there before the order had been admitted at the beginning.
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
            other => return Err(format!("{other:?} is no order")),
        });
    }
    Ok(orders)
}

/// Obeys an entry of the control stream for one step, and disposes of it when it is done. What is
/// no order is set aside as dead.
///
/// # Errors
/// When Redis does not answer. The entry stays, and can be obeyed again.
pub async fn obey(core: &Core, task: &mut Task) -> Result<Obeyed, Error> {
    let entry = &task.entry;
    let orders = match orders(entry) {
        Ok(orders) => orders,
        Err(reason) => {
            warn!(
                entry = entry.id,
                reason, "an entry is no order; set aside as dead"
            );
            core.store
                .dead_letter(Inbox::Control, entry, &reason)
                .await?;
            milestone!("control::dead_lettered");
            return Ok(Obeyed::Done);
        }
    };
    for order in orders.iter().skip(task.obeyed) {
        let obeyed = match order {
            Order::Cancel(id) => cancel_when_known(core, id, entry).await?,
            Order::CancelTenant(tenant) => {
                cancel_tenant(core, tenant, entry, &mut task.cancelling).await?
            }
            Order::Pause(scope) => pause(core, scope.as_ref(), true, entry).await?,
            Order::Resume(scope) => pause(core, scope.as_ref(), false, entry).await?,
        };
        if obeyed != Obeyed::Done {
            return Ok(obeyed);
        }
        task.obeyed += 1;
    }
    core.store.done(Inbox::Control, entry).await?;
    milestone!("control::done");
    Ok(Obeyed::Done)
}

/// Ends a run that is not over as `cancelled`. One round trip.
///
/// # Errors
/// When Redis does not answer; it may have happened, and is safe to repeat.
pub async fn cancel(core: &Core, id: &RunId) -> Result<Transition, Error> {
    let ending = Ending::without(ReasonCode::Cancelled, "someone cancelled it");
    end(core, id, None, &ending).await
}

/// Cancels a run whose request may still be unread.
async fn cancel_when_known(core: &Core, id: &RunId, order: &Entry) -> Result<Obeyed, Error> {
    // Asked first: a request that is admitted meanwhile is then known.
    let is_past = core.store.intake_is_past(order).await?;
    milestone!("control::run_asked");
    match cancel(core, id).await? {
        Transition::Unknown if !is_past => return Ok(Obeyed::NotYet),
        Transition::Unknown => {
            warn!(run_id = id.as_str(), "there is no such run to cancel");
        }
        Transition::Over => info!(run_id = id.as_str(), "not cancelled: it had ended already"),
        Transition::Done(_)
        | Transition::Repeated
        | Transition::OverBudget
        | Transition::Older
        | Transition::Refused => {}
    }
    Ok(Obeyed::Done)
}

/// Cancels a page of a tenant's runs that were asked for before the order: as many round trips as
/// there are such runs on it, and three more.
async fn cancel_tenant(
    core: &Core,
    tenant: &Tenant,
    order: &Entry,
    cancelling: &mut Option<Cancelling>,
) -> Result<Obeyed, Error> {
    let mut going = match cancelling.take() {
        Some(going) => going,
        None => {
            // Asked first: what is admitted meanwhile is then found.
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
    let page = core.store.step(&mut going.walk).await?;
    milestone!("control::tenant_walked");
    if let Some(ids) = page {
        let until = order.appended_at_ms(core.clock.now_ms());
        let cancelled = cancel_page(core, &ids, until).await?;
        going.in_pass += cancelled;
        going.cancelled += cancelled;
    } else if going.in_pass > 0 && going.passes < PASSES_MAX {
        going.walk = Walk::new(tenant);
        going.passes += 1;
        going.in_pass = 0;
    } else {
        let cancelled = going.cancelled;
        info!(
            tenant = tenant.as_str(),
            cancelled, "cancelled a tenant's runs"
        );
        return Ok(match going.is_past {
            true => Obeyed::Done,
            false => Obeyed::NotYet,
        });
    }
    *cancelling = Some(going);
    Ok(Obeyed::More)
}

/// Cancels those of some runs that were asked for until `until`. Answers how many.
async fn cancel_page(core: &Core, ids: &[RunId], until: UnixMs) -> Result<usize, Error> {
    let views = core.store.records(ids).await?;
    milestone!("control::tenant_read");
    let views = views.into_iter().flatten();
    let meant = views
        .filter(|view| view.submitted_at_ms.is_none_or(|at| at <= until))
        .map(|view| view.id);
    let acts = stream::iter(meant).map(async |id| cancel(core, &id).await);
    let mut acts = std::pin::pin!(acts.buffer_unordered(AT_ONCE));
    let mut cancelled = 0;
    while let Some(act) = acts.next().await {
        cancelled += usize::from(matches!(act?, Transition::Done(_)));
    }
    Ok(cancelled)
}

/// Pauses or resumes, unless a later order has been obeyed already.
async fn pause(
    core: &Core,
    scope: Option<&Tenant>,
    is_paused: bool,
    order: &Entry,
) -> Result<Obeyed, Error> {
    let is_latest = core.store.pause(scope, is_paused, Some(&order.id)).await?;
    match scope {
        Some(tenant) => {
            milestone!("control::tenant_paused");
            info!(tenant = tenant.as_str(), is_paused, is_latest, "a tenant");
        }
        None => {
            milestone!("control::all_paused");
            info!(is_paused, is_latest, "everything");
            if !is_paused && is_latest {
                core.store.lift_holds().await?;
                milestone!("control::holds_lifted");
            }
        }
    }
    Ok(Obeyed::Done)
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
    fn what_is_no_order_is_named() {
        for (word, value, expected) in [
            ("cancel", "a b", "cancel: a run's id must be 1 to 64"),
            ("cancel_tenant", "*", "cancel_tenant: a tenant must be"),
            ("pause", "", "pause: a tenant must be"),
            ("abolish", "x", "\"abolish\" is no order"),
        ] {
            let error = orders(&entry(&[(word, value)])).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
