//! Opens an engine: its folder, what a killed server left there, and what all sandboxes share.
//!
//! What is left of a server is found by a mark: the device and inode number of its engine folder,
//! which no other folder has, so that two servers with folders of their own never touch each
//! other. bubblewrap processes carry the mark in their environment, control groups in their name;
//! where groups were made is written down in the folder.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bubblewrap::Engine;
use crate::bubblewrap::core::Core;
use crate::bubblewrap::roots::prepare_etc;
use crate::bubblewrap::starter::Starter;
use crate::bubblewrap::trial::{self, Facts, remedy};
use crate::cgroup;
use crate::error::Error;
use crate::init;
use crate::limits::counts_per_namespace;
use crate::report::Files;
use crate::seccomp::{self, Arch};
use crate::settings::Settings;
use crate::uids::Uids;

/// Where bubblewrap is looked for when no place is given.
const PROGRAM_FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];
/// Files of `/proc` that are covered: those that tell about the host and that every process could
/// read, and the memory of process 1, bubblewrap, which a guest's user may write to.
const MASKS: [&str; 6] = [
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/kallsyms",
    "/proc/1/mem",
    "/proc/1/task/1/mem",
];
/// Init can be run and not be read. A process that runs such a file is closed to others of its
/// user: its memory cannot be read or written, and it cannot be traced. That holds for the file's
/// owner too, who is the guest's user where the server is not root.
const INIT_MODE: u32 = 0o111;
/// The first descriptor after the standard ones.
const FIRST_INHERITED: i32 = 3;
/// Where control groups were made, a folder a line.
const GROUPS: &str = "groups";

/// Opens the engine. See [`Engine::open`].
pub(super) async fn open(settings: Settings) -> Result<Engine, Error> {
    let folder = Folder::lock(&settings.state_dir)?;
    let core = Arc::new(core(&settings, &folder).await?);
    core.kill_strays(None).await;
    folder
        .sweep_groups()
        .await
        .map_err(Error::io("remove control groups left by a server"))?;

    if let Err(error) = trial::isolation(&core).await {
        core.close(None).await;
        return Err(unavailable(&error));
    }
    let note = |folders: &[PathBuf]| folder.note_groups(folders);
    let (groups, report) = trial::limits(&core, settings.limits, &folder.name(), &note).await;
    if settings.require_limits && !report.holds() {
        core.close(groups.as_ref()).await;
        return Err(Error::Limits {
            report: Box::new(report),
        });
    }
    Ok(Engine {
        core,
        groups,
        report: Arc::new(report),
        _lock: Arc::new(folder.lock),
    })
}

/// The engine's own folder, held by this process alone.
struct Folder {
    path: PathBuf,
    mark: String,
    lock: File,
}

impl Folder {
    /// Makes the folder if need be, and holds it until the process ends or lets go.
    fn lock(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join("engine");
        let doing = format!("use the folder {}", path.display());
        let opened = || -> io::Result<(File, String)> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(state_dir)?;
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&path)?;
            let found = fs::metadata(&path)?;
            let mark = format!("{:x}-{:x}", found.dev(), found.ino());
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path.join("lock"))?;
            Ok((lock, mark))
        };
        let (lock, mark) = opened().map_err(Error::io(doing))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, mark, lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked {
                state_dir: state_dir.to_owned(),
            }),
            Err(error) => Err(Error::io("lock the engine's folder")(error.into())),
        }
    }

    /// The name of this engine's control group.
    fn name(&self) -> String {
        format!("cofferdam-{}", self.mark)
    }

    /// Removes the groups that a server noted here and did not remove.
    async fn sweep_groups(&self) -> io::Result<()> {
        let noted = match fs::read_to_string(self.path.join(GROUPS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            noted => noted?,
        };
        for folder in noted.lines() {
            cgroup::sweep(Path::new(folder), &self.name()).await?;
        }
        fs::remove_file(self.path.join(GROUPS))
    }

    fn note_groups(&self, folders: &[PathBuf]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path.join(GROUPS))?;
        folders
            .iter()
            .try_for_each(|folder| writeln!(file, "{}", folder.display()))
    }

    /// Writes init, the guests' `/etc`, and the program that every sandbox has.
    fn fill(&self, program: Option<&[u8]>) -> io::Result<(PathBuf, PathBuf, Option<PathBuf>)> {
        let init = self.put_program("init", init::PROGRAM)?;
        let program = program
            .map(|bytes| self.put_program("program", bytes))
            .transpose()?;
        let etc = self.path.join("etc");
        prepare_etc(&etc)?;
        Ok((init, etc, program))
    }

    fn put_program(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        // In one step, since a file that runs cannot be written to.
        let next = self.path.join(format!("{name}.next"));
        let _ = fs::remove_file(&next);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&next)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(INIT_MODE))?;
        // In a folder that passes its group on the file would have one that no sandbox knows, and
        // then the kernel would close init to a server that is not root, too.
        std::os::unix::fs::fchown(&file, None, Some(rustix::process::getegid().as_raw()))?;
        drop(file);
        fs::rename(&next, &path)?;
        Ok(path)
    }
}

async fn core(settings: &Settings, folder: &Folder) -> Result<Core, Error> {
    // Whoever started the server may have left descriptors open for its children, and a sandbox is
    // one; all that the server itself opens is closed to them from the start.
    close_fds::set_fds_cloexec_threadsafe(FIRST_INHERITED, &[]);
    let bwrap = bubblewrap(settings)?;
    let arch = Arch::here().ok_or_else(|| Error::Unavailable {
        reason: format!("no system call filter for {}", std::env::consts::ARCH),
        remedy: "use an x86_64 or aarch64 host".into(),
    })?;
    let root = rustix::process::geteuid().is_root();
    let uids = if root {
        Some(uids(settings, &folder.mark)?)
    } else {
        None
    };
    let view = if root { view(&folder.name()) } else { None };
    let (init, etc, program) = folder
        .fill(settings.program)
        .map_err(Error::io("write the engine's files"))?;
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    // bubblewrap ends before the first process of its sandbox is reaped; then that is ours to do.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::io("become a subreaper")(error.into()))?;
    let starter = Starter::open(view.clone()).map_err(Error::io("start a thread"))?;
    let has_overlays = starter.run("", |view| Ok(view.has_overlays())).await;
    let files = match has_overlays.map_err(Error::io("ask the starting thread"))? {
        true => Files::Own,
        false => Files::Shared,
    };
    Ok(Core {
        mark: folder.mark.clone(),
        bwrap,
        init,
        program,
        etc,
        files,
        filter: seccomp::filter(arch, files),
        masks: MASKS
            .into_iter()
            .filter(|mask| Path::new(mask).exists())
            .collect(),
        count_processes: root || counts_per_namespace(&release),
        uids,
        starter,
        view,
        runtime: tokio::runtime::Handle::current(),
        tasks: TaskTracker::new(),
        closing: CancellationToken::new(),
        started: AtomicU64::new(0),
    })
}

fn bubblewrap(settings: &Settings) -> Result<PathBuf, Error> {
    let usual = || {
        PROGRAM_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join("bwrap"))
    };
    let found = match &settings.bwrap {
        Some(given) => given.is_file().then(|| given.clone()),
        None => usual().find(|path| path.is_file()),
    };
    found.ok_or_else(|| Error::Unavailable {
        reason: "bubblewrap is not installed".into(),
        remedy: "install it, for example with `apt install bubblewrap` (0.8 or newer)".into(),
    })
}

fn uids(settings: &Settings, mark: &str) -> Result<Uids, Error> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let seed = mark.bytes().fold(0_u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    Uids::new(settings.uid_base, seed, &map).ok_or_else(|| Error::Unavailable {
        reason: "root has too few user ids here to give every sandbox its own".into(),
        remedy: "run the server as an ordinary user".into(),
    })
}

/// A folder to be mounted on by the thread that starts sandboxes, and only there.
fn view(name: &str) -> Option<PathBuf> {
    let place = Path::new("/run").join(name);
    match DirBuilder::new().mode(0o700).create(&place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => None,
        _ => Some(place),
    }
}

/// Turns the failure of the first trial into what can be done about it.
fn unavailable(error: &Error) -> Error {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        reason = format!("{reason}: {next}");
        cause = next.source();
    }
    Error::Unavailable {
        remedy: remedy(&reason, &Facts::read()),
        reason,
    }
}
