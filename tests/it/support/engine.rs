//! What an engine over a folder has on this host, found from outside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Processes with this engine's mark, which is the device and inode of its folder.
pub(crate) fn marked(state_dir: &Path) -> Vec<u32> {
    let mark = format!("COFFERDAM_ENGINE={}", mark(state_dir));
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&mark)
    };
    pids.filter(has).collect()
}

/// How an engine over this folder marks what it makes: by the folder's device and inode.
pub(crate) fn mark(state_dir: &Path) -> String {
    let found = fs::metadata(state_dir.join("engine")).unwrap();
    format!("{:x}-{:x}", found.dev(), found.ino())
}

/// Control groups of an engine over this folder, wherever they are.
pub(crate) fn groups(state_dir: &Path) -> Vec<PathBuf> {
    let name = format!("cofferdam-{}", mark(state_dir));
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == name.as_str() {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}
