//! `tenants`: shows tenants and changes their settings.

use serde_json::json;

use crate::cli::args::Format;
use crate::cli::args::tenants::{Scope, Set, Tenants, TenantsCommand};
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::{Status, WrongUse};
use crate::cli::target;
use crate::clock::Clock;
use crate::config::Tool;
use crate::run::id::Tenant;
use crate::store::Store;
use crate::store::tenants::{Change, TenantView, change};

/// A tenant's name as it was given.
pub(crate) fn tenant_name(text: &str) -> Result<Tenant, WrongUse> {
    text.parse()
        .map_err(|error| WrongUse::new(format!("{text:?} is no tenant's name: {error}")))
}

pub(crate) async fn run(args: &Tenants, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let format = args.format;
    match args.command.as_ref().unwrap_or(&TenantsCommand::List) {
        TenantsCommand::List => list(&target::store(tool).await?, format, out).await?,
        TenantsCommand::Show { tenant } => {
            let tenant = tenant_name(tenant)?;
            show(&target::store(tool).await?, &tenant, format, out).await?;
        }
        TenantsCommand::Set(args) => {
            let (tenant, changes) = (tenant_name(&args.tenant)?, changes(args)?);
            let store = target::store(tool).await?;
            store.configure(&tenant, &changes).await?;
            show(&store, &tenant, format, out).await?;
        }
        TenantsCommand::Pause(scope) => pause(scope, true, format, tool, out).await?,
        TenantsCommand::Resume(scope) => pause(scope, false, format, tool, out).await?,
    }
    Ok(Status::Done)
}

fn changes(args: &Set) -> Result<Vec<Change>, WrongUse> {
    let given = [
        ("max_in_flight", "--max-in-flight", &args.max_in_flight),
        ("weight", "--weight", &args.weight),
        ("backlog_max", "--backlog-max", &args.backlog_max),
        ("budget_s", "--budget-s", &args.budget_s),
        ("results_bytes", "--results-bytes", &args.results_bytes),
    ];
    let mut changes = Vec::new();
    for (field, flag, text) in given {
        if let Some(text) = text {
            changes.push(change(field, flag, text).map_err(WrongUse::new)?);
        }
    }
    if changes.is_empty() {
        return Err(WrongUse::new("nothing to set; see --help"));
    }
    Ok(changes)
}

async fn pause(
    scope: &Scope,
    is_paused: bool,
    format: Format,
    tool: &Tool,
    out: &mut Output,
) -> anyhow::Result<()> {
    let word = if is_paused { "paused" } else { "resumed" };
    let Some(name) = &scope.tenant else {
        let store = target::store(tool).await?;
        store.pause(None, is_paused, None).await?;
        if !is_paused {
            store.lift_holds().await?;
        }
        if format.json {
            out.json(&json!({"all": true, "paused": is_paused}))?;
        } else {
            out.line(&format!("everything is {word}"))?;
        }
        return Ok(());
    };
    let tenant = tenant_name(name)?;
    let store = target::store(tool).await?;
    store.pause(Some(&tenant), is_paused, None).await?;
    if format.json {
        return show(&store, &tenant, format, out).await;
    }
    out.line(&format!("{tenant} is {word}"))?;
    Ok(())
}

async fn list(store: &Store, format: Format, out: &mut Output) -> anyhow::Result<()> {
    let views = store.tenants(Clock::system().now_ms()).await?;
    if format.json {
        for view in &views {
            out.json(view)?;
        }
        return Ok(());
    }
    if store.is_paused().await? {
        let text = out.paint_note(Tone::Notice, "everything is paused");
        out.note(&text)?;
    }
    if views.is_empty() {
        out.note("no tenant has settings, waiting runs or machines")?;
        return Ok(());
    }
    let rows: Vec<_> = views.iter().map(row).collect();
    let head = [
        "TENANT", "WAITING", "MACHINES", "AT MOST", "WEIGHT", "BACKLOG", "TODAY", "BUDGET", "",
    ];
    out.table(&head, &rows)?;
    Ok(())
}

fn row(view: &TenantView) -> Vec<Cell> {
    let set = &view.settings;
    let state = if set.paused { "paused" } else { "" };
    vec![
        Cell::plain(&view.tenant),
        Cell::plain(view.waiting.to_string()),
        Cell::plain(view.in_flight.to_string()),
        Cell::plain(limit_shown(set.max_in_flight.map(u64::from))),
        Cell::plain(set.weight.unwrap_or(1.0).to_string()),
        Cell::plain(limit_shown(set.backlog_max)),
        Cell::plain(format!("{:.1} s", view.used_today_s)),
        Cell::plain(budget_shown(set.budget_s)),
        Cell::new(Tone::Notice, state),
    ]
}

fn limit_shown(limit: Option<u64>) -> String {
    match limit {
        None => "default".to_owned(),
        Some(0) => "none".to_owned(),
        Some(most) => most.to_string(),
    }
}

fn budget_shown(budget_s: Option<u64>) -> String {
    budget_s.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds} s"))
}

async fn show(
    store: &Store,
    tenant: &Tenant,
    format: Format,
    out: &mut Output,
) -> anyhow::Result<()> {
    let view = store.tenant(tenant, Clock::system().now_ms()).await?;
    if format.json {
        return Ok(out.json(&view)?);
    }
    let set = &view.settings;
    let delayed = match view.delayed {
        0 => String::new(),
        delayed => format!(", {delayed} of them for their time"),
    };
    let at_most = limit_shown(set.max_in_flight.map(u64::from));
    let lines = [
        ("tenant", out.paint(Tone::Strong, &view.tenant)),
        ("paused", if set.paused { "yes" } else { "no" }.to_owned()),
        ("weight", set.weight.unwrap_or(1.0).to_string()),
        (
            "machines",
            format!("{}, at most: {at_most}", view.in_flight),
        ),
        (
            "waiting",
            format!(
                "{}{delayed}, at most: {}",
                view.waiting,
                limit_shown(set.backlog_max)
            ),
        ),
        (
            "today",
            format!(
                "{:.1} s of machine time, budget: {}",
                view.used_today_s,
                budget_shown(set.budget_s)
            ),
        ),
    ];
    for (head, text) in lines {
        let head = out.paint(Tone::Faint, &format!("{head:<10}"));
        out.line(&format!("{head}{text}"))?;
    }
    Ok(())
}
