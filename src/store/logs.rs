//! The logs of runs: what their guests wrote, each a stream that is bounded in bytes.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::id::RunId;
use crate::store::Store;
use crate::store::acts::BootId;
use crate::store::codec::Text;
use crate::store::door::Query;
use crate::store::error::Error;
use crate::store::follow::Follow;
use crate::store::requests::{Row, millis};
use crate::store::runs::slice;
use crate::store::scripts;

/// Pieces read in one round trip: 2 MiB at the most.
const PIECES_STEP: usize = 32;

/// Which output of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Reads its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Stdout, Self::Stderr]
            .into_iter()
            .find(|stream| stream.as_str() == word)
    }
}

/// How much of what guests write is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogBounds {
    /// Bytes of one run; the oldest make room.
    pub run_bytes: usize,
    /// Bytes of all runs; 0 for no limit. What comes beyond is left out.
    pub bytes: u64,
    /// Bytes of one tenant's runs; 0 for no limit.
    pub tenant_bytes: u64,
    /// How long a log is kept after its last piece.
    pub kept_for: Duration,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the log.
    Kept,
    /// As many bytes of logs are kept as may; the piece was counted and left out.
    Full,
    /// The boot is not that of the run, or its machine is gone.
    Denied,
}

/// A piece of what a guest wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Its place in the log.
    pub entry: String,
    /// When it came in.
    pub at_ms: UnixMs,
    /// Where the guest wrote it.
    pub stream: LogStream,
    /// The bytes, as they came: a character may begin in one piece and end in the next.
    pub text: Vec<u8>,
}

impl LogPiece {
    /// `None` for an entry that is none of ours.
    fn read((entry, fields): Row) -> Option<Self> {
        let field = |name: &str| {
            let found = fields.iter().find(|(key, _)| key == name.as_bytes());
            found.map(|(_, value)| value)
        };
        let word = |name: &str| std::str::from_utf8(field(name)?).ok();
        Some(Self {
            at_ms: word("at_ms")?.parse().ok()?,
            stream: LogStream::parse(word("stream")?)?,
            text: field("text")?.clone(),
            entry,
        })
    }
}

impl Store {
    /// Appends a piece to the log of a run, before which `dropped` bytes were left out. One round trip,
    /// on a connection on which no results travel.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn append_log(
        &self,
        run: &RunId,
        boot: BootId<'_>,
        (stream, text, dropped): (LogStream, &[u8], u64),
        bounds: LogBounds,
        now: UnixMs,
    ) -> Result<Appended, Error> {
        let mut script = scripts::LOG.prepare_invoke();
        script.key(self.keys.run(run)).key(self.keys.log(run));
        script.arg(self.keys.namespace());
        for word in BootId::words(Some(boot)) {
            script.arg(word);
        }
        script.arg(now).arg(millis(bounds.kept_for));
        script.arg(bounds.run_bytes).arg(bounds.bytes);
        script.arg(bounds.tenant_bytes);
        script.arg(millis(slice(bounds.kept_for)));
        script.arg(stream.as_str()).arg(text).arg(dropped);
        self.door.gate(&mut script);
        let Text(word): Text = self.door.large(Query::Script(&script)).await?;
        match word.as_str() {
            "kept" => Ok(Appended::Kept),
            "full" => Ok(Appended::Full),
            "denied" => Ok(Appended::Denied),
            other => Err(Error::Corrupt {
                what: "the answer of log".to_owned(),
                found: other.to_owned(),
            }),
        }
    }

    /// The last `most` bytes of a run's log, both outputs as they came. `None` when it has none. One
    /// round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn log_tail(&self, run: &RunId, most: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys.log(run)).arg("+").arg("-");
        command.arg("COUNT").arg(PIECES_STEP);
        let rows: Vec<Row> = self.door.large(Query::Command(&command)).await?;
        let mut tail: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for piece in rows.into_iter().filter_map(LogPiece::read) {
            if bytes >= most {
                break;
            }
            bytes += piece.text.len();
            tail.push(piece.text);
        }
        let mut tail = tail.into_iter().rev().flatten().collect::<Vec<u8>>();
        tail.drain(..tail.len().saturating_sub(most));
        Ok((!tail.is_empty()).then_some(tail))
    }

    /// Bytes that a run's log no longer has, or never had. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn log_dropped(&self, run: &RunId) -> Result<u64, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.run(run)).arg("log_dropped");
        let dropped: Option<Text> = self.door.query(&command).await?;
        Ok(dropped
            .and_then(|Text(word)| word.parse().ok())
            .unwrap_or(0))
    }

    /// Reads the log of a run from its beginning, or from the piece after that of entry `after`.
    #[must_use]
    pub fn log_of(&self, run: &RunId, after: Option<String>) -> LogReader {
        let position = after.unwrap_or_else(|| "0-0".to_owned());
        LogReader(Follow::new(self.clone(), self.keys.log(run), position))
    }
}

/// Reads the log of a run, on a connection of its own.
#[derive(Debug)]
pub struct LogReader(Follow);

impl LogReader {
    /// The next pieces, in order; waits up to `block` for the first if there are none, or not at all. A
    /// future that is dropped half-way loses none.
    ///
    /// # Errors
    /// [`Error`]; the next call connects anew and goes on at the same position.
    pub async fn next(&mut self, block: Option<Duration>) -> Result<Vec<LogPiece>, Error> {
        let rows = self.0.next(PIECES_STEP, block).await?;
        Ok(rows.into_iter().filter_map(LogPiece::read).collect())
    }
}
