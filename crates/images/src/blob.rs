//! Where the parts of an image are read from: a folder, or an archive that stays packed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use crate::digest::{self, Digest};
use crate::error::{Error, Excess};
use crate::limits::Limits;
use crate::members::{Kind, Members};
use crate::path::Inside;
use crate::tree;

/// One part of an image, to be read from its beginning.
pub(crate) struct Blob {
    pub(crate) reader: Box<dyn Read>,
    /// Its length as stored, in bytes.
    pub(crate) length: u64,
}

/// A set of parts by name.
pub(crate) enum Container {
    Folder(OwnedFd),
    Archive {
        file: Arc<File>,
        parts: HashMap<Inside, Part>,
    },
}

/// Where a member of an archive is.
pub(crate) enum Part {
    Bytes {
        at: u64,
        length: u64,
    },
    /// The same bytes as another member: old archives name a repeated layer so.
    SameAs(Inside),
}

impl Container {
    /// The parts in a folder.
    pub(crate) fn folder(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, path, flags, Mode::empty());
        folder.map(Self::Folder).map_err(|fault| Error::Source {
            path: path.to_owned(),
            source: fault.into(),
        })
    }

    /// The parts in a tar archive, which is not compressed as a whole. Reads its headers only.
    pub(crate) fn archive(file: File, limits: &Limits) -> Result<Self, Error> {
        let what = "the archive";
        let malformed = |fault| Error::malformed(what, fault);
        let end = file.metadata().map_err(malformed)?.len();
        let file = Arc::new(file);
        let mut archive = tar::Archive::new(&*file);
        let entries = archive.entries_with_seek().map_err(malformed)?;
        let mut members = Members::new(entries, limits, what);
        let mut parts = HashMap::new();
        let mut count = 0;
        while let Some(member) = members.next()? {
            count += 1;
            if count > limits.members {
                let (what, max) = (Excess::Members, limits.members);
                return Err(Error::Limit { what, max });
            }
            let path = Inside::parse(&member.path, limits)?;
            let part = match &member.kind {
                Kind::File => Part::Bytes {
                    at: member.entry.raw_file_position(),
                    length: member.size,
                },
                Kind::Symlink(target) => match beside(&path, target, limits) {
                    Some(other) => Part::SameAs(other),
                    None => continue,
                },
                Kind::HardLink(target) => Part::SameAs(Inside::parse(target, limits)?),
                Kind::Folder | Kind::Device | Kind::Pipe => continue,
            };
            if let Part::Bytes { at, length } = part
                && at.checked_add(length).is_none_or(|last| last > end)
            {
                return Err(Error::malformed(what, "it is cut short"));
            }
            match parts.entry(path) {
                Entry::Vacant(free) => {
                    free.insert(part);
                }
                // As often as an image has the same layer.
                Entry::Occupied(known)
                    if is_same(&file, known.get(), &part).map_err(malformed)? => {}
                Entry::Occupied(known) => {
                    let name = String::from_utf8_lossy(known.key().as_bytes());
                    let why = format!("it has {name:?} twice, and not the same both times");
                    return Err(Error::malformed(what, why));
                }
            }
        }
        Ok(Self::Archive { file, parts })
    }

    /// Whether there is a part of this name.
    pub(crate) fn has(&self, name: &str, limits: &Limits) -> bool {
        self.open(name, limits).is_ok()
    }

    /// Opens a part.
    pub(crate) fn open(&self, name: &str, limits: &Limits) -> Result<Blob, Error> {
        let path = Inside::parse(name.as_bytes(), limits)?;
        let missing = |fault: io::Error| Error::malformed(name, fault);
        let blob = match self {
            Self::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = tree::beneath(folder, path.as_os_str(), flags)
                    .map(File::from)
                    .map_err(|fault| missing(fault.into()))?;
                let about = file.metadata().map_err(missing)?;
                if !about.is_file() {
                    return Err(Error::malformed(name, "it is no file"));
                }
                Blob {
                    length: about.len(),
                    reader: Box::new(file),
                }
            }
            Self::Archive { file, parts } => {
                let (at, length) = place(parts, &path)
                    .ok_or_else(|| Error::malformed(name, "it is not in the archive"))?;
                let file = Arc::clone(file);
                let end = at + length;
                let reader = Box::new(Range { file, at, end });
                Blob { reader, length }
            }
        };
        if blob.length > limits.source_bytes {
            let (what, max) = (Excess::SourceBytes, limits.source_bytes);
            return Err(Error::Limit { what, max });
        }
        Ok(blob)
    }

    /// Reads a part that is held in memory.
    pub(crate) fn document(&self, name: &str, limits: &Limits) -> Result<Vec<u8>, Error> {
        let blob = self.open(name, limits)?;
        let (what, max) = (Excess::DocumentBytes, limits.document_bytes);
        let mut bytes = Vec::new();
        blob.reader
            .take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(|fault| Error::malformed(name, fault))?;
        if bytes.len() as u64 > max {
            return Err(Error::Limit { what, max });
        }
        Ok(bytes)
    }

    /// Opens a part after reading it once to the end, to be sure that it has this digest.
    pub(crate) fn verified(
        &self,
        name: &str,
        wanted: Digest,
        limits: &Limits,
    ) -> Result<Blob, Error> {
        let mut first = self.open(name, limits)?;
        let (found, _) =
            digest::of_reader(&mut first.reader).map_err(|fault| Error::malformed(name, fault))?;
        check_digest(name, wanted, found)?;
        self.open(name, limits)
    }
}

/// An error unless a part has the digest that it should have.
pub(crate) fn check_digest(what: &str, wanted: Digest, found: Digest) -> Result<(), Error> {
    if wanted == found {
        return Ok(());
    }
    Err(Error::Corrupt {
        what: what.to_owned(),
        wanted: wanted.to_string(),
        found: found.to_string(),
    })
}

/// Whether two members are the same, to the byte.
fn is_same(file: &Arc<File>, known: &Part, again: &Part) -> io::Result<bool> {
    match (known, again) {
        (Part::SameAs(known), Part::SameAs(again)) => Ok(known == again),
        (
            Part::Bytes { at, length },
            Part::Bytes {
                at: second,
                length: as_long,
            },
        ) => {
            if length != as_long {
                return Ok(false);
            }
            let digest = |at: u64| {
                let (file, end) = (Arc::clone(file), at + length);
                digest::of_reader(&mut Range { file, at, end })
            };
            Ok(digest(*at)? == digest(*second)?)
        }
        _ => Ok(false),
    }
}

/// Where a member's bytes are, through at most one other name.
fn place(parts: &HashMap<Inside, Part>, path: &Inside) -> Option<(u64, u64)> {
    let part = match parts.get(path)? {
        Part::SameAs(other) => parts.get(other)?,
        part => part,
    };
    match part {
        Part::Bytes { at, length } => Some((*at, *length)),
        Part::SameAs(_) => None,
    }
}

/// The member that a link such as `../ID/layer.tar` names; it is looked up, never followed.
fn beside(link: &Inside, target: &[u8], limits: &Limits) -> Option<Inside> {
    if target.starts_with(b"/") {
        return Inside::parse(target, limits).ok();
    }
    let (mut folder, _) = link.split()?;
    let mut rest = target;
    while let Some(shorter) = rest.strip_prefix(b"../") {
        (folder, _) = folder.split()?;
        rest = shorter;
    }
    folder.join(rest, limits).ok()
}

/// A piece of a file, read without moving the file's own position.
struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
