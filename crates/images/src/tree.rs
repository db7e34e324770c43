//! Writing below one folder, and nowhere else.
//!
//! Symbolic links on the way to a path are followed here, as text, with the folder for the root
//! ([`Tree::followed`]). Each path that comes of it is opened by the kernel beneath the folder with
//! symbolic links forbidden (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), so no
//! entry of an image can lead a write elsewhere, whatever was unpacked before it. Files are always new: what stood at a path
//! is unlinked first, so a write never goes through a hard link either.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Refusal};
use crate::limits::Limits;
use crate::path::Inside;

/// Folders, and files that somebody may run.
const OPEN: Mode = Mode::from_raw_mode(0o755);
/// All other files.
const PLAIN: Mode = Mode::from_raw_mode(0o644);

/// Symbolic links that are followed on the way to one path; as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Names that are walked on the way to one path, those in link targets included: each link can have
/// two thousand, and an archive of a few KiB has thousands of paths.
const NAMES_MAX: usize = 1_000;

/// A folder that is written to by paths below it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Folder,
    /// A file or a link.
    Other,
}

impl Tree {
    /// Makes the folder `path`, which must not be there yet.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let doing = || format!("make the folder {}", path.display());
        std::fs::create_dir(path).map_err(Error::io(doing()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|fault| Error::io(doing())(fault.into()))?;
        rustix::fs::fchmod(&root, OPEN).map_err(|fault| Error::io(doing())(fault.into()))?;
        Ok(Self { root })
    }

    /// Makes a folder, and those it is in. One that is there stays as it is.
    pub(crate) fn folder(&self, path: &Inside) -> Result<(), Error> {
        self.open_folder(path).map(drop)
    }

    /// Makes an empty file where nothing is, for writing.
    pub(crate) fn file(&self, path: &Inside, executable: bool) -> Result<File, Error> {
        let (folder, name) = self.open_parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, PLAIN)
            .and_then(|file| {
                // Once more, since the process's mask was taken off the mode above.
                rustix::fs::fchmod(&file, if executable { OPEN } else { PLAIN })?;
                Ok(file)
            })
            .map_err(|fault| self.fault(path, fault))?;
        Ok(File::from(file))
    }

    /// Makes a symbolic link where nothing is. Its target is text, and never followed here.
    pub(crate) fn symlink(&self, path: &Inside, target: &[u8]) -> Result<(), Error> {
        if target.is_empty() || target.len() >= 4096 || target.contains(&0) {
            return Err(Error::refused(path.as_bytes(), Refusal::LinkTarget));
        }
        let (folder, name) = self.open_parent(path)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), folder, name)
            .map_err(|fault| self.fault(path, fault))
    }

    /// Makes a named pipe where nothing is.
    pub(crate) fn pipe(&self, path: &Inside) -> Result<(), Error> {
        let (folder, name) = self.open_parent(path)?;
        rustix::fs::mknodat(folder, name, FileType::Fifo, PLAIN, 0)
            .map_err(|fault| self.fault(path, fault))
    }

    /// The folder that `path` leads to for a process whose root is this tree: symbolic links are
    /// followed, and none leads out. What is missing stays as it is spelled.
    pub(crate) fn followed(&self, path: &Inside, limits: &Limits) -> Result<Inside, Error> {
        if !matches!(self.resolve(path, OFlags::PATH), Err(Errno::LOOP)) {
            return Ok(path.clone());
        }
        let mut ahead: Vec<Vec<u8>> = parts_backwards(path.as_bytes()).collect();
        let (mut at, mut links, mut names) = (Inside::root(), 0, 0);
        while let Some(name) = ahead.pop() {
            names += 1;
            if names > NAMES_MAX {
                return Err(Error::refused(path.as_bytes(), Refusal::ThroughLink));
            }
            if name == b".." {
                at = at.split().map_or_else(Inside::root, |(folder, _)| folder);
                continue;
            }
            let next = at.join(&name, limits)?;
            let Some(target) = self.link_target(&next)? else {
                at = next;
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(Error::refused(path.as_bytes(), Refusal::ThroughLink));
            }
            if target.starts_with(b"/") {
                at = Inside::root();
            }
            ahead.extend(parts_backwards(&target));
        }
        Ok(at)
    }

    /// The target of the symbolic link at a path, if one is there.
    pub(crate) fn link_target(&self, path: &Inside) -> Result<Option<Vec<u8>>, Error> {
        let Some((parent, name)) = path.split() else {
            return Ok(None);
        };
        let target = self
            .resolve(&parent, OFlags::PATH)
            .and_then(|folder| rustix::fs::readlinkat(folder, name, Vec::new()));
        match target {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(fault) => Err(self.fault(path, fault)),
        }
    }

    /// The file at a path, for reading, if a plain one is there that as many may run.
    pub(crate) fn open_file(&self, path: &Inside, executable: bool) -> Result<Option<File>, Error> {
        let (folder, name) = self.open_parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = if executable { OPEN } else { PLAIN };
        let is_as_expected = |stat: &Stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && Mode::from_raw_mode(stat.st_mode) == mode
        };
        match stat(&folder, name) {
            Ok(stat) if is_as_expected(&stat) => {}
            Ok(_) => return Ok(None),
            Err(fault) => return Err(self.fault(path, fault)),
        }
        let file = rustix::fs::openat(&folder, name, flags, Mode::empty());
        file.map(|file| Some(File::from(file)))
            .map_err(|fault| self.fault(path, fault))
    }

    /// Whether two paths are names of one file.
    pub(crate) fn are_one(&self, first: &Inside, second: &Inside) -> Result<bool, Error> {
        let about = |path: &Inside| {
            let Some((parent, name)) = path.split() else {
                return Ok(None);
            };
            let found = self.resolve(&parent, OFlags::PATH);
            match found.and_then(|folder| stat(folder, name)) {
                Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
                Err(Errno::NOENT) => Ok(None),
                Err(fault) => Err(self.fault(path, fault)),
            }
        };
        let first = about(first)?;
        Ok(first.is_some() && first == about(second)?)
    }

    /// Whether a named pipe is at a path.
    pub(crate) fn is_pipe(&self, path: &Inside) -> Result<bool, Error> {
        let (folder, name) = self.open_parent(path)?;
        let found = stat(&folder, name).map_err(|fault| self.fault(path, fault))?;
        Ok(FileType::from_raw_mode(found.st_mode) == FileType::Fifo)
    }

    /// Makes `path` another name of `target`, a file or symbolic link of this tree.
    pub(crate) fn hard_link(&self, path: &Inside, target: &Inside) -> Result<(), Error> {
        let broken = || Error::refused(path.as_bytes(), Refusal::BrokenLink);
        if self.found(target)? != Found::Other {
            return Err(broken());
        }
        let (target_folder, target_name) = self.open_parent(target)?;
        let (folder, name) = self.open_parent(path)?;
        let flags = AtFlags::empty();
        rustix::fs::linkat(target_folder, target_name, folder, name, flags)
            .map_err(|fault| self.fault(path, fault))
    }

    /// What stands at a path; nothing when a folder on the way is missing.
    pub(crate) fn found(&self, path: &Inside) -> Result<Found, Error> {
        let Some((parent, name)) = path.split() else {
            return Ok(Found::Folder);
        };
        let stat = match self.resolve(&parent, OFlags::PATH) {
            Ok(folder) => stat(&folder, name),
            Err(fault) => Err(fault),
        };
        match stat {
            Ok(stat) if is_folder(&stat) => Ok(Found::Folder),
            Ok(_) => Ok(Found::Other),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(fault) => Err(self.fault(path, fault)),
        }
    }

    /// The names in a folder of the tree.
    pub(crate) fn names(&self, path: &Inside) -> Result<Vec<CString>, Error> {
        self.resolve(path, OFlags::RDONLY)
            .and_then(|folder| names(&folder))
            .map_err(|fault| self.fault(path, fault))
    }

    /// Removes whatever stands at a path, with all that is in it. Nothing there is no error.
    pub(crate) fn remove(&self, path: &Inside) -> Result<(), Error> {
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        let removed = self
            .resolve(&parent, OFlags::RDONLY)
            .and_then(|folder| remove(&folder, name));
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(fault) => Err(self.fault(path, fault)),
        }
    }

    /// Waits until all of it would survive a loss of power.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.root)
            .map_err(|fault| Error::io("write the unpacked image to disk")(fault.into()))
    }

    fn open_parent<'p>(&self, path: &'p Inside) -> Result<(OwnedFd, &'p OsStr), Error> {
        let (parent, name) = path
            .split()
            .ok_or_else(|| Error::refused(b".", Refusal::BadName))?;
        Ok((self.open_folder(&parent)?, name))
    }

    fn open_folder(&self, path: &Inside) -> Result<OwnedFd, Error> {
        match self.resolve(path, OFlags::RDONLY) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(|fault| self.fault(path, fault)),
        }
        for step in path.steps() {
            self.make_folder(&step)
                .map_err(|fault| self.fault(path, fault))?;
        }
        self.resolve(path, OFlags::RDONLY)
            .map_err(|fault| self.fault(path, fault))
    }

    fn make_folder(&self, path: &Inside) -> Result<(), Errno> {
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        let parent = self.resolve(&parent, OFlags::PATH)?;
        match rustix::fs::mkdirat(&parent, name, OPEN) {
            Ok(()) => rustix::fs::fchmod(self.resolve(path, OFlags::RDONLY)?, OPEN),
            Err(Errno::EXIST) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Opens a folder of the tree, with the kernel keeping to the tree.
    fn resolve(&self, path: &Inside, access: OFlags) -> Result<OwnedFd, Errno> {
        // O_NOFOLLOW is left out: with it, a link at the end would pass for a file.
        let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
        beneath(&self.root, path.as_os_str(), flags)
    }

    fn fault(&self, path: &Inside, fault: Errno) -> Error {
        match fault {
            Errno::LOOP | Errno::XDEV => Error::refused(path.as_bytes(), Refusal::ThroughLink),
            Errno::NOTDIR => Error::refused(path.as_bytes(), Refusal::ThroughFile),
            Errno::EXIST => Error::refused(path.as_bytes(), Refusal::Duplicate),
            Errno::NAMETOOLONG => Error::refused(path.as_bytes(), Refusal::Overlong),
            _ => {
                let shown = String::from_utf8_lossy(path.as_bytes());
                Error::io(format!("unpack {shown:?}"))(fault.into())
            }
        }
    }
}

/// The names in a path, the last one first.
fn parts_backwards(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let parts = path.rsplit(|byte| *byte == b'/');
    parts
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(<[u8]>::to_vec)
}

/// Opens `path` beneath `root`, following no link and crossing no mount point.
pub(crate) fn beneath(root: impl AsFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let keep_to_it = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), keep_to_it)
}

/// The names in an open folder, without `.` and `..`.
pub(crate) fn names(folder: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes a name from a folder, with all that is in it. Links are removed, never followed.
fn remove(folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    if !is_folder(&stat(folder, name)?) {
        return rustix::fs::unlinkat(folder, name, AtFlags::empty());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    for child in names(&inner)? {
        remove(&inner, OsStr::from_bytes(child.to_bytes()))?;
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

fn stat(folder: impl AsFd, name: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Sets when a file was last changed: Python trusts compiled files only with this time kept. A time
/// that the file system cannot hold is of no use to anybody, and leaves the file with today's.
pub(crate) fn set_modified(file: &File, since_epoch: Duration) {
    if let Some(time) = UNIX_EPOCH.checked_add(since_epoch) {
        let _ = file.set_modified(time);
    }
}
