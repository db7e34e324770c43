//! Finds the server's own control group in the file system, from what `/proc` says.

use std::path::{Path, PathBuf};

/// The folder of the group the process is in, for one v1 controller, or for v2 when `None`.
/// `groups` is `/proc/self/cgroup`, `mounts` is `/proc/self/mountinfo`.
pub(crate) fn own(groups: &str, mounts: &str, controller: Option<&str>) -> Option<PathBuf> {
    let group = group(groups, controller)?;
    let (root, point) = mount(mounts, controller)?;
    // Seen from a container, the group can lie outside of what is mounted.
    let below = Path::new(group).strip_prefix(&root).ok()?;
    let plain = below
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    plain.then(|| point.join(below))
}

/// Where the v2 hierarchy is mounted.
pub(crate) fn top(mounts: &str) -> Option<PathBuf> {
    mount(mounts, None).map(|(_, point)| point)
}

/// The group's path: lines are `number:controllers:path`, for v2 `0::path`.
fn group<'a>(groups: &'a str, controller: Option<&str>) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = match controller {
            Some(name) => controllers.split(',').any(|one| one == name),
            None => number == "0" && controllers.is_empty(),
        };
        wanted.then_some(path)
    })
}

/// The mount of a hierarchy: which of its groups is its root, and where it is. Lines are
/// `id parent device root point options… - type source superoptions`.
fn mount(mounts: &str, controller: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let wanted = match controller {
            Some(name) => kind == "cgroup" && options.split(',').any(|one| one == name),
            None => kind == "cgroup2",
        };
        let mut left = left.split(' ').skip(3);
        let (root, point) = (unescape(left.next()?), unescape(left.next()?));
        wanted.then_some((root, point))
    })
}

/// A path as the kernel writes it: blanks and the like as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut pieces = text.split('\\');
    let mut path = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                path.push(char::from(code));
                path.push_str(&piece[3..]);
            }
            None => {
                path.push('\\');
                path.push_str(piece);
            }
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_GROUPS: &str = "8:pids:/\n4:memory:/outer/inner\n2:cpu,cpuacct:/\n0::/unit\n";
    const HYBRID_MOUNTS: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        39 31 0:36 / /sys/fs/cgroup/a\\040b rw - cgroup cgroup rw,pids\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[track_caller]
    fn check(controller: Option<&str>, expected: Option<&str>) {
        let found = own(HYBRID_GROUPS, HYBRID_MOUNTS, controller);
        assert_eq!(found.as_deref(), expected.map(Path::new));
    }

    #[test]
    fn the_own_group_is_found_in_each_hierarchy() {
        check(None, Some("/sys/fs/cgroup/unified/unit"));
        check(Some("memory"), Some("/sys/fs/cgroup/memory/inner"));
        check(Some("pids"), Some("/sys/fs/cgroup/a b"));
        check(Some("cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct"));
        check(Some("freezer"), None);
    }

    #[test]
    fn a_group_outside_of_the_mount_is_not_found() {
        let mounts = "30 20 0:26 /docker/one /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(own("0::/docker/two\n", mounts, None), None);
        let mounts = "30 20 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(own("0::/../up\n", mounts, None), None);
        assert_eq!(own("0::/\n", mounts, None), Some("/sys/fs/cgroup/".into()));
    }
}
