//! Starts bubblewrap, follows processes by descriptor, and ends them.
//!
//! All machines are started from one thread that lives as long as the engine. Three things hang on
//! that. bubblewrap ends its sandbox when the *thread* that started it ends, so a thread of a pool,
//! which goes when it is idle, must not start one. On that thread a server that is root has its
//! own [`View`]. And starting means forking the server, which is best done one at a time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;

use command_fds::CommandFdExt;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// By this name in its environment a bubblewrap process tells which engine it belongs to.
pub(super) const MARK: &str = "COFFERDAM_ENGINE";
/// And by this one, which machine it is.
pub(super) const MACHINE: &str = "COFFERDAM_MACHINE";

/// The most images one view shows at once.
const SHOWN_MAX: usize = 256;

type Job = Box<dyn FnOnce(&mut View) + Send>;

/// The thread that machines are started from. It ends, and with it every sandbox, when the last
/// of its owners is dropped.
#[derive(Clone, Debug)]
pub(super) struct Starter(mpsc::Sender<Job>);

impl Starter {
    /// Starts the thread. With a folder, which must be empty and this engine's own, the thread
    /// gets a view there; where the system does not allow that, it sees what the server sees.
    pub(super) fn open(view: Option<PathBuf>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("machines".into())
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
        let gone = || io::Error::other("the thread that starts machines has ended");
        self.0.send(Box::new(job)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// What a starting sandbox sees of the host's files.
///
/// bubblewrap runs as a user of the machine's own, and that user cannot enter a folder that only
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

/// One bubblewrap process to be started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) options: Vec<OsString>,
    /// What is run inside.
    pub(super) command: Vec<OsString>,
    /// Descriptors that the options name; they keep their numbers.
    pub(super) keep: Vec<OwnedFd>,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The user it runs as, when the server is root.
    pub(super) uid: Option<u32>,
    pub(super) mark: String,
    pub(super) machine: String,
}

/// Starts it; returns once bubblewrap has been exec'ed. To be called on the starting thread.
pub(super) fn start(launch: Launch) -> io::Result<Child> {
    let options = memfd(c"options", &nul_separated(&launch.options))?;
    let mut command = Command::new(launch.program);
    command
        .arg("--args")
        .arg(options.as_raw_fd().to_string())
        .arg("--")
        .args(launch.command);
    // The options do not stand in the command line, which all users of the host can read.
    command
        .env_clear()
        .env(MARK, launch.mark)
        .env(MACHINE, launch.machine)
        .current_dir("/");
    command
        .stdin(launch.stdin)
        .stdout(launch.stdout)
        .stderr(launch.stderr);
    if let Some(uid) = launch.uid {
        // The standard library drops all supplementary groups with this.
        command.uid(uid).gid(uid);
    }
    // In the child only: in the server every descriptor stays closed to all other children.
    command.preserved_fds(launch.keep.into_iter().chain([options]).collect());
    command.spawn()
}

/// A nameless file in memory with these contents, to be read from its start.
pub(super) fn memfd(name: &std::ffi::CStr, contents: &[u8]) -> io::Result<OwnedFd> {
    let mut file = fs::File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(contents)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}

fn nul_separated(words: &[OsString]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.as_bytes().iter().copied().chain([0]))
        .collect()
}

/// A process followed by a descriptor: it cannot be mistaken for a later one with its number.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    descriptor: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a process that cannot have been reaped yet.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(
            deprecated,
            reason = "unsound for types that give out changing descriptors; an OwnedFd has one"
        )]
        let descriptor = AsyncFd::new(descriptor)?;
        Ok(Self { pid, descriptor })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(
            &self.descriptor,
            signal,
        )?)
    }

    /// Ends it at once. One that has ended is fine.
    pub(super) fn kill(&self) {
        let _ = self.signal(Signal::KILL);
    }

    /// Waits until it has ended. For the first process of a pid namespace that means that every
    /// process in there is gone.
    pub(super) async fn ended(&self) {
        // Once readable, always readable: there is nothing to be cleared.
        let _ = self.descriptor.readable().await;
    }

    /// Takes an ended process off the system's list, if it has come to be our child.
    pub(super) fn reap(&self) {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = rustix::process::waitid(WaitId::PidFd(self.descriptor.as_fd()), how);
    }
}
