//! One run: what happened to it when, why it waits, its request, result and output.

use std::time::Duration;

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::clock::UnixMs;
use crate::console::artifacts;
use crate::console::page::{self, Rendered, View, block, length, tenant_link};
use crate::run::id::RunId;
use crate::run::masked::masked;
use crate::run::phase::State;
use crate::run::wait::Waiting;
use crate::stage::explain;
use crate::store::Error;
use crate::store::acts::Request;
use crate::store::codec::RunRecord;

/// Bytes that are shown of a request, a result, an output.
const SHOWN_BYTES: usize = 64 * 1024;
/// How long the provider is asked for the output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pages of output that are read.
const OUTPUT_PAGES: usize = 20;

pub(super) async fn render(id: &RunId, view: &View<'_>) -> Result<Rendered, Error> {
    let store = &view.console.deps.store;
    let Some(run) = store
        .with_images(std::slice::from_ref(id))
        .await?
        .into_iter()
        .next()
        .flatten()
    else {
        let live = html! {
            p { "This run is not known: it was never admitted, or ended too long ago. A request that no worker "
                "has read yet is not known either." }
        };
        return Ok(Rendered::new(id.as_str(), live));
    };
    let record = &run.record;
    let is_queued = record.state == State::Queued.as_str();
    let (waiting, published, request, past, files) = tokio::try_join!(
        async {
            match is_queued {
                true => store.why_waiting(id, view.now).await,
                false => Ok(None),
            }
        },
        store.result_of(record),
        store.request(id),
        store.past_attempts(id),
        artifacts::of(store, record),
    )?;
    let output = output(record, view).await;
    let request = request.map(|stored| stored.request);
    let live = html! {
        p { (page::state(record)) " · " (tenant_link(&record.tenant)) " · " (page::text(run.image.as_deref().unwrap_or("image not known"))) }
        @if let Some(reason) = &record.reason { p.bad { (page::text(&reason.to_string())) } }
        @if let Some(waiting) = &waiting { (held(waiting, view.now)) }
        (actions(record, request.is_some(), view))
        h2 { "What happened" }
        (timeline(record, view))
        @if !past.is_empty() { (attempts(&past, view)) }
        h2 { "Machine" }
        dl {
            (field("App", record.app.as_deref()))
            (field("Machine", record.machine_id.as_deref()))
            (field("Region", record.region.as_deref()))
            dt { "Attempts" } dd { (record.tries()) @if record.deferred > 0 { ", and " (record.deferred) " that the provider deferred" } }
            @if record.refusals > 0 { dt { "Refused" } dd.notice { (record.refusals) " times, " (view.ago(record.refused_since_ms)) } }
            @if let Some(at) = record.deadline_ms { dt { "Deadline" } dd { (page::utc(at)) } }
        }
        (artifacts::list(id, &files, view))
        @if let Some(published) = &published { h2 { "Result" } (result(&published.result)) }
        @if let Some(output) = &output { h2 { "Output" } pre tabindex="0" { (block(output, SHOWN_BYTES)) } }
        h2 { "Request" }
        (request_shown(request.as_ref()))
    };
    Ok(Rendered::new(id.as_str(), live).with(still(record, view)))
}

fn field(name: &str, value: Option<&str>) -> Markup {
    html! { @if let Some(value) = value { dt { (name) } dd { (page::text(value)) } } }
}

fn held(waiting: &Waiting, now: UnixMs) -> Markup {
    html! {
        h2 { "Why it waits" }
        ul { @for line in explain::lines(waiting, now) { li { (page::text(&line)) } } }
    }
}

/// Each state that it was in, when, and for how long.
fn timeline(run: &RunRecord, view: &View<'_>) -> Markup {
    let moments = explain::moments(run);
    html! {
        div.scroll { table {
            caption { "States of its last attempt" }
            thead { tr { th scope="col" { "State" } th scope="col" { "Since" } th scope="col" { "For" } } }
            tbody {
                @for (at, (state, since)) in moments.iter().enumerate() {
                    tr {
                        th scope="row" { @if state.is_empty() { "closed" } @else { (state) } }
                        td { (page::utc(*since)) }
                        td {
                            @match moments.get(at + 1) {
                                Some((_, until)) => (length(until.saturating_sub(*since))),
                                None if run.state == "closed" => "",
                                None => (view.since(*since)),
                            }
                        }
                    }
                }
            }
        } }
    }
}

fn attempts(past: &[crate::store::open::PastAttempt], view: &View<'_>) -> Markup {
    html! {
        div.scroll { table {
            caption { "Earlier attempts, the last ten" }
            thead { tr {
                th scope="col" { "Attempt" } th scope="col" { "App" } th scope="col" { "Machine" }
                th scope="col" { "Why it ended" } th scope="col" { "When" }
            } }
            tbody { @for attempt in past { tr {
                th scope="row" { (attempt.attempt) }
                td { (page::text(&attempt.app)) }
                td { (page::text(&attempt.machine)) }
                td { (page::text(&attempt.why)) }
                td { (view.ago(Some(attempt.ended_at_ms))) }
            } } }
        } }
    }
}

fn actions(run: &RunRecord, has_request: bool, view: &View<'_>) -> Markup {
    let fields = [("run", run.id.as_str())];
    let is_open = run.outcome.is_none();
    html! {
        @if view.is_operator() {
            p {
                @if is_open { (view.button("cancel", &fields, "Cancel", "danger")) }
                @if has_request { (view.button("rerun", &fields, "Run again, as a new id", "")) }
            }
        }
        @if has_request { p.faint { "From a shell: " code { "cofferdam rerun " (run.id.as_str()) } } }
    }
}

/// What somebody writes into.
fn still(run: &RunRecord, view: &View<'_>) -> Markup {
    html! {
        @if view.is_operator() && run.state == "queued" {
            h2 { "Priority" }
            form.row method="post" action="/acts/priority" {
                (view.hidden())
                input type="hidden" name="run" value=(run.id.as_str());
                label { "0 goes first, 9 last" input type="number" name="priority" min="0" max="9" value="5" required; }
                button { "Change" }
            }
        }
    }
}

/// The parts of a result that have a place of their own.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    exit: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

fn result(json: &str) -> Markup {
    let Ok(parts) = serde_json::from_str::<Parts<'_>>(json) else {
        return html! { pre tabindex="0" { (block(json, SHOWN_BYTES)) } };
    };
    let shown = |raw: Option<&RawValue>| {
        raw.map(RawValue::get)
            .filter(|text| *text != "null")
            .map(|text| block(text, SHOWN_BYTES))
    };
    html! {
        @match shown(parts.payload) {
            Some(payload) => pre tabindex="0" { (payload) },
            None => p { "It has no payload." },
        }
        dl {
            @if let Some(exit) = shown(parts.exit) { dt { "Exit" } dd { (exit) } }
            @if let Some(metadata) = shown(parts.metadata) { dt { "Metadata" } dd { (metadata) } }
        }
    }
}

fn request_shown(request: Option<&Request>) -> Markup {
    html! {
        @match request {
            None => p { "It is kept only for runs that have not ended, or ended without a result of their guest (or with one, if COFFERDAM_KEEP_REQUESTS was true), and while there is room." },
            Some(Request::Large { bytes }) => p { "It has " (bytes) " bytes, too many to be shown." },
            Some(Request::Here(json)) => {
                @match masked(json) {
                    Some(shown) => pre tabindex="0" { (block(&shown, SHOWN_BYTES)) },
                    None => p { "It cannot be read as JSON." },
                }
                p.faint { "Values of env, contents of files, and what is named like a secret are masked." }
            }
        }
    }
}

/// The last that its guest wrote: from the run's log, or else from the Machines API, where that has it
/// and answers soon.
async fn output(run: &RunRecord, view: &View<'_>) -> Option<String> {
    let tail = view.console.deps.store.log_tail(&run.id, SHOWN_BYTES).await;
    if let Ok(Some(tail)) = tail {
        return Some(String::from_utf8_lossy(&tail).into_owned());
    }
    let machines = view.console.deps.machines.as_ref()?;
    let (app, machine) = (run.app.as_deref()?, run.machine_id.as_deref()?);
    let reading = async {
        let (mut text, mut position) = (String::new(), None::<String>);
        for _ in 0..OUTPUT_PAGES {
            let page = machines
                .client
                .logs(app, Some(machine), position.as_deref())
                .await
                .ok()?;
            for line in &page.data {
                text.push_str(line.attributes.message.trim_end_matches('\n'));
                text.push('\n');
            }
            let next = page.meta.next_token;
            if page.data.is_empty()
                || next.is_none()
                || next == position
                || text.len() > SHOWN_BYTES
            {
                break;
            }
            position = next;
        }
        Some(text)
    };
    timeout(OUTPUT_TIMEOUT, reading)
        .await
        .ok()
        .flatten()
        .filter(|text| !text.is_empty())
}
