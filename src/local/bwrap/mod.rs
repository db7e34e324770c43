//! The engine that runs machines as bubblewrap sandboxes.
//!
//! A machine is a tree of processes in namespaces of its own, under a system call filter, with
//! limits, as a user of its own where the server is root. It shares the kernel with the host: one
//! hole in the kernel that can be reached through the filter ends the isolation, and nothing here
//! calls it a virtual machine.
//!
//! In reading order: [`path`], [`place`], [`layout`], [`roots`] and [`sandbox`] decide what a
//! machine sees, [`seccomp`] what it may ask of the kernel, [`limits`], [`cgroup`] and [`output`]
//! how much it may use, [`uids`] who it is; [`process`] starts and ends processes, [`procfs`] reads
//! `/proc`, [`wire`] and [`control`] are the conversation with the machine's init; [`launch`] and
//! [`boot`] bring a machine up, [`machine`] is one that runs, [`end`] follows it to its end; [`open`]
//! and [`trial`] find out what this host can do.
//!
//! Not here: a daemon, a helper process, a shell, a mount that the host can see. All that a server
//! that is killed can leave behind are control groups, and the next one removes them.

mod bare;
mod boot;
mod cgroup;
mod control;
mod end;
mod launch;
mod layout;
mod limits;
mod machine;
mod open;
mod output;
mod path;
mod place;
mod process;
mod procfs;
mod roots;
mod sandbox;
mod seccomp;
mod trial;

mod uids;
#[path = "../../init/wire.rs"]
mod wire;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::local::bwrap::boot::Plan;
use crate::local::bwrap::cgroup::Groups;
use crate::local::bwrap::limits::Quota;
use crate::local::bwrap::process::{Process, Starter};
use crate::local::bwrap::uids::Uids;
use crate::local::engine::{Error, OutputSink, Report, Settings, Spec};

pub use crate::local::bwrap::machine::{Handle, Running};

/// Where a program starts that does not say where.
const DEFAULT_WORKDIR: &str = "/workspace";
/// The most files placed in one machine.
const FILES_MAX: usize = 256;

/// Runs machines. Clones are the same engine; when the last one and the last machine are gone, it
/// is closed. If the process that holds it dies, in whatever way, its machines die with it.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
    groups: Option<Groups>,
    report: Arc<Report>,
    /// Held as long as the engine is open; the system lets go of it if the process dies.
    _lock: Arc<File>,
}

/// What all machines of an engine share.
struct Core {
    mark: String,
    bwrap: PathBuf,
    init: PathBuf,
    etc: PathBuf,
    filter: Vec<u8>,
    masks: Vec<&'static str>,
    /// Users for machines, when the server is root.
    uids: Option<Uids>,
    /// Without groups, whether processes can be counted per machine.
    count_processes: bool,
    starter: Starter,
    view: Option<PathBuf>,
    runtime: runtime::Handle,
    tasks: TaskTracker,
    closing: CancellationToken,
    started: AtomicU64,
}

impl Engine {
    /// Finds out what this host can do, by running machines; removes what a killed server left in
    /// the same state folder; keeps that folder to itself until it is closed.
    ///
    /// The process becomes a subreaper: sandboxes whose outer process was killed come to be its
    /// children and are reaped. To be called in a tokio runtime that outlives the engine.
    ///
    /// # Errors
    /// [`Error::Locked`] when another engine has the folder, [`Error::Unavailable`] with a remedy
    /// when machines cannot be run here, [`Error::Limits`] when limits are required and do not
    /// hold. It never goes on with less isolation.
    pub async fn open(settings: Settings) -> Result<(Self, Report), Error> {
        let engine = open::open(settings).await?;
        let report = engine.report().clone();
        Ok((engine, report))
    }

    /// What was found out when the engine was opened.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Starts a machine; returns when the guest's program has been exec'ed. If the future is
    /// dropped the machine is ended.
    ///
    /// # Errors
    /// [`Error::Spec`] when it asks for what cannot be, [`Error::NotFound`],
    /// [`Error::NotExecutable`] and [`Error::Workdir`] when the program cannot be started; the
    /// others when it is not the machine's fault. Nothing is left of a machine that did not start.
    pub async fn start(&self, spec: Spec, output: OutputSink) -> Result<Running, Error> {
        let quota = Quota::of(&spec);
        self.core
            .start(spec, quota, self.groups.clone(), output)
            .await
    }

    /// Runs a program in the same sandbox with nothing around it and gives the time to its first
    /// byte of output. For measuring; the program gets no limits.
    ///
    /// # Errors
    /// When it cannot be started or writes nothing.
    #[doc(hidden)]
    pub async fn bare(&self, argv: Vec<String>) -> std::io::Result<std::time::Duration> {
        self.core.bare(argv).await
    }

    /// Ends every machine, waits until nothing is left of any, and removes what the engine itself
    /// has made on the host. No machine is started any more. Safe to repeat.
    pub async fn close(&self) {
        self.core.close(self.groups.as_ref()).await;
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.report)
    }
}

impl Core {
    async fn start(
        self: &Arc<Self>,
        spec: Spec,
        quota: Quota,
        groups: Option<Groups>,
        sink: OutputSink,
    ) -> Result<Running, Error> {
        check(&spec).map_err(Error::Spec)?;
        if self.closing.is_cancelled() {
            return Err(Error::Busy("the engine is closing".into()));
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}", spec.id);
        let plan = Plan {
            spec,
            name,
            quota,
            groups,
            sink,
        };
        let (answer, answered) = oneshot::channel();
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            // If nobody waits any more, the machine is dropped here and thereby ended.
            let _ = answer.send(boot::boot(core, plan).await);
        });
        answered
            .await
            .unwrap_or_else(|_| Err(Error::Boot("the boot was broken off".into())))
    }

    async fn close(&self, groups: Option<&Groups>) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(groups) = groups {
            groups.close();
        }
        if let Some(view) = &self.view {
            let _ = std::fs::remove_dir(view);
        }
    }

    /// Ends what carries this engine's mark, or what belongs to one of its machines, and waits
    /// until it is gone.
    async fn end_strays(&self, machine: Option<&str>) {
        let (mark, machine) = (self.mark.clone(), machine.map(str::to_owned));
        // Reading a process's environment waits for as long as the kernel is busy with its
        // memory, which a guest can draw out: not on a thread that everything else needs.
        let marked = tokio::task::spawn_blocking(move || procfs::marked(&mark, machine.as_deref()));
        let Ok(Ok(strays)) = marked.await else {
            return;
        };
        let strays: Vec<_> = strays
            .into_iter()
            .filter_map(|pid| Process::open(pid).ok())
            .collect();
        strays.iter().for_each(Process::kill);
        for stray in strays {
            stray.ended().await;
            stray.reap();
        }
    }
}

/// Says what in a spec cannot be carried out, as far as the spec alone tells.
fn check(spec: &Spec) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if spec.id.is_empty() || spec.id.len() > 64 || !spec.id.chars().all(plain) {
        return Err(format!(
            "id {:?} is not up to 64 letters, digits, - and _",
            spec.id
        ));
    }
    if spec.argv.first().is_none_or(String::is_empty) {
        return Err("argv names no program".into());
    }
    if spec.argv.iter().any(|argument| argument.contains('\0')) {
        return Err("argv contains a zero byte".into());
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("env {name:?} cannot be set"));
        }
    }
    if spec
        .workdir
        .as_ref()
        .is_some_and(|dir| !dir.starts_with('/') || dir.contains('\0'))
    {
        return Err("workdir is not an absolute path".into());
    }
    if spec.files.len() > FILES_MAX {
        return Err(format!("files has more than {FILES_MAX} entries"));
    }
    if spec.memory_mb == 0 || spec.cpus == 0 {
        return Err("memory_mb and cpus must not be 0".into());
    }
    Ok(())
}
