//! `cancel`: ends runs with the outcome `cancelled`.

use serde_json::json;

use crate::cli::args::Cancel;
use crate::cli::output::Output;
use crate::cli::show;
use crate::cli::status::Status;
use crate::cli::target;
use crate::cli::tenants::tenant_name;
use crate::clock::Clock;
use crate::config;
use crate::run::id::RunId;
use crate::run::outcome::{Ending, Outcome, ReasonCode};
use crate::store::Store;
use crate::store::acts::{Settlement, Transition};

/// The outcome of a cancellation.
pub(crate) enum Cancelled {
    /// It is cancelled.
    Now,
    /// It will be, when a worker reads its request.
    WhenRead,
    /// It is not cancelled, for this reason.
    Not(String),
}

pub(crate) async fn run(
    args: &Cancel,
    settings: &config::Cancel,
    out: &mut Output,
) -> anyhow::Result<Status> {
    if let Some(name) = &args.tenant {
        let tenant = tenant_name(name)?;
        let order = target::store(&settings.tool)
            .await?
            .order("cancel_tenant", tenant.as_str())
            .await?;
        if args.format.json {
            out.json(&json!({"tenant": tenant.as_str(), "order": order}))?;
        } else {
            out.line(&format!(
                "the workers cancel what {tenant} has asked for until now"
            ))?;
        }
        return Ok(Status::Done);
    }
    let ids: Vec<RunId> = args
        .runs
        .iter()
        .map(|run| show::run_id(run))
        .collect::<Result<_, _>>()?;
    let store = target::store(&settings.tool).await?;
    let mut status = Status::Done;
    for id in ids {
        let (word, line) = match cancel(&store, settings, &id).await? {
            Cancelled::Now => ("cancelled", format!("{id} is cancelled")),
            Cancelled::WhenRead => (
                "ordered",
                format!("{id} is cancelled as soon as a worker has read its request"),
            ),
            Cancelled::Not(why) => {
                out.note(&format!("run {id} {why}"))?;
                status = Status::Failed;
                continue;
            }
        };
        if args.format.json {
            out.json(&json!({"run_id": id, "outcome": word}))?;
        } else {
            out.line(&line)?;
        }
    }
    Ok(status)
}

/// Cancels one run.
pub(crate) async fn cancel(
    store: &Store,
    settings: &config::Cancel,
    id: &RunId,
) -> anyhow::Result<Cancelled> {
    let now = Clock::system().now_ms();
    let ending = Ending::without(ReasonCode::Cancelled, "cancelled by an operator");
    let settlement = Settlement {
        ending: &ending,
        post: None,
        retention: settings.retention,
        lease: settings.lease,
    };
    Ok(match store.settle(id, None, &settlement, now).await? {
        Transition::Done(_) => Cancelled::Now,
        Transition::Over => {
            let view = show::known(store, id).await?;
            if view.outcome == Some(Outcome::Cancelled) {
                return Ok(Cancelled::Now);
            }
            let outcome = view.outcome.map_or("ended", Outcome::as_str);
            Cancelled::Not(format!("had ended already: {outcome}"))
        }
        // Its request may be among those that no worker has read yet.
        Transition::Unknown if store.census(now).await?.unread > 0 => {
            store.order("cancel", id.as_str()).await?;
            Cancelled::WhenRead
        }
        Transition::Unknown => {
            Cancelled::Not("is not known: it was never admitted, or ended too long ago".into())
        }
        other @ (Transition::Older
        | Transition::Refused
        | Transition::Repeated
        | Transition::OverBudget) => Cancelled::Not(format!("cannot be cancelled: {other:?}")),
    })
}
