//! Locks between processes, which end with the process that holds them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::Error;

/// How often a lock that somebody else holds is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// A lock; dropping it lets others have it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Whether others may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockMode {
    Exclusive,
    Shared,
}

impl Lock {
    /// Takes the lock on the file `path`, waiting for it for at most `wait`.
    pub(crate) fn take(path: &Path, mode: LockMode, wait: Duration) -> Result<Self, Error> {
        let tries = wait.as_millis() / AGAIN.as_millis() + 1;
        for _ in 0..tries {
            if let Some(lock) = Self::try_take(path, mode)? {
                return Ok(lock);
            }
            std::thread::sleep(AGAIN);
        }
        Err(Error::Busy {
            lock: path.to_owned(),
        })
    }

    /// Takes the lock if it can be had at once.
    pub(crate) fn try_take(path: &Path, mode: LockMode) -> Result<Option<Self>, Error> {
        let doing = || format!("lock {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(Error::io(doing()))?;
        let operation = match mode {
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(fault) => Err(Error::io(doing())(fault.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_held_alone_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::try_take(&path, LockMode::Exclusive).unwrap();
        assert!(held.is_some());
        assert!(Lock::try_take(&path, LockMode::Shared).unwrap().is_none());
        let fault = Lock::take(&path, LockMode::Exclusive, Duration::ZERO);
        assert!(matches!(fault, Err(Error::Busy { .. })));
        drop(held);
        let first = Lock::try_take(&path, LockMode::Shared).unwrap();
        let second = Lock::try_take(&path, LockMode::Shared).unwrap();
        assert!(first.is_some() && second.is_some());
        assert!(
            Lock::try_take(&path, LockMode::Exclusive)
                .unwrap()
                .is_none()
        );
    }
}
