//! What an engine found out about its host.

use std::fmt;

/// The means by which limits are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limits {
    /// Per process only, by `setrlimit`.
    Rlimit,
    /// By control groups, version 1.
    Cgroup1,
    /// By control groups, version 2.
    Cgroup2,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rlimit => "rlimit",
            Self::Cgroup1 => "cgroup1",
            Self::Cgroup2 => "cgroup2",
        })
    }
}

/// How far a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// For all processes of a sandbox together.
    Whole,
    /// For each process by itself; many can get more together.
    Process,
    /// Not at all.
    Nothing,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "machine",
            Self::Process => "process",
            Self::Nothing => "none",
        })
    }
}

/// Whether sandboxes share the files of their roots with each other and the host. Their contents are
/// shared in either case, and nobody can change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Each has an overlay of its own: locks and watches reach no other.
    Own,
    /// Locks on a file reach others. Watching files is refused.
    Shared,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Shared => "shared",
        })
    }
}

/// What an engine found out about this host when it opened, by trying it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How sandboxes are kept apart: `namespaces` means by the one kernel they all share. It is
    /// not a virtual machine.
    pub isolation: &'static str,
    /// Whether sandboxes share the files of their roots.
    pub files: Files,
    /// By what the limits are enforced.
    pub limits: Limits,
    /// How far the memory limit holds.
    pub memory: Enforcement,
    /// How far the limit on the number of processes holds.
    pub processes: Enforcement,
    /// How far the limit on processor time holds.
    pub cpu: Enforcement,
    /// How far the limit on what is written to files holds.
    pub disk: Enforcement,
    /// How far the limit on the rate of output holds.
    pub output: Enforcement,
    /// Why there are no better limits, and what would help; empty when all hold.
    pub advice: String,
}

impl Report {
    /// Whether every limit holds for a sandbox as a whole.
    #[must_use]
    pub fn holds(&self) -> bool {
        [
            self.memory,
            self.processes,
            self.cpu,
            self.disk,
            self.output,
        ]
        .iter()
        .all(|hold| *hold == Enforcement::Whole)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolation={} limits={}", self.isolation, self.limits)
    }
}
