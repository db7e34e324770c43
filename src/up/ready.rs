//! The file by which the other commands find a running `up`: the addresses of its parts.
//!
//! The file is there while `up` is ready, and only its owner can read it. Whether the `up` that
//! wrote it still runs is told by the lock on the folder, which the kernel frees with the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

const FILE: &str = "up.json";
const LOCK: &str = "up.lock";
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where the parts of a running `up` are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its Redis.
    pub redis_url: String,
    /// First part of every key.
    pub namespace: String,
    /// The Machines API that it uses.
    pub fly_api_url: String,
    /// The app that machines are booted in; several with commas between.
    pub app: String,
    /// The token for that API, where `up` made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fly_api_token: Option<String>,
    /// Where guests post to, as this computer reaches it.
    pub endpoint_url: String,
    /// Metrics and health.
    pub admin_url: String,
    /// Where artifacts are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<String>,
    /// The console.
    #[serde(default)]
    pub console_url: String,
    /// Its process.
    pub pid: u32,
}

/// A state folder that this process has locked; unlocked when dropped.
#[derive(Debug)]
pub struct LockedFolder {
    path: PathBuf,
    _lock: File,
}

/// Why the state folder cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another `up` runs with it.
    #[error("{} is in use by another `up`", .0.display())]
    InUse(PathBuf),
    /// It cannot be made, or what is in it cannot be written.
    #[error("{what} {}: {source}", .path.display())]
    Files {
        /// What was being done.
        what: &'static str,
        /// To which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl LockedFolder {
    /// Makes the folder if need be, closes it to others, and locks it.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process holds it.
    pub fn lock(folder: &Path) -> Result<Self, Error> {
        let at = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Files { what, path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(at("make the folder", folder))?;
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(folder, closed).map_err(at("close the folder", folder))?;
        let path = folder.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let lock = lock.map_err(at("open", &path))?;
        match exclusive(&lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::InUse(folder.to_owned())),
            Err(errno) => return Err(at("lock", &path)(errno.into())),
        }
        // The process that held the lock before may have been killed.
        let _ = fs::remove_file(folder.join(FILE));
        Ok(Self {
            path: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file by which the other commands find the running `up`.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub fn announce(&self, ready: &Ready) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(ready).unwrap_or_default() + "\n";
        self.write(FILE, text.as_bytes())
    }

    /// Writes a file that only its owner can read: whole or not at all.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let fresh = self.path.join(format!("{name}.new"));
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let written = options
            .open(&fresh)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|source| Error::Files {
            what: "write",
            path,
            source,
        })
    }
}

impl Drop for LockedFolder {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.join(FILE));
    }
}

/// Locks for this process alone. [`running`] takes the lock for a moment to see whether it is
/// free, so one refusal is not enough to give up.
fn exclusive(lock: &File) -> rustix::io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    Err(Errno::WOULDBLOCK)
}

/// What the `up` that runs with this state folder has written; `None` when none runs.
#[must_use]
pub fn running(folder: &Path) -> Option<Ready> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    // A free lock means that the `up` that wrote the file has ended.
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => {}
        _ => return None,
    }
    let text = fs::read(folder.join(FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Ready {
        Ready {
            redis_url: "unix:///tmp/redis.sock".to_owned(),
            namespace: "cofferdam".to_owned(),
            fly_api_url: "http://127.0.0.1:1/v1".to_owned(),
            app: "sandboxes".to_owned(),
            fly_api_token: Some("token".to_owned()),
            endpoint_url: "http://127.0.0.1:2".to_owned(),
            admin_url: "http://127.0.0.1:3".to_owned(),
            artifacts: Some("file:///a".to_owned()),
            console_url: String::new(),
            pid: 4,
        }
    }

    #[test]
    fn an_up_is_found_while_it_holds_its_folder() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("state");
        assert_eq!(running(&folder), None);
        let locked = LockedFolder::lock(&folder).unwrap();
        assert_eq!(running(&folder), None);
        locked.announce(&example()).unwrap();
        assert_eq!(running(&folder), Some(example()));
        drop(locked);
        assert_eq!(running(&folder), None);
        assert!(!folder.join(FILE).exists());
    }

    #[test]
    fn the_file_of_an_up_that_was_killed_is_ignored() {
        let temp = tempfile::tempdir().unwrap();
        let locked = LockedFolder::lock(temp.path()).unwrap();
        locked.announce(&example()).unwrap();
        let left = fs::read(temp.path().join(FILE)).unwrap();
        drop(locked);
        fs::write(temp.path().join(FILE), left).unwrap();
        assert_eq!(running(temp.path()), None);
        let _next = LockedFolder::lock(temp.path()).unwrap();
        assert_eq!(running(temp.path()), None);
    }

    #[test]
    fn one_at_a_time_holds_a_folder() {
        let temp = tempfile::tempdir().unwrap();
        let locked = LockedFolder::lock(temp.path()).unwrap();
        assert!(matches!(
            LockedFolder::lock(temp.path()),
            Err(Error::InUse(_))
        ));
        drop(locked);
        assert!(LockedFolder::lock(temp.path()).is_ok());
    }

    #[test]
    fn only_the_owner_can_read_what_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("state");
        let locked = LockedFolder::lock(&folder).unwrap();
        locked.announce(&example()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(FILE)), 0o600);
        assert_eq!(mode(&folder.join(LOCK)), 0o600);
    }
}
