//! Telling what a source is, and unpacking it into a staged folder.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

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

/// A source that was opened and recognised.
pub(crate) enum Source<'a> {
    Folder(&'a Path),
    Image(Container, Kind),
}

/// Opens an archive that comes from a reader, by way of a file in the staged folder.
pub(crate) fn open_stream<'a>(
    from: Box<dyn Read>,
    staged: &Staged,
    limits: &Limits,
) -> Result<Source<'a>, Error> {
    let unread = |fault| Error::Source {
        path: Path::new("-").to_owned(),
        source: fault,
    };
    let from = decompress(from).map_err(unread)?;
    // How much it grew is not known, and does not matter: what is written has its own bound.
    let file = spool(from, u64::MAX, Path::new("-"), staged, limits)?;
    recognise(file, Path::new("-"), limits)
}

/// Opens a source; a compressed archive is spread out into the staged folder first.
pub(crate) fn open<'a>(
    path: &'a Path,
    staged: &Staged,
    limits: &Limits,
) -> Result<Source<'a>, Error> {
    let unopened = |source| Error::Source {
        path: path.to_owned(),
        source,
    };
    let about = std::fs::metadata(path).map_err(unopened)?;
    if about.is_dir() {
        if !path.join(oci::MARKER).is_file() {
            return Ok(Source::Folder(path));
        }
        return Ok(Source::Image(Container::folder(path)?, Kind::Oci));
    }
    if !about.is_file() {
        return Err(Error::Unrecognised {
            path: path.to_owned(),
            why: "it is neither a folder nor a file",
        });
    }
    let file = File::open(path).map_err(unopened)?;
    recognise(spread_out(file, path, staged, limits)?, path, limits)
}

fn recognise<'a>(file: File, path: &Path, limits: &Limits) -> Result<Source<'a>, Error> {
    let container = Container::archive(file, limits)?;
    if container.has(oci::MARKER, limits) {
        Ok(Source::Image(container, Kind::Oci))
    } else if container.has(docker::MARKER, limits) {
        Ok(Source::Image(container, Kind::Docker))
    } else {
        Err(Error::Unrecognised {
            path: path.to_owned(),
            why: "it is an archive with neither `oci-layout` nor `manifest.json` in it; \
                  an archive of a file system can be unpacked first and imported as a folder",
        })
    }
}

/// Reads the documents of an image.
pub(crate) fn plan(
    container: &Container,
    kind: Kind,
    wanted: &Reference,
    limits: &Limits,
) -> Result<Plan, Error> {
    match kind {
        Kind::Docker => docker::plan(container, wanted, limits),
        Kind::Oci | Kind::Folder => oci::plan(container, wanted, limits),
    }
}

/// Unpacks an image's layers over one another.
pub(crate) fn unpack(
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
pub(crate) fn copy(path: &Path, staged: &Staged, limits: &Limits) -> Result<Digest, Error> {
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
    Ok(digest)
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
