//! `runs`: a list of them.

use crate::cli::args::{Runs, StateName};
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::Status;
use crate::cli::target;
use crate::cli::view::{self, RunJson};
use crate::clock::{Clock, UnixMs};
use crate::config::Tool;
use crate::run::phase::State;
use crate::store::codec::RunRecord;
use crate::store::inspect::Filter;

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

pub(crate) async fn run(args: &Runs, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let store = target::store(tool).await?;
    let now = Clock::system().now_ms();
    let filter = Filter {
        state: args.state.map(State::from),
        tenant: args.tenant.clone(),
    };
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let views = store.list(&filter, most).await?;
    if args.format.json {
        for view in &views {
            out.json(&RunJson::of(view))?;
        }
        return Ok(Status::Done);
    }
    let rows: Vec<_> = views.iter().map(|view| row(view, now)).collect();
    if !rows.is_empty() {
        out.table(
            &[
                "RUN",
                "STATE",
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

fn row(view: &RunRecord, now: UnixMs) -> Vec<Cell> {
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
    vec![
        Cell::plain(view.id.as_str()),
        view::state_cell(view),
        Cell::plain(&view.tenant),
        Cell::plain(view.tries().to_string()),
        Cell::plain(submitted),
        Cell::plain(length),
        Cell::new(Tone::Faint, view.machine_id.as_deref().unwrap_or_default()),
    ]
}
