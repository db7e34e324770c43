//! A root file system as the planning sees it: entries of folders, and what in it is not the
//! image's to fill.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::rc::Rc;

use crate::settings::PROGRAM_PATH;

/// The writable folders, each a file system of its own in memory; and the two that are not the
/// image's to fill.
pub(super) const WRITABLE: [&str; 3] = ["/workspace", "/tmp", VAR_TMP];
pub(super) const VAR_TMP: &str = "/var/tmp";
const KERNEL: [&str; 2] = ["/proc", "/dev"];
/// Where the first program stands.
pub(super) const INIT: &str = "/.init";
/// Tells it that it is the first program; the port of the listener follows.
pub(super) const LISTEN: &str = "listen";

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

/// An image, by the entries of its folders. Each folder is read once.
pub(super) struct Image<'a> {
    list: List<'a>,
    read: RefCell<HashMap<OsString, Rc<[Entry]>>>,
}

/// Gives the entries of a folder of an image by its path in the guest (`/` for the root).
pub(super) type List<'a> = &'a dyn Fn(&OsStr) -> io::Result<Vec<Entry>>;

impl<'a> Image<'a> {
    pub(super) fn new(list: List<'a>) -> Self {
        let read = RefCell::default();
        Self { list, read }
    }

    pub(super) fn find(&self, folder: &OsStr, name: &OsStr) -> Result<Option<Kind>, RootError> {
        let entries = self.entries(folder)?;
        let found = entries.iter().find(|entry| entry.name == name);
        Ok(found.map(|entry| entry.kind.clone()))
    }

    pub(super) fn entries(&self, folder: &OsStr) -> Result<Rc<[Entry]>, RootError> {
        if let Some(entries) = self.read.borrow().get(folder) {
            return Ok(Rc::clone(entries));
        }
        let entries = (self.list)(folder).map_err(|source| RootError::Read {
            folder: folder.display().to_string(),
            source,
        })?;
        let entries: Rc<[Entry]> = entries.into();
        let known = Rc::clone(&entries);
        self.read.borrow_mut().insert(folder.to_owned(), known);
        Ok(entries)
    }
}

/// Whether this is the path of a writable folder.
pub(super) fn is_writable(path: &OsStr) -> bool {
    WRITABLE.iter().any(|writable| path == *writable)
}

/// Paths that no file and no part of an image may replace.
pub(super) fn is_reserved(path: &OsStr) -> bool {
    path == INIT || path == PROGRAM_PATH || KERNEL.iter().any(|kernel| path == *kernel)
}
