//! A process that is followed by descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

/// A process followed by a descriptor: it cannot be mistaken for a later one with its number.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    descriptor: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a process that cannot have been reaped yet.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(
            deprecated,
            reason = "unsound for types that give out changing descriptors; an OwnedFd has one"
        )]
        let descriptor = AsyncFd::new(descriptor)?;
        Ok(Self { pid, descriptor })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(
            &self.descriptor,
            signal,
        )?)
    }

    /// Ends it at once. One that has ended is fine.
    pub(crate) fn kill(&self) {
        let _ = self.signal(Signal::KILL);
    }

    /// Waits until it has ended. For the first process of a pid namespace that means that every
    /// process in there is gone.
    pub(crate) async fn ended(&self) {
        // Once readable, always readable: there is nothing to be cleared.
        let _ = self.descriptor.readable().await;
    }

    /// Takes an ended process off the system's list, if it has come to be our child.
    pub(crate) fn reap(&self) {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = rustix::process::waitid(WaitId::PidFd(self.descriptor.as_fd()), how);
    }
}
