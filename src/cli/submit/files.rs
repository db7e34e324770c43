//! Reads what `submit --file` names: a file, or a folder with all the files that are in it.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::status::WrongUse;
use crate::run::request::{FILE_MODE_MAX, FILES_MAX, File};

const FLAG: &str = "--file";
const NO_FILE: &str = "it is not a file";
/// Bytes of all files together: what the largest request that any worker can be set to take holds.
const BYTES_MAX: u64 = 384 << 20;
/// Entries of folders that are looked at.
const ENTRIES_MAX: usize = 16 * FILES_MAX;
/// What a file has that names no mode.
const USUAL_MODE: u32 = 0o644;

/// The files that these arguments, `GUEST_PATH=PATH` each, name.
///
/// # Errors
/// [`WrongUse`] for what cannot be read, is no file, leads out of its folder, or is too much.
pub(super) fn files(pairs: &[(&str, &str)]) -> Result<Vec<File>, WrongUse> {
    let mut reading = Reading {
        files: Vec::with_capacity(pairs.len()),
        bytes_left: BYTES_MAX,
        entries_left: ENTRIES_MAX,
    };
    for (guest_path, path) in pairs {
        let path = Path::new(path);
        let found = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if found.is_dir() {
            let folder = path.canonicalize();
            let folder = folder.map_err(|error| unreadable(path, &error))?;
            reading.folder(&folder, &folder, guest_path.trim_end_matches('/'))?;
        } else {
            // Other than in a folder it may be a stream, such as what a shell makes of `<(…)`.
            if !found.is_file() && !is_stream(&found) {
                return Err(refused(path, NO_FILE));
            }
            reading.file(path, &found, (*guest_path).to_owned())?;
        }
    }
    Ok(reading.files)
}

struct Reading {
    files: Vec<File>,
    bytes_left: u64,
    entries_left: usize,
}

impl Reading {
    /// Adds all that is in a folder of `root`, in the order of the names.
    fn folder(&mut self, root: &Path, folder: &Path, guest: &str) -> Result<(), WrongUse> {
        for path in self.entries(folder)? {
            let name = path.file_name().unwrap_or_default().to_str();
            let Some(name) = name else {
                return Err(refused(&path, "its name is not UTF-8"));
            };
            let guest = format!("{guest}/{name}");
            let itself = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, &error))?;
            if itself.is_dir() {
                self.folder(root, &path, &guest)?;
            } else if itself.is_symlink() {
                let target = path.canonicalize();
                let target = target.map_err(|error| unreadable(&path, &error))?;
                if !target.starts_with(root) {
                    return Err(refused(&path, "it is a link out of the folder"));
                }
                let found = fs::metadata(&target).map_err(|error| unreadable(&path, &error))?;
                self.regular(&target, &found, guest)?;
            } else {
                self.regular(&path, &itself, guest)?;
            }
        }
        Ok(())
    }

    fn entries(&mut self, folder: &Path) -> Result<Vec<PathBuf>, WrongUse> {
        let listed = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
        let mut entries = Vec::new();
        for entry in listed {
            let entry = entry.map_err(|error| unreadable(folder, &error))?;
            self.entries_left = self.entries_left.checked_sub(1).ok_or_else(|| {
                refused(
                    folder,
                    &format!("there are more than {ENTRIES_MAX} entries"),
                )
            })?;
            entries.push(entry.path());
        }
        entries.sort();
        Ok(entries)
    }

    fn regular(&mut self, path: &Path, found: &Metadata, guest: String) -> Result<(), WrongUse> {
        if found.is_file() {
            self.file(path, found, guest)
        } else {
            Err(refused(path, NO_FILE))
        }
    }

    fn file(&mut self, path: &Path, found: &Metadata, guest: String) -> Result<(), WrongUse> {
        if self.files.len() == FILES_MAX {
            let rule = format!("a request has {FILES_MAX} files at most");
            return Err(refused(path, &rule));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
        let read = file.take(self.bytes_left + 1).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(path, &error))?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or_else(|| {
            refused(
                path,
                &format!("all files together have more than {BYTES_MAX} bytes"),
            )
        })?;
        let mode = found.permissions().mode() & FILE_MODE_MAX;
        self.files.push(File {
            guest_path: guest,
            raw_value: STANDARD.encode(bytes),
            mode: Some(mode).filter(|mode| found.is_file() && *mode != USUAL_MODE),
        });
        Ok(())
    }
}

fn is_stream(found: &Metadata) -> bool {
    let kind = found.file_type();
    kind.is_char_device() || kind.is_fifo()
}

fn unreadable(path: &Path, error: &io::Error) -> WrongUse {
    WrongUse::new(format!("{FLAG}: cannot read {}: {error}", path.display()))
}

fn refused(path: &Path, why: &str) -> WrongUse {
    WrongUse::new(format!("{FLAG}: {} cannot be sent: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(pairs: &[(&str, &Path)]) -> Result<Vec<(String, Option<u32>)>, String> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(guest, path)| (*guest, path.to_str().unwrap()))
            .collect();
        let files = files(&pairs).map_err(|error| error.to_string())?;
        let shown = files.into_iter().map(|file| (file.guest_path, file.mode));
        Ok(shown.collect())
    }

    fn write(path: PathBuf, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_all_its_files_with_their_modes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(at("run.sh"), 0o755);
        write(at("sub/deep/data"), 0o644);
        write(at("sub/secret"), 0o4600);
        symlink("../run.sh", at("sub/link")).unwrap();
        let expected = [
            ("/in/run.sh", Some(0o755)),
            ("/in/sub/deep/data", None),
            ("/in/sub/link", Some(0o755)),
            ("/in/sub/secret", Some(0o600)),
        ];
        let expected = expected.map(|(path, mode)| (path.to_owned(), mode));
        assert_eq!(read(&[("/in/", folder.path())]).unwrap(), expected);
        let one = read(&[("/a", &at("run.sh"))]).unwrap();
        assert_eq!(one, [("/a".to_owned(), Some(0o755))]);
    }

    #[test]
    fn what_leads_out_of_a_folder_or_is_too_much_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let check = |expected: &str| {
            let error = read(&[("/in", folder.path())]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        let at = |name: &str| folder.path().join(name);
        symlink("/etc/passwd", at("out")).unwrap();
        check("out cannot be sent: it is a link out of the folder");
        fs::remove_file(at("out")).unwrap();
        write(at("sub/a"), 0o644);
        symlink("sub", at("to")).unwrap();
        check("sub cannot be sent: it is not a file");
        fs::remove_file(at("to")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        check("socket cannot be sent: it is not a file");
        fs::remove_file(at("socket")).unwrap();
        for n in 0..FILES_MAX {
            fs::write(at(&n.to_string()), "").unwrap();
        }
        check("a request has 256 files at most");
    }
}
