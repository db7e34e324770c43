//! What programs expect of the files below `/etc` and many an image lacks: a name for the guest's
//! user and group, and one for the loopback address.
//!
//! An image that has them keeps its own. Nothing is written into an image: where each sandbox has
//! overlays, the additions are a layer of theirs; elsewhere they are placed as the guest's files are.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::bubblewrap::resolve::resolve;
use crate::bubblewrap::roots::{GROUP, GUEST_ID, HOSTS, PASSWD, Source};
use crate::bubblewrap::tree::{Image, RootError};

/// A file of an image that is longer is left as it is.
const FILE_MAX_BYTES: u64 = 16 << 10;

/// One file as it is to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addition {
    /// Its path in the guest, without links.
    pub(super) path: OsString,
    pub(super) text: Vec<u8>,
}

/// Whether a line says what is wanted.
type Has = fn(&str) -> bool;

/// What an image lacks. What cannot be looked at is left as it is.
pub(super) fn additions(source: &Source) -> Vec<Addition> {
    let list = |folder: &OsStr| source.list(folder);
    let image = Image::new(&list);
    let wanted: [(&str, &str, Has); 3] = [
        ("/etc/passwd", PASSWD, names_guest),
        ("/etc/group", GROUP, names_guest),
        ("/etc/hosts", HOSTS, names_loopback),
    ];
    let missing = wanted.into_iter().filter_map(|(path, ours, has)| {
        let refuse = |why| RootError::File {
            path: path.to_owned(),
            why,
        };
        let target = resolve(&image, path, &refuse).ok()?;
        let text = if target.replaces {
            let theirs = read(&source.place(&target.path)).ok()??;
            added(&theirs, ours, has)?
        } else {
            ours.to_owned()
        };
        Some(Addition {
            path: target.path,
            text: text.into_bytes(),
        })
    });
    missing.collect()
}

/// Writes additions to the image at `root` into an empty folder that can be laid over it.
pub(super) fn write_layer(layer: &Path, root: &Path, additions: &[Addition]) -> io::Result<()> {
    for addition in additions {
        let mut names: Vec<_> = names(&addition.path).collect();
        let file = names.pop();
        let (mut folder, mut under) = (layer.to_owned(), root.to_owned());
        for name in names {
            folder.push(name);
            under.push(name);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // It hides the image's own folder, but not what is in that.
            let mode = fs::symlink_metadata(&under)
                .map_or(0o755, |found| found.permissions().mode() & 0o7777);
            fs::set_permissions(&folder, Permissions::from_mode(mode))?;
        }
        let file: PathBuf = folder.join(file.unwrap_or_default());
        fs::write(&file, &addition.text)?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn names(path: &OsStr) -> impl Iterator<Item = &OsStr> {
    Path::new(path).iter().skip(1)
}

/// The file with our last line for the guest below it; `None` where it needs none.
fn added(theirs: &str, ours: &str, has: Has) -> Option<String> {
    if theirs.lines().any(has) {
        return None;
    }
    let line = ours.lines().find(|line| has(line))?;
    let gap = if theirs.is_empty() || theirs.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    Some(format!("{theirs}{gap}{line}\n"))
}

/// Whether a line of `passwd` or `group` is about the guest's number.
fn names_guest(line: &str) -> bool {
    let id = line.split(':').nth(2);
    id.and_then(|id| id.parse().ok()) == Some(GUEST_ID)
}

fn names_loopback(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default();
    line.split_whitespace()
        .skip(1)
        .any(|name| name == "localhost")
}

/// A small file of text; `None` for any other.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path)?.take(FILE_MAX_BYTES + 1);
    file.read_to_end(&mut bytes)?;
    let whole = u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_MAX_BYTES);
    Ok(String::from_utf8(bytes).ok().filter(|_| whole))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn texts(root: &Path) -> Vec<(String, String)> {
        let found = additions(&Source::Image(root.to_owned())).into_iter();
        let text = |addition: Addition| {
            let path = addition.path.into_string().unwrap();
            (path, String::from_utf8(addition.text).unwrap())
        };
        found.map(text).collect()
    }

    #[test]
    fn an_image_keeps_what_it_has_and_gets_what_it_lacks() {
        let image = tempfile::tempdir().unwrap();
        let root = image.path();
        let ours = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let all = [
            ours("/etc/passwd", PASSWD),
            ours("/etc/group", GROUP),
            ours("/etc/hosts", HOSTS),
        ];
        assert_eq!(texts(root), all);

        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "app:x:1000:1000::/app:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:").unwrap();
        fs::write(
            root.join("etc/hosts"),
            "# 127.0.0.1 localhost\n::1 localhost6\n",
        )
        .unwrap();
        let group = "root:x:0:\nmachine:x:1000:\n";
        let hosts = "# 127.0.0.1 localhost\n::1 localhost6\n127.0.0.1 localhost machine\n";
        let expected = [ours("/etc/group", group), ours("/etc/hosts", hosts)];
        assert_eq!(texts(root), expected);
    }

    #[test]
    fn a_link_in_an_image_leads_to_no_file_of_the_host() {
        let image = tempfile::tempdir().unwrap();
        let root = image.path();
        fs::create_dir_all(root.join("usr/etc")).unwrap();
        symlink("/usr/etc", root.join("etc")).unwrap();
        symlink("/etc/host.conf", root.join("usr/etc/hosts")).unwrap();
        fs::write(root.join("usr/etc/passwd"), [0xff]).unwrap();
        let paths: Vec<_> = texts(root).into_iter().map(|(path, _)| path).collect();
        // Text that is none is left alone.
        assert_eq!(paths, ["/usr/etc/group", "/usr/etc/host.conf"]);
    }

    #[test]
    fn a_layer_has_the_folders_modes_of_what_it_is_laid_over() {
        let image = tempfile::tempdir().unwrap();
        let root = image.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::set_permissions(root.join("etc"), Permissions::from_mode(0o711)).unwrap();
        let layer = image.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let found = additions(&Source::Image(root.clone()));
        write_layer(&layer, &root, &found).unwrap();
        let mode = |path: &str| {
            let found = fs::metadata(layer.join(path)).unwrap();
            found.permissions().mode() & 0o7777
        };
        assert_eq!((mode("etc"), mode("etc/passwd")), (0o711, 0o644));
        assert_eq!(fs::read_to_string(layer.join("etc/hosts")).unwrap(), HOSTS);
    }
}
