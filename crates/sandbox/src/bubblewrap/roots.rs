//! Reads what a sandbox's root is put together from: an unpacked image, or the host's own `/usr`.
//!
//! A sandbox on the host's root gets `/usr` and the few entries of `/` that lead there. Of the
//! host's `/etc` it gets two things without which its programs do not run: the list of shared
//! libraries, and the links by which Debian chooses between programs. The rest of its `/etc` is
//! made here, in a folder of the engine.

use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::bubblewrap::layout::Step;
use crate::bubblewrap::tree::{Entry, Kind};

/// User and group of every guest, as the guest sees them.
pub(super) const GUEST_ID: u32 = 1000;

/// Entries of the host's `/` that a sandbox gets, where they exist. On most systems all but the
/// first are links into it.
const HOST_ENTRIES: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What of the host's `/etc` a sandbox gets, where it exists.
const HOST_ETC: [&str; 2] = ["alternatives", "ld.so.cache"];

/// Files of a sandbox's `/etc` on the host's root.
const ETC: [(&str, &str); 4] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         machine:x:1000:1000:machine:/workspace:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("group", "root:x:0:\nmachine:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost machine\n"),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];

/// Where the entries of a root come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The host, with this folder as `/etc`.
    Host { etc: PathBuf },
    /// An unpacked image.
    Image(PathBuf),
}

impl Source {
    /// The entries of a folder, given by its path in the guest.
    pub(super) fn list(&self, folder: &OsStr) -> io::Result<Vec<Entry>> {
        match self {
            Self::Host { .. } if folder == "/" => host_root(),
            Self::Host { etc } if folder == "/etc" => {
                let mut entries = read(etc)?;
                entries.retain(|entry| HOST_ETC.iter().all(|name| entry.name != *name));
                entries.extend(host_entries(Path::new("/etc"), &HOST_ETC)?);
                Ok(entries)
            }
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
            Self::Host { etc } => match inside.strip_prefix("etc") {
                Ok(name) if !is_host_etc(name) => etc.join(name),
                _ => Path::new("/").join(inside),
            },
        }
    }

    /// Binds to add where `/etc` was bound as a whole, so that the host's part stands in it too.
    pub(super) fn also(&self, steps: &[Step]) -> Vec<Step> {
        let whole = steps
            .iter()
            .any(|step| matches!(step, Step::Bind(path) if path == "/etc"));
        match self {
            Self::Host { etc } if whole => HOST_ETC
                .iter()
                .filter(|name| etc.join(name).exists() && Path::new("/etc").join(name).exists())
                .map(|name| Step::Bind(OsString::from(format!("/etc/{name}"))))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Writes the folder that is `/etc` on the host's root: the files, and the places that the host's
/// part is mounted on. Every guest can read it, whatever the server's file mode mask.
pub(super) fn prepare_etc(etc: &Path) -> io::Result<()> {
    fs::create_dir_all(etc)?;
    fs::set_permissions(etc, Permissions::from_mode(0o755))?;
    for (name, text) in ETC {
        fs::write(etc.join(name), text)?;
        fs::set_permissions(etc.join(name), Permissions::from_mode(0o644))?;
    }
    for name in HOST_ETC {
        let place = etc.join(name);
        match fs::metadata(Path::new("/etc").join(name)) {
            Ok(found) if found.is_dir() => fs::create_dir_all(place)?,
            Ok(_) => fs::write(place, "")?,
            Err(_) => {}
        }
    }
    Ok(())
}

fn host_root() -> io::Result<Vec<Entry>> {
    let mut entries = host_entries(Path::new("/"), &HOST_ENTRIES)?;
    entries.push(Entry {
        name: "etc".into(),
        kind: Kind::Folder { empty: false },
    });
    Ok(entries)
}

fn host_entries(folder: &Path, names: &[&str]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in names {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) => entries.push(Entry {
                name: (*name).into(),
                kind: kind(&path, found.file_type())?,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn is_host_etc(name: &Path) -> bool {
    HOST_ETC.iter().any(|host| name.starts_with(host))
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
    fn of_the_hosts_etc_only_two_entries_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        prepare_etc(&etc).unwrap();
        let source = Source::Host { etc: etc.clone() };
        for entry in source.list(OsStr::new("/etc")).unwrap() {
            let path = join_etc(&entry.name);
            let place = source.place(path.as_os_str());
            let from_host = HOST_ETC.iter().any(|name| entry.name == *name);
            assert_eq!(place.starts_with("/etc"), from_host, "{}", place.display());
        }
        assert_eq!(source.place(OsStr::new("/etc/shadow")), etc.join("shadow"));
        assert_eq!(
            source.place(OsStr::new("/etc/ld.so.cache.d")),
            etc.join("ld.so.cache.d")
        );
        assert_eq!(source.place(OsStr::new("/usr/bin")), Path::new("/usr/bin"));
    }

    fn join_etc(name: &OsStr) -> PathBuf {
        Path::new("/etc").join(name)
    }
}
