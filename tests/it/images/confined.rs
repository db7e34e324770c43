//! Images that are unpacked by a process without rights.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use cofferdam_images::{Error, Limits, Store};

use super::Bench;
use super::build::{Image, Layer, Packed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cofferdam");

fn confined(limits: Limits) -> Bench {
    let bench = Bench::with(limits.clone());
    let store = Store::open_with(&bench.state(), limits).unwrap();
    Bench {
        store: store.unpacked_by(PROGRAM.into()),
        ..bench
    }
}

fn image() -> Image {
    let lower = Layer::new()
        .file("etc/old", "x")
        .program("bin/tool", 0o755)
        .symlink("link", "etc");
    let upper = Layer::new()
        .file("etc/.wh..wh..opq", "")
        .file("link/new", "y")
        .hard_link("again", "etc/new");
    Image::new(vec![lower.bytes(), upper.bytes()])
}

/// An archive that comes when the other end is dropped, or not at all.
struct Late {
    gate: Receiver<()>,
    archive: std::io::Cursor<Vec<u8>>,
}

impl Late {
    fn new(archive: Vec<u8>) -> (Sender<()>, Self) {
        let (sender, gate) = channel();
        let archive = std::io::Cursor::new(archive);
        (sender, Self { gate, archive })
    }
}

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let _ = self.gate.recv();
        self.archive.read(buffer)
    }
}

#[test]
fn an_image_is_the_same_whoever_unpacks_it() {
    let (here, there) = (Bench::new(), confined(Limits::default()));
    let sources = [
        image().oci().tar(),
        Packed::Zstd.pack(&image().packed(Packed::Gzip).oci().tar()),
        image().docker(&["app:latest"]).tar(),
    ];
    for source in sources {
        for bench in [&here, &there] {
            bench.import("app", &source).unwrap();
            bench.store.remove("app").unwrap();
        }
        let archive = std::io::Cursor::new(source.clone());
        let streamed = there.store.import_archive("app", archive).unwrap();
        assert!(!streamed.already_unpacked);
        let mine = here.import("app", &source).unwrap();
        assert_eq!(streamed.digest, mine.digest);
        assert_eq!(there.files("app"), here.files("app"));
        let again = there.import("other", &source).unwrap();
        assert!(again.already_unpacked);
        there.store.remove("other").unwrap();
        for bench in [&here, &there] {
            bench.store.remove("app").unwrap();
        }
    }
    let layout = image().oci().write_folder(&there.path("layout"));
    there.store.import("app", &layout).unwrap();
    here.import("app", &image().oci().tar()).unwrap();
    assert_eq!(there.files("app"), here.files("app"));
    let root = there.root("app");
    assert_eq!(
        super::names(root.parent().unwrap()),
        ["image.json", "in-use", "rootfs"]
    );
}

#[test]
fn what_is_wrong_with_an_image_is_said_in_the_same_words() {
    let (here, there) = (Bench::new(), confined(Limits::default()));
    let bad = Image::new(vec![Layer::new().file("../out", "x").bytes()]);
    let mut cut = image().oci().tar();
    cut.truncate(cut.len() / 2);
    for source in [bad.oci().tar(), cut, b"nothing of the kind".to_vec()] {
        let [mine, other] = [&here, &there].map(|bench| bench.import("bad", &source).unwrap_err());
        assert!(matches!(other, Error::Process(_)), "{other:?}");
        let own_folder = |bench: &Bench| bench.folder.path().display().to_string();
        let mine = mine.to_string().replace(&own_folder(&here), "");
        assert_eq!(other.to_string().replace(&own_folder(&there), ""), mine);
    }
    there.check_untouched();
}

/// The process that unpacks into this bench's folder.
fn unpacking(bench: &Bench) -> Option<PathBuf> {
    let folder = bench.state();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.map(|entry| entry.path()).find(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"cofferdam-unpack")
            && words
                .next()
                .is_some_and(|staged| staged.starts_with(folder.as_os_str().as_bytes()))
    })
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn the_process_that_unpacks_has_no_rights() {
    let bench = confined(Limits::default());
    let (gate, archive) = Late::new(image().oci().tar());
    std::thread::scope(|scope| {
        let importing = scope.spawn(|| bench.store.import_archive("app", archive));
        // It gives up its system calls last.
        let (process, status) = loop {
            let process = unpacking(&bench);
            let status = process
                .as_ref()
                .and_then(|process| fs::read_to_string(process.join("status")).ok());
            match (process, status) {
                (Some(process), Some(status)) if field(&status, "Seccomp") == "2" => {
                    break (process, status);
                }
                _ => assert!(!importing.is_finished(), "it has ended already"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}");
        }
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        assert!(
            limits.contains("Max data size             536870912"),
            "{limits}"
        );
        let network = |process: &Path| fs::read_link(process.join("ns/net")).unwrap();
        if network(&process) == network(Path::new("/proc/self")) {
            crate::support::parts::skipped("in part: this host gives no namespaces");
        } else {
            let devices = fs::read_to_string(process.join("net/dev")).unwrap();
            assert_eq!(devices.lines().count(), 3, "only loopback: {devices}");
            let root = process.join("root");
            let first = bench.folder.path().canonicalize().unwrap();
            let first = first.components().nth(1).unwrap();
            assert_eq!(
                super::names(&root),
                [first.as_os_str().to_str().unwrap()],
                "it sees more than its own folder"
            );
            assert!(!root.join("etc/passwd").exists() && !root.join("proc").exists());
        }
        drop(gate);
        importing.join().unwrap().unwrap();
    });
    assert!(unpacking(&bench).is_none());
}

#[track_caller]
fn check_bound(limits: Limits, source: &[u8], expected: &str) {
    let bench = confined(limits);
    let fault = bench.import("app", source).unwrap_err();
    assert!(fault.to_string().contains(expected), "{fault}");
    bench.check_untouched();
}

#[test]
fn a_process_that_takes_too_much_memory_is_ended_and_the_bound_is_named() {
    let limits = Limits {
        process_memory_bytes: 4 << 20,
        ..Limits::default()
    };
    let padded = image().run(serde_json::json!({"Env": [format!("A={}", "x".repeat(3 << 20))]}));
    let source = padded.oci().tar();
    confined(Limits::default()).import("app", &source).unwrap();
    check_bound(limits, &source, "more than 4 MiB of memory");
}

#[test]
fn a_process_that_takes_too_much_processor_time_is_ended_and_the_bound_is_named() {
    let limits = Limits {
        process_cpu: Duration::from_secs(1),
        ratio: u64::MAX,
        ..Limits::default()
    };
    // Gigabytes of nothing, which take many seconds to spread out.
    let nothing = Packed::Gzip.pack(&vec![0; 8 << 20]);
    check_bound(
        limits,
        &nothing.repeat(1000),
        "more than 1 s of processor time",
    );
}

#[test]
fn an_archive_that_never_comes_is_not_waited_for_for_ever() {
    let bench = confined(Limits {
        process_time: Duration::from_millis(500),
        ..Limits::default()
    });
    let (gate, archive) = Late::new(Vec::new());
    let fault = bench.store.import_archive("app", archive).unwrap_err();
    assert_eq!(fault.to_string(), "the image was not unpacked within 0.5 s");
    assert!(unpacking(&bench).is_none());
    bench.check_untouched();
    drop(gate);
}
