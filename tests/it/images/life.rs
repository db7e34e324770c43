//! Images over time: removed while in use, imported twice at once, cut short, opened again.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::build::{Image, Layer};
use super::{Bench, files, names};
use cofferdam_images::{Error, Limits, Store};

fn small(text: &str) -> Vec<u8> {
    let layer = Layer::new().file("file", text).bytes();
    Image::new(vec![layer]).oci().tar()
}

#[test]
fn an_image_is_listed_until_it_is_removed_and_then_its_files_are_gone() {
    let bench = Bench::new();
    let imported = bench.import("app:v1", &small("x")).unwrap();
    let again = bench.import("app:v2", &small("x")).unwrap();
    assert!(again.already_unpacked);
    let listed = bench.second().list().unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|image| (image.name.as_str(), image.in_use))
        .collect();
    assert_eq!(listed, [("app:v1", false), ("app:v2", false)]);

    let removed = bench.store.remove("app:v1").unwrap();
    assert_eq!(removed.digest, imported.digest);
    assert!(!removed.deleted, "another name still stands for it");
    assert_eq!(bench.files("app:v2"), files([("file", "0644 x")]));
    assert!(bench.store.remove("app:v2").unwrap().deleted);
    bench.check_untouched();
    let fault = bench.store.remove("app:v2");
    assert!(matches!(fault, Err(Error::Unknown { .. })), "{fault:?}");
}

#[test]
fn a_name_can_be_given_to_another_image_and_the_old_one_goes() {
    let bench = Bench::new();
    let old = bench.import("app", &small("old")).unwrap();
    let new = bench.import("app", &small("new")).unwrap();
    assert_eq!(new.replaced, Some(old.digest));
    assert_eq!(bench.files("app"), files([("file", "0644 new")]));
    assert_eq!(names(&bench.state().join("images/roots")).len(), 1);
}

#[test]
fn an_image_in_use_stays_until_its_last_user_ends() {
    let bench = Bench::new();
    bench.import("app", &small("x")).unwrap();
    let machine = bench.store.resolve("app").unwrap();
    let neighbour = bench.second().resolve("app").unwrap();
    let file = bench.root("app").join("file");
    assert!(bench.store.list().unwrap()[0].in_use);

    assert!(!bench.second().remove("app").unwrap().deleted);
    let fault = bench.store.resolve("app");
    assert!(matches!(fault, Err(Error::Unknown { .. })), "{fault:?}");
    drop(machine);
    drop(bench.second());
    assert!(file.exists(), "the neighbour still uses it");
    drop(neighbour);
    drop(bench.second());
    bench.check_untouched();
}

#[test]
fn an_image_that_is_removed_while_in_use_can_be_imported_again() {
    let bench = Bench::new();
    bench.import("app", &small("x")).unwrap();
    let machine = bench.store.resolve("app").unwrap();
    bench.store.remove("app").unwrap();
    let again = bench.import("app", &small("x")).unwrap();
    assert!(again.already_unpacked);
    drop(machine);
    drop(bench.second());
    assert_eq!(bench.files("app"), files([("file", "0644 x")]));
}

#[test]
fn imports_at_the_same_time_unpack_each_image_once() {
    let bench = Bench::new();
    let sources = ["one", "two"].map(|text| {
        let path = bench.path(text);
        std::fs::write(&path, small(text)).unwrap();
        path
    });
    let unpacked: Vec<bool> = std::thread::scope(|scope| {
        let imports: Vec<_> = (0..8)
            .map(|at| {
                let (store, source) = (bench.second(), &sources[at % 2]);
                scope.spawn(move || store.import(&format!("app:{at}"), source).unwrap())
            })
            .collect();
        imports
            .into_iter()
            .map(|import| !import.join().unwrap().already_unpacked)
            .collect()
    });
    assert_eq!(unpacked.iter().filter(|fresh| **fresh).count(), 2);
    assert_eq!(bench.store.list().unwrap().len(), 8);
    assert_eq!(bench.files("app:0"), files([("file", "0644 one")]));
    assert_eq!(bench.files("app:7"), files([("file", "0644 two")]));
    assert_eq!(names(&bench.state().join("images/tmp")), [""; 0]);
}

#[test]
fn machines_can_be_started_while_images_come_and_go() {
    let bench = Bench::new();
    bench.import("app", &small("x")).unwrap();
    let source = bench.path("source");
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for _ in 0..20 {
                bench.second().remove("app").unwrap();
                bench.second().import("app", &source).unwrap();
            }
        });
        let mut found = 0;
        while !changes.is_finished() || found == 0 {
            let app = match bench.store.resolve("app") {
                Ok(app) => app,
                Err(Error::Unknown { .. }) => continue,
                Err(fault) => panic!("{fault}"),
            };
            let root = app.rootfs.unwrap();
            assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "x");
            found += 1;
        }
        changes.join().unwrap();
    });
}

#[test]
fn an_import_does_not_wait_for_another_one_for_ever() {
    let limits = Limits {
        import_wait: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = Bench::with(limits);
    let held = std::fs::File::create(bench.state().join("images/import.lock")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let fault = bench.import("app", &small("x"));
    assert!(matches!(fault, Err(Error::Busy { .. })), "{fault:?}");
    drop(held);
    bench.import("app", &small("x")).unwrap();
}

#[test]
fn a_crash_between_unpacking_and_naming_leaves_nothing() {
    let bench = Bench::new();
    bench.import("app", &small("x")).unwrap();
    std::fs::remove_file(bench.state().join("images/index.json")).unwrap();
    drop(bench.second());
    bench.check_untouched();
}

#[test]
fn a_list_of_names_that_cannot_be_read_is_an_error_and_loses_nothing() {
    let bench = Bench::new();
    bench.import("app", &small("x")).unwrap();
    let index = bench.state().join("images/index.json");
    let whole = std::fs::read(&index).unwrap();
    std::fs::write(&index, &whole[..whole.len() / 2]).unwrap();
    let fault = Store::open(&bench.state());
    assert!(matches!(fault, Err(Error::Malformed { .. })), "{fault:?}");
    std::fs::write(&index, whole).unwrap();
    assert_eq!(bench.files("app"), files([("file", "0644 x")]));
}

#[test]
fn only_the_owner_gets_into_the_store_and_everybody_could_read_an_image() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.import("app", &small("x")).unwrap();
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bench.state().join("images")), 0o700);
    assert_eq!(mode(bench.root("app")), 0o755);
    assert_eq!(mode(bench.root("app").join("file")), 0o644);
}

/// Where the process that is killed imports to, and from where.
const KILLED: &str = "COFFERDAM_TEST_KILLED_IMPORT";

#[test]
#[ignore = "another test runs this one in a process of its own, and kills it"]
fn import_until_killed() {
    let folder = std::env::var_os(KILLED).expect("only to be run by the test that kills it");
    let folder = PathBuf::from(folder);
    let store = Store::open(&folder.join("state")).unwrap();
    store.import("app", &folder.join("source")).unwrap();
}

#[test]
fn an_import_that_is_killed_leaves_nothing_that_the_next_one_does_not_clear() {
    let bench = Bench::new();
    let mut layer = Layer::new();
    for at in 0..5_000 {
        layer = layer.file(&format!("files/{at}"), "x");
    }
    let source = Image::new(vec![layer.bytes()]).oci().tar();
    std::fs::write(bench.path("source"), &source).unwrap();
    let mut import = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "images::life::import_until_killed", "--ignored"])
        .env(KILLED, bench.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let tmp = bench.state().join("images/tmp");
    let half_way = || {
        let staged = names(&tmp).into_iter().next()?;
        let files = tmp.join(staged).join("rootfs/files");
        files.read_dir().ok()?.next()
    };
    while half_way().is_none() {
        assert!(import.try_wait().unwrap().is_none(), "it was too fast");
        std::thread::sleep(Duration::from_millis(1));
    }
    import.kill().unwrap();
    import.wait().unwrap();

    assert_eq!(names(&tmp).len(), 1, "it was killed half-way");
    assert_eq!(bench.second().list().unwrap(), []);
    bench.import("app", &source).unwrap();
    assert_eq!(names(&tmp), [""; 0]);
    assert_eq!(names(&bench.root("app").join("files")).len(), 5_000);
}
