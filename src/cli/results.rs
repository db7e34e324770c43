//! `results`: the results on their stream, and those that follow.

use std::time::Duration;

use crate::cli::args::Results;
use crate::cli::human;
use crate::cli::output::{Output, Tone};
use crate::cli::status::Status;
use crate::cli::target;
use crate::cli::timeout::OutageTimeout;
use crate::cli::view::{self, ResultSummary};
use crate::config::Tool;
use crate::store::inspect::Published;

/// How long one read of the stream waits.
const BLOCK: Duration = Duration::from_secs(5);

/// Characters of a payload on its line.
const SUMMARY_MAX: usize = 100;

pub(crate) async fn run(args: &Results, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let store = target::store(tool).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let newest = store.newest_results(most).await?;
    for result in &newest {
        print(out, result, args.format.json)?;
    }
    if !args.follow {
        return Ok(Status::Done);
    }
    let position = match newest.last() {
        Some(last) => last.entry.clone(),
        None => store.end_of_results().await?,
    };
    let mut results = store.results_after(position);
    let mut outage = OutageTimeout::default();
    loop {
        let read = outage.allow(results.next(BLOCK).await).await?;
        for result in read.unwrap_or_default() {
            print(out, &result, args.format.json)?;
        }
    }
}

/// Prints one result on one line.
pub(crate) fn print(out: &mut Output, result: &Published, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(out.json_text(&view::compact(&result.result))?);
    }
    let read = ResultSummary::read(&result.result);
    let took = read
        .as_ref()
        .and_then(ResultSummary::took)
        .map(human::duration)
        .unwrap_or_default();
    let summary = read
        .map(|read| read.summary(SUMMARY_MAX))
        .unwrap_or_default();
    let (tone, word) = match result.outcome {
        Some(outcome) => (view::tone(outcome), outcome.as_str()),
        None => (Tone::Bad, "unknown"),
    };
    let outcome = out.paint(tone, &format!("{word:<9}"));
    let id = human::one_line(&result.run_id, 64);
    let summary = out.paint(Tone::Faint, &summary);
    let line = format!("{id:<20}  {outcome}  {took:>9}  {summary}");
    Ok(out.line(line.trim_end())?)
}
