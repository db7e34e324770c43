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
use crate::store::acts::Act;
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

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// Nothing more is to be done.
    Done,
    /// It speaks of what is still on its way: to be obeyed again, soon.
    NotYet,
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

/// Obeys an entry of the control stream, and disposes of it unless it is not yet time. What is no
/// order is set aside as dead.
///
/// # Errors
/// When Redis does not answer. The entry stays, and can be obeyed again.
pub async fn obey(core: &Core, entry: &Entry) -> Result<Obeyed, Error> {
    let orders = match orders(entry) {
        Ok(orders) => orders,
        Err(reason) => {
            warn!(
                entry = entry.id,
                reason, "an entry is no order; set aside as dead"
            );
            core.store.bury(Inbox::Control, entry, &reason).await?;
            milestone!("control::buried");
            return Ok(Obeyed::Done);
        }
    };
    for order in &orders {
        let obeyed = match order {
            Order::Cancel(id) => cancel_when_known(core, id, entry).await?,
            Order::CancelTenant(tenant) => {
                let until = entry.appended_at_ms(core.clock.now_ms());
                // Asked first: what is admitted meanwhile is then found.
                let is_past = core.store.intake_is_past(entry).await?;
                milestone!("control::tenant_asked");
                cancel_tenant(core, tenant, until).await?;
                if is_past {
                    Obeyed::Done
                } else {
                    Obeyed::NotYet
                }
            }
            Order::Pause(scope) => pause(core, scope.as_ref(), true, entry).await?,
            Order::Resume(scope) => pause(core, scope.as_ref(), false, entry).await?,
        };
        if obeyed == Obeyed::NotYet {
            return Ok(Obeyed::NotYet);
        }
    }
    core.store.done(Inbox::Control, entry).await?;
    milestone!("control::done");
    Ok(Obeyed::Done)
}

/// Ends a run that is not over as `cancelled`. One round trip.
///
/// # Errors
/// When Redis does not answer; it may have happened, and is safe to repeat.
pub async fn cancel(core: &Core, id: &RunId) -> Result<Act, Error> {
    let ending = Ending::without(ReasonCode::Cancelled, "someone cancelled it");
    end(core, id, None, &ending).await
}

/// Cancels a run whose request may still be unread.
async fn cancel_when_known(core: &Core, id: &RunId, order: &Entry) -> Result<Obeyed, Error> {
    // Asked first: a request that is admitted meanwhile is then known.
    let is_past = core.store.intake_is_past(order).await?;
    milestone!("control::run_asked");
    match cancel(core, id).await? {
        Act::Unknown if !is_past => return Ok(Obeyed::NotYet),
        Act::Unknown => {
            warn!(run_id = id.as_str(), "there is no such run to cancel");
        }
        Act::Over => info!(run_id = id.as_str(), "not cancelled: it had ended already"),
        Act::Done(_) | Act::Repeated | Act::Older | Act::Refused => {}
    }
    Ok(Obeyed::Done)
}

/// Cancels every run of a tenant that was asked for until `until`. Answers how many. One round
/// trip for each run, and one for each page of them.
///
/// # Errors
/// When Redis does not answer; some may have been cancelled, and it is safe to repeat.
pub async fn cancel_tenant(core: &Core, tenant: &Tenant, until: UnixMs) -> Result<usize, Error> {
    let mut cancelled = 0;
    for _ in 0..PASSES_MAX {
        let mut in_pass = 0;
        let mut walk = Walk::new(tenant);
        while let Some(ids) = core.store.step(&mut walk).await? {
            milestone!("control::tenant_walked");
            let views = core.store.views(&ids).await?;
            milestone!("control::tenant_read");
            let views = views.into_iter().flatten();
            let meant = views
                .filter(|view| view.submitted_at_ms.is_none_or(|at| at <= until))
                .map(|view| view.id);
            let acts = stream::iter(meant).map(async |id| cancel(core, &id).await);
            let mut acts = std::pin::pin!(acts.buffer_unordered(AT_ONCE));
            while let Some(act) = acts.next().await {
                in_pass += usize::from(matches!(act?, Act::Done(_)));
            }
        }
        cancelled += in_pass;
        if in_pass == 0 {
            break;
        }
    }
    info!(
        tenant = tenant.as_str(),
        cancelled, "cancelled a tenant's runs"
    );
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
