//! The system calls that are refused, or decided by their arguments, with their numbers.
//!
//! What is refused here is refused with EPERM rather than as unknown: these calls reach parts of
//! the kernel in which its holes have been, and a program that tries them is to learn that it may
//! not, not to look for a way around an old kernel.

use super::Arch;

/// The newest call the lists were checked against (`file_setattr`, Linux 6.17). From 424 on the
/// numbers are the same everywhere. Higher ones are answered as by a kernel that lacks them.
pub(crate) const NEWEST: u32 = 469;

/// A call: its name, its number on x86-64, its number on arm64.
pub(crate) type Call = (&'static str, Option<u32>, Option<u32>);

/// Looked at closer, by their arguments.
pub(crate) const CLONE: Call = ("clone", Some(56), Some(220));
pub(crate) const IOCTL: Call = ("ioctl", Some(16), Some(29));
pub(crate) const SOCKET: Call = ("socket", Some(41), Some(198));
pub(crate) const SOCKETPAIR: Call = ("socketpair", Some(53), Some(199));
pub(crate) const SECCOMP: Call = ("seccomp", Some(317), Some(277));

/// Answered with success and not done: a sandbox writes to memory only, and these would write out
/// what others wrote to the host's disks.
pub(crate) const IGNORED: &[Call] = &[
    ("sync", Some(162), Some(81)),
    ("syncfs", Some(306), Some(267)),
];

/// Watching files: refused as unknown where sandboxes share the files of their roots.
pub(crate) const WATCHING: &[Call] = &[
    ("inotify_init", Some(253), None),
    ("inotify_init1", Some(294), Some(26)),
];

/// Refused with EPERM.
pub(crate) const DENIED: &[Call] = &[
    // Other processes' memory, registers and descriptors.
    ("ptrace", Some(101), Some(117)),
    ("process_vm_readv", Some(310), Some(270)),
    ("process_vm_writev", Some(311), Some(271)),
    ("process_madvise", Some(440), Some(440)),
    ("process_mrelease", Some(448), Some(448)),
    ("kcmp", Some(312), Some(272)),
    ("pidfd_getfd", Some(438), Some(438)),
    // Mounts and roots, old and new.
    ("mount", Some(165), Some(40)),
    ("umount2", Some(166), Some(39)),
    ("move_mount", Some(429), Some(429)),
    ("open_tree", Some(428), Some(428)),
    ("open_tree_attr", Some(467), Some(467)),
    ("fsopen", Some(430), Some(430)),
    ("fsconfig", Some(431), Some(431)),
    ("fsmount", Some(432), Some(432)),
    ("fspick", Some(433), Some(433)),
    ("mount_setattr", Some(442), Some(442)),
    ("statmount", Some(457), Some(457)),
    ("listmount", Some(458), Some(458)),
    ("pivot_root", Some(155), Some(41)),
    ("chroot", Some(161), Some(51)),
    // Namespaces; clone is looked at by its flags.
    ("unshare", Some(272), Some(97)),
    ("setns", Some(308), Some(268)),
    // Large interfaces with a history.
    ("bpf", Some(321), Some(280)),
    ("perf_event_open", Some(298), Some(241)),
    ("userfaultfd", Some(323), Some(282)),
    ("io_uring_setup", Some(425), Some(425)),
    ("io_uring_enter", Some(426), Some(426)),
    ("io_uring_register", Some(427), Some(427)),
    ("add_key", Some(248), Some(217)),
    ("request_key", Some(249), Some(218)),
    ("keyctl", Some(250), Some(219)),
    ("memfd_secret", Some(447), Some(447)),
    ("modify_ldt", Some(154), None),
    // The kernel itself and the whole host.
    ("init_module", Some(175), Some(105)),
    ("finit_module", Some(313), Some(273)),
    ("delete_module", Some(176), Some(106)),
    ("create_module", Some(174), None),
    ("query_module", Some(178), None),
    ("get_kernel_syms", Some(177), None),
    ("kexec_load", Some(246), Some(104)),
    ("kexec_file_load", Some(320), Some(294)),
    ("reboot", Some(169), Some(142)),
    ("syslog", Some(103), Some(116)),
    ("swapon", Some(167), Some(224)),
    ("swapoff", Some(168), Some(225)),
    ("quotactl", Some(179), Some(60)),
    ("quotactl_fd", Some(443), Some(443)),
    ("acct", Some(163), Some(89)),
    ("nfsservctl", Some(180), Some(42)),
    ("iopl", Some(172), None),
    ("ioperm", Some(173), None),
    ("sethostname", Some(170), Some(161)),
    ("setdomainname", Some(171), Some(162)),
    ("vhangup", Some(153), Some(58)),
    // Clocks.
    ("settimeofday", Some(164), Some(170)),
    ("clock_settime", Some(227), Some(112)),
    ("clock_adjtime", Some(305), Some(266)),
    ("adjtimex", Some(159), Some(171)),
    // Files by handle, past every path; watching whole file systems.
    ("name_to_handle_at", Some(303), Some(264)),
    ("open_by_handle_at", Some(304), Some(265)),
    ("fanotify_init", Some(300), Some(262)),
    ("fanotify_mark", Some(301), Some(263)),
    ("lookup_dcookie", Some(212), Some(18)),
    // Placement of memory on nodes.
    ("mbind", Some(237), Some(235)),
    ("set_mempolicy", Some(238), Some(237)),
    ("get_mempolicy", Some(239), Some(236)),
    ("set_mempolicy_home_node", Some(450), Some(450)),
    ("migrate_pages", Some(256), Some(238)),
    ("move_pages", Some(279), Some(239)),
    // Long out of use.
    ("uselib", Some(134), None),
    ("ustat", Some(136), None),
    ("sysfs", Some(139), None),
    ("_sysctl", Some(156), None),
];

/// The call's number on this kind of arch.
pub(crate) fn number((_, x86_64, aarch64): Call, arch: Arch) -> Option<u32> {
    match arch {
        Arch::X86_64 => x86_64,
        Arch::Aarch64 => aarch64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    /// The numbers in a kernel header: `#define __NR_name 123`.
    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    fn header(path: &str) -> Option<BTreeMap<String, u32>> {
        let Ok(text) = fs::read_to_string(path) else {
            eprintln!("skipped: {path} is not here, the numbers are not compared");
            return None;
        };
        let numbers = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words
                .next()
                .filter(|word| *word == "#define")
                .and_then(|_| words.next())?;
            let name = name
                .strip_prefix("__NR_")
                .or_else(|| name.strip_prefix("__NR3264_"))?;
            Some((name.to_owned(), words.next()?.parse::<u32>().ok()?))
        });
        Some(numbers.collect())
    }

    /// Every call of every list.
    fn all() -> impl Iterator<Item = &'static Call> {
        let special = [CLONE, IOCTL, SOCKET, SOCKETPAIR, SECCOMP];
        let special: &'static [Call] = Vec::from(special).leak();
        DENIED
            .iter()
            .chain(IGNORED)
            .chain(crate::seccomp::allowed::ALLOWED)
            .chain(special)
    }

    /// Every number in our table is the header's, wherever the header knows the name.
    fn check(path: &str, arch: Arch) {
        let Some(header) = header(path) else { return };
        let mut compared = 0;
        for call in all() {
            if let Some(known) = header.get(call.0) {
                assert_eq!(number(*call, arch), Some(*known), "{} on {arch:?}", call.0);
                compared += 1;
            }
        }
        assert!(compared > 250, "{path} knows only {compared} of our calls");
    }

    #[test]
    fn numbers_for_x86_64_are_the_kernels() {
        check(
            "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
            Arch::X86_64,
        );
    }

    #[test]
    fn numbers_for_arm64_are_the_kernels() {
        check("/usr/include/asm-generic/unistd.h", Arch::Aarch64);
    }

    #[test]
    fn no_call_is_listed_twice() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let mut numbers: Vec<_> = all().filter_map(|call| number(*call, arch)).collect();
            let listed = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), listed);
            assert!(numbers.iter().all(|number| *number <= NEWEST));
        }
    }
}
