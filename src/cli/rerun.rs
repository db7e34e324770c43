//! `rerun` and `priority`: a run is asked for again, or goes before others.

use serde_json::json;

use crate::cli::args::fleet::{Priority, Rerun as Args};
use crate::cli::output::Output;
use crate::cli::show;
use crate::cli::status::Status;
use crate::cli::target;
use crate::config::Tool;
use crate::run::id::RunId;
use crate::stage::operate::{self, Rerun};
use crate::store::fleet::Prioritised;

pub(crate) async fn run(args: &Args, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let ids: Vec<RunId> = args
        .runs
        .iter()
        .map(|run| show::run_id(run))
        .collect::<Result<_, _>>()?;
    let store = target::store(tool).await?;
    let mut status = Status::Done;
    for id in ids {
        match operate::rerun(&store, &id).await? {
            Rerun::Asked(new) if args.format.json => out.json(&json!({"run_id": new, "of": id}))?,
            Rerun::Asked(new) => out.line(new.as_str())?,
            Rerun::Not(why) => {
                out.note(&format!("run {id} {why}"))?;
                status = Status::Failed;
            }
        }
    }
    Ok(status)
}

pub(crate) async fn priority(
    args: &Priority,
    tool: &Tool,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let id = show::run_id(&args.run)?;
    let store = target::store(tool).await?;
    let why_not = match store.prioritise(&id, args.priority).await? {
        Prioritised::Done => {
            if args.format.json {
                out.json(&json!({"run_id": id, "priority": args.priority}))?;
            } else {
                out.line(&format!("{id} has priority {}", args.priority))?;
            }
            return Ok(Status::Done);
        }
        Prioritised::NotWaiting => "does not wait any more",
        Prioritised::Unknown => "is not known: it was never admitted, or ended too long ago",
    };
    out.note(&format!("run {id} {why_not}"))?;
    Ok(Status::Failed)
}
