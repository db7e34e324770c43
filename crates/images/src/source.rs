//! Telling what a source is, and unpacking it into a staged folder.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::blob::Container;
use crate::digest::Digest;
use crate::docker;
use crate::error::{Error, Excess};
use crate::folder;
use crate::layer::{Packing, Unpacker, decompress};
use crate::limits::Limits;
use crate::oci;
use crate::plan::{Plan, RunConfig};
use crate::reference::Reference;
use crate::roots::{Kind, Record, Staged};
use crate::tree::Tree;

/// A source that was opened, and not looked into.
pub(crate) enum Opened {
    /// An archive that comes from a reader.
    Stream(Box<dyn Read>),
    /// An archive, with its path for messages.
    File(File, PathBuf),
    /// The folder of an OCI layout.
    Layout(Container),
}

/// What came of reading an image.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Digest of the configuration, or of a plain folder's contents.
    pub(crate) digest: Digest,
    /// Digest of the manifest, where the source has one.
    pub(crate) manifest: Option<Digest>,
    /// Whether it is in the staged folder now. It is not when it was known.
    pub(crate) unpacked: bool,
}

/// Whether the source is a plain folder rather than an image.
pub(crate) fn is_plain_folder(path: &Path) -> Result<bool, Error> {
    let about = std::fs::metadata(path).map_err(|source| Error::Source {
        path: path.to_owned(),
        source,
    })?;
    Ok(about.is_dir() && !path.join(oci::MARKER).is_file())
}

/// Opens an image.
pub(crate) fn open(path: &Path) -> Result<Opened, Error> {
    let unopened = |source| Error::Source {
        path: path.to_owned(),
        source,
    };
    let about = std::fs::metadata(path).map_err(unopened)?;
    if about.is_dir() {
        return Container::folder(path).map(Opened::Layout);
    }
    if !about.is_file() {
        return Err(Error::Unrecognised {
            path: path.to_owned(),
            why: "it is neither a folder nor a file",
        });
    }
    let file = File::open(path).map_err(unopened)?;
    Ok(Opened::File(file, path.to_owned()))
}

/// Reads an image and unpacks it into the staged folder, unless it `is_known`.
pub(crate) fn unpack(
    opened: Opened,
    staged: &Staged,
    wanted: &Reference,
    is_known: &dyn Fn(&Digest) -> bool,
    limits: &Limits,
) -> Result<Outcome, Error> {
    let (container, kind) = recognise(opened, staged, limits)?;
    let plan = match kind {
        Kind::Docker => docker::plan(&container, wanted, limits)?,
        Kind::Oci | Kind::Folder => oci::plan(&container, wanted, limits)?,
    };
    let unpacked = !is_known(&plan.config);
    if unpacked {
        unpack_layers(&container, kind, &plan, staged, limits)?;
    }
    Ok(Outcome {
        digest: plan.config,
        manifest: plan.manifest,
        unpacked,
    })
}

/// Finds out what an image is; a compressed archive is spread out into the staged folder first.
fn recognise(opened: Opened, staged: &Staged, limits: &Limits) -> Result<(Container, Kind), Error> {
    let (file, path) = match opened {
        Opened::Layout(container) => return Ok((container, Kind::Oci)),
        Opened::File(file, path) => (spread_out(file, &path, staged, limits)?, path),
        Opened::Stream(from) => {
            let path = PathBuf::from("-");
            let unread = |source| Error::Source {
                path: path.clone(),
                source,
            };
            let from = decompress(from).map_err(unread)?;
            // How much it grew is not known, and does not matter: what is written has a bound.
            (spool(from, u64::MAX, &path, staged, limits)?, path)
        }
    };
    let container = Container::archive(file, limits)?;
    if container.has(oci::MARKER, limits) {
        Ok((container, Kind::Oci))
    } else if container.has(docker::MARKER, limits) {
        Ok((container, Kind::Docker))
    } else {
        Err(Error::Unrecognised {
            path,
            why: "it is an archive with neither `oci-layout` nor `manifest.json` in it; \
                  an archive of a file system can be unpacked first and imported as a folder",
        })
    }
}

/// Unpacks an image's layers over one another.
fn unpack_layers(
    container: &Container,
    kind: Kind,
    plan: &Plan,
    staged: &Staged,
    limits: &Limits,
) -> Result<(), Error> {
    let tree = Tree::create(&staged.rootfs())?;
    let mut unpacker = Unpacker::new(&tree, limits);
    for (at, layer) in plan.layers.iter().enumerate() {
        let blob = match layer.stored {
            Some(digest) => container.verified(&layer.name, digest, limits)?,
            None => container.open(&layer.name, limits)?,
        };
        unpacker.layer(blob, layer.diff_id, &format!("layer {}", at + 1))?;
    }
    let size = unpacker.finish()?;
    tree.sync()?;
    staged.write_record(&Record {
        kind,
        layers: plan.layers.len() as u64,
        entries: size.entries,
        bytes: size.bytes,
        settings: plan.settings.clone(),
    })
}

/// Copies a plain folder and tells the digest of what was copied.
pub(crate) fn copy(path: &Path, staged: &Staged, limits: &Limits) -> Result<Outcome, Error> {
    let tree = Tree::create(&staged.rootfs())?;
    let (digest, size) = folder::copy(path, &tree, limits)?;
    tree.sync()?;
    staged.write_record(&Record {
        kind: Kind::Folder,
        layers: 0,
        entries: size.entries,
        bytes: size.bytes,
        settings: RunConfig::default(),
    })?;
    Ok(Outcome {
        digest,
        manifest: None,
        unpacked: true,
    })
}

/// Gives the archive itself, or a file it was decompressed into.
fn spread_out(file: File, path: &Path, staged: &Staged, limits: &Limits) -> Result<File, Error> {
    let (what, max) = (Excess::SourceBytes, limits.source_bytes);
    let unread = |source| Error::Source {
        path: path.to_owned(),
        source,
    };
    let length = file.metadata().map_err(unread)?.len();
    if length > max {
        return Err(Error::Limit { what, max });
    }
    if packing(&file).map_err(unread)? == Packing::Plain {
        return Ok(file);
    }
    let by_ratio = length.saturating_mul(limits.ratio);
    let most = by_ratio.max(limits.ratio_free_bytes);
    let from = decompress(Box::new(file)).map_err(unread)?;
    spool(from, most, path, staged, limits)
}

/// Writes a stream of at most `most_by_ratio` bytes into a file without a name.
fn spool(
    mut from: Box<dyn Read>,
    most_by_ratio: u64,
    path: &Path,
    staged: &Staged,
    limits: &Limits,
) -> Result<File, Error> {
    let unwritten = || Error::io("spread out the archive");
    let spool = staged.spool();
    let mut to = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&spool)
        .map_err(unwritten())?;
    // Without a name it is gone with the last handle on it, and never part of the image.
    std::fs::remove_file(&spool).map_err(unwritten())?;
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let read = from.read(&mut buffer).map_err(|source| Error::Source {
            path: path.to_owned(),
            source,
        })?;
        if read == 0 {
            to.rewind().map_err(unwritten())?;
            return Ok(to);
        }
        total += read as u64;
        if total > most_by_ratio {
            let (what, max) = (Excess::Ratio, limits.ratio);
            return Err(Error::Limit { what, max });
        }
        if total > limits.source_bytes {
            let (what, max) = (Excess::SourceBytes, limits.source_bytes);
            return Err(Error::Limit { what, max });
        }
        to.write_all(&buffer[..read]).map_err(unwritten())?;
    }
}

fn packing(file: &File) -> std::io::Result<Packing> {
    use std::os::unix::fs::FileExt;
    let mut first = [0; 6];
    let read = file.read_at(&mut first, 0)?;
    Ok(Packing::of(&first[..read]))
}
