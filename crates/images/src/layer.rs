//! Layers of an image, applied one after the other to a [`Tree`].
//!
//! A layer is a tar archive, maybe compressed. Its entries add to what the layers below brought or
//! replace it; `.wh.NAME` hides NAME of the layers below, and `.wh..wh..opq` hides all that they
//! have in its folder. Neither touches what its own layer brings, in whatever order they come.
//!
//! What is kept of an entry is its contents, whether somebody may run it, and when it was changed.
//! A path is taken as a process inside the image would take it: from the image's root, through the
//! symbolic links on its way. Owners, other permission bits (setuid and setgid among them) and extended attributes (file
//! capabilities among them) are dropped: every machine runs as one user without privileges, who
//! may read all of its image. Entries below `dev` are left out, since the engine brings its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::blob::{Blob, check_digest};
use crate::digest::{self, Digest, Hasher};
use crate::error::{Error, Excess, Refusal};
use crate::limits::Limits;
use crate::members::{Kind, Member, Members};
use crate::path::Inside;
use crate::tree::{self, Found, Tree};

/// The folders that every machine mounts something on; each root file system has them.
const MOUNT_POINTS: [&str; 4] = ["workspace", "proc", "dev", "tmp"];
/// Whiteout: hides a name of the layers below.
const HIDES: &[u8] = b".wh.";
/// Opaque whiteout: hides all that the layers below have in a folder.
const HIDES_ALL: &[u8] = b".wh..wh..opq";
/// Begins the names of an old union file system's own files.
const UNION_OWN: &[u8] = b".wh..wh.";

/// How much was unpacked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Files, folders and links.
    pub(crate) entries: u64,
    /// Bytes, those of headers included.
    pub(crate) bytes: u64,
}

/// Applies layers, counting what they bring against the limits.
pub(crate) struct Unpacker<'a> {
    tree: &'a Tree,
    limits: &'a Limits,
    size: Size,
    /// Digests of the paths that the present layer has brought, and of the folders they are in.
    brought: HashSet<Digest>,
    /// Digests of the folders from which the present layer has removed all that the layers below
    /// had in them. Nothing of those comes back, so each is searched once.
    cleared: HashSet<Digest>,
    buffer: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(tree: &'a Tree, limits: &'a Limits) -> Self {
        Self {
            tree,
            limits,
            size: Size::default(),
            brought: HashSet::new(),
            cleared: HashSet::new(),
            buffer: vec![0; 128 << 10],
        }
    }

    /// Applies one layer over those before. Its contents, decompressed, must have the digest
    /// `diff_id`; until that is known nothing of the tree may be used.
    pub(crate) fn layer(&mut self, blob: Blob, diff_id: Digest, what: &str) -> Result<(), Error> {
        self.brought.clear();
        self.cleared.clear();
        let left = self.limits.unpacked_bytes - self.size.bytes;
        let mut stream = Metered::new(blob, self.limits, left, what)?;
        let unpacked = self
            .entries(&mut stream, what)
            .and_then(|()| stream.read_to_end_of_it(&mut self.buffer, what));
        if let Some((excess, max)) = stream.exceeded {
            return Err(Error::Limit { what: excess, max });
        }
        unpacked?;
        self.size.bytes += stream.bytes;
        check_digest(what, diff_id, stream.hasher.finish())
    }

    /// Adds the mount points and tells how much there is.
    pub(crate) fn finish(self) -> Result<Size, Error> {
        add_mount_points(self.tree, self.limits)?;
        Ok(self.size)
    }

    fn entries(&mut self, stream: &mut Metered, what: &str) -> Result<(), Error> {
        let mut archive = tar::Archive::new(stream);
        let entries = archive
            .entries()
            .map_err(|fault| Error::malformed(what, fault))?;
        let mut members = Members::new(entries, self.limits, what);
        while let Some(member) = members.next()? {
            self.entry(member, what)?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, member: Member<'_, R>, what: &str) -> Result<(), Error> {
        let spelled = Inside::parse(&member.path, self.limits)?;
        let Some((folder, name)) = spelled.split() else {
            return match member.kind {
                Kind::Folder => self.count(),
                _ => Err(Error::refused(&member.path, Refusal::BadName)),
            };
        };
        let folder = self.tree.followed(&folder, self.limits)?;
        let path = folder.join(name.as_bytes(), self.limits)?;
        if path.is_below("dev") {
            return self.count();
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(HIDES) {
            return self.hide(&folder, name.as_bytes(), hidden);
        }
        let found = self.tree.found(&path)?;
        if member.kind == Kind::Folder && found == Found::Folder {
            return self.bring(&path);
        }
        if self.has_brought(&path) {
            return self.repeat(&path, member, what);
        }
        if found != Found::Nothing {
            self.tree.remove(&path)?;
        }
        self.bring(&path)?;
        match &member.kind {
            Kind::Folder => self.tree.folder(&path),
            Kind::File => self.file(&path, member, what),
            Kind::Symlink(target) => self.tree.symlink(&path, target),
            Kind::HardLink(target) => self.tree.hard_link(&path, &self.linked(target)?),
            Kind::Device => Err(Error::refused(path.as_bytes(), Refusal::Device)),
            Kind::Pipe => self.tree.pipe(&path),
        }
    }

    /// The path that a hard link names.
    fn linked(&self, target: &[u8]) -> Result<Inside, Error> {
        let spelled = Inside::parse(target, self.limits)?;
        let Some((folder, name)) = spelled.split() else {
            return Ok(spelled);
        };
        let folder = self.tree.followed(&folder, self.limits)?;
        folder.join(name.as_bytes(), self.limits)
    }

    /// A path that this layer has brought may come again as what it is, and as nothing else: two
    /// readers could otherwise take it for two things.
    fn repeat<R: Read>(
        &mut self,
        path: &Inside,
        member: Member<'_, R>,
        what: &str,
    ) -> Result<(), Error> {
        self.count()?;
        let is_same = match &member.kind {
            Kind::File => match self.tree.open_file(path, member.executable)? {
                Some(known) => is_same(known, member, what)?,
                None => false,
            },
            Kind::Symlink(target) => self.tree.link_target(path)?.as_ref() == Some(target),
            Kind::HardLink(target) => self.tree.are_one(path, &self.linked(target)?)?,
            Kind::Pipe => self.tree.is_pipe(path)?,
            Kind::Folder | Kind::Device => false,
        };
        match is_same {
            true => Ok(()),
            false => Err(Error::refused(path.as_bytes(), Refusal::Duplicate)),
        }
    }

    fn file<R: Read>(
        &mut self,
        path: &Inside,
        mut member: Member<'_, R>,
        what: &str,
    ) -> Result<(), Error> {
        let mut file = self.tree.file(path, member.executable)?;
        let mut copied = 0;
        loop {
            let read = member
                .entry
                .read(&mut self.buffer)
                .map_err(|fault| Error::malformed(what, fault))?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read])
                .map_err(Error::io("write the unpacked image"))?;
            copied += read as u64;
        }
        if copied != member.size {
            return Err(Error::malformed(what, "it is cut short"));
        }
        tree::set_modified(&file, Duration::from_secs(member.modified_s));
        Ok(())
    }

    fn hide(&mut self, folder: &Inside, name: &[u8], hidden: &[u8]) -> Result<(), Error> {
        self.count()?;
        if name == HIDES_ALL {
            if self.tree.found(folder)? == Found::Other {
                return Err(Error::refused(folder.as_bytes(), Refusal::ThroughFile));
            }
            return self.hide_children(folder);
        }
        if name.starts_with(UNION_OWN) {
            return Ok(());
        }
        let path = match hidden {
            b"" | b"." | b".." => {
                let whole = folder.join(name, self.limits)?;
                return Err(Error::refused(whole.as_bytes(), Refusal::BadName));
            }
            _ => folder.join(hidden, self.limits)?,
        };
        self.hide_below(&path)
    }

    /// Removes a path of the layers below, and keeps what this layer has brought.
    fn hide_below(&mut self, path: &Inside) -> Result<(), Error> {
        if self.has_brought(path) {
            self.hide_children(path)
        } else {
            self.tree.remove(path)
        }
    }

    fn hide_children(&mut self, folder: &Inside) -> Result<(), Error> {
        if self.is_cleared(folder) {
            return Ok(());
        }
        self.clear(folder)
    }

    /// Whether the folder, or one that it is in, has been cleared.
    fn is_cleared(&self, folder: &Inside) -> bool {
        let mut steps = std::iter::once(Inside::root()).chain(folder.steps());
        steps.any(|step| self.cleared.contains(&Digest::of(step.as_bytes())))
    }

    fn clear(&mut self, folder: &Inside) -> Result<(), Error> {
        if self.tree.found(folder)? != Found::Folder
            || !self.cleared.insert(Digest::of(folder.as_bytes()))
        {
            return Ok(());
        }
        for name in self.tree.names(folder)? {
            let path = folder.join(name.to_bytes(), self.limits)?;
            if self.has_brought(&path) {
                self.clear(&path)?;
            } else {
                self.tree.remove(&path)?;
            }
        }
        Ok(())
    }

    fn has_brought(&self, path: &Inside) -> bool {
        self.brought.contains(&Digest::of(path.as_bytes()))
    }

    /// Notes that this layer has a path, and the folders it is in.
    fn bring(&mut self, path: &Inside) -> Result<(), Error> {
        for step in path.steps() {
            if self.brought.insert(Digest::of(step.as_bytes())) {
                self.count()?;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Error> {
        count(&mut self.size, self.limits)
    }
}

/// Whether a file has the contents of a member.
fn is_same<R: Read>(known: File, member: Member<'_, R>, what: &str) -> Result<bool, Error> {
    let length = known.metadata().map(|about| about.len());
    if length.map_err(Error::io("read the unpacked image"))? != member.size {
        return Ok(false);
    }
    let (known, _) =
        digest::of_reader(&mut { known }).map_err(Error::io("read the unpacked image"))?;
    let (new, length) =
        digest::of_reader(&mut { member.entry }).map_err(|fault| Error::malformed(what, fault))?;
    if length != member.size {
        return Err(Error::malformed(what, "it is cut short"));
    }
    Ok(known == new)
}

/// Counts one more entry.
pub(crate) fn count(size: &mut Size, limits: &Limits) -> Result<(), Error> {
    size.entries += 1;
    if size.entries > limits.entries {
        return Err(Error::Limit {
            what: Excess::Entries,
            max: limits.entries,
        });
    }
    Ok(())
}

/// Makes the folders that every machine mounts something on, and refuses anything else in their
/// place: a link there would move the mount.
pub(crate) fn add_mount_points(tree: &Tree, limits: &Limits) -> Result<(), Error> {
    for name in MOUNT_POINTS {
        let path = Inside::root().join(name.as_bytes(), limits)?;
        match tree.found(&path)? {
            Found::Nothing => tree.folder(&path)?,
            Found::Folder => {}
            Found::Other => return Err(Error::refused(name.as_bytes(), Refusal::MountPoint)),
        }
    }
    Ok(())
}

/// A layer's contents, decompressed, with their digest and within their bounds.
struct Metered {
    inner: Box<dyn Read>,
    hasher: Hasher,
    bytes: u64,
    /// Bytes that may come, and what to say when more do.
    bounds: [(u64, Excess, u64); 2],
    exceeded: Option<(Excess, u64)>,
}

impl Metered {
    fn new(blob: Blob, limits: &Limits, left: u64, what: &str) -> Result<Self, Error> {
        let by_ratio = blob.length.saturating_mul(limits.ratio);
        let by_ratio = by_ratio.max(limits.ratio_free_bytes);
        Ok(Self {
            inner: decompress(blob.reader).map_err(|fault| Error::malformed(what, fault))?,
            hasher: Hasher::new(),
            bytes: 0,
            bounds: [
                (by_ratio, Excess::Ratio, limits.ratio),
                (left, Excess::UnpackedBytes, limits.unpacked_bytes),
            ],
            exceeded: None,
        })
    }

    /// Reads what follows the archive's end mark, which the digest covers too.
    fn read_to_end_of_it(&mut self, buffer: &mut [u8], what: &str) -> Result<(), Error> {
        loop {
            match self.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(fault) => return Err(Error::malformed(what, fault)),
            }
        }
    }
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        for (most, excess, max) in self.bounds {
            if self.bytes > most {
                self.exceeded = Some((excess, max));
                return Err(std::io::Error::other("too many bytes"));
            }
        }
        Ok(read)
    }
}

/// How something is packed, by its first bytes: not every archive names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// One that is not read.
    Other(&'static str),
}

impl Packing {
    /// Of what begins so; six bytes tell.
    pub(crate) fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second is a skippable frame, which may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Other("bzip2"),
            _ => Self::Plain,
        }
    }
}

/// Unpacks a stream, if it is packed.
pub(crate) fn decompress(reader: Box<dyn Read>) -> std::io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    Ok(match Packing::of(reader.fill_buf()?) {
        Packing::Plain => Box::new(reader),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Packing::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
        Packing::Other(name) => {
            let why = format!("it is packed with {name}: pack it with gzip or zstd, or not at all");
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, why));
        }
    })
}
