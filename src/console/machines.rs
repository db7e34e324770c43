//! Machines: what the provider lists, beside the runs that they are of.

use std::collections::HashMap;
use std::time::Duration;

use maud::{Markup, html};
use tokio::time::timeout;

use crate::console::Machines;
use crate::console::page::{self, Rendered, View, run_link};
use crate::machines::wire::Machine;
use crate::machines::{Detail, ListFilter};
use crate::run::id::{MACHINE_PREFIX, RunId, machine_name};
use crate::store::Error;

/// Machines that are shown of an app.
const SHOWN: usize = 500;
/// Apps that are asked.
const APPS_MAX: usize = 20;
/// How long the provider may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// A machine and what is known of it.
pub(super) struct Seen {
    pub(super) machine: Machine,
    /// The run that it is of.
    pub(super) run: Option<RunId>,
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
    let (count, mut seen) = (listed.len(), Vec::new());
    let runs = runs_by_machine(app, view).await?;
    for machine in listed.into_iter().take(SHOWN) {
        let run = runs.get(&machine.name).cloned();
        seen.push(Seen { machine, run });
    }
    // What has no run comes first.
    seen.sort_by_key(|seen| (seen.run.is_some(), seen.machine.created_at.clone()));
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

/// The runs that may have a machine in an app, by its name.
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
                    Some(run) => (run_link(run)),
                    None if is_ours => span.bad { "none" },
                    None => span.faint { "not of cofferdam" },
                }
            }
            @if view.is_operator() {
                td {
                    @if seen.run.is_none() && is_ours {
                        (view.button("machine-delete", &[("app", app), ("machine", machine.id.as_str())], "Delete", "danger"))
                    }
                }
            }
        }
    }
}
