//! `runs`: a list of them, by index.

use anyhow::bail;

use crate::cli::args::{Runs, StateName};
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::{Status, WrongUse};
use crate::cli::target;
use crate::cli::tenants::tenant_name;
use crate::cli::view::{self, RunJson};
use crate::clock::{Clock, UnixMs};
use crate::config::Tool;
use crate::run::day::since_ms;
use crate::run::outcome::{Outcome, ReasonCode};
use crate::run::phase::State;
use crate::store::Store;
use crate::store::ended::{EndedFilter, EndedRun};
use crate::store::open::OpenFilter;

/// Open runs that one listing goes through at the most.
const OPEN_MAX: usize = 200_000;
/// Runs asked for at once.
const PAGE: usize = 1000;

impl From<StateName> for State {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Queued => Self::Queued,
            StateName::Booting => Self::Booting,
            StateName::Running => Self::Running,
            StateName::Settled => Self::Settled,
            StateName::Closed => Self::Closed,
        }
    }
}

/// What is asked for.
struct Wanted {
    open: Option<OpenFilter>,
    ended: Option<EndedFilter>,
}

pub(crate) async fn run(args: &Runs, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let now = Clock::system().now_ms();
    let wanted = wanted(args, now)?;
    let store = target::store(tool).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let runs = list(&store, &wanted, most).await?;
    if args.format.json {
        for run in &runs {
            out.json(&RunJson::with_image(&run.record, run.image.as_deref()))?;
        }
        return Ok(Status::Done);
    }
    let rows: Vec<_> = runs.iter().map(|run| row(run, now)).collect();
    if !rows.is_empty() {
        out.table(
            &[
                "RUN",
                "STATE",
                "REASON",
                "TENANT",
                "TRY",
                "SUBMITTED",
                "PHASE FOR",
                "MACHINE",
            ],
            &rows,
        )?;
    }
    let census = store.census(now).await?;
    let unread = match census.unread {
        0 => String::new(),
        unread => {
            let unread = usize::try_from(unread).unwrap_or(usize::MAX);
            format!(
                " · {} not read yet",
                human::count(unread, "request", "requests")
            )
        }
    };
    let shown = human::count(rows.len(), "run", "runs");
    let summary = format!(
        "{shown} shown · {} waiting · {} with a machine{unread}",
        census.queued, census.in_flight
    );
    let summary = out.paint_note(Tone::Faint, &summary);
    out.note(&summary)?;
    Ok(Status::Done)
}

fn wanted(args: &Runs, now: UnixMs) -> anyhow::Result<Wanted> {
    let tenant = args.tenant.as_deref().map(tenant_name).transpose()?;
    let word = |name: &str, text: &str| WrongUse::new(format!("{text:?} is no {name}"));
    let outcome = match &args.outcome {
        None => None,
        Some(text) => Some(Outcome::parse(text).ok_or_else(|| word("outcome", text))?),
    };
    let reason = match &args.reason {
        None => None,
        Some(text) => Some(ReasonCode::parse(text).ok_or_else(|| word("reason", text))?),
    };
    let since = match &args.since {
        None => None,
        Some(text) => Some(since_ms(text, now).ok_or_else(|| {
            word(
                "length of time such as 2h, or time such as 2026-11-29T10:00:00Z",
                text,
            )
        })?),
    };
    let state = args.state.map(State::from);
    let is_ended = outcome.is_some() || reason.is_some() || since.is_some();
    let is_open = matches!(
        state,
        Some(State::Queued | State::Booting | State::Running | State::Settled)
    );
    if is_ended && is_open {
        bail!(WrongUse::new(
            "--outcome, --reason and --since are of runs that have ended, --state of one that has not"
        ));
    }
    let open = (!is_ended && state != Some(State::Closed)).then(|| OpenFilter {
        state,
        tenant: tenant.clone(),
        image: args.image.clone(),
    });
    let ended = (!is_open).then(|| EndedFilter {
        outcome,
        reason,
        tenant,
        image: args.image.clone(),
        since_ms: since,
        until_ms: None,
    });
    Ok(Wanted { open, ended })
}

/// The newest, at most `most`, newest first.
async fn list(store: &Store, wanted: &Wanted, most: usize) -> anyhow::Result<Vec<EndedRun>> {
    let mut found = Vec::new();
    if let Some(filter) = &wanted.open {
        let mut from = 0;
        while from < OPEN_MAX {
            let page = store.open_runs(filter, from, PAGE).await?;
            found.extend(page.runs);
            match page.next {
                Some(next) if next > from => from = next,
                _ => break,
            }
        }
    }
    if let Some(filter) = &wanted.ended {
        let (mut before, mut count) = (None, 0);
        while count < most {
            let page = store.ended(filter, before.as_deref(), most - count).await?;
            count += page.runs.len();
            found.extend(page.runs);
            before = page.older;
            if before.is_none() {
                break;
            }
        }
    }
    found.sort_by(|one, other| {
        let (one, other) = (&one.record, &other.record);
        let order = other.submitted_at_ms.cmp(&one.submitted_at_ms);
        order.then_with(|| other.id.cmp(&one.id))
    });
    // A run can end between the two.
    found.dedup_by(|one, other| one.record.id == other.record.id);
    found.truncate(most);
    Ok(found)
}

fn row(run: &EndedRun, now: UnixMs) -> Vec<Cell> {
    let view = &run.record;
    let length = match view.closed_at_ms {
        Some(_) => String::new(),
        None => {
            let phases = view::phases(view, now);
            phases
                .last()
                .map(|(_, length)| human::duration(*length))
                .unwrap_or_default()
        }
    };
    let submitted = view
        .submitted_at_ms
        .map(|at| human::ago(at, now))
        .unwrap_or_default();
    let reason = view
        .reason
        .as_ref()
        .map_or("", |reason| reason.code.as_str());
    vec![
        Cell::plain(view.id.as_str()),
        view::state_cell(view),
        Cell::plain(reason),
        Cell::plain(&view.tenant),
        Cell::plain(view.tries().to_string()),
        Cell::plain(submitted),
        Cell::plain(length),
        Cell::new(Tone::Faint, view.machine_id.as_deref().unwrap_or_default()),
    ]
}
