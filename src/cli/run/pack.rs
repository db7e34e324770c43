//! A folder as a gzipped tar archive: mode bits and links as they are, without what the ignore files name.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use ignore::WalkBuilder;

/// The ignore file of this command; `.gitignore` and `.ignore` hold too, and all have the syntax of Git's.
const IGNORE_FILE: &str = ".cofferdamignore";
/// What is packed of one folder at the most: entries, bytes of files, bytes of the archive.
const ENTRIES_MAX: usize = 20_000;
const FILES_MAX_BYTES: u64 = 512 << 20;
const ARCHIVE_MAX_BYTES: usize = 11 << 20;

/// Packs `folder`. Git's own folder is left out.
///
/// # Errors
/// What cannot be read, or is too much.
pub(super) fn pack(folder: &Path) -> anyhow::Result<Vec<u8>> {
    if !folder.is_dir() {
        bail!("--dir {}: not a folder", folder.display());
    }
    let archive = Bounded(Vec::new());
    let mut tar = tar::Builder::new(GzEncoder::new(archive, Compression::fast()));
    tar.follow_symlinks(false);
    let (mut entries, mut bytes) = (0_usize, 0_u64);
    let walk = WalkBuilder::new(folder)
        .standard_filters(false)
        .ignore(true)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .build();
    for entry in walk {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let path = entry.path();
        let name = path.strip_prefix(folder).unwrap_or(path);
        let about = entry
            .path()
            .symlink_metadata()
            .with_context(|| format!("read {}", path.display()))?;
        let kind = about.file_type();
        let is_packed = kind.is_dir() || kind.is_file() || kind.is_symlink();
        if name.as_os_str().is_empty() || !is_packed {
            continue;
        }
        entries += 1;
        bytes += if kind.is_file() { about.len() } else { 0 };
        if entries > ENTRIES_MAX || bytes > FILES_MAX_BYTES {
            return Err(too_much(folder));
        }
        match tar.append_path_with_name(path, name) {
            Err(error) if is_full(&error) => return Err(too_much(folder)),
            appended => appended.with_context(|| format!("pack {}", path.display()))?,
        }
    }
    let finished = tar.into_inner().and_then(GzEncoder::finish);
    match finished {
        Ok(archive) => Ok(archive.0),
        Err(error) if is_full(&error) => Err(too_much(folder)),
        Err(error) => Err(error).context("pack the folder"),
    }
}

fn too_much(folder: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "--dir {}: too much to send: {} entries, {} MiB of files and {} MiB packed are the most; name in \
         {IGNORE_FILE} what is not needed",
        folder.display(),
        ENTRIES_MAX,
        FILES_MAX_BYTES >> 20,
        ARCHIVE_MAX_BYTES >> 20,
    )
}

/// Takes bytes up to the bound.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > ARCHIVE_MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> BTreeMap<String, (u32, Option<String>)> {
        let packed = pack(folder).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let entries = archive.entries().unwrap();
        let entries = entries.map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap();
            let link = link.map(|link| link.to_str().unwrap().to_owned());
            let mode = entry.header().mode().unwrap() & 0o777;
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            (name, (mode, link))
        });
        entries.collect()
    }

    #[test]
    fn modes_and_links_are_kept_and_ignored_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("src/deep")).unwrap();
        fs::create_dir_all(at(".git/objects")).unwrap();
        fs::write(at("run.sh"), "x").unwrap();
        fs::set_permissions(at("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(at("src/deep/a.log"), "x").unwrap();
        fs::write(at("src/keep.txt"), "x").unwrap();
        fs::write(at(".hidden"), "x").unwrap();
        fs::write(at("big.bin"), "x").unwrap();
        fs::write(at(".gitignore"), "*.log\n").unwrap();
        fs::write(at(IGNORE_FILE), "big.bin\n").unwrap();
        symlink("run.sh", at("link")).unwrap();
        symlink("/etc/passwd", at("outside")).unwrap();
        let found = names(folder.path());
        let known: Vec<_> = found
            .keys()
            .map(|name| name.trim_end_matches('/'))
            .collect();
        assert_eq!(
            known,
            [
                IGNORE_FILE,
                ".gitignore",
                ".hidden",
                "link",
                "outside",
                "run.sh",
                "src",
                "src/deep",
                "src/keep.txt"
            ]
        );
        assert_eq!(found["run.sh"].0, 0o750);
        assert_eq!(found["link"].1.as_deref(), Some("run.sh"));
        assert_eq!(found["outside"].1.as_deref(), Some("/etc/passwd"));
    }

    #[test]
    fn too_large_a_folder_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let noise: Vec<u8> = (0..ARCHIVE_MAX_BYTES + 4096)
            .map(|_| fastrand::u8(..))
            .collect();
        fs::write(folder.path().join("noise"), noise).unwrap();
        let error = pack(folder.path()).unwrap_err().to_string();
        assert!(error.contains("too much to send"), "{error}");
        let error = pack(&folder.path().join("noise")).unwrap_err().to_string();
        assert!(error.contains("not a folder"), "{error}");
    }
}
