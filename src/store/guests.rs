//! What is read for a guest's calls.

use bytes::Bytes;

use crate::run::id::{Attempt, Nonce, RunId};
use crate::run::outcome::Outcome;
use crate::run::request::RunRequest;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::scripts;

impl Store {
    /// The attempt and nonce of a run that is not over, and of its input `most_bytes` from byte `first` on. One
    /// round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn input(
        &self,
        id: &RunId,
        first: usize,
        most_bytes: usize,
    ) -> Result<Option<((Attempt, Option<Nonce>), InputPiece)>, Error> {
        let mut script = scripts::INPUT.prepare_invoke();
        script.key(self.keys.run(id)).key(self.keys.request(id));
        script.arg(first).arg(most_bytes);
        let answer: Option<(u32, Text, i64, Vec<u8>)> = self.door.script(&mut script).await?;
        let Some((attempt, Text(nonce), total, bytes)) = answer else {
            return Ok(None);
        };
        let piece = match usize::try_from(total) {
            Ok(0) => InputPiece::all(b"null".to_vec(), first),
            Ok(total_bytes) => InputPiece {
                total_bytes,
                bytes: bytes.into(),
            },
            Err(_) => {
                let request = String::from_utf8(bytes).unwrap_or_default();
                let Some(input) = RunRequest::input_of(&request) else {
                    return Ok(None);
                };
                InputPiece::all(input.get().as_bytes().to_vec(), first)
            }
        };
        Ok(Some(((Attempt(attempt), nonce.parse().ok()), piece)))
    }

    /// How far a run has come, for whoever wants to post its result. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn standing(&self, id: &RunId) -> Result<Option<Standing>, Error> {
        let mut command = redis::cmd("HMGET");
        command
            .arg(self.keys.run(id))
            .arg(&["attempt", "nonce", "outcome", "digest"]);
        type Words = (Option<u32>, Option<Text>, Option<Text>, Option<Text>);
        let (attempt, nonce, outcome, digest): Words = self.door.query(&command).await?;
        Ok(attempt.map(|attempt| Standing {
            attempt: Attempt(attempt),
            nonce: nonce.and_then(|Text(nonce)| nonce.parse().ok()),
            outcome: outcome.map(|Text(word)| Outcome::parse(&word).unwrap_or(Outcome::Failed)),
            digest: digest.map(|Text(digest)| digest),
        }))
    }
}

/// A piece of a run's input, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPiece {
    /// Bytes of the whole input.
    pub total_bytes: usize,
    /// These bytes of it; at the end as many as there are.
    pub bytes: Bytes,
}

impl InputPiece {
    /// An input that is at hand, from byte `first` on.
    fn all(whole: Vec<u8>, first: usize) -> Self {
        let whole = Bytes::from(whole);
        Self {
            total_bytes: whole.len(),
            bytes: whole.slice(first.min(whole.len())..),
        }
    }
}

/// What decides whether a post can still count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The run's attempt.
    pub attempt: Attempt,
    /// Which request of its id it is.
    pub nonce: Option<Nonce>,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// SHA-256 of the accepted post, in hex; `None` when none was.
    pub digest: Option<String>,
}
