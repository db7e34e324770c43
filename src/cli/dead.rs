//! `dead`: requests that could not be read.

use serde::Serialize;
use serde_json::json;

use crate::cli::args::{DEAD_LISTED, Dead, DeadWhat};
use crate::cli::human;
use crate::cli::place;
use crate::cli::say::{Cell, Say, Tone};
use crate::cli::status::{Status, WrongUse};
use crate::clock::Clock;
use crate::config::Tool;
use crate::store::Store;
use crate::store::requests::Entry;

/// Dead entries kept at the most are fewer than this.
const ALL: usize = 100_000;

pub(crate) async fn run(args: &Dead, tool: &Tool, say: &mut Say) -> anyhow::Result<Status> {
    let as_json = args.format.json;
    let listed = DeadWhat::List { limit: DEAD_LISTED };
    match args.what.as_ref().unwrap_or(&listed) {
        DeadWhat::List { limit } => {
            let store = place::store(tool).await?;
            let most = usize::try_from(*limit).unwrap_or(usize::MAX);
            let entries = store.newest_dead(most).await?;
            if as_json {
                list_json(say, &entries)
            } else {
                list(say, &entries)
            }
        }
        DeadWhat::Requeue { entries, all } => {
            if let Some(odd) = entries.iter().find(|id| !is_entry(id)) {
                return Err(WrongUse::new(format!("{odd:?} is no entry's id")).into());
            }
            let store = place::store(tool).await?;
            let ids = if *all {
                every_id(&store).await?
            } else {
                entries.clone()
            };
            requeue(&store, &ids, say, as_json).await
        }
    }
}

/// A dead entry as JSON.
#[derive(Debug, Serialize)]
struct Told<'a> {
    entry: &'a str,
    source_id: String,
    reason: String,
    run: Option<&'a str>,
}

impl<'a> Told<'a> {
    fn new(entry: &'a Entry) -> Self {
        // The last fields of these names are ours; the entry may have had such fields itself.
        let field = |name: &str| {
            let found = entry.fields.iter().rev().find(|(known, _)| known == name);
            found
                .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                .unwrap_or_default()
        };
        Self {
            entry: &entry.id,
            source_id: field("source_id"),
            reason: field("reason"),
            run: entry.run(),
        }
    }
}

fn list_json(say: &mut Say, entries: &[Entry]) -> anyhow::Result<Status> {
    for entry in entries {
        say.json(&Told::new(entry))?;
    }
    Ok(Status::Done)
}

fn list(say: &mut Say, entries: &[Entry]) -> anyhow::Result<Status> {
    let now = Clock::system().now_ms();
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let told = Told::new(entry);
            vec![
                Cell::plain(told.entry),
                Cell::plain(human::ago(entry.appended_at_ms(now), now)),
                Cell::new(Tone::Bad, human::one_line(&told.reason, 80)),
                Cell::new(
                    Tone::Faint,
                    human::one_line(told.run.unwrap_or("no field run"), 60),
                ),
            ]
        })
        .collect();
    if rows.is_empty() {
        say.note("no dead entries")?;
        return Ok(Status::Done);
    }
    say.table(&["ENTRY", "SET ASIDE", "REASON", "REQUEST"], &rows)?;
    Ok(Status::Done)
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
    say: &mut Say,
    as_json: bool,
) -> anyhow::Result<Status> {
    let mut status = Status::Done;
    for id in ids {
        match store.revive(id).await? {
            Some(entry) if as_json => say.json(&json!({"from": id, "entry": entry}))?,
            Some(entry) => say.line(&format!("{id} is back as {entry}"))?,
            None => {
                status = Status::Failed;
                say.note(&format!("there is no dead entry {id}"))?;
            }
        }
    }
    Ok(status)
}
