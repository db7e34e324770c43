//! How many descriptors this process may have open. Each connection is one, and the relay's are two.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open descriptors as far as it may be raised. The usual soft limit of 1,024 is
/// for programs that use `select`.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    // Where it fails the limit stays as it is, and what is sized by it is smaller.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// Descriptors for connections of strangers: three quarters of all. The rest is for our own calls.
pub(crate) fn for_connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX).max(1)
}
