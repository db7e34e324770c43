//! Archives that nobody would write: whatever comes, the import ends, and nothing is written beside
//! the store.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cofferdam_images::{Limits, Store};
use proptest::prelude::*;
use tar::EntryType;

use super::build::{Image, Layer, Packed};
use super::names;

/// Names that lead somewhere, alone or joined.
const WORDS: [&str; 12] = [
    "a",
    "b",
    "link",
    "..",
    ".",
    "",
    "dev",
    "tmp",
    ".wh.a",
    ".wh..wh..opq",
    "\u{202e}",
    "etc",
];

fn path() -> impl Strategy<Value = String> {
    let word = prop::sample::select(WORDS.to_vec());
    prop::collection::vec(word, 0..5).prop_map(|words| words.join("/"))
}

/// One entry: its kind, path, link target, contents and mode.
fn entry() -> impl Strategy<Value = (u8, String, String, Vec<u8>, u32)> {
    let kinds = prop::sample::select(b"0000111222555634SxLKg7V\0".to_vec());
    let target = prop_oneof![path(), path().prop_map(|path| format!("/{path}"))];
    let contents = prop::collection::vec(any::<u8>(), 0..40);
    (
        kinds,
        path(),
        target,
        contents,
        prop::sample::select(vec![0o644, 0o755, 0o4755]),
    )
}

fn layer(entries: Vec<(u8, String, String, Vec<u8>, u32)>) -> Vec<u8> {
    let mut layer = Layer::new();
    for (kind, path, target, contents, mode) in entries {
        layer = layer.entry(EntryType::new(kind), &path, &target, &contents, mode);
    }
    layer.bytes()
}

/// Bytes changed here and there: set, left out, doubled, or cut off behind.
fn mangled(mut bytes: Vec<u8>, changes: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
    for (how, at, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match how % 8 {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, *byte),
            2 if *byte < 16 => bytes.truncate(at),
            3 => {
                let end = bytes.len().min(at + 512);
                let block = bytes[at..end].to_vec();
                bytes.splice(at..at, block);
            }
            _ => bytes[at] = *byte,
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, u8)>> {
    prop::collection::vec(
        (any::<u8>(), any::<prop::sample::Index>(), any::<u8>()),
        0..12,
    )
}

/// An image with one of everything.
fn usual() -> Vec<u8> {
    Layer::new()
        .folder("etc/")
        .file("etc/file", "contents")
        .hard_link("etc/twin", "/etc/file")
        .symlink("link", "/etc")
        .file("link/below", "x")
        .pax(&[("path", b"long/name")])
        .file("short", "pax")
        .file("etc/.wh.gone", "")
        .bytes()
}

fn check(archive: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        unpacked_bytes: 1 << 20,
        source_bytes: 1 << 20,
        entries: 1000,
        import_wait: Duration::from_secs(5),
        ..Limits::default()
    };
    let store = Store::open_with(&folder.path().join("state"), limits).unwrap();
    std::fs::write(folder.path().join("canary"), "alive").unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, archive).unwrap();
    let imported = store.import("any", &source);
    let canary = std::fs::read_to_string(folder.path().join("canary")).unwrap();
    assert_eq!(canary, "alive");
    assert_eq!(names(folder.path()), ["canary", "source", "state"]);
    let images = folder.path().join("state/images");
    assert_eq!(names(&images.join("tmp")), [""; 0]);
    let own = ["import.lock", "index.json", "index.lock", "roots", "tmp"];
    assert!(
        names(&images)
            .iter()
            .all(|name| own.contains(&name.as_str()))
    );
    let count = names(&images.join("roots")).len();
    assert_eq!(count, usize::from(imported.is_ok()), "{imported:?}");
    for root in names(&images.join("roots")) {
        walk(&images.join("roots").join(root));
    }
}

/// Nobody else may write to it, and nothing in it brings rights with it.
fn walk(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = path.symlink_metadata().unwrap();
        if about.is_dir() {
            walk(&path);
        }
        let mode = about.permissions().mode();
        assert!(
            about.is_symlink() || mode & 0o6022 == 0,
            "{path:?}: {mode:o}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn entries_of_any_kind_stay_inside(
        lower in prop::collection::vec(entry(), 0..8),
        upper in prop::collection::vec(entry(), 0..8),
    ) {
        check(&Image::new(vec![layer(lower), layer(upper)]).oci().tar());
    }

    #[test]
    fn a_layer_with_changed_bytes_is_read_or_refused(changes in changes(), packed in 0..3) {
        let packed = [Packed::Not, Packed::Gzip, Packed::Zstd][packed as usize];
        let layer = mangled(usual(), &changes);
        check(&Image::new(vec![layer]).packed(packed).docker(&["any:latest"]).tar());
    }

    #[test]
    fn an_archive_with_changed_bytes_is_read_or_refused(changes in changes(), packed in 0..3) {
        let packed = [Packed::Not, Packed::Gzip, Packed::Zstd][packed as usize];
        let archive = Image::new(vec![usual()]).packed(Packed::Gzip).oci().tar();
        check(&mangled(packed.pack(&archive), &changes));
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        check(&bytes);
    }
}
