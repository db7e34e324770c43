//! `dead`: requests and orders that could not be read; putting them back, and deleting them.

use serde::Serialize;
use serde_json::json;

use crate::cli::args::{DEAD_LISTED, Dead, DeadCommand};
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::{Status, WrongUse};
use crate::cli::target;
use crate::clock::Clock;
use crate::config::Tool;
use crate::store::Store;
use crate::store::dead::Letter;
use crate::store::requests::Entry;

/// More than the number of dead entries that are kept.
const ALL: usize = 100_000;

pub(crate) async fn run(args: &Dead, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let as_json = args.format.json;
    let listed = DeadCommand::List { limit: DEAD_LISTED };
    match args.command.as_ref().unwrap_or(&listed) {
        DeadCommand::List { limit } => {
            let store = target::store(tool).await?;
            let most = usize::try_from(*limit).unwrap_or(usize::MAX);
            let entries = store.newest_dead(most).await?;
            if as_json {
                list_json(out, &entries)
            } else {
                list(out, &entries)
            }
        }
        DeadCommand::Show { entry } => {
            check_ids(std::slice::from_ref(entry))?;
            show(&target::store(tool).await?, entry, out, as_json).await
        }
        DeadCommand::Requeue { entries, all } => {
            check_ids(entries)?;
            let store = target::store(tool).await?;
            let ids = chosen(&store, entries, *all).await?;
            requeue(&store, &ids, out, as_json).await
        }
        DeadCommand::Delete { entries, all } => {
            check_ids(entries)?;
            let store = target::store(tool).await?;
            let ids = chosen(&store, entries, *all).await?;
            delete(&store, &ids, out, as_json).await
        }
    }
}

/// A dead entry as JSON.
#[derive(Debug, Serialize)]
struct DeadRow<'a> {
    entry: &'a str,
    source_id: &'a str,
    source_stream: &'a str,
    reason: &'a str,
    /// Its field `run`.
    run: Option<&'a str>,
    /// Its other fields.
    fields: &'a [(String, String)],
}

impl<'a> DeadRow<'a> {
    fn new(letter: &'a Letter) -> Self {
        Self {
            entry: &letter.entry,
            source_id: &letter.source_id,
            source_stream: &letter.source_stream,
            reason: &letter.reason,
            run: letter.run.as_deref(),
            fields: &letter.fields,
        }
    }
}

/// One dead entry, whole.
async fn show(store: &Store, id: &str, out: &mut Output, as_json: bool) -> anyhow::Result<Status> {
    let Some(entry) = store.dead_entry(id).await? else {
        out.note(&format!("there is no dead entry {id}"))?;
        return Ok(Status::Failed);
    };
    let letter = Letter::new(&entry);
    if as_json {
        out.json(&DeadRow::new(&letter))?;
        return Ok(Status::Done);
    }
    let source = format!("{} of {}", letter.source_id, letter.source_stream);
    let ours = [("reason", letter.reason.as_str()), ("was", source.as_str())];
    let run = letter.run.as_deref().map(|run| ("run", run));
    let others = letter
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in ours.into_iter().chain(run).chain(others) {
        let name = out.paint(Tone::Faint, &human::one_line(name, 80));
        out.line(&name)?;
        out.line(&format!("  {}", human::harmless(value)))?;
    }
    Ok(Status::Done)
}

async fn delete(
    store: &Store,
    ids: &[String],
    out: &mut Output,
    as_json: bool,
) -> anyhow::Result<Status> {
    let mut status = Status::Done;
    for id in ids {
        match store.delete_dead(id).await? {
            true if as_json => out.json(&json!({"deleted": id}))?,
            true => out.line(&format!("{id} is deleted"))?,
            false => {
                status = Status::Failed;
                out.note(&format!("there is no dead entry {id}"))?;
            }
        }
    }
    Ok(status)
}

fn list_json(out: &mut Output, entries: &[Entry]) -> anyhow::Result<Status> {
    for entry in entries {
        out.json(&DeadRow::new(&Letter::new(entry)))?;
    }
    Ok(Status::Done)
}

fn list(out: &mut Output, entries: &[Entry]) -> anyhow::Result<Status> {
    let now = Clock::system().now_ms();
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let row = Letter::new(entry);
            vec![
                Cell::plain(&row.entry),
                Cell::plain(human::ago(entry.appended_at_ms(now), now)),
                Cell::new(Tone::Bad, human::one_line(&row.reason, 80)),
                Cell::new(Tone::Faint, human::one_line(&row.body(), 60)),
            ]
        })
        .collect();
    if rows.is_empty() {
        out.note("no dead entries")?;
        return Ok(Status::Done);
    }
    out.table(&["ENTRY", "SET ASIDE", "REASON", "REQUEST"], &rows)?;
    Ok(Status::Done)
}

fn check_ids(entries: &[String]) -> Result<(), WrongUse> {
    match entries.iter().find(|id| !is_entry(id)) {
        Some(odd) => Err(WrongUse::new(format!("{odd:?} is no entry's id"))),
        None => Ok(()),
    }
}

async fn chosen(store: &Store, entries: &[String], all: bool) -> anyhow::Result<Vec<String>> {
    match all {
        true => every_id(store).await,
        false => Ok(entries.to_vec()),
    }
}

/// Whether this is the id of a stream entry, such as `1732000000000-0`.
fn is_entry(text: &str) -> bool {
    let parts = text.split_once('-');
    parts.is_some_and(|(ms, number)| ms.parse::<u64>().is_ok() && number.parse::<u64>().is_ok())
}

async fn every_id(store: &Store) -> anyhow::Result<Vec<String>> {
    let mut entries = store.newest_dead(ALL).await?;
    // In the order in which they came.
    entries.reverse();
    Ok(entries.into_iter().map(|entry| entry.id).collect())
}

async fn requeue(
    store: &Store,
    ids: &[String],
    out: &mut Output,
    as_json: bool,
) -> anyhow::Result<Status> {
    let mut status = Status::Done;
    for id in ids {
        match store.revive(id).await? {
            Some(entry) if as_json => out.json(&json!({"from": id, "entry": entry}))?,
            Some(entry) => out.line(&format!("{id} is back as {entry}"))?,
            None => {
                status = Status::Failed;
                out.note(&format!("there is no dead entry {id}"))?;
            }
        }
    }
    Ok(status)
}
