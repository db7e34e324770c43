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

/// The most images one view shows at once.
const SHOWN_MAX: usize = 256;
/// An empty folder of the view: an overlay that nobody can write to needs a second layer.
const EMPTY: &str = "empty";

/// The view of the starting thread.
#[derive(Debug)]
pub(super) struct View {
    place: Option<PathBuf>,
    shown: HashMap<PathBuf, PathBuf>,
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
            Some(shown) => drop(rustix::mount::unmount(shown, UnmountFlags::DETACH)),
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
    pub(super) fn overlay(&mut self, folders: &[(&str, &Path)]) -> io::Result<Option<OwnRoot>> {
        let (Some(place), Some(remover)) = (self.place.clone(), self.overlays.clone()) else {
            return Ok(None);
        };
        let mut lower = Vec::new();
        for (name, path) in folders {
            lower.push((*name, self.show(path)?));
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
        for (name, shown) in lower {
            let at = own.path().join(name);
            fs::DirBuilder::new().mode(0o755).create(&at)?;
            own.folders.mounted.push(at.clone());
            mount_overlay(shown.strip_prefix(&place).unwrap_or(&shown), &at)?;
        }
        Ok(Some(own))
    }

    /// Whether overlays can be had, found out by making one of the host's programs: the kernel
    /// stacks only so many on each other, and in a container they may lie on some already.
    fn try_overlays(&self) -> Option<mpsc::Sender<OwnFolders>> {
        let place = self.place.as_ref()?;
        let at = place.join("trial");
        fs::DirBuilder::new().mode(0o755).create(&at).ok()?;
        rustix::process::chdir(place).ok()?;
        mount_overlay(Path::new("/usr"), &at).ok()?;
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
            mount_view(place)?;
        }
        Ok(())
    }

    fn hide_all(&mut self) {
        for shown in self.shown.drain().map(|(_, shown)| shown) {
            let _ = rustix::mount::unmount(shown, UnmountFlags::DETACH);
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
            let _ = rustix::mount::unmount(&mounted, UnmountFlags::DETACH);
            let _ = fs::remove_dir(&mounted);
        }
        let _ = fs::remove_dir(&self.above);
    }
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

/// `lower` is relative to the working folder, so that the sandbox's list of mounts does not tell
/// where on the host its files are.
fn mount_overlay(lower: &Path, at: &Path) -> io::Result<()> {
    let options = format!("lowerdir={}:{EMPTY}", lower.display());
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("cofferdam", at, "overlay", flags, options.as_c_str())?;
    Ok(())
}
