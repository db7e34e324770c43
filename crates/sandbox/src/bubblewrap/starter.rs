//! The thread that sandboxes are started from, and what it sees of the host's files.
//!
//! All sandboxes are started from one thread that lives as long as the engine. Three things hang on
//! that. bubblewrap ends its sandbox when the *thread* that started it ends, so a thread of a pool,
//! which goes when it is idle, must not start one. On that thread a server that is root has its
//! own [`View`]. And starting means forking the server, which is best done one at a time.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use tokio::sync::oneshot;

/// The most images one view shows at once.
const SHOWN_MAX: usize = 256;

type Job = Box<dyn FnOnce(&mut View) + Send>;

/// The thread that sandboxes are started from. It ends, and with it every sandbox, when the last
/// of its owners is dropped.
#[derive(Clone, Debug)]
pub(super) struct Starter(mpsc::Sender<Job>);

impl Starter {
    /// Starts the thread. With a folder, which must be empty and this engine's own, the thread
    /// gets a view there; where the system does not allow that, it sees what the server sees.
    pub(super) fn open(view: Option<PathBuf>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("sandboxes".into())
            .spawn(move || {
                let mut view = View::open(view);
                for job in queue {
                    job(&mut view);
                }
            })?;
        Ok(Self(jobs))
    }

    /// Does some work on the thread and waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut View) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let job = move |view: &mut View| drop(answer.send(work(view)));
        let gone = || io::Error::other("the thread that starts sandboxes has ended");
        self.0.send(Box::new(job)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// What a starting sandbox sees of the host's files.
///
/// bubblewrap runs as a user of the sandbox's own, and that user cannot enter a folder that only
/// root can, such as the state folder. So the starting thread of a server that is root has its own
/// mount namespace, which nobody else sees and which is gone with it, and in that the folders that
/// are needed are shown in a place that all can enter.
#[derive(Debug)]
pub(super) struct View {
    place: Option<PathBuf>,
    shown: HashMap<PathBuf, PathBuf>,
    count: u64,
}

impl View {
    fn open(place: Option<PathBuf>) -> Self {
        let place = place.filter(|place| own_namespace(place).is_ok());
        Self {
            place,
            shown: HashMap::new(),
            count: 0,
        }
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
        if !self.is_mounted(&place) {
            // Removing the folder on the host takes away what is mounted on it here.
            self.shown.clear();
            mount_view(&place)?;
        }
        self.count += 1;
        let shown = place.join(self.count.to_string());
        if found.is_dir() {
            fs::DirBuilder::new().mode(0o755).create(&shown)?;
        } else {
            fs::write(&shown, "")?;
        }
        rustix::mount::mount_bind(path, &shown)?;
        self.shown.insert(path.to_owned(), shown.clone());
        Ok(shown)
    }

    fn is_mounted(&self, place: &Path) -> bool {
        let above = place.parent().and_then(|above| fs::metadata(above).ok());
        let here = fs::metadata(place).ok();
        above
            .zip(here)
            .is_some_and(|(above, here)| above.dev() != here.dev())
    }

    fn hide_all(&mut self) {
        for shown in self.shown.drain().map(|(_, shown)| shown) {
            let _ = rustix::mount::unmount(shown, UnmountFlags::DETACH);
        }
    }
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
    rustix::mount::mount("cofferdam", place, "tmpfs", flags, c"mode=0711,size=1m")?;
    Ok(())
}
