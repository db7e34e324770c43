//! A root file system as the planning sees it: entries of folders, and what in it is not the
//! image's to fill.

use std::ffi::{OsStr, OsString};
use std::io;

/// The writable folders, each a file system of its own in memory; and the two that are not the
/// image's to fill.
pub(super) const WRITABLE: [&str; 2] = ["/workspace", "/tmp"];
const KERNEL: [&str; 2] = ["/proc", "/dev"];
/// Where the first program stands.
pub(super) const INIT: &str = "/.init";

/// The most mounts in one root.
pub(super) const BINDS_MAX: usize = 512;

/// One entry of a folder of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder {
        empty: bool,
    },
    File,
    Link(OsString),
    /// A device, pipe or socket; left out of every sandbox.
    Other,
}

/// Why a root cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    #[error("file {path}: {why}")]
    File { path: String, why: String },
    #[error("folder {folder} of the image: {source}")]
    Read { folder: String, source: io::Error },
    #[error("the root needs more than {BINDS_MAX} mounts")]
    Large,
}

/// An image, by the entries of its folders.
pub(super) struct Image<'a> {
    pub(super) list: &'a dyn Fn(&OsStr) -> io::Result<Vec<Entry>>,
}

impl Image<'_> {
    pub(super) fn find(&self, folder: &OsStr, name: &OsStr) -> Result<Option<Kind>, RootError> {
        let entries = self.entries(folder)?;
        Ok(entries
            .into_iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.kind))
    }

    pub(super) fn entries(&self, folder: &OsStr) -> Result<Vec<Entry>, RootError> {
        (self.list)(folder).map_err(|source| RootError::Read {
            folder: folder.display().to_string(),
            source,
        })
    }
}

/// Whether this is the path of a writable folder.
pub(super) fn is_writable(path: &OsStr) -> bool {
    WRITABLE.iter().any(|writable| path == *writable)
}

/// Paths that no file and no part of an image may replace.
pub(super) fn is_reserved(path: &OsStr) -> bool {
    path == INIT || KERNEL.iter().any(|kernel| path == *kernel)
}
