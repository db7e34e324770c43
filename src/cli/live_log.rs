//! What a guest writes, printed as it comes.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::cli::output::Output;
use crate::run::id::RunId;
use crate::store::logs::{LogPiece, LogStream};
use crate::store::{Error, Store};

/// How long one read of a log waits.
const BLOCK: Duration = Duration::from_secs(1);
/// After a read that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(200);
/// The longest line that is held until its end comes.
const LINE_MAX_BYTES: usize = 64 << 10;
/// Pieces that wait to be printed.
const WAITING_MAX: usize = 64;

/// How pieces of a log are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Bytes as they came; standard error on standard error.
    Plain,
    /// Bytes as they came, all on standard error.
    Aside,
    /// Each line with the time at which it came in.
    Timestamps,
    /// Each piece as one JSON value.
    Json,
}

/// Prints pieces of one log, in order.
#[derive(Debug)]
pub(crate) struct LogPrinter {
    format: LogFormat,
    outputs: [Printed; 2],
}

/// What was printed of one output.
#[derive(Debug, Default)]
struct Printed {
    /// Bytes.
    bytes: u64,
    /// The line that was begun; only with timestamps.
    partial: Vec<u8>,
    /// Whether the last byte was not the end of a line.
    is_in_line: bool,
}

impl Printed {
    /// Where the first line ends; a longer one is cut.
    fn line_end(&self) -> Option<usize> {
        let end = self.partial.iter().position(|byte| *byte == b'\n');
        end.or_else(|| (self.partial.len() >= LINE_MAX_BYTES).then(|| self.partial.len() - 1))
    }
}

impl LogPrinter {
    pub(crate) fn new(format: LogFormat) -> Self {
        Self {
            format,
            outputs: Default::default(),
        }
    }

    /// Prints one piece.
    pub(crate) fn print(&mut self, out: &mut Output, piece: &LogPiece) -> anyhow::Result<()> {
        let printed = &mut self.outputs[piece.stream as usize];
        printed.bytes += piece.text.len() as u64;
        match self.format {
            LogFormat::Plain | LogFormat::Aside => {
                printed.is_in_line = piece.text.last().is_some_and(|byte| *byte != b'\n');
                let to = match self.format {
                    LogFormat::Aside => LogStream::Stderr,
                    _ => piece.stream,
                };
                out.guest(to, &piece.text)?;
            }
            LogFormat::Json => out.json(&json!({
                "at_ms": piece.at_ms,
                "stream": piece.stream.as_str(),
                "text": String::from_utf8_lossy(&piece.text),
            }))?,
            LogFormat::Timestamps => {
                let at = stamp(piece.at_ms);
                printed.partial.extend_from_slice(&piece.text);
                while let Some(end) = printed.line_end() {
                    let line: Vec<u8> = printed.partial.drain(..=end).collect();
                    out.guest(piece.stream, &[at.as_bytes(), b" ", &line].concat())?;
                }
            }
        }
        Ok(())
    }

    /// Prints what of an output its printed pieces do not have, given all of it.
    pub(crate) fn complete(
        &mut self,
        out: &mut Output,
        stream: LogStream,
        whole: &[u8],
    ) -> anyhow::Result<()> {
        let printed = usize::try_from(self.outputs[stream as usize].bytes).unwrap_or(usize::MAX);
        let Some(rest) = whole.get(printed..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        let piece = LogPiece {
            entry: String::new(),
            at_ms: 0,
            stream,
            text: rest.to_vec(),
        };
        self.print(out, &piece)
    }

    /// Bytes of an output that were printed.
    pub(crate) fn printed(&self, stream: LogStream) -> u64 {
        self.outputs[stream as usize].bytes
    }

    /// Prints lines that have no end.
    pub(crate) fn finish(&mut self, out: &mut Output) -> anyhow::Result<()> {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let mut partial = std::mem::take(&mut self.outputs[stream as usize].partial);
            if !partial.is_empty() {
                partial.push(b'\n');
                out.guest(stream, &partial)?;
            }
        }
        Ok(())
    }

    /// Whether something was printed that did not end its line.
    pub(crate) fn is_in_line(&self) -> bool {
        self.outputs.iter().any(|printed| printed.is_in_line)
    }
}

fn stamp(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().map(Timestamp::from_millisecond);
    match at {
        Some(Ok(at)) => format!("{at:.3}"),
        _ => at_ms.to_string(),
    }
}

/// Prints the log of a run while something else is waited for.
#[derive(Debug)]
pub(crate) struct LiveLog {
    store: Store,
    run: RunId,
    printer: LogPrinter,
    pieces: Receiver<LogPiece>,
    reading: JoinHandle<()>,
    position: Option<String>,
}

impl LiveLog {
    /// Begins to read.
    pub(crate) fn follow(store: &Store, run: &RunId, printer: LogPrinter) -> Self {
        let (sender, pieces) = channel(WAITING_MAX);
        let mut reader = store.log_of(run, None);
        #[expect(
            clippy::disallowed_methods,
            reason = "it holds nothing, and ends with what follows it"
        )]
        let reading = tokio::spawn(async move {
            loop {
                match reader.next(Some(BLOCK)).await {
                    Ok(read) => {
                        for piece in read {
                            if sender.send(piece).await.is_err() {
                                return;
                            }
                        }
                    }
                    // Whoever waits for the run sees it too, and decides.
                    Err(_) => tokio::time::sleep(FAILED_PAUSE).await,
                }
            }
        });
        Self {
            store: store.clone(),
            run: run.clone(),
            printer,
            pieces,
            reading,
            position: None,
        }
    }

    /// The next piece, if one comes before `until`.
    pub(crate) async fn next(&mut self, until: Instant) -> Option<LogPiece> {
        timeout_at(until, self.pieces.recv()).await.ok().flatten()
    }

    /// Prints the rest of what the log has now.
    pub(crate) async fn drain(mut self, out: &mut Output) -> anyhow::Result<LogPrinter> {
        while let Ok(piece) = self.pieces.try_recv() {
            self.print(out, piece)?;
        }
        let mut reader = self.store.log_of(&self.run, self.position.take());
        // Output that cannot be read any more takes nothing from the result.
        while let Ok(pieces) = reader.next(None).await
            && !pieces.is_empty()
        {
            for piece in pieces {
                self.printer.print(out, &piece)?;
            }
        }
        Ok(std::mem::replace(
            &mut self.printer,
            LogPrinter::new(LogFormat::Plain),
        ))
    }

    /// Prints a piece.
    pub(crate) fn print(&mut self, out: &mut Output, piece: LogPiece) -> anyhow::Result<()> {
        self.printer.print(out, &piece)?;
        self.position = Some(piece.entry);
        Ok(())
    }
}

impl Drop for LiveLog {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Prints a whole log, and with `is_followed` goes on until the run's machine is gone.
pub(crate) async fn print_all(
    store: &Store,
    run: &RunId,
    is_followed: bool,
    mut printer: LogPrinter,
    out: &mut Output,
) -> anyhow::Result<()> {
    let mut reader = store.log_of(run, None);
    let mut is_over = !is_followed;
    loop {
        let pieces = reader.next((!is_over).then_some(BLOCK)).await?;
        for piece in &pieces {
            printer.print(out, piece)?;
        }
        if pieces.is_empty() {
            if is_over {
                break;
            }
            is_over = is_closed(store, run).await?;
        }
    }
    printer.finish(out)
}

async fn is_closed(store: &Store, run: &RunId) -> Result<bool, Error> {
    let record = store.record(run).await?;
    Ok(record.is_none_or(|record| record.closed_at_ms.is_some()))
}
