//! Artifacts in a bucket of an S3-compatible service, by the crate `object_store`.
//!
//! A guest sends its bytes to an address that is signed for exactly so many. It could do so again while
//! the address lives, so what it sent is copied inside the service before it counts.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::Method;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::signer::Signer as _;
use object_store::{
    BackoffConfig, ClientOptions, MultipartUpload, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, RetryConfig,
};
use tokio::sync::mpsc;
use url::Url;

use crate::artifacts::{
    ADDRESS_LIVES, Error, FoundRun, INCOMING, Kept, Look, nobody_takes_it, presign,
};
use crate::config::Bucket;
use crate::run::artifact::{ArtifactKey, run_prefix};
use crate::run::digest::Sha256;
use crate::run::id::{Nonce, RunId};

/// Bytes that are sent at once of what comes through us: the least that the service takes as a part.
pub(super) const PART_BYTES: usize = 5 << 20;
/// Objects that one look goes through, and that one sweep removes.
const LOOK_MAX: usize = 1000;
/// How long a connection may take, one call, and one call with its repeats.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES: usize = 3;

/// A bucket with artifacts.
#[derive(Clone, Debug)]
pub(super) struct BucketStore {
    service: AmazonS3,
    prefix: String,
}

/// One artifact on its way in, through us.
#[derive(Debug)]
pub(super) struct Upload {
    bucket: BucketStore,
    to: Path,
    /// There once it is more than one part.
    parts: Option<Box<dyn MultipartUpload>>,
    part: BytesMut,
    hashed: Sha256,
    bytes: u64,
}

impl BucketStore {
    pub(super) fn open(bucket: &Bucket) -> Result<Self, Error> {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
        };
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(CALL_TIMEOUT);
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retry);
        let mut is_plain = false;
        for (name, value) in &bucket.variables {
            let value = value.expose();
            is_plain |= name.starts_with("AWS_ENDPOINT") && value.starts_with("http://");
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        if is_plain {
            builder = builder.with_allow_http(true);
        }
        let built = builder.with_bucket_name(&bucket.name).build();
        Ok(Self {
            service: built.map_err(failed)?,
            prefix: bucket.prefix.clone(),
        })
    }

    fn path(&self, below: &str) -> Path {
        match self.prefix.as_str() {
            "" => Path::from(below),
            prefix => Path::from(format!("{prefix}/{below}")),
        }
    }

    fn of(&self, key: &ArtifactKey) -> Path {
        self.path(&key.to_string())
    }

    pub(super) fn shown_key(&self, key: &ArtifactKey) -> String {
        self.of(key).to_string()
    }

    fn incoming_of(&self, key: &ArtifactKey) -> Path {
        let installation = key.nonce.installation();
        self.path(&format!("{installation}/{INCOMING}/{}", key.put))
    }

    pub(super) async fn address(&self, key: &ArtifactKey, bytes: u64) -> Result<Url, Error> {
        let path = self.incoming_of(key);
        let signed = self.service.signed_url(Method::PUT, &path, ADDRESS_LIVES);
        let signed = signed.await.map_err(failed)?;
        let credential = self.service.credentials().get_credential().await;
        let credential = credential.map_err(failed)?;
        presign::for_length(&signed, &credential.secret_key, bytes)
            .ok_or_else(|| Error::Refused("its addresses are signed in an unknown way".into()))
    }

    pub(super) async fn take_over(&self, key: &ArtifactKey, bytes: u64) -> Result<bool, Error> {
        let from = self.incoming_of(key);
        match self.service.head(&from).await {
            Ok(found) if found.size == bytes => {}
            Ok(_) => {
                self.delete(from).await?;
                return Ok(false);
            }
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        let copied = self.service.copy(&from, &self.of(key)).await;
        copied.map_err(failed)?;
        // A sweep would remove it later.
        let _ = self.delete(from).await;
        Ok(true)
    }

    pub(super) fn begin(&self, key: &ArtifactKey, bytes: u64) -> Upload {
        let most = usize::try_from(bytes).map_or(PART_BYTES, |bytes| bytes.min(PART_BYTES));
        Upload {
            bucket: self.clone(),
            to: self.of(key),
            parts: None,
            part: BytesMut::with_capacity(most),
            hashed: Sha256::new(),
            bytes: 0,
        }
    }

    pub(super) async fn read(
        &self,
        key: &ArtifactKey,
        to: &mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let found = self.service.get(&self.of(key)).await.map_err(missing)?;
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let sent = to.send(piece.map_err(failed)?).await;
            sent.map_err(|_| nobody_takes_it())?;
        }
        Ok(())
    }

    pub(super) async fn remove(&self, key: &ArtifactKey) -> Result<(), Error> {
        self.delete(self.of(key)).await
    }

    async fn delete(&self, path: Path) -> Result<(), Error> {
        match self.service.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) async fn remove_run(&self, run: &RunId, nonce: &Nonce) -> Result<u64, Error> {
        let prefix = self.path(&run_prefix(run, nonce));
        self.remove_below(&prefix, |_| true, usize::MAX).await
    }

    pub(super) async fn remove_incoming(
        &self,
        installation: &str,
        before: SystemTime,
    ) -> Result<u64, Error> {
        let prefix = self.path(&format!("{installation}/{INCOMING}"));
        let is_old = |object: &ObjectMeta| SystemTime::from(object.last_modified) < before;
        self.remove_below(&prefix, is_old, LOOK_MAX).await
    }

    /// Removes the objects below `prefix` that are `meant`, of the first `most`.
    async fn remove_below(
        &self,
        prefix: &Path,
        is_meant: impl Fn(&ObjectMeta) -> bool,
        most: usize,
    ) -> Result<u64, Error> {
        let found = self.service.list(Some(prefix)).take(most);
        let mut steps = found.try_chunks(LOOK_MAX);
        let mut removed = 0;
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| failed(error.1))?;
            let meant = step.into_iter().filter(|object| is_meant(object));
            let paths: Vec<_> = meant.map(|object| Ok(object.location)).collect();
            let deleted = self.service.delete_stream(stream::iter(paths).boxed());
            removed += deleted
                .try_fold(0, async |n, _| Ok(n + 1))
                .await
                .map_err(failed)?;
        }
        Ok(removed)
    }

    pub(super) async fn look(
        &self,
        installation: &str,
        from: Option<String>,
    ) -> Result<Look, Error> {
        let prefix = self.path(installation);
        let found = match &from {
            Some(from) => {
                let from = self.path(&format!("{installation}/{from}"));
                self.service.list_with_offset(Some(&prefix), &from)
            }
            None => self.service.list(Some(&prefix)),
        };
        let objects: Vec<ObjectMeta> = found.take(LOOK_MAX).try_collect().await.map_err(failed)?;
        let is_more = objects.len() == LOOK_MAX;
        let below = |object: &ObjectMeta| {
            let mut parts = object.location.prefix_match(&prefix)?;
            let (run, rest, _put) = (parts.next()?, parts.next()?, parts.next()?);
            Some((run.as_ref().to_owned(), rest.as_ref().to_owned()))
        };
        let next = objects.last().filter(|_| is_more).and_then(|last| {
            let parts = last.location.prefix_match(&prefix)?;
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        });
        let mut runs: Vec<FoundRun> = Vec::new();
        for object in &objects {
            let changed = SystemTime::from(object.last_modified);
            let Some((run, rest)) = below(object) else {
                continue;
            };
            let nonce = format!("{installation}{rest}").parse::<Nonce>();
            let (Ok(run), Ok(nonce)) = (run.parse::<RunId>(), nonce) else {
                continue;
            };
            match runs.last_mut() {
                Some(last) if last.run == run && last.nonce == nonce => {
                    last.changed = last.changed.max(changed);
                }
                _ => runs.push(FoundRun {
                    run,
                    nonce,
                    changed,
                }),
            }
        }
        Ok(Look { runs, next })
    }
}

impl Upload {
    pub(super) async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.hashed.update(bytes);
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            // The last part goes with `finish`, so that one that is all goes without parts.
            if self.part.len() == PART_BYTES {
                self.send_part().await?;
            }
            let room = PART_BYTES - self.part.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.part.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<(), Error> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                let begun = self.bucket.service.put_multipart(&self.to).await;
                none.insert(begun.map_err(failed)?)
            }
        };
        let part = std::mem::take(&mut self.part).freeze();
        parts.put_part(part.into()).await.map_err(failed)
    }

    pub(super) async fn finish(mut self) -> Result<Kept, Error> {
        if self.parts.is_some() {
            self.send_part().await?;
        }
        let part = std::mem::take(&mut self.part).freeze();
        match &mut self.parts {
            Some(parts) => parts.complete().await.map_err(failed)?,
            None => {
                let put = self.bucket.service.put(&self.to, part.into());
                put.await.map_err(failed)?
            }
        };
        self.parts = None;
        Ok(Kept {
            bytes: self.bytes,
            sha256: std::mem::take(&mut self.hashed).finish(),
        })
    }
}

impl Drop for Upload {
    /// Parts that never become an object cost money.
    fn drop(&mut self) {
        if let Some(mut parts) = self.parts.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { parts.abort().await });
        }
    }
}

fn missing(error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::Missing,
        other => failed(other),
    }
}

/// What an error means to whoever asked. Its own words can hold addresses, so a guest is not told them.
fn failed(error: object_store::Error) -> Error {
    use object_store::Error as E;
    let text = error.to_string();
    match error {
        E::NotFound { .. } | E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            Error::Refused(text)
        }
        E::NotSupported { .. } | E::NotImplemented { .. } | E::InvalidPath { .. } => {
            Error::Refused(text)
        }
        // S3 itself is never full; others say so by this status.
        _ if text.contains("507") => Error::Full(text),
        _ => Error::Away(text),
    }
}
