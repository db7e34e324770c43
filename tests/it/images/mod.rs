//! Images for the local server: what can be imported, what comes out, and what is refused.

mod arbitrary;
mod build;
mod confined;
mod docker;
mod life;
mod linear;
mod machine;
mod refused;
mod shapes;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cofferdam_images::{Error, Imported, Limits, Store};
use tempfile::TempDir;

/// A store in a folder of its own, with room beside it for sources.
struct Bench {
    folder: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_with(&folder.path().join("state"), limits).unwrap();
        Self { folder, store }
    }

    /// A path beside the store.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Another store on the same folder.
    fn second(&self) -> Store {
        Store::open(&self.state()).unwrap()
    }

    /// Writes a source file and imports it.
    fn import(&self, name: &str, source: &[u8]) -> Result<Imported, Error> {
        let path = self.path("source");
        std::fs::write(&path, source).unwrap();
        self.store.import(name, &path)
    }

    fn root(&self, name: &str) -> PathBuf {
        let found = self.store.resolve(name).unwrap();
        found.rootfs.expect("an image that was imported")
    }

    /// An image's files as text: contents, `-> target`, or `/` for a folder.
    fn files(&self, name: &str) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let root = self.root(name);
        list(&root, &root, &mut files);
        for mount_point in ["workspace/", "proc/", "dev/", "tmp/"] {
            assert_eq!(files.remove(mount_point).as_deref(), Some("0755"));
        }
        files
    }

    /// Fails unless nothing is half-way: no name, no image, nothing in `tmp`.
    #[track_caller]
    fn check_untouched(&self) {
        assert_eq!(self.store.list().unwrap(), []);
        assert_eq!(names(&self.state().join("images/roots")), [""; 0]);
        assert_eq!(names(&self.state().join("images/tmp")), [""; 0]);
    }
}

fn list(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for name in names(folder) {
        let path = folder.join(name);
        let about = path.symlink_metadata().unwrap();
        let inside = path.strip_prefix(root).unwrap().display().to_string();
        if about.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            files.insert(inside, format!("-> {}", target.display()));
            continue;
        }
        let mode = format!("{:04o}", about.permissions().mode() & 0o7777);
        if about.is_dir() {
            files.insert(format!("{inside}/"), mode);
            list(root, &path, files);
        } else {
            let contents = std::fs::read(&path).unwrap();
            let contents = String::from_utf8_lossy(&contents).into_owned();
            files.insert(inside, format!("{mode} {contents}"));
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What [`Bench::files`] should give.
fn files<const N: usize>(expected: [(&str, &str); N]) -> BTreeMap<String, String> {
    let owned = expected.map(|(path, what)| (path.to_owned(), what.to_owned()));
    BTreeMap::from(owned)
}
