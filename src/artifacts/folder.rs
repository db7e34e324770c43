//! Artifacts in a folder. Each is written beside all others and renamed when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::artifacts::{Error, FoundRun, INCOMING, Kept, Look, nobody_takes_it};
use crate::run::artifact::{ArtifactKey, run_prefix};
use crate::run::digest::Sha256;
use crate::run::id::{Nonce, RunId};

/// Bytes that are read, hashed and written at once; one such piece is written while the next comes in.
pub(super) const PIECE_BYTES: usize = 128 * 1024;
/// Room that artifacts leave on their disk, which may be that of Redis too.
const FREE_BYTES: u64 = 256 << 20;
/// Folders that one look tells of, and files that one sweep removes.
const LOOK_MAX: usize = 1000;

/// A folder with artifacts.
#[derive(Clone, Debug)]
pub(super) struct FolderStore {
    root: PathBuf,
}

/// One artifact on its way in. Its file goes with it if it is not finished.
#[derive(Debug)]
pub(super) struct Incoming {
    folder: FolderStore,
    from: Staged,
    to: PathBuf,
    piece: Vec<u8>,
    writing: Option<JoinHandle<io::Result<Writing>>>,
    idle: Option<Writing>,
}

/// A file that is removed when dropped.
#[derive(Debug)]
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What writes a file.
#[derive(Debug)]
struct Writing {
    file: File,
    hashed: Sha256,
    bytes: u64,
    piece: Vec<u8>,
}

impl Writing {
    fn write(mut self) -> io::Result<Self> {
        self.file.write_all(&self.piece)?;
        self.hashed.update(&self.piece);
        self.bytes += self.piece.len() as u64;
        self.piece.clear();
        Ok(self)
    }
}

impl FolderStore {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let made = make_folder(&root.join(INCOMING));
        made.map_err(|error| failed(&error, root))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn path(&self, key: &ArtifactKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    pub(super) async fn begin(&self, key: &ArtifactKey, bytes: u64) -> Result<Incoming, Error> {
        let folder = self.clone();
        let from = self.root.join(INCOMING).join(key.put.as_str());
        let opened = from.clone();
        let file = self.blocking(move || {
            folder.check_room(bytes)?;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(opened)
        });
        let file = file.await?;
        Ok(Incoming {
            folder: self.clone(),
            from: Staged(from),
            to: self.path(key),
            piece: Vec::with_capacity(PIECE_BYTES),
            writing: None,
            idle: Some(Writing {
                file,
                hashed: Sha256::new(),
                bytes: 0,
                piece: Vec::with_capacity(PIECE_BYTES),
            }),
        })
    }

    fn check_room(&self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.root)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes.saturating_add(FREE_BYTES) {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) async fn read(
        &self,
        key: &ArtifactKey,
        to: &mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let path = self.path(key);
        let mut file = self.blocking(move || File::open(path)).await?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = self.blocking(move || {
                let read = file.read(&mut piece)?;
                Ok((file, piece, read))
            });
            let read_bytes;
            (file, piece, read_bytes) = read.await?;
            if read_bytes == 0 {
                return Ok(());
            }
            let read = piece.get(..read_bytes).unwrap_or_default();
            let sent = to.send(Bytes::copy_from_slice(read)).await;
            sent.map_err(|_| nobody_takes_it())?;
        }
    }

    pub(super) async fn remove(&self, key: &ArtifactKey) -> Result<(), Error> {
        let path = self.path(key);
        self.blocking(move || absent_is_fine(fs::remove_file(path)))
            .await
    }

    pub(super) async fn remove_run(&self, run: &RunId, nonce: &Nonce) -> Result<u64, Error> {
        let folder = self.root.join(run_prefix(run, nonce));
        let removed = self.blocking(move || {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries.count() as u64,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            };
            absent_is_fine(fs::remove_dir_all(&folder))?;
            // The same id may have had another request.
            if let Some(parent) = folder.parent() {
                let _ = fs::remove_dir(parent);
            }
            Ok(entries)
        });
        removed.await
    }

    pub(super) async fn remove_incoming(&self, before: SystemTime) -> Result<u64, Error> {
        let folder = self.root.join(INCOMING);
        let removed = self.blocking(move || {
            let mut removed = 0;
            for entry in fs::read_dir(folder)?.take(LOOK_MAX) {
                let entry = entry?;
                // It may be finished meanwhile, and is then not there any more.
                let changed = entry.metadata().and_then(|metadata| metadata.modified());
                if changed.is_ok_and(|changed| changed < before) {
                    absent_is_fine(fs::remove_file(entry.path()))?;
                    removed += 1;
                }
            }
            Ok(removed)
        });
        removed.await
    }

    pub(super) async fn look(
        &self,
        installation: &str,
        from: Option<String>,
    ) -> Result<Look, Error> {
        let folder = self.root.join(installation);
        let installation = installation.to_owned();
        self.blocking(move || look(&folder, &installation, from.as_deref()))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let done = spawn_blocking(act).await.map_err(io::Error::other);
        done.and_then(|done| done)
            .map_err(|error| failed(&error, &self.root))
    }
}

impl Incoming {
    pub(super) async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.piece.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Lets what has come be written, once what came before is.
    async fn write(&mut self) -> Result<(), Error> {
        let mut writing = self.written().await?;
        std::mem::swap(&mut writing.piece, &mut self.piece);
        self.writing = Some(spawn_blocking(move || writing.write()));
        Ok(())
    }

    async fn written(&mut self) -> Result<Writing, Error> {
        if let Some(idle) = self.idle.take() {
            return Ok(idle);
        }
        let Some(writing) = self.writing.take() else {
            return Err(Error::Away("an earlier write failed".into()));
        };
        let done = writing.await.map_err(io::Error::other);
        done.and_then(|done| done)
            .map_err(|error| failed(&error, &self.folder.root))
    }

    pub(super) async fn finish(mut self) -> Result<Kept, Error> {
        self.write().await?;
        let Writing { hashed, bytes, .. } = self.written().await?;
        let (from, to) = (self.from.0.clone(), self.to.clone());
        let renamed = self.folder.blocking(move || {
            for _ in 0..3 {
                if let Some(parent) = to.parent() {
                    make_folder(parent)?;
                }
                match fs::rename(&from, &to) {
                    // A sweep has removed the folder since.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    renamed => return renamed,
                }
            }
            Err(ErrorKind::NotFound.into())
        });
        renamed.await?;
        Ok(Kept {
            bytes,
            sha256: hashed.finish(),
        })
    }
}

fn look(folder: &Path, installation: &str, from: Option<&str>) -> io::Result<Look> {
    let from = from.and_then(|from| from.split_once('/'));
    let mut found = BTreeMap::new();
    let mut is_more = false;
    each_subfolder(folder, |run, path| {
        if from.is_some_and(|(last, _)| *run < *last) {
            return Ok(());
        }
        each_subfolder(path, |rest, path| {
            if from.is_some_and(|last| (run, rest) <= last) {
                return Ok(());
            }
            let Ok(changed) = fs::metadata(path).and_then(|metadata| metadata.modified()) else {
                return Ok(());
            };
            found.insert((run.to_owned(), rest.to_owned()), changed);
            if found.len() > LOOK_MAX {
                is_more = true;
                found.pop_last();
            }
            Ok(())
        })
    })?;
    let next = found.keys().next_back().filter(|_| is_more);
    let next = next.map(|(run, rest)| format!("{run}/{rest}"));
    let runs = found.into_iter().filter_map(|((run, rest), changed)| {
        Some(FoundRun {
            run: run.parse().ok()?,
            nonce: format!("{installation}{rest}").parse().ok()?,
            changed,
        })
    });
    Ok(Look {
        runs: runs.collect(),
        next,
    })
}

/// Visits the folders in a folder, which need not be there.
fn each_subfolder(
    folder: &Path,
    mut visit: impl FnMut(&str, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if let (Some(name), true) = (entry.file_name().to_str(), entry.file_type()?.is_dir()) {
            visit(name, &entry.path())?;
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What an error means to whoever asked. The guest sees these words, so they name no path.
fn failed(error: &io::Error, root: &Path) -> Error {
    let text = error.kind().to_string();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::Full(text)
        }
        ErrorKind::NotFound if root.is_dir() => Error::Missing,
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists => Error::Refused(text),
        _ => Error::Away(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::artifact::PutId;

    fn key(run: &str, put: u128) -> ArtifactKey {
        ArtifactKey {
            run: run.parse().unwrap(),
            nonce: "00112233445566778899aabbccdd0001".parse().unwrap(),
            put: PutId::from_bits(put),
        }
    }

    async fn keep(folder: &FolderStore, key: &ArtifactKey, bytes: &[u8]) -> Kept {
        let mut incoming = folder.begin(key, bytes.len() as u64).await.unwrap();
        for piece in bytes.chunks(50_000) {
            incoming.push(piece).await.unwrap();
        }
        incoming.finish().await.unwrap()
    }

    #[tokio::test]
    async fn what_is_kept_is_what_came_and_what_did_not_come_whole_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
        let folder = FolderStore::open(temp.path()).unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let kept = keep(&folder, &key("a", 1), &bytes).await;
        let sha256 = crate::run::digest::sha256(&bytes);
        assert_eq!(
            kept,
            Kept {
                bytes: 300_000,
                sha256
            }
        );
        let (to, mut pieces) = mpsc::channel::<Bytes>(1);
        let taking = async {
            let mut read = Vec::new();
            while let Some(piece) = pieces.recv().await {
                read.extend_from_slice(&piece);
            }
            read
        };
        let reading = async {
            let to = to;
            folder.read(&key("a", 1), &to).await
        };
        let (done, read) = tokio::join!(reading, taking);
        done.unwrap();
        assert_eq!(read, bytes);

        let mut cut = folder.begin(&key("a", 2), 300_000).await.unwrap();
        cut.push(&bytes[..200_000]).await.unwrap();
        drop(cut);
        let (to, _pieces) = mpsc::channel(1);
        let gone = folder.read(&key("a", 2), &to).await;
        assert!(matches!(gone, Err(Error::Missing)), "{gone:?}");
        // Its last piece may still be on its way to the file, which then has no name.
        assert_eq!(fs::read_dir(temp.path().join(INCOMING)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_look_tells_of_every_run_once_in_bounded_steps() {
        let temp = tempfile::tempdir().unwrap();
        let folder = FolderStore::open(temp.path()).unwrap();
        for n in 0..1500 {
            let path = folder.path(&key(&format!("run-{n}"), 1));
            make_folder(path.parent().unwrap()).unwrap();
        }
        let first = folder.look("0011223344556677", None).await.unwrap();
        assert_eq!(first.runs.len(), LOOK_MAX);
        let second = folder.look("0011223344556677", first.next).await.unwrap();
        assert_eq!((second.runs.len(), second.next), (500, None));
        let mut all: Vec<_> = first.runs.into_iter().chain(second.runs).collect();
        all.sort_by(|one, other| one.run.cmp(&other.run));
        all.dedup_by(|one, other| one.run == other.run);
        assert_eq!(all.len(), 1500);
        assert!(
            folder
                .look("f".repeat(16).as_str(), None)
                .await
                .unwrap()
                .runs
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_run_is_removed_whole_and_what_is_left_over_by_its_age() {
        let temp = tempfile::tempdir().unwrap();
        let folder = FolderStore::open(temp.path()).unwrap();
        let of = key("a", 1);
        keep(&folder, &of, b"1").await;
        keep(&folder, &key("a", 2), b"2").await;
        assert_eq!(folder.remove_run(&of.run, &of.nonce).await.unwrap(), 2);
        assert_eq!(folder.remove_run(&of.run, &of.nonce).await.unwrap(), 0);
        assert!(!temp.path().join("0011223344556677/a").exists());

        fs::write(temp.path().join(INCOMING).join("old"), "half").unwrap();
        let long_ago = SystemTime::UNIX_EPOCH;
        assert_eq!(folder.remove_incoming(long_ago).await.unwrap(), 0);
        let soon = long_ago + std::time::Duration::from_secs(1 << 33);
        assert_eq!(folder.remove_incoming(soon).await.unwrap(), 1);
    }
}
