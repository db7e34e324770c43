//! What all sandboxes of an engine share.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bubblewrap::starter::Starter;
use crate::cgroup::Groups;
use crate::pidfd::Process;
use crate::procfs;
use crate::report::Files;
use crate::uids::Uids;

/// What all sandboxes of an engine share.
pub(super) struct Core {
    pub(super) mark: String,
    pub(super) bwrap: PathBuf,
    pub(super) init: PathBuf,
    /// The program that every sandbox has.
    pub(super) program: Option<PathBuf>,
    pub(super) etc: PathBuf,
    pub(super) files: Files,
    pub(super) filter: Vec<u8>,
    pub(super) masks: Vec<&'static str>,
    /// Users for sandboxes, when the server is root.
    pub(super) uids: Option<Uids>,
    /// Without groups, whether processes can be counted per sandbox.
    pub(super) count_processes: bool,
    pub(super) starter: Starter,
    pub(super) view: Option<PathBuf>,
    pub(super) runtime: runtime::Handle,
    pub(super) tasks: TaskTracker,
    pub(super) closing: CancellationToken,
    pub(super) started: AtomicU64,
}

impl Core {
    pub(super) async fn close(&self, groups: Option<&Groups>) {
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

    /// Ends what carries this engine's mark, or what belongs to one of its sandboxes, and waits
    /// until it is gone.
    pub(super) async fn kill_strays(&self, sandbox: Option<&str>) {
        let (mark, sandbox) = (self.mark.clone(), sandbox.map(str::to_owned));
        // Reading a process's environment waits for as long as the kernel is busy with its
        // memory, which a guest can draw out: not on a thread that everything else needs.
        let marked = tokio::task::spawn_blocking(move || procfs::marked(&mark, sandbox.as_deref()));
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
