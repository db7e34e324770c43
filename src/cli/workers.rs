//! `workers`: the processes of the fleet, and keeping a worker from taking work.

use anyhow::bail;
use serde_json::json;

use crate::cli::args::fleet::{Workers, WorkersCommand};
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::Status;
use crate::cli::target;
use crate::clock::{Clock, UnixMs};
use crate::config::Tool;
use crate::stage::explain;
use crate::store::Store;
use crate::token::fleet::{self, Holder, Use};

pub(crate) async fn run(args: &Workers, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let store = target::store(tool).await?;
    match args.command.as_ref().unwrap_or(&WorkersCommand::List) {
        WorkersCommand::List => list(&store, args.format.json, out).await,
        WorkersCommand::Quiet { worker } => {
            quiet(&store, worker, true, args.format.json, out).await
        }
        WorkersCommand::Resume { worker } => {
            quiet(&store, worker, false, args.format.json, out).await
        }
    }
}

async fn list(store: &Store, as_json: bool, out: &mut Output) -> anyhow::Result<Status> {
    let now = store
        .time()
        .await
        .unwrap_or_else(|_| Clock::system().now_ms());
    let mut holders = store.keyrings(now).await?;
    holders.sort_by(|one, other| one.name.cmp(&other.name));
    if as_json {
        for holder in &holders {
            out.json(holder)?;
        }
        return Ok(Status::Done);
    }
    if holders.is_empty() {
        out.note("no process was heard of in the last minute")?;
        return Ok(Status::Done);
    }
    let rows: Vec<_> = holders.iter().map(|holder| row(holder, now)).collect();
    let head = [
        "PROCESS", "ROLE", "VERSION", "RUNS FOR", "IN HAND", "KEYS", "",
    ];
    out.table(&head, &rows)?;
    for mismatch in fleet::mismatches(&holders).iter().take(20) {
        let line = out.paint_note(Tone::Bad, &human::one_line(&mismatch.to_string(), 300));
        out.note(&line)?;
    }
    Ok(Status::Done)
}

fn row(holder: &Holder, now: UnixMs) -> Vec<Cell> {
    let role = match holder.uses {
        Use::Signs => "worker",
        Use::Verifies => "endpoint",
        Use::Both => "both",
    };
    let since = match holder.since_ms {
        0 => String::new(),
        since => human::duration(explain::between(since, now)),
    };
    let keys: Vec<&str> = holder.keys.iter().map(|(kid, _)| kid.as_str()).collect();
    let state = if holder.is_quiet { "quiet" } else { "" };
    vec![
        Cell::plain(human::one_line(&holder.name, 80)),
        Cell::plain(role),
        Cell::plain(human::one_line(&holder.version, 20)),
        Cell::plain(since),
        Cell::plain(holder.in_hand.to_string()),
        Cell::plain(human::one_line(&keys.join(","), 40)),
        Cell::new(Tone::Notice, state),
    ]
}

async fn quiet(
    store: &Store,
    name: &str,
    is_quiet: bool,
    as_json: bool,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let now = store
        .time()
        .await
        .unwrap_or_else(|_| Clock::system().now_ms());
    // The name of a process ends with its host; its first word is enough.
    let holders = store.keyrings(now).await?;
    let is_it =
        |holder: &&Holder| holder.name == name || holder.name.split(' ').next() == Some(name);
    let found = holders
        .iter()
        .find(is_it)
        .map(|holder| holder.name.as_str());
    let name = match found {
        Some(found) => found,
        None if is_quiet => bail!("no worker {name:?} was heard of in the last minute"),
        None => name,
    };
    if !store.set_quiet(name, is_quiet).await? {
        bail!("as many workers are quiet as may be");
    }
    if as_json {
        out.json(&json!({"worker": name, "quiet": is_quiet}))?;
    } else if is_quiet {
        out.line(&format!("{name} takes no more work within seconds"))?;
    } else {
        out.line(&format!("{name} takes work again within seconds"))?;
    }
    Ok(Status::Done)
}
