//! Machines: what the provider lists, beside the runs that they are of.

use std::collections::HashMap;
use std::time::Duration;

use maud::{Markup, html};
use tokio::time::timeout;

use crate::console::Machines;
use crate::console::page::{self, Rendered, View, run_link};
use crate::machines::wire::Machine;
use crate::machines::{Detail, ListFilter};
use crate::run::id::{MACHINE_PREFIX, RunId, machine_name, run_of_machine};
use crate::store::Error;

/// Machines that are shown of an app.
const SHOWN: usize = 500;
/// Apps that are asked.
const APPS_MAX: usize = 20;
/// How long the provider may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs in flight of an app that are looked through for those whose ids do not stand in the names of
/// their machines.
const LOOKED_THROUGH: usize = 2000;

/// A machine and what is known of it.
struct Seen {
    machine: Machine,
    run: RunOf,
}

/// The run that a machine is of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum RunOf {
    /// None has it.
    None,
    /// More runs are in flight than were looked through.
    Unknown,
    /// This one.
    Run(RunId),
}

pub(super) async fn render(view: &View<'_>) -> Result<Rendered, Error> {
    let Some(machines) = &view.console.deps.machines else {
        let live = html! { p { "This console has no token for the Machines API: set FLY_API_TOKEN and FLY_API_URL." } };
        return Ok(Rendered::new("Machines", live));
    };
    let apps = apps(machines, view).await?;
    let mut parts = Vec::new();
    for app in apps.iter().take(APPS_MAX) {
        parts.push(of_app(machines, app, view).await?);
    }
    let live = html! {
        @for part in parts { (part) }
        @if apps.len() > APPS_MAX { p { "There are " (apps.len() - APPS_MAX) " apps more." } }
    };
    Ok(Rendered::new("Machines", live))
}

pub(super) async fn apps(machines: &Machines, view: &View<'_>) -> Result<Vec<String>, Error> {
    let mut apps = view.console.deps.store.apps().await?;
    apps.extend(machines.apps.iter().cloned());
    apps.sort();
    apps.dedup();
    Ok(apps)
}

async fn of_app(machines: &Machines, app: &str, view: &View<'_>) -> Result<Markup, Error> {
    let listed = timeout(LIST_TIMEOUT, listed(machines, app)).await;
    let listed = match listed {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => return Ok(unlisted(app, &error.to_string())),
        Err(_) => return Ok(unlisted(app, "it did not answer in time")),
    };
    let count = listed.len();
    let shown: Vec<Machine> = listed.into_iter().take(SHOWN).collect();
    let mut seen = beside_runs(app, shown, view).await?;
    // What has no run comes first.
    seen.sort_by_key(|seen| (seen.run.clone(), seen.machine.created_at.clone()));
    Ok(html! {
        h2 { (page::text(app)) }
        div.scroll { table {
            caption { (count) " machines" @if count > SHOWN { ", of which " (SHOWN) " are shown" } }
            thead { tr {
                th scope="col" { "Machine" } th scope="col" { "Name" } th scope="col" { "State" }
                th scope="col" { "Region" } th scope="col" { "Made" } th scope="col" { "Run" }
                @if view.is_operator() { th scope="col" { "Act" } }
            } }
            tbody { @for seen in &seen { (row(app, seen, view)) } }
        } }
    })
}

async fn listed(machines: &Machines, app: &str) -> Result<Vec<Machine>, crate::machines::Error> {
    let filter = ListFilter {
        detail: Detail::Summary,
        ..ListFilter::default()
    };
    let mut listed = machines.client.list(app, &filter).await?;
    listed.retain(|machine| !machine.state.is_gone());
    Ok(listed)
}

/// These machines, each beside its run. What is read has a bound: an id stands in the name of most
/// machines, and of the others no more than [`LOOKED_THROUGH`] runs are gone through.
async fn beside_runs(
    app: &str,
    machines: Vec<Machine>,
    view: &View<'_>,
) -> Result<Vec<Seen>, Error> {
    let store = &view.console.deps.store;
    let ours = machines.iter().map(|machine| machine.name.as_str());
    let ours: Vec<&str> = ours
        .filter(|name| name.starts_with(MACHINE_PREFIX))
        .collect();
    let named = ours.iter().filter_map(|name| run_of_machine(name));
    let named: Vec<RunId> = named.map(|(run, _)| run).collect();
    let mut runs = HashMap::new();
    for (run, attempt, nonce) in store.in_flight_of(app, &named).await? {
        runs.insert(machine_name(&run, attempt, nonce.as_ref()), run);
    }
    let mut is_all = true;
    if ours.iter().any(|name| !runs.contains_key(*name)) {
        let each = |run: RunId, attempt, nonce: Option<_>| {
            runs.insert(machine_name(&run, attempt, nonce.as_ref()), run);
        };
        is_all = store.some_in_flight(app, LOOKED_THROUGH, each).await?;
    }
    let seen = machines.into_iter().map(|machine| Seen {
        run: match runs.get(&machine.name) {
            Some(run) => RunOf::Run(run.clone()),
            None if is_all => RunOf::None,
            None => RunOf::Unknown,
        },
        machine,
    });
    Ok(seen.collect())
}

/// All runs that may have a machine in an app, by its name: for what must be sure.
pub(super) async fn runs_by_machine(
    app: &str,
    view: &View<'_>,
) -> Result<HashMap<String, RunId>, Error> {
    let mut runs = HashMap::new();
    let each = |run: RunId, attempt, nonce: Option<_>| {
        runs.insert(machine_name(&run, attempt, nonce.as_ref()), run);
    };
    view.console.deps.store.each_in_flight(app, each).await?;
    Ok(runs)
}

fn unlisted(app: &str, why: &str) -> Markup {
    html! {
        h2 { (page::text(app)) }
        div.away role="alert" { p { "The Machines API does not list them: " (page::text(why)) } }
    }
}

fn row(app: &str, seen: &Seen, view: &View<'_>) -> Markup {
    let machine = &seen.machine;
    let is_ours = machine.name.starts_with(MACHINE_PREFIX);
    let made = machine
        .created_at
        .as_deref()
        .and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let made = made.and_then(|at| u64::try_from(at.as_millisecond()).ok());
    html! {
        tr {
            th scope="row" { (page::text(&machine.id)) }
            td { (page::text(&machine.name)) }
            td { (page::text(machine.state.as_str())) }
            td { (page::text(machine.region.as_deref().unwrap_or_default())) }
            td { (view.ago(made)) }
            td {
                @match &seen.run {
                    RunOf::Run(run) => (run_link(run)),
                    _ if !is_ours => span.faint { "not of cofferdam" },
                    RunOf::Unknown => span.notice { "not looked up: more than " (LOOKED_THROUGH) " runs are in flight" },
                    RunOf::None => span.bad { "none" },
                }
            }
            @if view.is_operator() {
                td {
                    @if !matches!(seen.run, RunOf::Run(_)) && is_ours {
                        (view.button("machine-delete", &[("app", app), ("machine", machine.id.as_str())], "Delete", "danger"))
                    }
                }
            }
        }
    }
}
