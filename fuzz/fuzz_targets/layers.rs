//! Entries of an image's layers, in an archive that is otherwise right: OCI's and `docker save`'s.
//! The import ends, nothing is written beside the store, and nobody else may write to what is.

#![no_main]

#[path = "../../tests/it/images/build.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod build;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use build::{Image, Layer, Packed};
use cofferdam_images::{Limits, Store};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tar::EntryType;

/// Names that lead somewhere, alone or joined.
const WORDS: [&str; 12] = [
    "a", "b", "link", "..", ".", "", "dev", "tmp", ".wh.a", ".wh..wh..opq", "\u{202e}", "etc",
];
const KINDS: &[u8] = b"0123456SxLKg7V\0";

#[derive(Arbitrary, Debug)]
struct Entry<'a> {
    kind: u8,
    path: [u8; 4],
    is_absolute: bool,
    target: [u8; 4],
    mode: u16,
    contents: &'a [u8],
    pax: Option<(bool, &'a [u8])>,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    is_docker: bool,
    packed: u8,
    layers: Vec<Vec<Entry<'a>>>,
    cut: Option<u16>,
}

fn joined(at: [u8; 4]) -> String {
    let words = at.map(|at| WORDS[usize::from(at) % WORDS.len()]);
    words.join("/")
}

fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut layer = Layer::new();
    for entry in entries.iter().take(64) {
        if let Some((is_path, value)) = entry.pax {
            let name = if is_path { "path" } else { "linkpath" };
            layer = layer.pax(&[(name, value)]);
        }
        let kind = EntryType::new(KINDS[usize::from(entry.kind) % KINDS.len()]);
        let root = if entry.is_absolute { "/" } else { "" };
        let target = format!("{root}{}", joined(entry.target));
        let contents = &entry.contents[..entry.contents.len().min(4096)];
        layer = layer.entry(kind, &joined(entry.path), &target, contents, entry.mode.into());
    }
    layer.bytes()
}

fn check(folder: &Path) {
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is there").path();
        let about = path.symlink_metadata().expect("it is there");
        let mode = about.permissions().mode();
        assert!(about.is_symlink() || mode & 0o6022 == 0, "{path:?}: {mode:o}");
        if about.is_dir() {
            check(&path);
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let layers = input.layers.iter().take(4).map(|entries| layer(entries));
    let packed = [Packed::Not, Packed::Gzip, Packed::Zstd][usize::from(input.packed % 3)];
    let image = Image::new(layers.collect()).packed(packed);
    let parts = if input.is_docker { image.docker(&["any:latest"]) } else { image.oci() };
    let mut archive = parts.tar();
    if let Some(cut) = input.cut {
        archive.truncate(usize::from(cut));
    }

    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("a folder in it");
    let limits = Limits {
        unpacked_bytes: 1 << 20,
        source_bytes: 1 << 20,
        ratio_free_bytes: 1 << 20,
        import_wait: Duration::from_secs(1),
        ..Limits::default()
    };
    let store = Store::open_with(&state, limits).expect("a store");
    let imported = store.import_archive("image", Cursor::new(archive));
    let beside = fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(beside, 1, "something stands beside the store");
    let roots = state.join("images/roots");
    let count = fs::read_dir(&roots).map_or(0, Iterator::count);
    assert_eq!(count, usize::from(imported.is_ok()), "{imported:?}");
    if count > 0 {
        check(&roots);
    }
});
