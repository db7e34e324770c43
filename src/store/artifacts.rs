//! What is known of artifacts: which there are, how many bytes may still come, when they go.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::UnixMs;
use crate::config::ArtifactBounds;
use crate::run::artifact::{Artifact, ArtifactKey, ArtifactName, PutId};
use crate::run::budget;
use crate::run::id::{Attempt, Nonce, RunId, Tenant};
use crate::run::step::Event;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts::{self, moves_word};

/// What an artifact counts as at least, in bytes: its entry in Redis has about one.
pub const COUNTED_MIN_BYTES: u64 = 64 << 10;

/// How much longer than the artifacts what is known of them stays, should nobody sweep.
const UNSWEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Requests that one call asks for.
const KNOWN_MAX: usize = 1000;

/// One put of a guest.
#[derive(Clone, Debug)]
pub struct Put {
    /// Where its bytes will be.
    pub key: ArtifactKey,
    /// By which attempt.
    pub attempt: Attempt,
    /// What its guest calls it.
    pub name: ArtifactName,
}

/// What came of asking for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It may come, as this tenant's.
    Yes(Tenant),
    /// The token opens nothing now.
    Denied,
    /// This bound is reached.
    Over(Bound),
}

/// A bound of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Artifacts of one run.
    Run,
    /// Their bytes.
    RunBytes,
    /// Bytes of one tenant.
    TenantBytes,
    /// Bytes of all.
    AllBytes,
}

/// What is on its way by one put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// So many bytes.
    Bytes(u64),
    /// The token opens nothing now.
    Denied,
    /// Nothing, or no more.
    Unknown,
}

/// What came of keeping an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is an artifact of the run. What another put brought by that name is not one any more.
    Yes {
        /// That put.
        earlier: Option<PutId>,
    },
    /// The token opens nothing any more.
    Denied,
    /// There is no room for it any more.
    Unknown,
}

impl Store {
    /// Takes room for an artifact of `bytes` bytes, if the token that ends at `ends_at_ms` opens the run
    /// now. The room is kept for `kept_for`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn reserve_artifact(
        &self,
        put: &Put,
        bytes: u64,
        bounds: &ArtifactBounds,
        now: UnixMs,
        kept_for: Duration,
        ends_at_ms: UnixMs,
    ) -> Result<Reserved, Error> {
        let ArtifactKey {
            run,
            nonce,
            put: id,
        } = &put.key;
        let mut script = scripts::RESERVE_ARTIFACT.prepare_invoke();
        script
            .key(self.keys.run(run))
            .key(self.keys.artifacts(run, nonce))
            .key(self.keys.artifact_runs())
            .key(self.keys.artifact_bytes());
        script
            .arg(run.as_str())
            .arg(put.attempt.0)
            .arg(nonce.as_str())
            .arg(posted(put.attempt))
            .arg(id.as_str())
            .arg(put.name.as_str())
            .arg(bytes)
            .arg(COUNTED_MIN_BYTES)
            .arg(now)
            .arg(budget::after(now, kept_for))
            .arg(ends_at_ms)
            .arg(budget::after(ends_at_ms, bounds.kept_for + UNSWEPT))
            .arg(bounds.run_max)
            .arg(bounds.run_bytes)
            .arg(bounds.tenant_kept_bytes)
            .arg(bounds.kept_bytes);
        let (Text(answer), Text(tenant)) = self.door.script(&mut script).await?;
        Ok(match answer.as_str() {
            "reserved" => Reserved::Yes(
                tenant
                    .parse()
                    .map_err(|_| corrupt("a tenant of reserve_artifact", &tenant))?,
            ),
            "denied" => Reserved::Denied,
            "run_artifacts" => Reserved::Over(Bound::Run),
            "run_bytes" => Reserved::Over(Bound::RunBytes),
            "tenant_bytes" => Reserved::Over(Bound::TenantBytes),
            "all_bytes" => Reserved::Over(Bound::AllBytes),
            _ => return Err(corrupt("an answer of reserve_artifact", &answer)),
        })
    }

    /// What is on its way by a put of this name. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn pending_artifact(&self, put: &Put) -> Result<Pending, Error> {
        let ArtifactKey {
            run,
            nonce,
            put: id,
        } = &put.key;
        let mut script = scripts::PENDING_ARTIFACT.prepare_invoke();
        script
            .key(self.keys.run(run))
            .key(self.keys.artifacts(run, nonce));
        script
            .arg(put.attempt.0)
            .arg(nonce.as_str())
            .arg(posted(put.attempt))
            .arg(id.as_str())
            .arg(put.name.as_str());
        let Text(answer) = self.door.script(&mut script).await?;
        Ok(match answer.as_str() {
            "denied" => Pending::Denied,
            "unknown" => Pending::Unknown,
            bytes => Pending::Bytes(
                bytes
                    .parse()
                    .map_err(|_| corrupt("an answer of pending_artifact", bytes))?,
            ),
        })
    }

    /// Makes what a put brought an artifact of its run, if the token still opens that. The room of an
    /// earlier one of its name stays taken until it is [released](Self::release_artifact), or until
    /// `earlier_until`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn keep_artifact(
        &self,
        put: &Put,
        artifact: &Artifact,
        earlier_until: UnixMs,
    ) -> Result<Listed, Error> {
        let ArtifactKey {
            run,
            nonce,
            put: id,
        } = &put.key;
        let mut script = scripts::KEEP_ARTIFACT.prepare_invoke();
        script
            .key(self.keys.run(run))
            .key(self.keys.artifacts(run, nonce));
        script
            .arg(put.attempt.0)
            .arg(nonce.as_str())
            .arg(posted(put.attempt))
            .arg(id.as_str())
            .arg(put.name.as_str())
            .arg(artifact.record())
            .arg(earlier_until);
        let (Text(answer), Text(earlier)) = self.door.script(&mut script).await?;
        Ok(match answer.as_str() {
            "kept" => Listed::Yes {
                earlier: earlier.parse().ok(),
            },
            "denied" => Listed::Denied,
            "unknown" => Listed::Unknown,
            _ => return Err(corrupt("an answer of keep_artifact", &answer)),
        })
    }

    /// Gives back the room of a put that does not come. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn release_artifact(&self, key: &ArtifactKey) -> Result<(), Error> {
        let mut script = scripts::RELEASE_ARTIFACT.prepare_invoke();
        script
            .key(self.keys.artifacts(&key.run, &key.nonce))
            .key(self.keys.artifact_bytes());
        script.arg(key.put.as_str()).arg(COUNTED_MIN_BYTES);
        let _: i64 = self.door.script(&mut script).await?;
        Ok(())
    }

    /// The artifacts of a request, by name. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn artifacts(&self, run: &RunId, nonce: &Nonce) -> Result<Vec<Artifact>, Error> {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.artifacts(run, nonce));
        let fields: HashMap<String, String> = self.door.query(&command).await?;
        let mut found: Vec<Artifact> = fields
            .iter()
            .filter_map(|(field, record)| Artifact::of_record(field.strip_prefix("f:")?, record))
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// The newest request of a run's id that may have artifacts: also long after the run's hash is gone.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn request_with_artifacts(&self, run: &RunId) -> Result<Option<Nonce>, Error> {
        let (mut cursor, mut newest) = (0_u64, None::<(u64, Nonce)>);
        loop {
            let mut command = redis::cmd("ZSCAN");
            command.arg(self.keys.artifact_runs()).arg(cursor);
            command.arg("MATCH").arg(format!("{run} *"));
            command.arg("COUNT").arg(KNOWN_MAX);
            let (next, page): (u64, Vec<(Text, u64)>) = self.door.query(&command).await?;
            for (Text(member), ends_at) in page {
                let nonce = member
                    .split_once(' ')
                    .and_then(|(_, nonce)| nonce.parse().ok());
                if let Some(nonce) = nonce
                    && newest.as_ref().is_none_or(|(until, _)| *until <= ends_at)
                {
                    newest = Some((ends_at, nonce));
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(newest.map(|(_, nonce)| nonce));
            }
        }
    }

    /// Requests whose artifacts are to go, `most` at the most: all of their tokens ended longer than
    /// `retention` ago, and their results are not kept any more. Two round trips.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn expired_artifacts(
        &self,
        now: UnixMs,
        retention: Duration,
        most: usize,
    ) -> Result<Vec<(RunId, Nonce)>, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.kept()).arg("since");
        // Nobody has looked yet which results are there.
        let first_result: Option<u64> = self.door.query(&command).await?;
        let old = now.saturating_sub(millis(retention));
        let before = old.min(first_result.unwrap_or(0));
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command
            .arg(self.keys.artifact_runs())
            .arg("-inf")
            .arg(format!("({before}"))
            .arg("LIMIT")
            .arg(0)
            .arg(most);
        let members: Vec<Text> = self.door.query(&command).await?;
        let read = members.into_iter().filter_map(|Text(member)| {
            let (run, nonce) = member.split_once(' ')?;
            Some((run.parse().ok()?, nonce.parse().ok()?))
        });
        Ok(read.collect())
    }

    /// No artifact of a request is kept any more. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn forget_artifacts(&self, run: &RunId, nonce: &Nonce) -> Result<(), Error> {
        let mut script = scripts::FORGET_ARTIFACTS.prepare_invoke();
        script
            .key(self.keys.artifacts(run, nonce))
            .key(self.keys.artifact_runs())
            .key(self.keys.artifact_bytes());
        script.arg(member(run, nonce));
        let _: i64 = self.door.script(&mut script).await?;
        Ok(())
    }

    /// Which of these requests may have artifacts. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn may_have_artifacts(
        &self,
        requests: &[(RunId, Nonce)],
    ) -> Result<Vec<bool>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = scripts::KNOWN_ARTIFACTS.prepare_invoke();
        script.key(self.keys.artifact_runs());
        for (run, nonce) in requests {
            script.arg(member(run, nonce));
        }
        let known: Vec<i64> = self.door.script(&mut script).await?;
        Ok(known.into_iter().map(|known| known == 1).collect())
    }

    /// Bytes of artifacts that are kept, of all. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn artifact_bytes(&self) -> Result<u64, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.artifact_bytes()).arg("all");
        let bytes: Option<i64> = self.door.query(&command).await?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or(0))
    }
}

fn member(run: &RunId, nonce: &Nonce) -> String {
    format!("{run} {nonce}")
}

/// An artifact may come as long as a result may.
fn posted(attempt: Attempt) -> String {
    moves_word(&Event::Posted { attempt }).into_owned()
}

fn corrupt(what: &str, found: &str) -> Error {
    Error::Corrupt {
        what: what.to_owned(),
        found: found.to_owned(),
    }
}
