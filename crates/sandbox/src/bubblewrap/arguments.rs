//! Turns a planned sandbox into bubblewrap's arguments, without touching anything.
//!
//! These arguments are the isolation of a guest. The program that is started is always our init;
//! what that starts comes to it over its own socket and is in nobody's list of processes.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::bubblewrap::layout::{Layout, Step};
use crate::bubblewrap::roots::{GUEST_ID, Source};
use crate::bubblewrap::tree::{INIT, VAR_TMP};
use crate::limits::Sizes;
use crate::settings::PROGRAM_PATH;

/// Everything that has been decided about a inputs.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    /// How the root is put together.
    pub(super) layout: &'a Layout,
    /// What its binds come from.
    pub(super) source: &'a Source,
    /// Init's own file on the host.
    pub(super) init: PathBuf,
    /// The file of the program that every sandbox has.
    pub(super) program: Option<PathBuf>,
    /// The guest's files in the order the layout counts them.
    pub(super) files: &'a [File],
    /// The most that its file systems in memory can hold.
    pub(super) sizes: Sizes,
    /// Files of `/proc` that tell about the host and are covered; all must exist.
    pub(super) masks: &'a [&'static str],
    /// The system call filter.
    pub(super) seccomp: RawFd,
    /// Where bubblewrap tells the process id of the inputs.
    pub(super) status: RawFd,
}

/// One file: an open descriptor with its contents, and its permission bits.
#[derive(Debug)]
pub(super) struct File {
    pub(super) contents: RawFd,
    pub(super) mode: u32,
}

/// Bubblewrap's options, as they go into the file for `--args`.
pub(super) fn arguments(inputs: &Inputs<'_>) -> Vec<OsString> {
    let mut options = Options::default();
    options.isolation();
    for step in &inputs.layout.image {
        options.step(step, inputs);
    }
    options.add(["--ro-bind".into(), inputs.init.clone().into(), INIT.into()]);
    if let Some(program) = inputs.program.clone() {
        options.add(["--ro-bind".into(), program.into(), PROGRAM_PATH.into()]);
    }
    options.kernel(inputs);
    options.writable(inputs.sizes, inputs.layout.var_tmp);
    for step in &inputs.layout.files {
        options.step(step, inputs);
    }
    // Last, so that what stands in memory is there to be made read-only: without these two lines
    // a guest could fill half of the host's memory through / and /dev.
    options.words(&["--remount-ro", "/dev", "--remount-ro", "/"]);
    options.words(&["--seccomp", &inputs.seccomp.to_string()]);
    options.words(&["--json-status-fd", &inputs.status.to_string()]);
    options.0
}

/// The first file that does not fit with those before it into what holds it, if any. What stands
/// outside of the writable folders is held by the root, which may be as large as the workspace.
pub(super) fn too_large<'a>(
    layout: &'a Layout,
    lengths: &[usize],
    sizes: Sizes,
) -> Option<&'a OsString> {
    let mut left = [
        ("/tmp", sizes.tmp),
        (VAR_TMP, sizes.tmp),
        ("/workspace", sizes.workspace),
        ("/", sizes.workspace),
    ];
    layout.files.iter().find_map(|step| {
        let (Step::File { index, path } | Step::Over { index, path }) = step else {
            return None;
        };
        let length = u64::try_from(lengths[*index]).unwrap_or(u64::MAX);
        let (_, room) = left
            .iter_mut()
            .find(|(folder, _)| Path::new(path).starts_with(folder))?;
        match room.checked_sub(length) {
            Some(rest) => {
                *room = rest;
                None
            }
            None => Some(path),
        }
    })
}

#[derive(Default)]
struct Options(Vec<OsString>);

impl Options {
    /// Namespaces, user, and the ties to the server.
    fn isolation(&mut self) {
        // A namespace of every kind; it is an error when one cannot be had. No further user
        // namespace can be made inside, so no capability can be got back.
        self.words(&["--unshare-all", "--unshare-user", "--unshare-cgroup"]);
        self.words(&["--disable-userns", "--assert-userns-disabled"]);
        let id = GUEST_ID.to_string();
        self.words(&["--uid", &id, "--gid", &id]);
        // Ends with the server, and has no terminal to type into.
        self.words(&["--die-with-parent", "--new-session"]);
        self.words(&["--hostname", "machine", "--clearenv"]);
    }

    /// What the kernel shows of itself.
    fn kernel(&mut self, inputs: &Inputs<'_>) {
        self.words(&["--proc", "/proc"]);
        for mask in inputs.masks {
            self.words(&["--ro-bind", "/dev/null", mask]);
        }
        self.words(&["--dev", "/dev"]);
        // No terminals can be made: those that write to one have the kernel do the work, which no
        // limit on processor time counts, and the host has few.
        self.words(&["--ro-bind", "/dev/null", "/dev/pts/ptmx"]);
    }

    /// The file systems that the guest can write to, each with an end.
    fn writable(&mut self, sizes: Sizes, var_tmp: bool) {
        let var_tmp = var_tmp.then_some((sizes.tmp, "1777", VAR_TMP));
        let folders = [
            (sizes.shm, "1777", "/dev/shm"),
            (sizes.tmp, "1777", "/tmp"),
            (sizes.workspace, "0755", "/workspace"),
        ];
        for (size, mode, path) in folders.into_iter().chain(var_tmp) {
            self.words(&[
                "--size",
                &size.to_string(),
                "--perms",
                mode,
                "--tmpfs",
                path,
            ]);
        }
        self.words(&["--chdir", "/workspace"]);
    }

    fn step(&mut self, step: &Step, inputs: &Inputs<'_>) {
        match step {
            Step::Folder(path) => self.add(["--dir".into(), path.clone()]),
            Step::Bind(path) => {
                let from = inputs.source.place(path).into_os_string();
                self.add(["--ro-bind".into(), from, path.clone()]);
            }
            Step::Link { target, path } => {
                self.add(["--symlink".into(), target.clone(), path.clone()]);
            }
            Step::File { index, path } => self.file("--file", &inputs.files[*index], path),
            Step::Over { index, path } => {
                self.file("--ro-bind-data", &inputs.files[*index], path);
            }
        }
    }

    fn file(&mut self, option: &str, file: &File, path: &OsString) {
        // No set-user-id and no sticky bits: they mean nothing here.
        self.words(&["--perms", &format!("{:04o}", file.mode & 0o777)]);
        self.add([
            option.into(),
            file.contents.to_string().into(),
            path.clone(),
        ]);
    }

    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn add<const N: usize>(&mut self, words: [OsString; N]) {
        self.0.extend(words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<String> {
        let layout = Layout {
            image: vec![
                Step::Link {
                    target: "usr/bin".into(),
                    path: "/bin".into(),
                },
                Step::Bind("/etc".into()),
                Step::Folder("/mnt".into()),
            ],
            var_tmp: true,
            files: vec![
                Step::Over {
                    index: 1,
                    path: "/etc/passwd".into(),
                },
                Step::File {
                    index: 0,
                    path: "/workspace/a b".into(),
                },
            ],
        };
        let inputs = Inputs {
            layout: &layout,
            source: &Source::Image("/images/one".into()),
            init: "/state/init".into(),
            program: Some("/state/program".into()),
            files: &[
                File {
                    contents: 21,
                    mode: 0o100_640,
                },
                File {
                    contents: 22,
                    mode: 0o4755,
                },
            ],
            sizes: Sizes {
                workspace: 3000,
                tmp: 2000,
                shm: 1000,
            },
            masks: &["/proc/cmdline"],
            seccomp: 11,
            status: 12,
        };
        let options = arguments(&inputs);
        options
            .into_iter()
            .map(|option| option.into_string().unwrap())
            .collect()
    }

    /// The position of these options, one after the other.
    #[track_caller]
    fn find(expected: &[&str]) -> usize {
        let options = example();
        options
            .windows(expected.len())
            .position(|window| window == expected)
            .unwrap_or_else(|| panic!("{expected:?} is not in {options:?}"))
    }

    #[test]
    fn every_wall_is_there() {
        for wall in [
            "--unshare-all",
            "--unshare-user",
            "--unshare-cgroup",
            "--disable-userns",
            "--assert-userns-disabled",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
        ] {
            find(&[wall]);
        }
        find(&["--uid", "1000", "--gid", "1000"]);
        find(&["--seccomp", "11"]);
    }

    #[test]
    fn nothing_of_the_host_is_writable() {
        let options = example();
        let binds: Vec<_> = options
            .iter()
            .filter(|option| option.contains("bind"))
            .collect();
        assert!(
            binds.iter().all(|bind| bind.starts_with("--ro-bind")),
            "{binds:?}"
        );
    }

    #[test]
    fn the_order_is_root_then_mounts_then_files_then_read_only() {
        let places = [
            find(&["--symlink", "usr/bin", "/bin"]),
            find(&["--ro-bind", "/images/one/etc", "/etc"]),
            find(&["--dir", "/mnt"]),
            find(&["--ro-bind", "/state/init", "/.init"]),
            find(&["--ro-bind", "/state/program", "/.cofferdam-guest"]),
            find(&["--proc", "/proc"]),
            find(&["--ro-bind", "/dev/null", "/proc/cmdline"]),
            find(&["--dev", "/dev"]),
            find(&["--ro-bind", "/dev/null", "/dev/pts/ptmx"]),
            find(&["--size", "1000", "--perms", "1777", "--tmpfs", "/dev/shm"]),
            find(&["--size", "2000", "--perms", "1777", "--tmpfs", "/tmp"]),
            find(&["--size", "3000", "--perms", "0755", "--tmpfs", "/workspace"]),
            find(&["--size", "2000", "--perms", "1777", "--tmpfs", "/var/tmp"]),
            find(&["--perms", "0755", "--ro-bind-data", "22", "/etc/passwd"]),
            find(&["--perms", "0640", "--file", "21", "/workspace/a b"]),
            find(&["--remount-ro", "/dev", "--remount-ro", "/"]),
        ];
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn files_must_fit_into_what_holds_them_together() {
        let file = |index, path: &str| Step::File {
            index,
            path: path.into(),
        };
        let files = vec![file(0, "/tmp/a"), file(1, "/etc/b"), file(2, "/tmp/c")];
        let layout = Layout {
            image: Vec::new(),
            var_tmp: false,
            files,
        };
        let sizes = Sizes {
            workspace: 100,
            tmp: 10,
            shm: 1,
        };
        assert_eq!(too_large(&layout, &[5, 100, 5], sizes), None);
        assert_eq!(
            too_large(&layout, &[5, 100, 6], sizes),
            Some(&"/tmp/c".into())
        );
        assert_eq!(
            too_large(&layout, &[5, 101, 5], sizes),
            Some(&"/etc/b".into())
        );
    }
}
