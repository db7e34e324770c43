//! The list of runs, open ones and ended ones, by index and page by page.

use std::collections::BTreeMap;

use maud::{Markup, html};
use url::form_urlencoded;

use crate::clock::UnixMs;
use crate::console::page::{self, Rendered, View, choice, path, query, run_link, tenant_link};
use crate::run::day::since_ms;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::{Outcome, ReasonCode};
use crate::run::phase::State;
use crate::store::Error;
use crate::store::ended::{EndedFilter, EndedRun};
use crate::store::open::OpenFilter;

/// Runs on a page.
const PAGE: usize = 50;
/// Failures that are grouped.
const GROUPED: usize = 600;

const OPEN_STATES: [State; 4] = [
    State::Queued,
    State::Booting,
    State::Running,
    State::Settled,
];

/// Which runs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunsQuery {
    /// This one.
    pub(super) id: Option<RunId>,
    state: Option<String>,
    outcome: Option<Outcome>,
    reason: Option<ReasonCode>,
    tenant: Option<Tenant>,
    image: Option<String>,
    /// As it was given: `2h`, or a time.
    since: Option<String>,
    before: Option<String>,
    /// Failures by reason and image instead.
    is_grouped: bool,
}

impl RunsQuery {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let value = value.trim();
            if value.is_empty() {
                continue;
            }
            match &*name {
                "id" => found.id = Some(value.parse().map_err(|_| "that is no run's id")?),
                "state" => {
                    let is_known = matches!(value, "open" | "ended")
                        || OPEN_STATES.iter().any(|state| state.as_str() == value);
                    found.state = Some(
                        is_known
                            .then(|| value.to_owned())
                            .ok_or("that is no state")?,
                    );
                }
                "outcome" => {
                    found.outcome = Some(Outcome::parse(value).ok_or("that is no outcome")?)
                }
                "reason" => {
                    found.reason = Some(ReasonCode::parse(value).ok_or("that is no reason")?)
                }
                "tenant" => {
                    found.tenant = Some(value.parse().map_err(|_| "that is no tenant's name")?)
                }
                "image" => found.image = Some(value.to_owned()),
                "since" => found.since = Some(value.to_owned()),
                "before" => found.before = Some(value.to_owned()),
                "by" => found.is_grouped = value == "reason",
                _ => {}
            }
        }
        if let Some(since) = &found.since {
            since_ms(since, 0).ok_or("`since` is a length of time such as 30m, 2h or 3d, or a time such as 2026-11-29T10:00:00Z")?;
        }
        let is_place = |before: &String| {
            before.parse::<u64>().is_ok() || page::entry_id(Some(before.clone())).is_ok()
        };
        if !found.before.as_ref().is_none_or(is_place) {
            return Err("that is no place in the list".to_owned());
        }
        Ok(found)
    }

    /// Whether runs that have not ended are meant.
    fn is_open(&self) -> bool {
        let ended = self.outcome.is_some() || self.reason.is_some() || self.since.is_some();
        !ended && self.state.as_deref().is_some_and(|state| state != "ended")
    }

    fn word(&self, name: &str) -> &str {
        let word = match name {
            "state" => self.state.as_deref(),
            "outcome" => self.outcome.map(Outcome::as_str),
            "reason" => self.reason.map(ReasonCode::as_str),
            "tenant" => self.tenant.as_ref().map(Tenant::as_str),
            "image" => self.image.as_deref(),
            "since" => self.since.as_deref(),
            _ => None,
        };
        word.unwrap_or_default()
    }

    fn address(&self, before: &str) -> String {
        let names = ["state", "outcome", "reason", "tenant", "image", "since"];
        let mut pairs: Vec<(&str, &str)> =
            names.iter().map(|name| (*name, self.word(name))).collect();
        pairs.push(("before", before));
        query("/runs", &pairs)
    }
}

pub(super) async fn render(asked: &RunsQuery, view: &View<'_>) -> Result<Rendered, Error> {
    if asked.is_grouped {
        return Box::pin(grouped(view)).await;
    }
    let store = &view.console.deps.store;
    let (runs, next) = if asked.is_open() {
        let filter = OpenFilter {
            state: OPEN_STATES
                .into_iter()
                .find(|state| Some(state.as_str()) == asked.state.as_deref()),
            tenant: asked.tenant.clone(),
            image: asked.image.clone(),
        };
        let from = asked
            .before
            .as_ref()
            .and_then(|before| before.parse().ok())
            .unwrap_or(0);
        let page = store.open_runs(&filter, from, PAGE).await?;
        (page.runs, page.next.map(|next| next.to_string()))
    } else {
        let filter = EndedFilter {
            outcome: asked.outcome,
            reason: asked.reason,
            tenant: asked.tenant.clone(),
            image: asked.image.clone(),
            since_ms: asked
                .since
                .as_ref()
                .and_then(|since| since_ms(since, view.now)),
            until_ms: None,
        };
        let before = asked
            .before
            .as_deref()
            .filter(|before| before.contains('-'));
        let page = store.ended(&filter, before, PAGE).await?;
        (page.runs, page.older)
    };
    let live = html! {
        (table(&runs, asked.is_open(), view))
        @if let Some(next) = &next {
            p { a href=(asked.address(next)) rel="next" { @if asked.is_open() { "More" } @else { "Older" } } }
        }
    };
    let title = if asked.is_open() {
        "Runs that have not ended"
    } else {
        "Runs that have ended"
    };
    Ok(Rendered::new(title, live).with(filters(asked)))
}

fn table(runs: &[EndedRun], is_open: bool, view: &View<'_>) -> Markup {
    html! {
        @if runs.is_empty() {
            p { "None here." }
        } @else {
            form method="post" action={"/acts/" (if is_open { "cancel" } else { "rerun" })} {
                (view.hidden())
                div.scroll { table {
                    caption { (runs.len()) " on this page, newest first" }
                    thead { tr {
                        @if view.is_operator() { th scope="col" { "Choose" } }
                        th scope="col" { "Run" } th scope="col" { "State" } th scope="col" { "Reason" }
                        th scope="col" { "Tenant" } th scope="col" { "Image" } th scope="col" { "When" }
                        th scope="col" { "Try" }
                    } }
                    tbody { @for run in runs { (row(run, view)) } }
                } }
                @if view.is_operator() {
                    p {
                        @if is_open { button.danger { "Cancel those that are chosen" } }
                        @else { button { "Run those that are chosen again, as new ids" } }
                    }
                }
            }
        }
    }
}

fn row(run: &EndedRun, view: &View<'_>) -> Markup {
    let record = &run.record;
    html! {
        tr {
            @if view.is_operator() {
                td { input type="checkbox" name="run" value=(record.id.as_str()) aria-label={"choose " (record.id.as_str())}; }
            }
            th scope="row" { (run_link(&record.id)) }
            td { (page::state(record)) }
            td { @if let Some(reason) = &record.reason { (reason.code.as_str()) } }
            td { (tenant_link(&record.tenant)) }
            td { (page::text(run.image.as_deref().unwrap_or_default())) }
            td { (view.ago(record.settled_at_ms.or(record.submitted_at_ms))) }
            td { (record.tries()) }
        }
    }
}

fn filters(asked: &RunsQuery) -> Markup {
    let states = [
        "", "open", "queued", "booting", "running", "settled", "ended",
    ];
    html! {
        h2 { "Find" }
        form.row method="get" action="/runs" {
            label { "Id" input name="id" size="26"; }
            button { "Show" }
        }
        form.row method="get" action="/runs" {
            label { "State" select name="state" { @for state in states { (choice(state, asked.word("state"))) } } }
            label { "Outcome" select name="outcome" {
                (choice("", asked.word("outcome")))
                @for outcome in Outcome::ALL { (choice(outcome.as_str(), asked.word("outcome"))) }
            } }
            label { "Reason" select name="reason" {
                (choice("", asked.word("reason")))
                @for code in ReasonCode::ALL { (choice(code.as_str(), asked.word("reason"))) }
            } }
            label { "Tenant" input name="tenant" value=(page::text(asked.word("tenant"))) size="16"; }
            label { "Image" input name="image" value=(page::text(asked.word("image"))) size="24"; }
            label { "Since" input name="since" value=(page::text(asked.word("since"))) size="10" placeholder="2h"; }
            button { "Filter" }
        }
        p { a href="/runs?by=reason" { "Failures by reason and image" } }
    }
}

/// The newest failures, by reason and image.
async fn grouped(view: &View<'_>) -> Result<Rendered, Error> {
    let store = &view.console.deps.store;
    let of = |outcome| EndedFilter {
        outcome: Some(outcome),
        ..EndedFilter::default()
    };
    let (failed, late) = (of(Outcome::Failed), of(Outcome::TimedOut));
    let (failed, late) = tokio::try_join!(
        store.ended(&failed, None, GROUPED / 2),
        store.ended(&late, None, GROUPED / 2)
    )?;
    let mut groups: BTreeMap<(&str, &str), (usize, UnixMs)> = BTreeMap::new();
    for run in failed.runs.iter().chain(&late.runs) {
        let code = run
            .record
            .reason
            .as_ref()
            .map_or("", |reason| reason.code.as_str());
        let image = run.image.as_deref().unwrap_or_default();
        let group = groups.entry((code, image)).or_default();
        group.0 += 1;
        group.1 = group.1.max(run.record.settled_at_ms.unwrap_or(0));
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let live = html! {
        div.scroll { table {
            caption { "The newest " (failed.runs.len() + late.runs.len()) " runs that failed or timed out" }
            thead { tr {
                th scope="col" { "Runs" } th scope="col" { "Reason" } th scope="col" { "Image" } th scope="col" { "Last" }
            } }
            tbody { @for ((code, image), (count, last)) in &groups { tr {
                td { a href=(query("/runs", &[("reason", code), ("image", image)])) { (count) } }
                td { (code) }
                td { (page::text(image)) }
                td { (view.ago(Some(*last))) }
            } } }
        } }
        p { a href="/runs" { "All runs" } }
    };
    Ok(Rendered::new("Failures by reason and image", live))
}

/// The address of a tenant's runs.
pub(super) fn of_tenant(tenant: &str, state: &str) -> String {
    query("/runs", &[("tenant", tenant), ("state", state)])
}

/// The address of a run.
pub(super) fn address(id: &RunId) -> String {
    path("runs", id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_cannot_be_meant_is_refused_with_what_is_wrong() {
        for (query, part) in [
            ("state=over", "no state"),
            ("outcome=fine", "no outcome"),
            ("reason=%3Cscript%3E", "no reason"),
            ("tenant=a%20b", "no tenant"),
            ("since=yesterday", "`since`"),
            ("before=x", "no place"),
            ("id=%0a", "none"),
        ] {
            match RunsQuery::parse(query) {
                Err(why) => assert!(why.contains(part), "{query}: {why}"),
                Ok(found) => assert_eq!((part, found), ("none", RunsQuery::default())),
            }
        }
        let found = RunsQuery::parse("state=ended&outcome=failed&since=2h&tenant=").unwrap();
        assert!(!found.is_open());
        assert_eq!(
            found.address("5-0"),
            "/runs?state=ended&outcome=failed&since=2h&before=5-0"
        );
        assert!(RunsQuery::parse("state=running").unwrap().is_open());
    }

    #[test]
    fn since_is_a_length_of_time_or_a_time() {
        let now = 1_800_000_000_000;
        assert_eq!(since_ms("2h", now), Some(now - 7_200_000));
        assert_eq!(since_ms("90s", now), Some(now - 90_000));
        assert_eq!(
            since_ms("2026-11-29T00:00:00Z", now),
            Some(1_795_910_400_000)
        );
        for odd in [
            "",
            "h",
            "2w",
            "-1h",
            "99999999999999999999d",
            "2026-11-29",
            "ä",
        ] {
            assert_eq!(since_ms(odd, now), None, "{odd}");
        }
    }
}
