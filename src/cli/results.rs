//! `results`: what came out, and what comes.

use std::time::Duration;

use crate::cli::args::Results;
use crate::cli::human;
use crate::cli::patience::Patience;
use crate::cli::place;
use crate::cli::say::{Say, Tone};
use crate::cli::status::Status;
use crate::cli::view::{self, Told};
use crate::config::Tool;
use crate::store::inspect::Published;

/// How long one read waits; between two the connection is looked at.
const BLOCK: Duration = Duration::from_secs(5);

/// Characters of a payload on its line.
const GIST: usize = 100;

pub(crate) async fn run(args: &Results, tool: &Tool, say: &mut Say) -> anyhow::Result<Status> {
    let store = place::store(tool).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let newest = store.newest_results(most).await?;
    for result in &newest {
        print(say, result, args.format.json)?;
    }
    if !args.follow {
        return Ok(Status::Done);
    }
    let place = match newest.last() {
        Some(last) => last.entry.clone(),
        None => store.end_of_results().await?,
    };
    let mut results = store.results_after(place);
    let mut patience = Patience::default();
    loop {
        let read = patience.of(results.next(BLOCK).await).await?;
        for result in read.unwrap_or_default() {
            print(say, &result, args.format.json)?;
        }
    }
}

/// Prints one result on one line.
pub(crate) fn print(say: &mut Say, result: &Published, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(say.line(&view::compact(&result.result))?);
    }
    let told = Told::read(&result.result);
    let took = told
        .as_ref()
        .and_then(Told::took)
        .map(human::duration)
        .unwrap_or_default();
    let gist = told.map(|told| told.gist(GIST)).unwrap_or_default();
    let (tone, word) = match result.outcome {
        Some(outcome) => (view::tone(outcome), outcome.as_str()),
        None => (Tone::Bad, "unknown"),
    };
    let outcome = say.paint(tone, &format!("{word:<9}"));
    let id = human::one_line(&result.run_id, 64);
    let gist = say.paint(Tone::Faint, &gist);
    let line = format!("{id:<20}  {outcome}  {took:>9}  {gist}");
    Ok(say.line(line.trim_end())?)
}
