//! Reads what a sandbox's root is put together from: an unpacked image, or the host's own `/usr`.
//!
//! A sandbox on the host's root gets `/usr` and the few entries of `/` that lead there. Its `/etc`
//! is made here, in a folder of the engine. Two things in it are copied from the host's when the
//! engine opens, without which programs do not run: the list of shared libraries, and the links by
//! which Debian chooses between programs.

use std::ffi::OsStr;
use std::fs::{self, FileType, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::bubblewrap::tree::{Entry, Kind};

/// User and group of every guest, as the guest sees them.
pub(super) const GUEST_ID: u32 = 1000;

/// Entries of the host's `/` that a sandbox gets, where they exist. On most systems all but the
/// first are links into it.
const HOST_ENTRIES: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];
/// What of the host's `/etc` a sandbox gets, where it exists.
const LIBRARIES: &str = "ld.so.cache";
const ALTERNATIVES: &str = "alternatives";

/// Users, groups and addresses that a sandbox knows by name.
pub(super) const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    machine:x:1000:1000:machine:/workspace:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
pub(super) const GROUP: &str = "root:x:0:\nmachine:x:1000:\nnogroup:x:65534:\n";
pub(super) const HOSTS: &str = "127.0.0.1 localhost machine\n";

/// Files of a sandbox's `/etc` on the host's root.
const ETC: [(&str, &str); 4] = [
    ("passwd", PASSWD),
    ("group", GROUP),
    ("hosts", HOSTS),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];

/// Where the entries of a root come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The host, with this folder as `/etc`, and below `root` the other entries that are folders.
    Host { etc: PathBuf, root: PathBuf },
    /// An unpacked image.
    Image(PathBuf),
}

impl Source {
    /// The entries of a folder, given by its path in the guest.
    pub(super) fn list(&self, folder: &OsStr) -> io::Result<Vec<Entry>> {
        match self {
            Self::Host { .. } if folder == "/" => host_root(),
            _ => read(&self.place(folder)),
        }
    }

    /// Where on the host a path of the guest's root is.
    pub(super) fn place(&self, path: &OsStr) -> PathBuf {
        let inside = Path::new(path)
            .strip_prefix("/")
            .unwrap_or_else(|_| Path::new(path));
        match self {
            Self::Image(root) => root.join(inside),
            Self::Host { etc, root } => match inside.strip_prefix("etc") {
                Ok(name) => etc.join(name),
                Err(_) => root.join(inside),
            },
        }
    }
}

/// The folders of the host's root that a sandbox on it gets.
pub(super) fn host_folders() -> impl Iterator<Item = (&'static str, &'static Path)> {
    let is_folder =
        |(_, path): &(&str, &Path)| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let entries = HOST_ENTRIES.into_iter();
    entries
        .map(|path| (&path[1..], Path::new(path)))
        .filter(is_folder)
}

/// Writes the folder that is `/etc` on the host's root. Every guest can read it, whatever the
/// server's file mode mask.
pub(super) fn prepare_etc(etc: &Path) -> io::Result<()> {
    match fs::remove_dir_all(etc) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir(etc)?,
    }
    fs::set_permissions(etc, Permissions::from_mode(0o755))?;
    for (name, text) in ETC {
        fs::write(etc.join(name), text)?;
        fs::set_permissions(etc.join(name), Permissions::from_mode(0o644))?;
    }
    match fs::copy(Path::new("/etc").join(LIBRARIES), etc.join(LIBRARIES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        copied => drop(copied?),
    }
    let Ok(links) = fs::read_dir(Path::new("/etc").join(ALTERNATIVES)) else {
        return Ok(());
    };
    let folder = etc.join(ALTERNATIVES);
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    for link in links {
        let link = link?;
        if link.file_type()?.is_symlink() {
            symlink(fs::read_link(link.path())?, folder.join(link.file_name()))?;
        }
    }
    Ok(())
}

fn host_root() -> io::Result<Vec<Entry>> {
    let mut entries = vec![Entry {
        name: "etc".into(),
        kind: Kind::Folder { empty: false },
    }];
    for path in HOST_ENTRIES.map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(found) => entries.push(Entry {
                name: path.file_name().unwrap_or_default().to_owned(),
                kind: kind(path, found.file_type())?,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn read(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for found in fs::read_dir(folder)? {
        let found = found?;
        let kind = kind(&found.path(), found.file_type()?)?;
        entries.push(Entry {
            name: found.file_name(),
            kind,
        });
    }
    entries.sort_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
    Ok(entries)
}

fn kind(path: &Path, file: FileType) -> io::Result<Kind> {
    Ok(if file.is_dir() {
        // A folder that cannot be read is bound as it is.
        let empty = fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_none());
        Kind::Folder { empty }
    } else if file.is_file() {
        Kind::File
    } else if file.is_symlink() {
        Kind::Link(fs::read_link(path)?.into_os_string())
    } else {
        Kind::Other
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_as_it_is() {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("etc/app")).unwrap();
        fs::create_dir(image.path().join("mnt")).unwrap();
        fs::write(image.path().join("readme"), "x").unwrap();
        std::os::unix::fs::symlink("usr/bin", image.path().join("bin")).unwrap();
        let source = Source::Image(image.path().to_owned());
        let kinds: Vec<_> = source
            .list(OsStr::new("/"))
            .unwrap()
            .into_iter()
            .map(|entry| (entry.name.into_string().unwrap(), entry.kind))
            .collect();
        let expected = [
            ("bin", Kind::Link("usr/bin".into())),
            ("etc", Kind::Folder { empty: false }),
            ("mnt", Kind::Folder { empty: true }),
            ("readme", Kind::File),
        ];
        assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(
            source.place(OsStr::new("/etc/app")),
            image.path().join("etc/app")
        );
    }

    #[test]
    fn of_the_hosts_etc_only_two_entries_are_copied() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        // Twice, as by a second engine after the first.
        prepare_etc(&etc).unwrap();
        prepare_etc(&etc).unwrap();
        let source = Source::Host {
            etc: etc.clone(),
            root: "/".into(),
        };
        let ours = ETC.map(|(name, _)| name);
        for entry in source.list(OsStr::new("/etc")).unwrap() {
            let name = entry.name.to_str().unwrap();
            assert!(
                ours.contains(&name) || [LIBRARIES, ALTERNATIVES].contains(&name),
                "{name}"
            );
        }
        assert_eq!(source.place(OsStr::new("/etc/shadow")), etc.join("shadow"));
        assert_eq!(source.place(OsStr::new("/usr/bin")), Path::new("/usr/bin"));
    }
}
