//! A bound on a process's memory, as the deployment gives it: a control group of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::parts;

/// What `fly.toml` gives `worker` and `serve`.
const FLY: &str = include_str!("../../../fly.toml");

/// A control group that bounds memory, whose processes are killed when they need more.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    folder: PathBuf,
    /// The file that tells how many were killed.
    kills: &'static str,
}

impl MemoryLimit {
    /// As much as `fly.toml` gives; `None`, said aloud, where no control group can be made.
    pub(crate) fn of_fly() -> Option<Self> {
        let bytes = fly_mib() << 20;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for (top, controller, limit, kills) in [
            (
                "/sys/fs/cgroup/memory",
                "memory",
                "memory.limit_in_bytes",
                "memory.oom_control",
            ),
            ("/sys/fs/cgroup", "", "memory.max", "memory.events"),
        ] {
            let Some(parent) = own_group(&groups, Path::new(top), controller) else {
                continue;
            };
            let folder = parent.join(name());
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self { folder, kills };
            if fs::write(group.folder.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        parts::skipped("no control group that bounds memory can be made here");
        None
    }

    /// Bounds what a process takes from now on.
    pub(crate) fn hold(&self, pid: u32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// How many processes were killed for their memory.
    pub(crate) fn kills(&self) -> u64 {
        let told = fs::read_to_string(self.folder.join(self.kills)).unwrap();
        let line = told.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().parse().unwrap()
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A group goes when its last process has.
        for _ in 0..500 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The group of this process; its lines are `number:controllers:path`.
fn own_group(groups: &str, top: &Path, controller: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_it = fields.next()?.split(',').any(|one| one == controller);
        fields.next().filter(|_| is_it)
    });
    path.map(|path| top.join(path.trim_start_matches('/')))
}

fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("cofferdam-test-{}-{n}", std::process::id())
}

fn fly_mib() -> u64 {
    let line = FLY
        .lines()
        .find_map(|line| line.strip_prefix("memory = \""));
    let text = line.and_then(|text| text.strip_suffix("mb\"")).unwrap();
    text.parse().unwrap()
}
