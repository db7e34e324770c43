//! `dead`: requests and orders that could not be read, and putting them back.

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
use crate::store::requests::Entry;

/// More than the number of dead entries that are kept.
const ALL: usize = 100_000;
/// Most fields in a line of the table.
const SHOWN_FIELDS: usize = 8;

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
        DeadCommand::Requeue { entries, all } => {
            if let Some(odd) = entries.iter().find(|id| !is_entry(id)) {
                return Err(WrongUse::new(format!("{odd:?} is no entry's id")).into());
            }
            let store = target::store(tool).await?;
            let ids = if *all {
                every_id(&store).await?
            } else {
                entries.clone()
            };
            requeue(&store, &ids, out, as_json).await
        }
    }
}

/// A dead entry as JSON.
#[derive(Debug, Serialize)]
struct DeadRow<'a> {
    entry: &'a str,
    source_id: String,
    reason: String,
    /// Its field `run`.
    run: Option<String>,
    /// Its other fields.
    fields: Vec<(String, String)>,
}

impl<'a> DeadRow<'a> {
    fn new(entry: &'a Entry) -> Self {
        // Ours are the last fields of these names; the entry may have had such fields itself.
        let field = |name: &str| {
            let mut last = entry.fields.iter().rev();
            let found = last.find(|(known, _)| known == name.as_bytes());
            found.map(|(_, value)| escaped(value)).unwrap_or_default()
        };
        let last = entry.fields.last();
        let ours = match last.is_some_and(|(name, _)| name == b"source_stream") {
            true => 3,
            false => 2,
        };
        let original = entry.fields.len().saturating_sub(ours);
        let (mut run, mut fields) = (None, Vec::new());
        for (name, value) in entry.fields.iter().take(original) {
            if name == b"run" && run.is_none() {
                run = Some(escaped(value));
            } else {
                fields.push((escaped(name), escaped(value)));
            }
        }
        Self {
            entry: &entry.id,
            source_id: field("source_id"),
            reason: field("reason"),
            run,
            fields,
        }
    }

    /// What there is of the request, or of what it has instead, in one line.
    fn body(&self) -> String {
        if let Some(run) = &self.run {
            return run.clone();
        }
        let fields = self.fields.iter().take(SHOWN_FIELDS);
        let words: Vec<_> = fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        words.join(" ")
    }
}

/// Bytes as text: what is no UTF-8 as `\xff`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&byte.escape_ascii().to_string());
        }
    }
    text
}

fn list_json(out: &mut Output, entries: &[Entry]) -> anyhow::Result<Status> {
    for entry in entries {
        out.json(&DeadRow::new(entry))?;
    }
    Ok(Status::Done)
}

fn list(out: &mut Output, entries: &[Entry]) -> anyhow::Result<Status> {
    let now = Clock::system().now_ms();
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let row = DeadRow::new(entry);
            vec![
                Cell::plain(row.entry),
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
