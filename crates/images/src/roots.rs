//! The unpacked images, each in a folder named by its digest.
//!
//! A folder gets its name by a rename after everything in it is on disk, so one that has a name is
//! whole. What is being unpacked, or thrown away, is in `tmp`; the holder of the import lock
//! may clear it, since no other import runs then.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::index::{Index, write_whole};
use crate::lock::{Lock, LockMode};
use crate::plan::{RunConfig, parse};

/// What kind of source an image was imported from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A plain folder.
    Folder,
    /// An OCI image layout.
    Oci,
    /// An archive of `docker save`.
    Docker,
}

/// What is known of an unpacked image, kept beside it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) layers: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) settings: RunConfig,
}

/// Keeps an unpacked image from being deleted for as long as it, or a clone of it, is held. The
/// end of the process ends it too.
#[derive(Clone, Debug)]
pub struct Lease {
    _lock: Arc<Lock>,
}

/// The folders of unpacked images and of those being unpacked.
#[derive(Debug)]
pub(crate) struct Roots {
    whole: PathBuf,
    unfinished: PathBuf,
}

/// A folder in `tmp`, deleted when it is dropped without having been kept.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    /// Another process made it, and deletes it.
    borrowed: bool,
}

impl Roots {
    /// Makes the folders below `store` if they are not there.
    pub(crate) fn open(store: &Path) -> Result<Self, Error> {
        let roots = Self {
            whole: store.join("roots"),
            unfinished: store.join("tmp"),
        };
        make_private(&roots.whole)?;
        make_private(&roots.unfinished)?;
        Ok(roots)
    }

    /// A new folder to unpack into.
    pub(crate) fn stage(&self) -> Result<Staged, Error> {
        let path = self.unfinished_path("import");
        make_private(&path)?;
        Ok(Staged {
            path,
            borrowed: false,
        })
    }

    /// Deletes what imports and removals that were cut short have left. Only for the holder of the
    /// import lock.
    pub(crate) fn clear_unfinished(&self) -> Result<(), Error> {
        for name in folder_names(&self.unfinished)? {
            delete(&self.unfinished.join(name))?;
        }
        Ok(())
    }

    /// Gives a staged folder its name, unless the same image is there already.
    pub(crate) fn keep(&self, staged: Staged, digest: &Digest) -> Result<(), Error> {
        let place = self.place(digest);
        if self.has(digest) {
            return Ok(());
        }
        let doing = || format!("name the unpacked image {}", place.display());
        fs::rename(&staged.path, &place).map_err(Error::io(doing()))?;
        fs::File::open(&self.whole)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io(doing()))
    }

    /// The images that are unpacked.
    pub(crate) fn digests(&self) -> Result<Vec<Digest>, Error> {
        let names = folder_names(&self.whole)?;
        let digests = names.iter().filter_map(|name| parse_place(name.to_str()?));
        Ok(digests.filter(|digest| self.has(digest)).collect())
    }

    /// Whether the image is unpacked.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.place(digest).join("image.json").is_file()
    }

    /// Whether a machine uses the image.
    pub(crate) fn in_use(&self, digest: &Digest) -> Result<bool, Error> {
        let lock = self.place(digest).join("in-use");
        Ok(Lock::try_take(&lock, LockMode::Exclusive)?.is_none())
    }

    /// Keeps an image that is unpacked from being deleted. The index lock is held meanwhile.
    pub(crate) fn lease(&self, digest: &Digest) -> Result<Lease, Error> {
        let path = self.place(digest).join("in-use");
        // It is taken exclusively only under the exclusive index lock, so it is free to share now.
        let lock = Lock::take(&path, LockMode::Shared, Duration::ZERO)?;
        Ok(Lease {
            _lock: Arc::new(lock),
        })
    }

    /// What is known of an unpacked image.
    pub(crate) fn record(&self, digest: &Digest) -> Result<Record, Error> {
        let path = self.place(digest).join("image.json");
        let bytes = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        parse(path.display(), &bytes)
    }

    /// The root file system of an unpacked image.
    pub(crate) fn rootfs(&self, digest: &Digest) -> PathBuf {
        self.place(digest).join("rootfs")
    }

    /// Moves images that no name refers to and no machine uses out of the way, and gives the
    /// folders to be deleted. The index lock is held alone meanwhile.
    pub(crate) fn retire(&self, index: &Index) -> Result<Vec<PathBuf>, Error> {
        let mut retired = Vec::new();
        for name in folder_names(&self.whole)? {
            let Some(digest) = name.to_str().and_then(parse_place) else {
                continue;
            };
            if index.uses(&digest) || self.in_use(&digest)? {
                continue;
            }
            let to = self.unfinished_path("retired");
            fs::rename(self.place(&digest), &to)
                .map_err(Error::io(format!("retire the image {digest}")))?;
            retired.push(to);
        }
        Ok(retired)
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.whole.join(format!("sha256-{}", digest.hex()))
    }

    fn unfinished_path(&self, what: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        // Folders of an earlier process with this number are passed over.
        (0_u64..)
            .map(|round| {
                let name = format!("{what}-{process}-{number}-{round}");
                self.unfinished.join(name)
            })
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.unfinished.join(what))
    }
}

impl Staged {
    /// A folder that another process has staged.
    pub(crate) fn existing(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            borrowed: true,
        }
    }

    /// Its path, absolute and without symbolic links.
    pub(crate) fn canonical(&self) -> Result<PathBuf, Error> {
        let doing = || format!("find the folder {}", self.path.display());
        self.path.canonicalize().map_err(Error::io(doing()))
    }

    /// Removes what stood in it for the process that unpacked, a file and an empty folder.
    pub(crate) fn clear_scaffolding(&self, file: &Path, folder: &Path) -> Result<(), Error> {
        let removed = fs::remove_file(file).and_then(|()| match fs::remove_dir(folder) {
            Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        });
        removed.map_err(Error::io("clear the staged folder"))
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Where a compressed archive is spread out while its image is unpacked.
    pub(crate) fn spool(&self) -> PathBuf {
        self.path.join("archive")
    }

    /// Notes what the folder holds; the last thing before it is kept.
    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Error> {
        write_whole(&self.path.join("image.json"), record)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.borrowed {
            // What cannot be deleted now is deleted by the next import.
            let _ = delete(&self.path);
        }
    }
}

fn parse_place(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_prefix("sha256-")?)
}

/// Makes a folder, and those it is in, that only the owner may enter. One that is there is closed
/// to others.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(Error::io(format!("make the folder {}", path.display())))
}

/// Deletes a file or a folder with all that is in it; links in it are not followed. That somebody
/// else deletes it at the same time is no error.
pub(crate) fn delete(path: &Path) -> Result<(), Error> {
    let mut fault = None;
    for _ in 0..10 {
        let deleted = match fs::symlink_metadata(path) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(()),
            Err(fault) => Err(fault),
        };
        match deleted {
            Ok(()) => return Ok(()),
            Err(new) => fault = Some(new),
        }
    }
    let fault = fault.unwrap_or_else(|| ErrorKind::Other.into());
    Err(Error::io(format!("delete {}", path.display()))(fault))
}

fn folder_names(path: &Path) -> Result<Vec<OsString>, Error> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(Error::io(format!("read the folder {}", path.display())))
}
