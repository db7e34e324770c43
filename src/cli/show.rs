//! `show`: one run.

use std::time::Duration;

use anyhow::anyhow;
use serde_json::value::RawValue;

use crate::cli::args::Show;
use crate::cli::human;
use crate::cli::output::{Output, Tone};
use crate::cli::status::{Status, WrongUse};
use crate::cli::target;
use crate::cli::view::{self, RunJson, ShowJson};
use crate::clock::Clock;
use crate::config::Tool;
use crate::run::id::RunId;
use crate::run::wait::Waiting;
use crate::stage::explain;
use crate::store::Store;
use crate::store::codec::RunRecord;
use crate::store::inspect::Published;

/// A run's id as it was given.
pub(crate) fn run_id(text: &str) -> Result<RunId, WrongUse> {
    text.parse()
        .map_err(|error| WrongUse::new(format!("{text:?} is no run's id: {error}")))
}

/// The run, or why it is not known.
pub(crate) async fn known(store: &Store, id: &RunId) -> anyhow::Result<RunRecord> {
    store.record(id).await?.ok_or_else(|| {
        anyhow!("run {id} is not known: it was never admitted, or ended too long ago")
    })
}

pub(crate) async fn run(args: &Show, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let id = run_id(&args.run)?;
    let store = target::store(tool).await?;
    let view = known(&store, &id).await?;
    let published = store.result_of(&view).await?;
    let now = Clock::system().now_ms();
    let waiting = match view.state {
        "queued" => store.why_waiting(&id, now).await?,
        _ => None,
    };
    if args.format.json {
        let result =
            published.and_then(|found| RawValue::from_string(view::compact(&found.result)).ok());
        out.json(&ShowJson {
            run: RunJson::of(&view),
            waiting,
            result,
        })?;
        return Ok(Status::Done);
    }
    print_run(out, &view, waiting.as_ref(), published.as_ref())?;
    Ok(Status::Done)
}

fn print_run(
    out: &mut Output,
    view: &RunRecord,
    waiting: Option<&Waiting>,
    published: Option<&Published>,
) -> anyhow::Result<()> {
    let now = Clock::system().now_ms();
    let state = match view.outcome {
        Some(outcome) => {
            let outcome = out.paint(view::tone(outcome), outcome.as_str());
            format!("{} · {outcome}", view.state)
        }
        None => out.paint(Tone::Notice, view.state),
    };
    let mut lines = vec![
        ("run", out.paint(Tone::Strong, view.id.as_str())),
        ("state", state),
    ];
    if let Some(reason) = &view.reason {
        lines.push(("reason", human::one_line(&reason.to_string(), 2048)));
    }
    lines.push(("tenant", view.tenant.clone()));
    lines.push(("attempts", view.tries().to_string()));
    if let (Some(app), Some(machine)) = (&view.app, &view.machine_id) {
        let region = view.region.as_deref().unwrap_or("an unknown region");
        lines.push(("machine", format!("{machine} in {app}, {region}")));
    }
    for line in waiting
        .map(|waiting| explain::lines(waiting, now))
        .into_iter()
        .flatten()
    {
        lines.push(("waits", line));
    }
    if let ("running", Some(until)) = (view.state, view.preparing_until_ms)
        && until > now
    {
        lines.push(("waits", view::preparing_line(view, now)));
    }
    if let (Some(asked), Some(given)) = (view.timeout_asked_ms, view.timeout_ms) {
        let length = |ms| human::duration(Duration::from_millis(ms));
        let (asked, given) = (length(asked), length(given));
        let line = format!("{given}, and not {asked}: more than COFFERDAM_RUN_TIMEOUT_S allows");
        lines.push(("timeout", line));
    }
    if let Some(at) = view.submitted_at_ms {
        lines.push(("submitted", human::ago(at, now)));
    }
    for (phase, length) in view::phases(view, now) {
        lines.push((phase, human::duration(length)));
    }
    for (head, text) in lines {
        let head = out.paint(Tone::Faint, &format!("{head:<10}"));
        out.line(&format!("{head}{text}"))?;
    }
    match published {
        Some(found) => print_payload(out, found),
        None if view.outcome.is_some() => {
            let gone = out.paint(Tone::Faint, "the result is no longer on its stream");
            Ok(out.line(&gone)?)
        }
        None => Ok(()),
    }
}

fn print_payload(out: &mut Output, published: &Published) -> anyhow::Result<()> {
    let read = view::ResultSummary::read(&published.result);
    if let Some(payload) = read.and_then(|read| read.payload) {
        let head = out.paint(Tone::Faint, "payload");
        out.line(&head)?;
        out.untrusted(&view::pretty(payload.get()))?;
    }
    Ok(())
}
