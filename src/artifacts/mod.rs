//! The door to where artifacts are kept: a folder, or a bucket of an S3-compatible service.
//!
//! ```text
//!  folder:  bytes ─▶ .incoming/PUT ──rename──▶ INSTALLATION/RUN/REQUEST/PUT
//!  bucket:  guest ─▶ INSTALLATION/.incoming/PUT ──copy──▶ INSTALLATION/RUN/REQUEST/PUT
//! ```
//!
//! What is kept is whole from the first moment, and is never written to again. Paths and keys are made of
//! ids alone; names are Redis's business, and so is who may keep how much.

mod bucket;
mod folder;
mod presign;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use url::Url;

use crate::artifacts::bucket::{BucketStore, Upload};
use crate::artifacts::folder::{FolderStore, Incoming};
use crate::config::ArtifactPlace;
use crate::run::artifact::{Artifact, ArtifactKey};
use crate::run::digest::Sha256;
use crate::run::id::{Nonce, RunId};

/// Where what is not yet whole is kept.
const INCOMING: &str = ".incoming";

/// For how long a guest may send bytes to an address that it was given.
pub const ADDRESS_LIVES: Duration = Duration::from_secs(1800);
/// What was begun longer ago than this is left over: nobody still sends it.
pub const LEFT_OVER_AFTER: Duration = Duration::from_secs(3600);

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No room is left.
    #[error("no room is left where artifacts are kept: {0}")]
    Full(String),
    /// The store is there and says no: an operator must act.
    #[error("where artifacts are kept refuses: {0}")]
    Refused(String),
    /// The store is not there, or failed; it may do it later.
    #[error("where artifacts are kept does not answer: {0}")]
    Away(String),
    /// There is no such artifact.
    #[error("the artifact is not there any more")]
    Missing,
    /// What is there is not what was put.
    #[error("the artifact is not what was put: {found}, and not {wanted}")]
    Damaged {
        /// Its digest.
        found: String,
        /// The digest of what was put.
        wanted: String,
    },
    /// Whoever asked for it does not take it.
    #[error("the artifact could not be written: {0}")]
    Sink(std::io::Error),
}

/// Where artifacts are kept. Clones share connections.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Folder(FolderStore),
    Bucket(BucketStore),
}

/// An artifact on its way in.
#[derive(Debug)]
pub struct Arriving {
    kind: ArrivingKind,
}

#[derive(Debug)]
enum ArrivingKind {
    Folder(Incoming),
    Bucket(Upload),
}

/// What was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The artifacts of one request, as they are found where they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRun {
    /// Whose.
    pub run: RunId,
    /// Of which request.
    pub nonce: Nonce,
    /// When the last of them was written, as far as was seen.
    pub changed: SystemTime,
}

/// A look at what is kept.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Requests that have artifacts.
    pub runs: Vec<FoundRun>,
    /// Where the next look goes on; `None` at the end.
    pub next: Option<String>,
}

impl ArtifactStore {
    /// Opens it: makes the folder if need be. No bucket is asked yet.
    ///
    /// # Errors
    /// [`Error::Refused`] when it can never work.
    pub fn open(place: &ArtifactPlace) -> Result<Self, Error> {
        let kind = match place {
            ArtifactPlace::Folder(path) => Kind::Folder(FolderStore::open(path)?),
            ArtifactPlace::Bucket(bucket) => Kind::Bucket(BucketStore::open(bucket)?),
        };
        Ok(Self { kind })
    }

    /// Whether guests send their bytes to [addresses](Self::address) of the store.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        matches!(self.kind, Kind::Bucket(_))
    }

    /// An artifact's key as whoever looks into the store finds it: in the bucket, or below the folder.
    #[must_use]
    pub fn shown_key(&self, key: &ArtifactKey) -> String {
        match &self.kind {
            Kind::Folder(_) => key.to_string(),
            Kind::Bucket(bucket) => bucket.shown_key(key),
        }
    }

    /// The address to which a guest sends the bytes itself, exactly so many of them; `None` where they
    /// come through us. What it sends counts once it is [taken over](Self::take_over).
    ///
    /// # Errors
    /// When there are no credentials to sign with.
    pub async fn address(&self, key: &ArtifactKey, bytes: u64) -> Result<Option<Url>, Error> {
        match &self.kind {
            Kind::Folder(_) => Ok(None),
            Kind::Bucket(bucket) => bucket.address(key, bytes).await.map(Some),
        }
    }

    /// Takes over what a guest has sent to its [address](Self::address). Answers whether there was
    /// something of this length.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn take_over(&self, key: &ArtifactKey, bytes: u64) -> Result<bool, Error> {
        match &self.kind {
            Kind::Folder(_) => Ok(false),
            Kind::Bucket(bucket) => bucket.take_over(key, bytes).await,
        }
    }

    /// Begins to take in an artifact of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error`]: also when there is too little room for all of it.
    pub async fn begin(&self, key: &ArtifactKey, bytes: u64) -> Result<Arriving, Error> {
        let kind = match &self.kind {
            Kind::Folder(folder) => ArrivingKind::Folder(folder.begin(key, bytes).await?),
            Kind::Bucket(bucket) => ArrivingKind::Bucket(bucket.begin(key, bytes)),
        };
        Ok(Arriving { kind })
    }

    /// Bytes of memory that an artifact of `bytes` bytes takes while it comes in through us.
    #[must_use]
    pub fn memory_bytes(&self, bytes: u64) -> usize {
        let most = match &self.kind {
            Kind::Folder(_) => 2 * folder::PIECE_BYTES,
            Kind::Bucket(_) => bucket::PART_BYTES,
        };
        usize::try_from(bytes).map_or(most, |bytes| bytes.min(most))
    }

    /// Reads an artifact, piece by piece, and checks at its end that it is what was put.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`], [`Error::Sink`], or what the store says.
    pub async fn fetch(
        &self,
        key: &ArtifactKey,
        artifact: &Artifact,
        mut sink: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let (to, mut pieces) = mpsc::channel::<Bytes>(1);
        let taking = async {
            let mut hashed = Sha256::new();
            while let Some(piece) = pieces.recv().await {
                hashed.update(&piece);
                sink(&piece).map_err(Error::Sink)?;
            }
            Ok(hashed)
        };
        let ((), hashed) = tokio::try_join!(self.read(key, to), taking)?;
        checked(hashed, artifact)
    }

    /// As [`fetch`](Self::fetch), for somebody who takes pieces as fast as they can. The last piece comes
    /// only once all of it is known to be what was put: else it ends early.
    ///
    /// # Errors
    /// As there; also when a piece is not taken within `patience`.
    pub async fn send(
        &self,
        key: &ArtifactKey,
        artifact: &Artifact,
        out: mpsc::Sender<Bytes>,
        patience: Duration,
    ) -> Result<(), Error> {
        let give = async |piece: Bytes| {
            let given = tokio::time::timeout(patience, out.send(piece)).await;
            match given {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(nobody_takes_it()),
            }
        };
        let (to, mut pieces) = mpsc::channel::<Bytes>(1);
        let taking = async {
            let (mut hashed, mut held) = (Sha256::new(), None::<Bytes>);
            while let Some(piece) = pieces.recv().await {
                hashed.update(&piece);
                if let Some(before) = held.replace(piece) {
                    give(before).await?;
                }
            }
            Ok((hashed, held))
        };
        let ((), (hashed, held)) = tokio::try_join!(self.read(key, to), taking)?;
        checked(hashed, artifact)?;
        match held {
            Some(last) => give(last).await,
            None => Ok(()),
        }
    }

    async fn read(&self, key: &ArtifactKey, to: mpsc::Sender<Bytes>) -> Result<(), Error> {
        match &self.kind {
            Kind::Folder(folder) => folder.read(key, &to).await,
            Kind::Bucket(bucket) => bucket.read(key, &to).await,
        }
    }

    /// Removes one artifact; it need not be there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove(&self, key: &ArtifactKey) -> Result<(), Error> {
        match &self.kind {
            Kind::Folder(folder) => folder.remove(key).await,
            Kind::Bucket(bucket) => bucket.remove(key).await,
        }
    }

    /// Removes all artifacts of a request. Answers how many there were.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_run(&self, run: &RunId, nonce: &Nonce) -> Result<u64, Error> {
        match &self.kind {
            Kind::Folder(folder) => folder.remove_run(run, nonce).await,
            Kind::Bucket(bucket) => bucket.remove_run(run, nonce).await,
        }
    }

    /// Removes what was begun before `before` and never became whole. Answers how many there were.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_incoming(
        &self,
        installation: &str,
        before: SystemTime,
    ) -> Result<u64, Error> {
        match &self.kind {
            Kind::Folder(folder) => folder.remove_incoming(before).await,
            Kind::Bucket(bucket) => bucket.remove_incoming(installation, before).await,
        }
    }

    /// Looks for requests of an installation that have artifacts, from where the last look ended.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn look(&self, installation: &str, from: Option<String>) -> Result<Look, Error> {
        match &self.kind {
            Kind::Folder(folder) => folder.look(installation, from).await,
            Kind::Bucket(bucket) => bucket.look(installation, from).await,
        }
    }
}

/// Whether what was read is what was put.
fn checked(hashed: Sha256, artifact: &Artifact) -> Result<(), Error> {
    match hashed.finish() {
        found if found == artifact.sha256 => Ok(()),
        found => Err(Error::Damaged {
            found,
            wanted: artifact.sha256.clone(),
        }),
    }
}

fn nobody_takes_it() -> Error {
    Error::Sink(std::io::ErrorKind::BrokenPipe.into())
}

impl Arriving {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error`]; nothing more can come then.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.kind {
            ArrivingKind::Folder(incoming) => incoming.push(bytes).await,
            ArrivingKind::Bucket(upload) => upload.push(bytes).await,
        }
    }

    /// All of it has come: it is kept from now on. Without this nothing is kept.
    ///
    /// # Errors
    /// [`Error`]; nothing is kept then.
    pub async fn finish(self) -> Result<Kept, Error> {
        match self.kind {
            ArrivingKind::Folder(incoming) => incoming.finish().await,
            ArrivingKind::Bucket(upload) => upload.finish().await,
        }
    }
}
