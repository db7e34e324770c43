//! `submit -`: requests as JSON lines.

use std::io::{self, BufRead as _, Read as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::args::submit::Submit;
use crate::cli::human;
use crate::cli::output::{Output, Tone};
use crate::cli::progress::Bar;
use crate::cli::results;
use crate::cli::status::Status;
use crate::cli::submit::wait::Gathering;
use crate::cli::submit::{print_sent, request, send};
use crate::run::outcome::Outcome;
use crate::store::Store;

/// Most requests sent at once.
const BATCH: usize = 100;

/// Bytes of one line at the most; what a worker takes at most is a setting of its own.
const LINE_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Lines that are read ahead.
const READ_AHEAD: usize = 2 * BATCH;

/// Counts of what became of the lines.
#[derive(Debug, Default)]
struct Tally {
    sent: usize,
    refused: usize,
    completed: usize,
    others: usize,
}

pub(super) async fn run(args: &Submit, store: &Store, out: &mut Output) -> anyhow::Result<Status> {
    let begun = Instant::now();
    let mut gathering = Gathering::begin(store).await?;
    let mut tally = send_all(args, store, &mut gathering, out).await?;
    if args.wait {
        let bound = args.wait_timeout.map(Duration::from_secs);
        gather(&mut gathering, bound, &mut tally, args.format.json, out).await?;
    }
    summary(out, &tally, args.wait, begun.elapsed())?;
    Ok(match tally {
        _ if tally.refused > 0 => Status::Failed,
        _ if tally.others > 0 => Status::NotCompleted,
        _ => Status::Done,
    })
}

async fn send_all(
    args: &Submit,
    store: &Store,
    gathering: &mut Gathering,
    out: &mut Output,
) -> anyhow::Result<Tally> {
    let mut lines = stdin_lines();
    let mut tally = Tally::default();
    let mut number = 0;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let line = lines
            .recv()
            .await
            .transpose()
            .context("read standard input")?;
        let is_last = line.is_none();
        if let Some(line) = line {
            number += 1;
            match request::check(&line) {
                _ if line.trim().is_empty() => {}
                Ok(()) => batch.push(line),
                Err(rule) => {
                    tally.refused += 1;
                    let head = out.paint_note(Tone::Bad, &format!("line {number} is refused:"));
                    out.note(&format!("{head} {}", human::one_line(&rule, 500)))?;
                }
            }
        }
        // A partial batch is sent while the writer of the lines pauses.
        if batch.len() >= BATCH || is_last || lines.is_empty() {
            for sent in send(store, std::mem::take(&mut batch)).await? {
                tally.sent += 1;
                if args.wait {
                    gathering.add(sent.run);
                } else {
                    print_sent(out, &sent, args.format.json)?;
                }
            }
        }
        if is_last {
            return Ok(tally);
        }
    }
}

/// Lines of standard input, read on a thread of their own, since a read can block for ever.
fn stdin_lines() -> mpsc::Receiver<io::Result<String>> {
    let (sender, lines) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut line = String::new();
            match stdin.by_ref().take(LINE_MAX_BYTES).read_line(&mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
            if sender.blocking_send(Ok(line)).is_err() {
                return;
            }
        }
    });
    lines
}

async fn gather(
    gathering: &mut Gathering,
    bound: Option<Duration>,
    tally: &mut Tally,
    as_json: bool,
    out: &mut Output,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let bar = Bar::new(gathering.left() as u64, "results");
    while gathering.left() > 0 {
        for result in gathering.next().await? {
            match result.outcome {
                Some(Outcome::Completed) => tally.completed += 1,
                _ => tally.others += 1,
            }
            bar.advance();
            bar.beside(|| results::print(out, &result, as_json))?;
        }
        if bound.is_some_and(|bound| begun.elapsed() >= bound) && gathering.left() > 0 {
            let missing = human::count(gathering.left(), "result has", "results have");
            bail!(
                "{missing} not come after {}",
                human::duration(begun.elapsed())
            );
        }
    }
    Ok(())
}

fn summary(out: &mut Output, tally: &Tally, waited: bool, took: Duration) -> io::Result<()> {
    let mut parts = vec![format!(
        "{} sent",
        human::count(tally.sent, "request", "requests")
    )];
    if tally.refused > 0 {
        parts.push(format!(
            "{} refused",
            human::count(tally.refused, "line", "lines")
        ));
    }
    if waited {
        parts.push(format!("{} completed", tally.completed));
        parts.push(format!("{} did not", tally.others));
    }
    let line = format!("{} in {}", parts.join(" · "), human::duration(took));
    let line = out.paint_note(Tone::Faint, &line);
    out.note(&line)
}
