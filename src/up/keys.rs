//! Keys of `up`'s own: made once, kept in the state folder, readable by its owner alone.

use std::fs;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::{self, ConsoleKey, SigningKey};
use crate::run::digest::hex;
use crate::up::ready::{self, LockedFolder};

const FILE: &str = "signing-key";
const CONSOLE_FILE: &str = "console-keys";

/// Bytes of a key, and of a token: as many as the digest of the guests' tokens has.
const BYTES: usize = 32;

/// The signing key of this state folder, made if there is none. It stays the same, so that tokens
/// of an earlier `up` stay valid.
///
/// # Errors
/// [`ready::Error::Files`] when it cannot be written, or the file holds no key.
pub fn signing(locked: &LockedFolder) -> Result<Vec<SigningKey>, ready::Error> {
    let made = || format!("up:{}\n", STANDARD.encode(random()));
    kept(locked, FILE, made, config::signing_keys)
}

/// The console's keys of this state folder, made if there are none.
///
/// # Errors
/// As [`signing`].
pub fn of_console(locked: &LockedFolder) -> Result<Vec<ConsoleKey>, ready::Error> {
    let made = || format!("operator:{},viewer:{}\n", random_hex(), random_hex());
    kept(locked, CONSOLE_FILE, made, config::console_keys)
}

fn kept<T>(
    locked: &LockedFolder,
    file: &str,
    made: impl FnOnce() -> String,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, ready::Error> {
    let path = locked.path().join(file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = made();
            locked.write(file, text.as_bytes())?;
            text
        }
        Err(source) => {
            return Err(ready::Error::Files {
                what: "read",
                path,
                source,
            });
        }
    };
    read(text.trim()).map_err(|problem| {
        let source = io::Error::new(io::ErrorKind::InvalidData, problem);
        ready::Error::Files {
            what: "read",
            path,
            source,
        }
    })
}

/// A token that nobody can guess, in hexadecimal digits.
#[must_use]
pub fn random_hex() -> String {
    hex(&random())
}

fn random() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_to_its_owner() {
        let temp = tempfile::tempdir().unwrap();
        let locked = LockedFolder::lock(temp.path()).unwrap();
        let first = signing(&locked).unwrap();
        assert_eq!(signing(&locked).unwrap(), first);
        let mode = fs::metadata(temp.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(temp.path().join(FILE), "up:short").unwrap();
        assert!(signing(&locked).is_err());
    }

    #[test]
    fn tokens_differ() {
        assert_eq!(random_hex().len(), 2 * BYTES);
        assert_ne!(random_hex(), random_hex());
    }
}
