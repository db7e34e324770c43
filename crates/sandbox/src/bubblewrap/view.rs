//! What a starting sandbox sees of the host's files.
//!
//! bubblewrap runs as a user of the sandbox's own, and that user cannot enter a folder that only
//! root can, such as the state folder. So the starting thread of a server that is root has its own
//! mount namespace, which nobody else sees and which is gone with it, and in that the folders that
//! are needed are shown in a place that all can enter.
//!
//! There each sandbox also gets the files of its root as an overlay of its own. What it does with
//! them as files (locks, watches) is then done with inodes of the overlay, which no other sandbox
//! has; only the contents in the page cache are still shared. The overlay is taken away again once
//! the sandbox has its own mounts, by a second thread: the kernel makes whoever unmounts wait.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::bubblewrap::additions::{Addition, additions, write_layer};
use crate::bubblewrap::roots::Source;

/// The most images one view shows at once.
const SHOWN_MAX: usize = 256;
/// An empty folder of the view: an overlay that nobody can write to needs a second layer.
const EMPTY: &str = "empty";

/// The view of the starting thread.
#[derive(Debug)]
pub(super) struct View {
    place: Option<PathBuf>,
    shown: HashMap<PathBuf, PathBuf>,
    /// What an image lacks, by the image's place here, as a folder beside it.
    layers: HashMap<PathBuf, PathBuf>,
    count: u64,
    /// Where overlays go to be taken away; `None` when there can be none.
    overlays: Option<mpsc::Sender<OwnFolders>>,
}

/// Overlays of one sandbox, below one folder. They are taken away when this is dropped.
#[derive(Debug)]
pub(super) struct OwnRoot {
    folders: OwnFolders,
    remover: mpsc::Sender<OwnFolders>,
}

/// A folder of the host as a sandbox is to see it.
pub(super) enum Folder<'a> {
    /// As it is.
    Whole(&'a Path),
    /// With what an image lacks.
    Image(&'a Path),
}

#[derive(Clone, Debug, Default)]
struct OwnFolders {
    above: PathBuf,
    mounted: Vec<PathBuf>,
}

impl View {
    /// Makes the view at `place`; without one, or where the system does not allow it, the thread
    /// sees what the server sees. To be called on the starting thread.
    pub(super) fn open(place: Option<PathBuf>) -> Self {
        let place = place.filter(|place| own_namespace(place).is_ok());
        let mut view = Self {
            place,
            shown: HashMap::new(),
            layers: HashMap::new(),
            count: 0,
            overlays: None,
        };
        view.overlays = view.try_overlays();
        view
    }

    /// Whether each sandbox gets overlays of its own.
    pub(super) fn has_overlays(&self) -> bool {
        self.overlays.is_some()
    }

    /// Where a sandbox that is started on this thread finds `path`.
    pub(super) fn show(&mut self, path: &Path) -> io::Result<PathBuf> {
        let Some(place) = self.place.clone() else {
            return Ok(path.to_owned());
        };
        let found = fs::metadata(path)?;
        let same = |shown: &Path| {
            let seen = fs::metadata(shown);
            seen.is_ok_and(|seen| (seen.dev(), seen.ino()) == (found.dev(), found.ino()))
        };
        match self.shown.get(path) {
            Some(shown) if same(shown) => return Ok(shown.clone()),
            // The image was removed and another one has its name.
            Some(shown) => hide(&shown.clone(), &mut self.layers),
            None if self.shown.len() >= SHOWN_MAX => self.hide_all(),
            None => {}
        }
        self.restore(&place)?;
        let shown = self.next(&place);
        fs::DirBuilder::new().mode(0o755).create(&shown)?;
        rustix::mount::mount_bind(path, &shown)?;
        self.shown.insert(path.to_owned(), shown.clone());
        Ok(shown)
    }

    /// A copy of a file in the view's own file system, which tells nothing of where it is from.
    pub(super) fn copy(&mut self, path: &Path) -> io::Result<PathBuf> {
        let (Some(place), Some(name)) = (self.place.clone(), path.file_name()) else {
            return Ok(path.to_owned());
        };
        self.restore(&place)?;
        let copy = place.join(name);
        if !copy.exists() {
            fs::copy(path, &copy)?;
            let mode = fs::metadata(path)?.permissions().mode();
            fs::set_permissions(&copy, fs::Permissions::from_mode(mode))?;
        }
        Ok(copy)
    }

    /// Shows folders of the host as overlays, each by its name below one new folder; `None` where
    /// there can be none.
    pub(super) fn overlay(
        &mut self,
        folders: &[(&str, Folder<'_>)],
    ) -> io::Result<Option<OwnRoot>> {
        let (Some(place), Some(remover)) = (self.place.clone(), self.overlays.clone()) else {
            return Ok(None);
        };
        let mut lower = Vec::new();
        for (name, folder) in folders {
            let (Folder::Whole(path) | Folder::Image(path)) = folder;
            let shown = self.show(path)?;
            let added = match folder {
                Folder::Whole(_) => None,
                Folder::Image(_) => self.layer(&place, &shown),
            };
            lower.push((*name, shown, added));
        }
        let above = self.next(&place);
        fs::DirBuilder::new().mode(0o755).create(&above)?;
        let mut own = OwnRoot {
            folders: OwnFolders {
                above,
                mounted: Vec::new(),
            },
            remover,
        };
        // Only this thread has this working folder: its file system view is not shared.
        rustix::process::chdir(&place)?;
        let inside = |path: PathBuf| path.strip_prefix(&place).unwrap_or(&path).to_owned();
        for (name, shown, added) in lower {
            let at = own.path().join(name);
            fs::DirBuilder::new().mode(0o755).create(&at)?;
            own.folders.mounted.push(at.clone());
            let layers = match added {
                Some(added) => [inside(added), inside(shown)],
                None => [inside(shown), EMPTY.into()],
            };
            mount_overlay(&layers, &at)?;
        }
        Ok(Some(own))
    }

    /// A folder with what an image lacks, to be laid over it; `None` when that is nothing.
    fn layer(&mut self, place: &Path, image: &Path) -> Option<PathBuf> {
        if let Some(layer) = self.layers.get(image) {
            return Some(layer.clone()).filter(|layer| layer != image);
        }
        let found = additions(&Source::Image(image.to_owned()));
        let layer = self.next(place);
        let made = match found.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => mount_layer(&layer, image, &found),
        };
        if let Err(error) = &made
            && !found.is_empty()
        {
            tracing::warn!(%error, "an image is shown without the names that it lacks");
        }
        // An image without a layer stands for its own.
        let layer = made.map_or_else(|_| image.to_owned(), |()| layer);
        self.layers.insert(image.to_owned(), layer);
        self.layer(place, image)
    }

    /// Whether overlays can be had, found out by making one of the host's programs: the kernel
    /// stacks only so many on each other, and in a container they may lie on some already.
    fn try_overlays(&self) -> Option<mpsc::Sender<OwnFolders>> {
        let place = self.place.as_ref()?;
        let at = place.join("trial");
        fs::DirBuilder::new().mode(0o755).create(&at).ok()?;
        rustix::process::chdir(place).ok()?;
        mount_overlay(&["/usr".into(), EMPTY.into()], &at).ok()?;
        rustix::mount::unmount(&at, UnmountFlags::DETACH).ok()?;
        fs::remove_dir(&at).ok()?;
        let (remover, removals) = mpsc::channel::<OwnFolders>();
        // Started from here, it is in the same mount namespace.
        thread::Builder::new()
            .name("unmount".into())
            .spawn(move || removals.iter().for_each(|folders| folders.remove()))
            .ok()?;
        Some(remover)
    }

    fn next(&mut self, place: &Path) -> PathBuf {
        self.count += 1;
        place.join(self.count.to_string())
    }

    /// Removing the folder on the host takes away what is mounted on it here.
    fn restore(&mut self, place: &Path) -> io::Result<()> {
        if !is_mounted(place) {
            self.shown.clear();
            self.layers.clear();
            mount_view(place)?;
        }
        Ok(())
    }

    fn hide_all(&mut self) {
        for shown in self.shown.drain().map(|(_, shown)| shown) {
            hide(&shown, &mut self.layers);
        }
    }
}

impl OwnRoot {
    /// The folder that the overlays are in.
    pub(super) fn path(&self) -> &Path {
        &self.folders.above
    }
}

impl Drop for OwnRoot {
    fn drop(&mut self) {
        let _ = self.remover.send(std::mem::take(&mut self.folders));
    }
}

impl OwnFolders {
    fn remove(self) {
        for mounted in self.mounted {
            unmount(&mounted);
        }
        let _ = fs::remove_dir(&self.above);
    }
}

/// Takes what was shown there away, and what was laid over it. Overlays that are in use keep both.
fn hide(shown: &Path, layers: &mut HashMap<PathBuf, PathBuf>) {
    unmount(shown);
    match layers.remove(shown) {
        Some(layer) if layer != shown => unmount(&layer),
        _ => {}
    }
}

fn unmount(at: &Path) {
    let _ = rustix::mount::unmount(at, UnmountFlags::DETACH);
    let _ = fs::remove_dir(at);
}

/// A file system of its own, so that overlays keep it as long as they need it.
fn mount_layer(at: &Path, image: &Path, found: &[Addition]) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(at)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("cofferdam", at, "tmpfs", flags, c"mode=0755,size=256k")?;
    let written = write_layer(at, image, found);
    if written.is_err() {
        unmount(at);
    }
    written
}

fn is_mounted(place: &Path) -> bool {
    let above = place.parent().and_then(|above| fs::metadata(above).ok());
    let here = fs::metadata(place).ok();
    above
        .zip(here)
        .is_some_and(|(above, here)| above.dev() != here.dev())
}

/// Gives this thread mounts of its own, with a small file system in memory at `place`.
fn own_namespace(place: &Path) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    // What the host mounts from now on is still seen here, but nothing from here is seen there.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream)?;
    mount_view(place)
}

fn mount_view(place: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("cofferdam", place, "tmpfs", flags, c"mode=0711,size=8m")?;
    fs::DirBuilder::new().mode(0o755).create(place.join(EMPTY))
}

/// The layers, topmost first, are relative to the working folder, so that the sandbox's list of
/// mounts does not tell where on the host its files are.
fn mount_overlay([upper, lower]: &[PathBuf; 2], at: &Path) -> io::Result<()> {
    let options = format!("lowerdir={}:{}", upper.display(), lower.display());
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("cofferdam", at, "overlay", flags, options.as_c_str())?;
    Ok(())
}
