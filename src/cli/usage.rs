//! `usage`: machine time and runs of tenants, by day.

use std::time::Duration;

use crate::cli::args::tenants::Usage;
use crate::cli::human;
use crate::cli::output::{Cell, Output};
use crate::cli::status::{Status, WrongUse};
use crate::cli::target;
use crate::cli::tenants::tenant_name;
use crate::clock::Clock;
use crate::config::Tool;
use crate::run::day::Day;
use crate::store::usage::Usage as DayUsage;

/// How far back it goes by default.
const SINCE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) async fn run(args: &Usage, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let now = Clock::system().now_ms();
    let back = now.saturating_sub(u64::try_from(SINCE.as_millis()).unwrap_or(u64::MAX));
    let since = day("--since", args.since.as_deref(), Day::of(back))?;
    let until = day("--until", args.until.as_deref(), Day::of(now))?;
    let tenant = args.tenant.as_deref().map(tenant_name).transpose()?;
    let store = target::store(tool).await?;
    let used = match &tenant {
        Some(tenant) => store.usage(tenant, since, until).await?,
        None => store.usage_of_all(since, until).await?,
    };
    if args.format.json {
        for used in &used {
            out.json(used)?;
        }
        return Ok(Status::Done);
    }
    if used.is_empty() {
        out.note(&format!("nothing was used from {since} to {until}"))?;
        return Ok(Status::Done);
    }
    let rows: Vec<_> = used.iter().map(row).collect();
    let head = ["DAY", "TENANT", "MACHINE TIME", "BY SIZE", "RUNS"];
    out.table(&head, &rows)?;
    Ok(Status::Done)
}

fn day(flag: &str, text: Option<&str>, usual: Day) -> Result<Day, WrongUse> {
    let Some(text) = text else { return Ok(usual) };
    text.parse()
        .map_err(|error| WrongUse::new(format!("{flag} {text:?} {error}")))
}

fn row(used: &DayUsage) -> Vec<Cell> {
    let sizes: Vec<String> = used
        .machine_s_by_size
        .iter()
        .map(|(size, seconds)| format!("{size} {seconds:.1} s"))
        .collect();
    let runs: Vec<String> = used
        .runs
        .iter()
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    vec![
        Cell::plain(used.day.to_string()),
        Cell::plain(&used.tenant),
        Cell::plain(human::duration(Duration::from_secs_f64(used.machine_s))),
        Cell::plain(sizes.join(", ")),
        Cell::plain(runs.join(", ")),
    ]
}
