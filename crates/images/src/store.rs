//! The store as its users see it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::confined::{self, Input};
use crate::digest::Digest;
use crate::error::{Error, Excess};
use crate::index::{Index, Target};
use crate::limits::Limits;
use crate::lock::{Lock, LockMode};
use crate::plan::RunConfig;
use crate::reference::{HOST, Reference};
use crate::report::{Image, Imported, Removed, Resolved};
use crate::roots::{Lease, Roots, Staged, delete, make_private};
use crate::source::{self, Opened, Outcome};

/// The images of one state folder. Any number of stores, in any number of processes, may be open
/// on the same folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    roots: Roots,
    limits: Limits,
    /// The program whose processes unpack images; this process does when there is none.
    unpacker: Option<PathBuf>,
}

impl Store {
    /// Opens the store in a state folder, making what is not there, and deletes images that were
    /// removed while in use and are no more.
    ///
    /// # Errors
    /// When the folder cannot be made or written, or its list of names not be read.
    pub fn open(state_dir: &Path) -> Result<Self, Error> {
        Self::open_with(state_dir, Limits::default())
    }

    /// [`Store::open`] with other bounds.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(state_dir: &Path, limits: Limits) -> Result<Self, Error> {
        let folder = state_dir.join("images");
        make_private(&folder)?;
        let store = Self {
            roots: Roots::open(&folder)?,
            folder,
            limits,
            unpacker: None,
        };
        store.change(|_| Ok(()))?;
        Ok(store)
    }

    /// Has images unpacked by processes of `program`, which have no rights and bounds of their own.
    /// The program must call [`run_if_asked`](crate::run_if_asked) before anything else. Without
    /// this, images are unpacked by the calling process.
    #[must_use]
    pub fn unpacked_by(mut self, program: PathBuf) -> Self {
        self.unpacker = Some(program);
        self
    }

    /// Imports an image under a name; an existing name refers to the new image from then on.
    /// The source's kind is found out by looking. Waits while another import runs. One that fails
    /// or is cut short changes nothing.
    ///
    /// A plain folder is copied by the calling process itself: there is no format to read.
    ///
    /// # Errors
    /// [`Error::Name`] when the name is none, is `host`, or carries a digest; [`Error::Process`]
    /// for whatever a process of [`Store::unpacked_by`] says; the others as they say.
    pub fn import(&self, name: &str, source: &Path) -> Result<Imported, Error> {
        let wanted = importable(name)?;
        self.check_apart(source)?;
        if source::is_plain_folder(source)? {
            return self.import_with(&wanted, |staged, _| {
                source::copy(source, staged, &self.limits)
            });
        }
        let path = source.canonicalize().map_err(|fault| Error::Source {
            path: source.to_owned(),
            source: fault,
        })?;
        self.import_with(&wanted, |staged, known| match &self.unpacker {
            None => self.unpack(source::open(&path)?, &wanted, staged, &known),
            Some(program) => {
                let input = Input::Path(path.clone());
                confined::unpack(program, input, &wanted, known, staged, &self.limits)
            }
        })
    }

    /// [`Store::import`] of an archive that is read to its end, such as standard input.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_archive(
        &self,
        name: &str,
        archive: impl Read + Send + 'static,
    ) -> Result<Imported, Error> {
        let wanted = importable(name)?;
        let mut archive = Some(Box::new(archive));
        self.import_with(&wanted, |staged, known| {
            let archive = archive.take().ok_or_else(removed_meanwhile)?;
            match &self.unpacker {
                None => self.unpack(Opened::Stream(archive), &wanted, staged, &known),
                Some(program) => {
                    let input = Input::Stream(archive);
                    confined::unpack(program, input, &wanted, known, staged, &self.limits)
                }
            }
        })
    }

    fn unpack(
        &self,
        opened: Opened,
        wanted: &Reference,
        staged: &Staged,
        known: &[Digest],
    ) -> Result<Outcome, Error> {
        let is_known = |digest: &_| known.contains(digest);
        source::unpack(opened, staged, wanted, &is_known, &self.limits)
    }

    /// Imports what `unpack` brings into a staged folder. It is given the images that are unpacked
    /// already, and need not unpack those again.
    fn import_with(
        &self,
        wanted: &Reference,
        mut unpack: impl FnMut(&Staged, Vec<Digest>) -> Result<Outcome, Error>,
    ) -> Result<Imported, Error> {
        let import_lock = self.folder.join("import.lock");
        let _alone = Lock::take(&import_lock, LockMode::Exclusive, self.limits.import_wait)?;
        self.roots.clear_unfinished()?;
        for known in [self.roots.digests()?, Vec::new()] {
            let staged = self.roots.stage()?;
            let outcome = unpack(&staged, known)?;
            let target = Target {
                digest: outcome.digest,
                manifest: outcome.manifest,
            };
            if outcome.unpacked {
                return self.name(wanted, target, Some(staged));
            }
            // It could be removed before its new name is written: the lease keeps it.
            if let Some(_lease) = self.lease_if_unpacked(&outcome.digest)? {
                return self.name(wanted, target, None);
            }
            // It was removed since: once more, and nothing is known.
        }
        Err(removed_meanwhile())
    }

    /// The imported images, by name. `host` is not among them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        // Alone, since asking whether an image is in use disturbs others who ask.
        let (_lock, index) = self.read_index(LockMode::Exclusive)?;
        let mut images = Vec::new();
        for (name, target) in index.names {
            let record = self.roots.record(&target.digest)?;
            images.push(Image {
                name,
                digest: target.digest.to_string(),
                kind: record.kind,
                layers: record.layers,
                entries: record.entries,
                bytes: record.bytes,
                in_use: self.roots.in_use(&target.digest)?,
            });
        }
        Ok(images)
    }

    /// Removes a name, and its image's files if nothing else uses them.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::OtherDigest`] when the name is given with another digest, and
    /// when the store cannot be written.
    pub fn remove(&self, name: &str) -> Result<Removed, Error> {
        let wanted = Reference::parse(name)?;
        let target = self.change(|index| {
            let target = find(index, &wanted)?;
            index.names.remove(&wanted.key());
            Ok(target)
        })?;
        Ok(Removed {
            name: wanted.key(),
            digest: target.digest.to_string(),
            deleted: !self.roots.has(&target.digest),
        })
    }

    /// Finds what a machine starts from: an imported image by its name, maybe with tag and digest,
    /// or the host's own `/usr` by the name `host`. Reads two small files.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no such image was imported, [`Error::OtherDigest`] when it is
    /// another than the reference says, [`Error::Name`] when the text is no reference.
    pub fn resolve(&self, reference: &str) -> Result<Resolved, Error> {
        let wanted = Reference::parse(reference)?;
        if wanted.is_host() {
            return host(&wanted);
        }
        let (_lock, index) = self.read_index(LockMode::Shared)?;
        let target = find(&index, &wanted)?;
        let lease = self.roots.lease(&target.digest)?;
        let RunConfig {
            entrypoint,
            cmd,
            env,
            workdir,
            user,
        } = self.roots.record(&target.digest)?.settings;
        Ok(Resolved {
            rootfs: Some(self.roots.rootfs(&target.digest)),
            digest: target.digest.to_string(),
            entrypoint,
            cmd,
            env,
            workdir,
            user,
            lease: Some(lease),
        })
    }

    /// Points a name at an image, moving a new image to its place first.
    fn name(
        &self,
        wanted: &Reference,
        target: Target,
        staged: Option<Staged>,
    ) -> Result<Imported, Error> {
        let digest = target.digest;
        let name = wanted.key();
        let (already_unpacked, replaced) = self.change(|index| {
            let most = self.limits.names;
            if index.names.len() >= most && !index.names.contains_key(&name) {
                let (what, max) = (Excess::Names, most as u64);
                return Err(Error::Limit { what, max });
            }
            let already_unpacked = self.roots.has(&digest);
            if let Some(staged) = staged {
                self.roots.keep(staged, &digest)?;
            }
            let before = index.names.insert(name.clone(), target);
            let replaced = before.filter(|before| before.digest != digest);
            Ok((already_unpacked, replaced))
        })?;
        let record = self.roots.record(&digest)?;
        Ok(Imported {
            name,
            digest: digest.to_string(),
            kind: record.kind,
            layers: record.layers,
            entries: record.entries,
            bytes: record.bytes,
            already_unpacked,
            replaced: replaced.map(|target| target.digest.to_string()),
        })
    }

    /// Changes the list of names, with nobody else reading it meanwhile, and deletes the images
    /// that nothing uses any more.
    fn change<T>(&self, act: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let lock = self.lock_index(LockMode::Exclusive)?;
        let path = self.folder.join("index.json");
        let mut index = Index::read(&path)?;
        let before = index.clone();
        let done = act(&mut index)?;
        if index != before {
            index.write(&path)?;
        }
        let retired = self.roots.retire(&index)?;
        drop(lock);
        for folder in retired {
            // The change is made. What cannot be deleted now, the next import deletes.
            let _ = delete(&folder);
        }
        Ok(done)
    }

    fn read_index(&self, mode: LockMode) -> Result<(Lock, Index), Error> {
        let lock = self.lock_index(mode)?;
        let index = Index::read(&self.folder.join("index.json"))?;
        Ok((lock, index))
    }

    fn lock_index(&self, mode: LockMode) -> Result<Lock, Error> {
        let path = self.folder.join("index.lock");
        Lock::take(&path, mode, self.limits.index_wait)
    }

    fn lease_if_unpacked(&self, digest: &Digest) -> Result<Option<Lease>, Error> {
        let _lock = self.lock_index(LockMode::Shared)?;
        if !self.roots.has(digest) {
            return Ok(None);
        }
        self.roots.lease(digest).map(Some)
    }

    /// A folder that holds the store would be copied into itself.
    fn check_apart(&self, source: &Path) -> Result<(), Error> {
        let unopened = |fault| Error::Source {
            path: source.to_owned(),
            source: fault,
        };
        let whole = source.canonicalize().map_err(unopened)?;
        let ours = self.folder.canonicalize().map_err(unopened)?;
        if ours.starts_with(&whole) {
            return Err(Error::Unrecognised {
                path: source.to_owned(),
                why: "the store of images is in it",
            });
        }
        Ok(())
    }
}

fn removed_meanwhile() -> Error {
    let fault = io::Error::other("it was removed meanwhile; import it again");
    Error::io("name the image")(fault)
}

fn importable(name: &str) -> Result<Reference, Error> {
    let wanted = Reference::parse(name)?;
    let why = if wanted.is_host() {
        "it always stands for the host's own /usr"
    } else if wanted.digest.is_some() {
        "an image is imported under a name without a digest"
    } else {
        return Ok(wanted);
    };
    Err(Error::Name {
        name: name.to_owned(),
        why,
    })
}

fn find(index: &Index, wanted: &Reference) -> Result<Target, Error> {
    let name = wanted.key();
    let Some(target) = index.names.get(&name) else {
        return Err(Error::Unknown { name });
    };
    match wanted.digest {
        Some(digest) if digest != target.digest && Some(digest) != target.manifest => {
            Err(Error::OtherDigest {
                name,
                wanted: digest.to_string(),
                found: target.digest.to_string(),
            })
        }
        _ => Ok(target.clone()),
    }
}

fn host(wanted: &Reference) -> Result<Resolved, Error> {
    if let Some(digest) = wanted.digest {
        return Err(Error::OtherDigest {
            name: HOST.to_owned(),
            wanted: digest.to_string(),
            found: "the host's own /usr, which has none".to_owned(),
        });
    }
    Ok(Resolved {
        rootfs: None,
        digest: HOST.to_owned(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        workdir: None,
        user: None,
        lease: None,
    })
}
