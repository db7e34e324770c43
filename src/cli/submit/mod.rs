//! `submit`: one request from the words of the command line, or many from standard input.

mod lines;
mod request;
mod wait;

use std::time::Duration;

use serde_json::json;

use crate::cli::args::Submit;
use crate::cli::human;
use crate::cli::place;
use crate::cli::say::{Say, Tone};
use crate::cli::status::Status;
use crate::cli::view::{self, Told};
use crate::config::Tool;
use crate::run::id::RunId;
use crate::run::outcome::Outcome;
use crate::run::request::RunRequest;
use crate::store::Store;
use crate::store::inspect::Published;

pub(crate) async fn run(args: &Submit, tool: &Tool, say: &mut Say) -> anyhow::Result<Status> {
    if args.lines.is_some() {
        let store = place::store(tool).await?;
        return lines::run(args, &store, say).await;
    }
    let json = request::from_args(args)?;
    let store = place::store(tool).await?;
    let Some(sent) = send(&store, vec![json]).await?.pop() else {
        anyhow::bail!("redis did not say where the request is");
    };
    if !args.wait {
        print_sent(say, &sent, args.format.json)?;
        return Ok(Status::Done);
    }
    let bound = args.wait_timeout.map(Duration::from_secs);
    let result = wait::for_one(&store, &sent.run, bound, say).await?;
    tell(say, &result, args.format.json)?;
    Ok(match result.outcome {
        Some(Outcome::Completed) => Status::Done,
        _ => Status::NotCompleted,
    })
}

/// A request that is on its stream.
#[derive(Clone, Debug)]
struct Sent {
    /// The run that it becomes.
    run: RunId,
    /// The request's entry.
    entry: String,
}

/// Appends requests and says which runs they become.
async fn send(store: &Store, requests: Vec<String>) -> anyhow::Result<Vec<Sent>> {
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

fn print_sent(say: &mut Say, sent: &Sent, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(say.json(&json!({"run_id": sent.run, "entry": sent.entry}))?);
    }
    Ok(say.line(sent.run.as_str())?)
}

/// The payload on standard output, what is to be said about it on standard error.
fn tell(say: &mut Say, result: &Published, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(say.line(&view::compact(&result.result))?);
    }
    let told = Told::read(&result.result);
    let (tone, word) = match result.outcome {
        Some(outcome) => (view::tone(outcome), outcome.as_str()),
        None => (Tone::Bad, "unknown"),
    };
    let word = say.paint_note(tone, word);
    let took = told
        .as_ref()
        .and_then(Told::took)
        .map(human::duration)
        .unwrap_or_default();
    say.note(&format!(
        "{} {word} in {took}",
        human::one_line(&result.run_id, 64)
    ))?;
    let Some(told) = told else {
        return Ok(());
    };
    if let Some(reason) = &told.reason {
        say.note(&format!("  {}", human::one_line(&reason.to_string(), 2048)))?;
    }
    if let Some(payload) = &told.payload {
        say.foreign(&view::pretty(payload.get()))?;
    }
    Ok(())
}
