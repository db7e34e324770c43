//! The store as its users see it.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::error::{Error, Excess};
use crate::index::{Index, Target};
use crate::limits::Limits;
use crate::lock::{Lock, LockMode};
use crate::plan::RunConfig;
use crate::reference::{HOST, Reference};
use crate::roots::{Kind, Lease, Roots, Staged, delete, make_private};
use crate::source::{self, Source};

/// The images of one state folder. Any number of stores, in any number of processes, may be open
/// on the same folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    roots: Roots,
    limits: Limits,
}

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The name with its tag.
    pub name: String,
    /// `sha256:…` of the image's configuration; of its contents where it was a plain folder.
    pub digest: String,
    /// What it was imported from.
    pub kind: Kind,
    /// Number of layers; 0 for a plain folder.
    pub layers: u64,
    /// Files, folders and links that were unpacked.
    pub entries: u64,
    /// Bytes that were unpacked.
    pub bytes: u64,
    /// It was unpacked before, and only got this name now.
    pub already_unpacked: bool,
    /// The image this name stood for until now, if it was another.
    pub replaced: Option<String>,
}

/// An image in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The name with its tag.
    pub name: String,
    /// As in [`Imported`].
    pub digest: String,
    /// What it was imported from.
    pub kind: Kind,
    /// Number of layers; 0 for a plain folder.
    pub layers: u64,
    /// Files, folders and links that were unpacked.
    pub entries: u64,
    /// Bytes that were unpacked.
    pub bytes: u64,
    /// Some machine uses it now.
    pub in_use: bool,
}

/// A name that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The name with its tag.
    pub name: String,
    /// The image it stood for.
    pub digest: String,
    /// The image's files are gone. They stay while another name or a machine uses them.
    pub deleted: bool,
}

/// An image that a machine can start from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The folder that is the root file system; none for the host's own `/usr`.
    pub rootfs: Option<PathBuf>,
    /// As in [`Imported`]; `host` for the host's own `/usr`.
    pub digest: String,
    /// Program and first arguments; may be empty.
    pub entrypoint: Vec<String>,
    /// Further arguments, for when a request has none of its own; may be empty.
    pub cmd: Vec<String>,
    /// Environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// Working directory, when the image names one.
    pub workdir: Option<String>,
    /// User, when the image names one. Machines have a user of their own, whatever it says.
    pub user: Option<String>,
    /// To be held as long as a machine uses the root; none for the host's own `/usr`.
    pub lease: Option<Lease>,
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
        };
        store.change(|_| Ok(()))?;
        Ok(store)
    }

    /// Imports an image under a name; an existing name refers to the new image from then on.
    /// The source's kind is found out by looking. Waits while another import runs. One that fails
    /// or is cut short changes nothing.
    ///
    /// # Errors
    /// [`Error::Name`] when the name is none, is `host`, or carries a digest; the others as they
    /// say.
    pub fn import(&self, name: &str, source: &Path) -> Result<Imported, Error> {
        let wanted = importable(name)?;
        self.check_apart(source)?;
        self.import_from(&wanted, |staged| source::open(source, staged, &self.limits))
    }

    /// [`Store::import`] of an archive that is read to its end, such as standard input.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_archive(
        &self,
        name: &str,
        archive: impl Read + 'static,
    ) -> Result<Imported, Error> {
        let wanted = importable(name)?;
        self.import_from(&wanted, |staged| {
            source::open_stream(Box::new(archive), staged, &self.limits)
        })
    }

    fn import_from<'a>(
        &self,
        wanted: &Reference,
        open: impl FnOnce(&Staged) -> Result<Source<'a>, Error>,
    ) -> Result<Imported, Error> {
        let import_lock = self.folder.join("import.lock");
        let _alone = Lock::take(&import_lock, LockMode::Exclusive, self.limits.import_wait)?;
        self.roots.clear_unfinished()?;

        let staged = self.roots.stage()?;
        let (digest, manifest) = match open(&staged)? {
            Source::Folder(path) => (source::copy(path, &staged, &self.limits)?, None),
            Source::Image(container, kind) => {
                let plan = source::plan(&container, kind, wanted, &self.limits)?;
                // It could be removed before its new name is written: the lease keeps it.
                if let Some(_lease) = self.lease_if_unpacked(&plan.config)? {
                    let target = Target {
                        digest: plan.config,
                        manifest: plan.manifest,
                    };
                    return self.name(wanted, target, None);
                }
                source::unpack(&container, kind, &plan, &staged, &self.limits)?;
                (plan.config, plan.manifest)
            }
        };
        self.name(wanted, Target { digest, manifest }, Some(staged))
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
