//! The index: the image of each name.
//!
//! One JSON file, replaced as a whole. Whoever reads or changes it holds `index.lock` meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::plan::parse;

/// The names of one store.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    pub(crate) names: BTreeMap<String, Target>,
}

/// The image of a name.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Target {
    /// The unpacked image.
    pub(crate) digest: Digest,
    /// Digest of the manifest it came with, where it had one.
    pub(crate) manifest: Option<Digest>,
}

impl Index {
    /// Reads the list; a store that is new has an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        match std::fs::read(path) {
            Ok(bytes) => parse(path.display(), &bytes),
            Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(fault) => Err(Error::io(format!("read {}", path.display()))(fault)),
        }
    }

    /// Writes the list in place of the old one.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        write_whole(path, self)
    }

    /// Whether some name refers to this image.
    pub(crate) fn uses(&self, digest: &Digest) -> bool {
        self.names.values().any(|target| target.digest == *digest)
    }
}

/// Writes a JSON file so that a reader, and a restart after a crash, sees the old or the new one.
pub(crate) fn write_whole(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let doing = || format!("write {}", path.display());
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|fault| Error::io(doing())(std::io::Error::other(fault)))?;
    let beside = path.with_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(Error::io(doing()))
}
