//! `cancel`: a run ends with a result that says so.

use anyhow::bail;
use serde_json::json;

use crate::cli::args::Cancel;
use crate::cli::place;
use crate::cli::say::Say;
use crate::cli::show;
use crate::cli::status::Status;
use crate::clock::Clock;
use crate::config::Tool;
use crate::run::outcome::{Ending, Outcome, ReasonCode};
use crate::store::acts::{Act, Settlement};

pub(crate) async fn run(args: &Cancel, tool: &Tool, say: &mut Say) -> anyhow::Result<Status> {
    let id = show::run_id(&args.run)?;
    let store = place::store(tool).await?;
    let ending = Ending::without(ReasonCode::Cancelled, "cancelled by an operator");
    let settlement = Settlement {
        ending: &ending,
        digest: None,
        retention: tool.retention,
        lease: tool.lease,
    };
    match store
        .settle(&id, None, &settlement, Clock::system().now_ms())
        .await?
    {
        Act::Done(_) => {}
        Act::Over => {
            let view = show::known(&store, &id).await?;
            if view.outcome != Some(Outcome::Cancelled) {
                let outcome = view.outcome.map_or("ended", Outcome::as_str);
                bail!("run {id} had ended already: {outcome}");
            }
        }
        Act::Unknown => {
            bail!("run {id} is not known: it was never admitted, or ended too long ago")
        }
        other @ (Act::Older | Act::Refused | Act::Repeated) => {
            bail!("run {id} cannot be cancelled: {other:?}")
        }
    }
    if args.format.json {
        say.json(&json!({"run_id": id, "outcome": Outcome::Cancelled}))?;
    } else {
        say.line(&format!("{id} is cancelled"))?;
    }
    Ok(Status::Done)
}
