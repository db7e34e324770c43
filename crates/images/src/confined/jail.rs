//! Namespaces in which a process sees its staged folder and its source, at the paths that they
//! have outside, and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, getegid, geteuid, pivot_root};

/// What nothing in the mounts can be used for.
const USELESS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Where the new root is put together.
pub(super) fn view(staged: &Path) -> PathBuf {
    staged.join("view")
}

/// Enters namespaces of its own: mounts, network, IPC and host name. The process is still of one
/// thread. Both paths are absolute and without symbolic links.
///
/// # Errors
/// When the kernel refuses; then the process sees all files as before.
pub(super) fn enter(staged: &Path, source: Option<&Path>) -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let apart = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    // Root keeps its user namespace, since in a new one it could not read the sources of others.
    if unshare(apart).is_err() {
        unshare(apart | CloneFlags::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let root = view(staged);
    fs::create_dir(&root)?;
    mount("tmpfs", &root, "tmpfs", USELESS, Some(c"size=1m,mode=0755"))?;
    show(staged, &root, MountFlags::empty())?;
    if let Some(source) = source {
        show(source, &root, MountFlags::RDONLY)?;
    }
    chdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir(staged)?;
    Ok(())
}

/// Mounts a path at the same place below another root.
fn show(path: &Path, root: &Path, flags: MountFlags) -> io::Result<()> {
    let target = root.join(path.strip_prefix("/").unwrap_or(path));
    if path.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(root))?;
        fs::File::create_new(&target)?;
    }
    mount_bind(path, &target)?;
    mount_remount(&target, MountFlags::BIND | USELESS | flags, c"")?;
    Ok(())
}
