//! Tenants: who has what, and what is set for whom.

use maud::{Markup, html};

use crate::console::page::{Rendered, View, tenant_link};
use crate::console::runs;
use crate::run::id::Tenant;
use crate::store::Error;
use crate::store::tenants::TenantView;

/// Tenants that are listed.
const LISTED: usize = 500;

pub(super) async fn list(view: &View<'_>) -> Result<Rendered, Error> {
    let (tenants, is_all) = view
        .console
        .deps
        .store
        .some_tenants(LISTED, view.now)
        .await?;
    let live = html! {
        div.scroll { table {
            caption { (tenants.len()) " tenants with settings, waiting runs or machines" @if !is_all { "; there are more" } }
            thead { tr {
                th scope="col" { "Tenant" } th scope="col" { "Machines" } th scope="col" { "At most" }
                th scope="col" { "Waiting" } th scope="col" { "Weight" } th scope="col" { "Used today" }
                th scope="col" { "Budget" } th scope="col" { "State" }
            } }
            tbody { @for tenant in &tenants { (row(tenant)) } }
        } }
    };
    let find = html! {
        h2 { "Any tenant" }
        form.row method="get" action="/runs" {
            label { "Name" input name="tenant" required; }
            button { "Its runs" }
        }
    };
    Ok(Rendered::new("Tenants", live).with(find))
}

fn row(tenant: &TenantView) -> Markup {
    let set = &tenant.settings;
    html! {
        tr {
            th scope="row" { (tenant_link(&tenant.tenant)) }
            td { (tenant.in_flight) }
            td { (limit(set.max_in_flight.map(u64::from))) }
            td { (tenant.waiting) }
            td { (set.weight.unwrap_or(1.0)) }
            td { (format!("{:.1} s", tenant.used_today_s)) }
            td { (budget(tenant)) }
            td { @if set.paused { span.notice { "paused" } } }
        }
    }
}

pub(super) async fn one(tenant: &Tenant, view: &View<'_>) -> Result<Rendered, Error> {
    let seen = view.console.deps.store.tenant(tenant, view.now).await?;
    let (name, set) = (tenant.as_str(), &seen.settings);
    let live = html! {
        @if set.paused { p.notice { strong { "Paused: " } "nothing of it boots." } }
        dl {
            dt { "Machines" } dd { (seen.in_flight) ", at most: " (limit(set.max_in_flight.map(u64::from))) }
            dt { "Waiting" } dd { (seen.waiting) @if seen.delayed > 0 { ", " (seen.delayed) " of them for their time" } ", at most: " (limit(set.backlog_max)) }
            dt { "Weight" } dd { (set.weight.unwrap_or(1.0)) }
            dt { "Machine time today" } dd { (format!("{:.1} s", seen.used_today_s)) ", budget: " (budget(&seen)) }
            dt { "Bytes of results" } dd { "at most: " (limit(set.results_bytes)) }
        }
        p {
            a href=(runs::of_tenant(name, "open")) { "Its open runs" } " · "
            a href=(runs::of_tenant(name, "ended")) { "Its ended runs" }
        }
        @if set.paused {
            (view.button("resume", &[("tenant", name)], "Resume", "strong"))
        } @else {
            (view.button("pause", &[("tenant", name)], "Pause", ""))
        }
    };
    Ok(Rendered::new(format!("Tenant {name}"), live).with(forms(&seen, view)))
}

fn forms(seen: &TenantView, view: &View<'_>) -> Markup {
    let set = &seen.settings;
    let shown = |limit: Option<u64>| {
        limit.map_or_else(
            || "default".to_owned(),
            |most| match most {
                0 => "none".to_owned(),
                most => most.to_string(),
            },
        )
    };
    let weight = set
        .weight
        .map_or_else(|| "default".to_owned(), |weight| weight.to_string());
    let budget = set
        .budget_s
        .map_or_else(|| "none".to_owned(), |budget| budget.to_string());
    html! {
        @if view.is_operator() {
            h2 { "Change" }
            form.row method="post" action="/acts/tenant" {
                (view.hidden())
                input type="hidden" name="tenant" value=(seen.tenant);
                label { "Machines at once" input name="max_in_flight" value=(shown(set.max_in_flight.map(u64::from))) required; }
                label { "Runs waiting" input name="backlog_max" value=(shown(set.backlog_max)) required; }
                label { "Weight" input name="weight" value=(weight) required; }
                label { "Budget, s a day" input name="budget_s" value=(budget) required; }
                button { "Set" }
            }
            p.faint { "A number, " code { "none" } " for no limit of its own, " code { "default" } " for what the workers' settings say." }
            h2 { "Cancel all" }
            form.row method="post" action="/acts/cancel-tenant" {
                (view.hidden())
                input type="hidden" name="tenant" value=(seen.tenant);
                label { "Write the tenant's name" input name="sure" required autocomplete="off"; }
                button.danger { "Cancel everything that it has asked for" }
            }
        }
    }
}

fn limit(limit: Option<u64>) -> String {
    match limit {
        None => "default".to_owned(),
        Some(0) => "none".to_owned(),
        Some(most) => most.to_string(),
    }
}

fn budget(tenant: &TenantView) -> Markup {
    html! {
        @match tenant.settings.budget_s {
            None => "none",
            Some(budget) if tenant.used_today_s >= budget as f64 => span.bad { (budget) " s, used up" },
            Some(budget) => { (budget) " s" }
        }
    }
}
