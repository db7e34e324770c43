//! `submit`: one request from the arguments, or many from standard input.

mod files;
mod lines;
pub(crate) mod request;
pub(crate) mod wait;

use std::time::Duration;

use serde_json::json;

use crate::cli::args::submit::Submit;
use crate::cli::human;
use crate::cli::live_log::{LiveLog, LogFormat, LogPrinter};
use crate::cli::output::{Output, Tone};
use crate::cli::status::Status;
use crate::cli::target;
use crate::cli::view::{self, ResultSummary};
use crate::config::Tool;
use crate::run::id::RunId;
use crate::run::outcome::{Outcome, ReasonCode};
use crate::run::request::RunRequest;
use crate::store::Store;
use crate::store::inspect::Published;

pub(crate) async fn run(args: &Submit, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    if args.lines.is_some() {
        let store = target::store(tool).await?;
        return lines::run(args, &store, out).await;
    }
    let json = request::from_args(args)?;
    let store = target::store(tool).await?;
    let Some(sent) = send(&store, vec![json]).await?.pop() else {
        anyhow::bail!("redis returned no id for the request");
    };
    if !args.wait {
        print_sent(out, &sent, args.format.json)?;
        return Ok(Status::Done);
    }
    let bound = args.wait_timeout.map(Duration::from_secs);
    let mut live = LiveLog::follow(&store, &sent.run, LogPrinter::new(LogFormat::Aside));
    let result = wait::for_one(&store, &sent.run, bound, &mut live, out).await?;
    if live.drain(out).await?.is_in_line() {
        out.note("")?;
    }
    print_result(out, &result, args.format.json)?;
    Ok(match result.outcome {
        Some(Outcome::Completed) => Status::Done,
        _ => Status::NotCompleted,
    })
}

/// A request that is on its stream.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// The run that it becomes.
    pub(crate) run: RunId,
    /// The request's entry.
    entry: String,
}

/// Appends requests and returns the runs that they become.
pub(crate) async fn send(store: &Store, requests: Vec<String>) -> anyhow::Result<Vec<Sent>> {
    let entries = store.submit(&requests).await?;
    let mut sent = Vec::with_capacity(entries.len());
    for (request, entry) in requests.iter().zip(entries) {
        let own = RunRequest::readable_id(request).ok().flatten();
        let run = match own {
            Some(id) => id,
            None => entry.parse()?,
        };
        sent.push(Sent { run, entry });
    }
    Ok(sent)
}

fn print_sent(out: &mut Output, sent: &Sent, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(out.json(&json!({"run_id": sent.run, "entry": sent.entry}))?);
    }
    Ok(out.line(sent.run.as_str())?)
}

/// Prints the payload on standard output and the outcome on standard error.
pub(crate) fn print_result(
    out: &mut Output,
    result: &Published,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        return Ok(out.json_text(&view::compact(&result.result))?);
    }
    let summary = ResultSummary::read(&result.result);
    let (tone, word) = match result.outcome {
        Some(outcome) => (view::tone(outcome), outcome.as_str()),
        None => (Tone::Bad, "unknown"),
    };
    let word = out.paint_note(tone, word);
    let took = summary
        .as_ref()
        .and_then(ResultSummary::took)
        .map(human::duration)
        .unwrap_or_default();
    out.note(&format!(
        "{} {word} in {took}",
        human::one_line(&result.run_id, 64)
    ))?;
    let Some(summary) = summary else {
        return Ok(());
    };
    if let Some(reason) = &summary.reason {
        out.note(&format!("  {}", human::one_line(&reason.to_string(), 2048)))?;
        if matches!(result.outcome, Some(Outcome::Failed | Outcome::TimedOut)) {
            let id = human::one_line(&result.run_id, 64);
            out.note(&format!("  what its guest wrote: cofferdam logs {id}"))?;
        }
        if reason.code == ReasonCode::ExitedWithoutResult {
            out.note("  a command that posts no result itself needs --capture")?;
        }
    }
    if let Some(payload) = &summary.payload {
        out.untrusted(&view::pretty(payload.get()))?;
    }
    Ok(())
}
