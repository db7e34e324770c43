//! Which page an address is, and the pieces that pages are made of.

use std::borrow::Cow;
use std::time::Duration;

use maud::{Markup, html};
use url::form_urlencoded;

use crate::clock::UnixMs;
use crate::config::ConsoleRole;
use crate::console::runs::RunsQuery;
use crate::console::serve::Console;
use crate::console::{dead, doctor, machines, overview, run, runs, tenants, workers};
pub(super) use crate::run::day::utc;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::Outcome;
use crate::store::Error;
use crate::store::codec::RunRecord;
use crate::telemetry::human;

/// Characters of a piece of text from outside that a page shows at the most.
const TEXT_MAX: usize = 200;

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Overview,
    Runs(Box<RunsQuery>),
    Run(RunId),
    Tenants,
    Tenant(Tenant),
    Workers,
    Machines,
    Dead(Option<String>),
    DeadEntry(String),
    Doctor,
    Audit,
}

/// What a page is made for.
pub(super) struct View<'a> {
    pub(super) console: &'a Console,
    pub(super) role: ConsoleRole,
    pub(super) now: UnixMs,
    /// What its forms send; the script puts it into forms that came live.
    pub(super) csrf: &'a str,
}

/// What a page shows.
pub(super) struct Rendered {
    pub(super) title: String,
    pub(super) live: Markup,
    pub(super) still: Markup,
}

impl Rendered {
    pub(super) fn new(title: impl Into<String>, live: Markup) -> Self {
        Self {
            title: title.into(),
            live,
            still: html! {},
        }
    }

    pub(super) fn with(mut self, still: Markup) -> Self {
        self.still = still;
        self
    }
}

impl Page {
    /// The page of an address; `None` when there is none there, or why its query cannot be meant.
    pub(super) fn parse(path: &str, query: &str) -> Result<Option<Self>, String> {
        let value = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs
                .find(|(known, value)| known == name && !value.is_empty())
                .map(|(_, value)| value.into_owned())
        };
        Ok(Some(match path {
            "/" => Self::Overview,
            "/runs" => Self::Runs(Box::new(RunsQuery::parse(query)?)),
            "/tenants" => Self::Tenants,
            "/workers" => Self::Workers,
            "/machines" => Self::Machines,
            "/dead" => Self::Dead(entry_id(value("before"))?),
            "/doctor" => Self::Doctor,
            "/audit" => Self::Audit,
            _ => {
                let Some((kind, name)) =
                    path.strip_prefix('/').and_then(|rest| rest.split_once('/'))
                else {
                    return Ok(None);
                };
                match kind {
                    "runs" => {
                        Self::Run(name.parse().map_err(|_| "that is no run's id".to_owned())?)
                    }
                    "tenants" => Self::Tenant(
                        name.parse()
                            .map_err(|_| "that is no tenant's name".to_owned())?,
                    ),
                    "dead" => match entry_id(Some(name.to_owned()))? {
                        Some(entry) => Self::DeadEntry(entry),
                        None => return Ok(None),
                    },
                    _ => return Ok(None),
                }
            }
        }))
    }

    /// The entry of the navigation that it belongs to.
    pub(super) fn nav(&self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Runs(_) | Self::Run(_) => "/runs",
            Self::Tenants | Self::Tenant(_) => "/tenants",
            Self::Workers => "/workers",
            Self::Machines => "/machines",
            Self::Dead(_) | Self::DeadEntry(_) => "/dead",
            Self::Doctor => "/doctor",
            Self::Audit => "/audit",
        }
    }

    /// Whether it is kept live. Those that ask others than Redis are not, and the rest is history.
    pub(super) fn is_live(&self) -> bool {
        matches!(
            self,
            Self::Overview
                | Self::Runs(_)
                | Self::Run(_)
                | Self::Tenants
                | Self::Tenant(_)
                | Self::Workers
        )
    }

    /// Renders what the page shows.
    pub(super) async fn render(&self, view: &View<'_>) -> Result<Rendered, Error> {
        match self {
            Self::Overview => Box::pin(overview::render(view)).await,
            Self::Runs(query) => Box::pin(runs::render(query, view)).await,
            Self::Run(id) => Box::pin(run::render(id, view)).await,
            Self::Tenants => tenants::list(view).await,
            Self::Tenant(tenant) => tenants::one(tenant, view).await,
            Self::Workers => workers::render(view).await,
            Self::Machines => machines::render(view).await,
            Self::Dead(before) => dead::list(before.as_deref(), view).await,
            Self::DeadEntry(entry) => dead::one(entry, view).await,
            Self::Doctor => doctor::render(view).await,
            Self::Audit => doctor::audit(view).await,
        }
    }
}

impl View<'_> {
    pub(super) fn is_operator(&self) -> bool {
        self.role == ConsoleRole::Operator
    }

    /// A form with one button that does something to one thing.
    pub(super) fn button(
        &self,
        act: &str,
        fields: &[(&str, &str)],
        words: &str,
        class: &str,
    ) -> Markup {
        html! {
            @if self.is_operator() {
                form.inline method="post" action={"/acts/" (act)} {
                    (self.hidden())
                    @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
                    button class=(class) { (words) }
                    " "
                }
            }
        }
    }

    /// The field that shows that a form is ours.
    pub(super) fn hidden(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.csrf); }
    }

    /// How long ago something was.
    pub(super) fn ago(&self, at: Option<UnixMs>) -> Markup {
        html! {
            @if let Some(at) = at {
                time datetime=(utc(at)) title=(utc(at)) data-ms=(at) data-end=" ago" { (human::ago(at, self.now)) }
            }
        }
    }

    /// For how long something goes on.
    pub(super) fn since(&self, at: UnixMs) -> Markup {
        html! {
            time datetime=(utc(at)) title={"since " (utc(at))} data-ms=(at) { (length(self.now.saturating_sub(at))) }
        }
    }
}

/// The id of a stream entry, such as `1732000000000-0`.
pub(super) fn entry_id(text: Option<String>) -> Result<Option<String>, String> {
    let Some(text) = text else { return Ok(None) };
    let is_number = |part: &str| {
        !part.is_empty() && part.len() <= 20 && part.bytes().all(|b| b.is_ascii_digit())
    };
    match text.split_once('-') {
        Some((ms, number)) if is_number(ms) && is_number(number) => Ok(Some(text)),
        _ => Err("that is no entry's id".to_owned()),
    }
}

/// Text from outside as a page may show it: on one line, without what controls, and not too long.
pub(super) fn text(from_outside: &str) -> String {
    human::one_line(from_outside, TEXT_MAX)
}

/// Text from outside of several lines, up to so many bytes.
pub(super) fn block(from_outside: &str, most_bytes: usize) -> String {
    let mut end = from_outside.len().min(most_bytes);
    while !from_outside.is_char_boundary(end) {
        end -= 1;
    }
    let mut shown = human::harmless(&from_outside[..end]);
    if end < from_outside.len() {
        shown.push_str("\n… (");
        shown.push_str(&human::bytes((from_outside.len() - end) as u64));
        shown.push_str(" more)");
    }
    shown
}

/// A path with a piece that came from outside.
pub(super) fn path(kind: &str, name: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("/{kind}/{name}")
}

/// A path with a query.
pub(super) fn query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{query}"),
    }
}

/// The name under which a page is kept live: its path and query, without what an act said.
pub(super) fn topic(path: &str, asked: &str) -> String {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(asked.as_bytes())
        .filter(|(name, _)| name != "said")
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    query(path, &pairs)
}

pub(super) fn run_link(id: &RunId) -> Markup {
    html! { a href=(path("runs", id.as_str())) { (id.as_str()) } }
}

pub(super) fn tenant_link(tenant: &str) -> Markup {
    html! {
        @match tenant.parse::<Tenant>() {
            Ok(known) => a href=(path("tenants", known.as_str())) { (text(tenant)) },
            Err(_) => (text(tenant)),
        }
    }
}

/// The state, or how it ended.
pub(super) fn state(run: &RunRecord) -> Markup {
    let (class, word) = match run.outcome {
        None => ("notice", run.state),
        Some(outcome @ Outcome::Completed) => ("good", outcome.as_str()),
        Some(outcome @ Outcome::Cancelled) => ("notice", outcome.as_str()),
        Some(outcome) => ("bad", outcome.as_str()),
    };
    html! { span class=(class) { (word) } }
}

/// A length of time in milliseconds.
pub(super) fn length(ms: u64) -> String {
    human::duration(Duration::from_millis(ms))
}

/// A number for a list of choices, chosen or not.
pub(super) fn choice(value: &str, chosen: &str) -> Markup {
    let shown: Cow<'_, str> = match value {
        "" => "any".into(),
        _ => value.into(),
    };
    html! { option value=(value) selected[value == chosen] { (shown) } }
}
