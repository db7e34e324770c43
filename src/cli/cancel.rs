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
use crate::stage::operate::{self, CancelTerms, Cancelled};

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
    let terms = CancelTerms {
        retention: settings.retention,
        lease: settings.lease,
    };
    let mut status = Status::Done;
    for id in ids {
        let (word, line) =
            match operate::cancel(&store, terms, &id, Clock::system().now_ms()).await? {
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
