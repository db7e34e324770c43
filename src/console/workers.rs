//! Workers and endpoints: who is there, what each has in hand, and whether their keys agree.

use maud::{Markup, html};

use crate::console::page::{self, Rendered, View, length};
use crate::store::Error;
use crate::token::fleet::{self, Holder, Mismatch, Use};

pub(super) async fn render(view: &View<'_>) -> Result<Rendered, Error> {
    let mut holders = view.console.deps.store.keyrings(view.now).await?;
    holders.sort_by(|one, other| one.name.cmp(&other.name));
    let mismatches = fleet::mismatches(&holders);
    let live = html! {
        @for mismatch in mismatches.iter().take(20) {
            div.away role="alert" { p { strong { "Results are refused: " } (page::text(&mismatch.to_string())) } }
        }
        div.scroll { table {
            caption { (holders.len()) " processes that were heard of in the last minute" }
            thead { tr {
                th scope="col" { "Process" } th scope="col" { "Role" } th scope="col" { "Version" }
                th scope="col" { "Runs for" } th scope="col" { "In hand" } th scope="col" { "Keys" }
                th scope="col" { "State" }
                @if view.is_operator() { th scope="col" { "Act" } }
            } }
            tbody { @for holder in &holders { (row(holder, &mismatches, view)) } }
        } }
        @if holders.is_empty() { p.bad { "No process has been heard of." } }
    };
    Ok(Rendered::new("Workers and endpoints", live))
}

fn row(holder: &Holder, mismatches: &[Mismatch], view: &View<'_>) -> Markup {
    let is_wrong = mismatches
        .iter()
        .any(|found| found.signer == holder.name || found.verifier == holder.name);
    let role = match holder.uses {
        Use::Signs => "worker",
        Use::Verifies => "endpoint",
        Use::Both => "worker and endpoint",
    };
    // What is quiet goes by the name without its host, as by the whole.
    let fields = [("worker", holder.name.as_str())];
    html! {
        tr {
            th scope="row" { (page::text(&holder.name)) }
            td { (role) }
            td { @if holder.version.is_empty() { "older" } @else { (page::text(&holder.version)) } }
            td { @if holder.since_ms > 0 { (length(view.now.saturating_sub(holder.since_ms))) } }
            td { (holder.in_hand) }
            td class=[is_wrong.then_some("bad")] {
                @for (kid, fingerprint) in holder.keys.iter().take(10) {
                    (page::text(kid)) " (" (page::text(fingerprint)) ") "
                }
                @if is_wrong { "differ" }
            }
            td {
                @if holder.is_quiet { span.notice { "quiet: takes no more work " } }
                @if holder.closed_ways > 0 { span.bad { (holder.closed_ways) " ways closed " } }
                @if holder.refused_apps > 0 { span.bad { "refused in " (holder.refused_apps) " apps" } }
            }
            @if view.is_operator() {
                td {
                    @if holder.uses != Use::Verifies && !holder.name.chars().any(char::is_control) {
                        @if holder.is_quiet {
                            (view.button("unquiet", &fields, "Work again", ""))
                        } @else {
                            (view.button("quiet", &fields, "Quiet", ""))
                        }
                    }
                }
            }
        }
    }
}
