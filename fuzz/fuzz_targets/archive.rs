//! An image archive: the import ends, and nothing is written beside the store.

#![no_main]

use std::fs;
use std::io::Cursor;
use std::time::Duration;

use cofferdam_images::{Limits, Store};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
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
    let _ = store.import_archive("image", Cursor::new(bytes.to_vec()));
    let beside = fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(beside, 1, "something stands beside the store");
});
