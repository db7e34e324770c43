//! Copying a plain folder into a [`Tree`], with a digest of what was copied.
//!
//! The same rules hold as for layers: no devices or sockets outside `dev`, no owners, two
//! modes, links kept as text. A mounted file system is refused rather than left out, and a hard
//! link becomes a file of its own.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Excess, Refusal};
use crate::layer::{Size, add_mount_points, count};
use crate::limits::Limits;
use crate::path::Inside;
use crate::tree::{self, Tree};

/// Copies the folder `source` into an empty tree. The digest covers names, kinds, who may run what,
/// contents and link targets, in a fixed order, and nothing else.
///
/// Needs a file open for each folder inside another, of which the limits allow a hundred.
pub(crate) fn copy(source: &Path, tree: &Tree, limits: &Limits) -> Result<(Digest, Size), Error> {
    let failed = |fault: Errno| Error::Source {
        path: source.to_owned(),
        source: fault.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, source, flags, Mode::empty()).map_err(failed)?;
    let device = rustix::fs::fstat(&folder).map_err(failed)?.st_dev;
    let mut copier = Copier {
        tree,
        limits,
        device,
        hasher: Hasher::new(),
        size: Size::default(),
        buffer: vec![0; 128 << 10],
    };
    copier.hasher.update(b"cofferdam folder 1\n");
    copier.folder(&folder, &Inside::root())?;
    add_mount_points(tree, limits)?;
    Ok((copier.hasher.finish(), copier.size))
}

struct Copier<'a> {
    tree: &'a Tree,
    limits: &'a Limits,
    /// The file system that the source is on.
    device: u64,
    hasher: Hasher,
    size: Size,
    buffer: Vec<u8>,
}

impl Copier<'_> {
    fn folder(&mut self, folder: &OwnedFd, path: &Inside) -> Result<(), Error> {
        let mut names = tree::names(folder).map_err(|fault| reading(path, fault))?;
        names.sort();
        for name in names {
            let child = path.join(name.to_bytes(), self.limits)?;
            self.entry(folder, &name, &child)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &CString, path: &Inside) -> Result<(), Error> {
        count(&mut self.size, self.limits)?;
        if path.is_below("dev") {
            return Ok(());
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let about = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|fault| reading(path, fault))?;
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => self.inner_folder(folder, name, path, &about),
            FileType::RegularFile => self.file(folder, name, path),
            FileType::Symlink => self.symlink(folder, name, path),
            FileType::CharacterDevice | FileType::BlockDevice => {
                Err(Error::refused(path.as_bytes(), Refusal::Device))
            }
            FileType::Fifo => {
                self.note(b'p', path, b"");
                self.tree.pipe(path)
            }
            _ => Err(Error::refused(path.as_bytes(), Refusal::Socket)),
        }
    }

    fn inner_folder(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Inside,
        about: &Stat,
    ) -> Result<(), Error> {
        if about.st_dev != self.device {
            return Err(Error::refused(path.as_bytes(), Refusal::OtherFileSystem));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(folder, name, flags, Mode::empty())
            .map_err(|fault| reading(path, fault))?;
        self.note(b'd', path, b"");
        self.tree.folder(path)?;
        self.folder(&inner, path)
    }

    fn symlink(&mut self, folder: &OwnedFd, name: &OsStr, path: &Inside) -> Result<(), Error> {
        let target = rustix::fs::readlinkat(folder, name, Vec::new())
            .map_err(|fault| reading(path, fault))?;
        self.note(b'l', path, target.to_bytes());
        self.tree.symlink(path, target.to_bytes())
    }

    fn file(&mut self, folder: &OwnedFd, name: &OsStr, path: &Inside) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut from = rustix::fs::openat(folder, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|fault| reading(path, fault))?;
        let about = from
            .metadata()
            .map_err(Error::io(format!("read {:?}", path.as_os_str())))?;
        if !about.is_file() {
            return Err(Error::refused(path.as_bytes(), Refusal::Changed));
        }
        let executable = about.mode() & 0o111 != 0;
        self.note(if executable { b'x' } else { b'f' }, path, b"");
        self.hasher.update(&about.len().to_be_bytes());
        let to = self.tree.file(path, executable)?;
        let copied = self.contents(&mut from, &to, path)?;
        if copied != about.len() {
            return Err(Error::refused(path.as_bytes(), Refusal::Changed));
        }
        let seconds = u64::try_from(about.mtime()).unwrap_or(0);
        let nanoseconds = u32::try_from(about.mtime_nsec()).unwrap_or(0);
        tree::set_modified(&to, Duration::new(seconds, nanoseconds));
        Ok(())
    }

    fn contents(&mut self, from: &mut File, mut to: &File, path: &Inside) -> Result<u64, Error> {
        let mut copied = 0;
        loop {
            let read = from
                .read(&mut self.buffer)
                .map_err(Error::io(format!("read {:?}", path.as_os_str())))?;
            if read == 0 {
                return Ok(copied);
            }
            copied += read as u64;
            self.size.bytes += read as u64;
            if self.size.bytes > self.limits.unpacked_bytes {
                let (what, max) = (Excess::UnpackedBytes, self.limits.unpacked_bytes);
                return Err(Error::Limit { what, max });
            }
            self.hasher.update(&self.buffer[..read]);
            to.write_all(&self.buffer[..read])
                .map_err(Error::io("write the unpacked image"))?;
        }
    }

    /// Adds an entry to the digest. Lengths lead, so that no two listings read the same.
    fn note(&mut self, kind: u8, path: &Inside, target: &[u8]) {
        self.hasher.update(&[kind]);
        for text in [path.as_bytes(), target] {
            self.hasher.update(&(text.len() as u64).to_be_bytes());
            self.hasher.update(text);
        }
    }
}

fn reading(path: &Inside, fault: Errno) -> Error {
    Error::io(format!("read {:?}", path.as_os_str()))(fault.into())
}
