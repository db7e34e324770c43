//! Images that were made to do harm, or that are broken: each is refused by name, and nothing of it
//! stays, inside the store or outside.

use serde_json::json;
use tar::EntryType;

use super::build::{Image, Layer, Packed, Parts, digest};
use super::{Bench, files, names};
use crate::support::command::{cofferdam, ended};
use cofferdam_images::{Error, Excess, Limits, Refusal};

/// Imports an image of these layers, which must be refused for this reason, and checks that the
/// canary beside the store was neither changed nor joined.
#[track_caller]
fn check_refused(layers: Vec<Layer>, expected: Refusal) {
    let bench = Bench::new();
    let canary = bench.path("canary");
    std::fs::write(&canary, "alive").unwrap();
    let layers = layers.into_iter().map(Layer::bytes).collect();
    let fault = bench.import("bad", &Image::new(layers).oci().tar());
    match fault {
        Err(Error::Refused { why, .. }) => assert_eq!(why, expected),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
    bench.check_untouched();
    assert_eq!(std::fs::read_to_string(canary).unwrap(), "alive");
    assert_eq!(
        names(bench.folder.path()),
        ["canary", "source", "state"],
        "something was written beside the store"
    );
}

/// From the root file system of a staged import, the folder beside the store.
const OUT: &str = "../../../../..";

#[test]
fn a_path_that_leads_out_of_the_image() {
    check_inside(
        vec![Layer::new().file("/etc/cofferdam-canary", "x")],
        [("etc/", "0755"), ("etc/cofferdam-canary", "0644 x")],
    );
    assert!(!std::path::Path::new("/etc/cofferdam-canary").exists());
    check_refused(vec![Layer::new().file("/../up", "x")], Refusal::Climbs);
    check_refused(
        vec![Layer::new().file(&format!("{OUT}/canary"), "x")],
        Refusal::Climbs,
    );
    check_refused(
        vec![Layer::new().file("a/../../../b", "x")],
        Refusal::Climbs,
    );
    check_refused(
        vec![Layer::new().pax(&[("path", b"../up")]).file("fine", "x")],
        Refusal::Climbs,
    );
    check_refused(
        vec![Layer::new().file(&format!("{OUT}/.wh.canary"), "")],
        Refusal::Climbs,
    );
    check_refused(vec![Layer::new().file(".wh...", "")], Refusal::BadName);
    check_refused(vec![Layer::new().file(".wh.", "")], Refusal::BadName);
}

/// Imports an image of these layers, which must be taken, with these files, and checks that the
/// canary beside the store was neither changed nor joined.
#[track_caller]
fn check_inside<const N: usize>(layers: Vec<Layer>, expected: [(&str, &str); N]) {
    let bench = Bench::new();
    let canary = bench.path("canary");
    std::fs::write(&canary, "alive").unwrap();
    let layers = layers.into_iter().map(Layer::bytes).collect();
    bench
        .import("app", &Image::new(layers).oci().tar())
        .unwrap();
    assert_eq!(bench.files("app"), files(expected));
    assert_eq!(std::fs::read_to_string(canary).unwrap(), "alive");
    assert_eq!(names(bench.folder.path()), ["canary", "source", "state"]);
}

/// A link leads where it leads for a process in the image, and nowhere else.
#[test]
fn a_write_through_a_symbolic_link() {
    for (target, at) in [
        (OUT, "canary"),
        ("/etc", "etc/canary"),
        (".", "canary"),
        ("real", "real/canary"),
        ("/real/", "real/canary"),
        ("real/../real", "real/canary"),
        ("second", "real/canary"),
    ] {
        let link = || {
            let layer = Layer::new().folder("real").folder("etc");
            layer.symlink("second", "./real").symlink("link", target)
        };
        let shown = format!("-> {target}");
        let expected = [
            (at, "0644 x"),
            ("etc/", "0755"),
            ("link", &shown),
            ("real/", "0755"),
            ("second", "-> ./real"),
        ];
        check_inside(vec![link().file("link/canary", "x")], expected);
        check_inside(
            vec![link(), Layer::new().file("link/canary", "x")],
            expected,
        );
        let hidden = Layer::new().file("link/.wh.canary", "");
        let bare = [expected[1], expected[2], expected[3], expected[4]];
        check_inside(vec![link().file("link/canary", "x"), hidden], bare);
        let inner = at.replace("canary", "inner/");
        let folder = [(inner.as_str(), "0755"), bare[0], bare[1], bare[2], bare[3]];
        check_inside(vec![link().folder("link/inner")], folder);
        let inner = at.replace("canary", "inner");
        let another = [(inner.as_str(), "-> /"), bare[0], bare[1], bare[2], bare[3]];
        check_inside(vec![link().symlink("link/inner", "/")], another);
    }
}

#[test]
fn an_opaque_folder_behind_a_link_hides_what_is_in_the_image() {
    let lower = Layer::new().file("real/old", "x").symlink("link", OUT);
    let upper = Layer::new().file("link/.wh..wh..opq", "");
    check_inside(vec![lower, upper], []);
    let lower = Layer::new().file("real/old", "x").symlink("link", "/real");
    let upper = Layer::new()
        .file("link/.wh..wh..opq", "")
        .file("link/new", "y");
    check_inside(
        vec![lower, upper],
        [
            ("link", "-> /real"),
            ("real/", "0755"),
            ("real/new", "0644 y"),
        ],
    );
}

#[test]
fn links_in_a_circle_and_links_to_what_is_no_folder() {
    for target in ["link", "./link/", "/link", "other"] {
        let layer = Layer::new()
            .symlink("other", "link")
            .symlink("link", target);
        check_refused(vec![layer.file("link/canary", "x")], Refusal::ThroughLink);
    }
    let layer = Layer::new().file("file", "x").symlink("link", "file");
    check_refused(vec![layer.file("link/canary", "x")], Refusal::ThroughFile);
    let layer = Layer::new()
        .file("link/inner", "x")
        .symlink("mount", "/dev");
    check_inside(
        vec![layer.entry(EntryType::Char, "mount/null", "", b"", 0o666)],
        [
            ("link/", "0755"),
            ("link/inner", "0644 x"),
            ("mount", "-> /dev"),
        ],
    );
}

/// As kaniko and NixOS write them.
#[test]
fn an_absolute_path_begins_at_the_root_of_the_image() {
    check_inside(
        vec![
            Layer::new()
                .folder("/")
                .folder("/usr/")
                .file("/usr/bin/a", "x")
                .hard_link("/usr/bin/b", "/usr/bin/a")
                .hard_link("usr/bin/c", "//usr/./bin/a")
                .symlink("/lib", "/usr/lib")
                .file("/lib/d", "y")
                .file("/usr/gone", "z"),
            Layer::new().folder("./").file("/usr/.wh.gone", ""),
        ],
        [
            ("lib", "-> /usr/lib"),
            ("usr/", "0755"),
            ("usr/bin/", "0755"),
            ("usr/bin/a", "0644 x"),
            ("usr/bin/b", "0644 x"),
            ("usr/bin/c", "0644 x"),
            ("usr/lib/", "0755"),
            ("usr/lib/d", "0644 y"),
        ],
    );
}

#[test]
fn the_same_again_in_one_layer_is_no_other() {
    let layer = Layer::new()
        .file("a", "x")
        .symlink("l", "a")
        .hard_link("h", "a")
        .entry(EntryType::Fifo, "p", "", b"", 0o644);
    let layer = layer
        .file("./a", "x")
        .symlink("/l", "a")
        .hard_link("h", "/a")
        .entry(EntryType::Fifo, "p", "", b"", 0o644);
    let bench = Bench::new();
    let layers = vec![layer.bytes()];
    bench
        .import("app", &Image::new(layers).oci().tar())
        .unwrap();
    let root = bench.root("app");
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "x");
    let kind = std::fs::symlink_metadata(root.join("p"))
        .unwrap()
        .file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));

    for again in [
        Layer::new().symlink("l", "b"),
        Layer::new().file("l", "a"),
        Layer::new().program("a", 0o755),
        Layer::new().file("h", "other"),
        Layer::new().hard_link("a", "b"),
        Layer::new().entry(EntryType::Fifo, "a", "", b"", 0o644),
    ] {
        let layer = Layer::new()
            .file("a", "x")
            .file("b", "x")
            .symlink("l", "a")
            .hard_link("h", "a");
        check_refused(vec![layer.then(again)], Refusal::Duplicate);
    }
}

#[test]
fn a_link_that_is_written_to_is_replaced_and_its_target_left_alone() {
    let bench = Bench::new();
    let canary = bench.path("canary");
    std::fs::write(&canary, "alive").unwrap();
    let lower = Layer::new()
        .symlink("link", canary.to_str().unwrap())
        .bytes();
    let upper = Layer::new().file("link", "new").bytes();
    bench
        .import("app", &Image::new(vec![lower, upper]).oci().tar())
        .unwrap();
    assert_eq!(bench.files("app")["link"], "0644 new");
    assert_eq!(std::fs::read_to_string(canary).unwrap(), "alive");
}

#[test]
fn a_hard_link_that_leads_out_or_to_nothing() {
    for (target, expected) in [
        ("/etc/passwd", Refusal::BrokenLink),
        ("../../../../../canary", Refusal::Climbs),
        ("missing", Refusal::BrokenLink),
        ("missing/inner", Refusal::BrokenLink),
        ("folder", Refusal::BrokenLink),
        ("link/passwd", Refusal::BrokenLink),
        ("file/inner", Refusal::ThroughFile),
        ("new", Refusal::BrokenLink),
    ] {
        let layer = Layer::new()
            .folder("folder")
            .file("file", "x")
            .symlink("link", "/etc")
            .hard_link("new", target);
        check_refused(vec![layer], expected);
    }
}

#[test]
fn a_write_to_one_name_of_a_file_leaves_its_other_names_alone() {
    let bench = Bench::new();
    let lower = Layer::new()
        .file("first", "old")
        .hard_link("second", "first")
        .bytes();
    let upper = Layer::new().file("second", "new").bytes();
    bench
        .import("app", &Image::new(vec![lower, upper]).oci().tar())
        .unwrap();
    assert_eq!(bench.files("app")["first"], "0644 old");
    assert_eq!(bench.files("app")["second"], "0644 new");
}

#[test]
fn devices_and_kinds_that_images_do_not_have() {
    for (kind, expected) in [
        (EntryType::Char, Refusal::Device),
        (EntryType::Block, Refusal::Device),
        (EntryType::GNUSparse, Refusal::Sparse),
        (EntryType::new(b'V'), Refusal::UnknownKind),
    ] {
        let layer = Layer::new().entry(kind, "etc/odd", "", b"", 0o644);
        check_refused(vec![layer], expected);
    }
    for (records, name) in [
        (vec![("GNU.sparse.major", &b"1"[..])], "a"),
        (
            vec![("GNU.sparse.size", b"1"), ("path", b"long/name")],
            "long/name",
        ),
        (
            vec![("path", b"GNUSparseFile.0/a"), ("GNU.sparse.name", b"real")],
            "real",
        ),
    ] {
        let layer = Layer::new().pax(&records).file("a", "x");
        let bench = Bench::new();
        let fault = bench.import("bad", &Image::new(vec![layer.bytes()]).oci().tar());
        let told = fault.unwrap_err().to_string();
        assert_eq!(told, format!("refused {name:?}: a sparse file"));
    }
}

#[test]
fn the_same_path_twice_in_one_layer() {
    let twice = Layer::new().file("a", "1").file("./a", "2");
    check_refused(vec![twice], Refusal::Duplicate);
    let folder_then_file = Layer::new().file("a/b", "1").file("a", "2");
    check_refused(vec![folder_then_file], Refusal::Duplicate);
    let file_then_folder = Layer::new().file("a", "1").folder("a");
    check_refused(vec![file_then_folder], Refusal::Duplicate);
    let below_a_file = Layer::new().file("a", "1").file("a/b", "2");
    check_refused(vec![below_a_file], Refusal::ThroughFile);
}

#[test]
fn a_name_that_is_too_long_too_deep_or_none() {
    let long = "n".repeat(256);
    let layer = Layer::new().pax(&[("path", long.as_bytes())]);
    check_refused(vec![layer.file("a", "x")], Refusal::Overlong);
    let long = "n/".repeat(2_500);
    let layer = Layer::new().pax(&[("path", long.as_bytes())]);
    check_refused(vec![layer.file("a", "x")], Refusal::Overlong);
    let deep = "d/".repeat(101);
    let layer = Layer::new().pax(&[("path", deep.as_bytes())]);
    check_refused(vec![layer.folder("a")], Refusal::TooDeep);
    let layer = Layer::new().pax(&[("path", b"a\0b")]);
    check_refused(vec![layer.file("a", "x")], Refusal::BadName);
    check_refused(vec![Layer::new().file("", "x")], Refusal::BadName);
    check_refused(vec![Layer::new().file(".", "x")], Refusal::BadName);
    check_refused(vec![Layer::new().symlink("a", "")], Refusal::LinkTarget);
}

#[test]
fn a_mount_point_that_is_a_link() {
    for name in ["workspace", "tmp", "proc", "dev"] {
        let layer = Layer::new().symlink(name, "/etc");
        check_refused(vec![layer], Refusal::MountPoint);
    }
}

/// Imports an image that is larger than the limits in this one way.
#[track_caller]
fn check_limit(limits: Limits, image: &Image, expected: Excess) {
    let bench = Bench::with(limits);
    match bench.import("big", &image.oci().tar()) {
        Err(Error::Limit { what, .. }) => assert_eq!(what, expected),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
    bench.check_untouched();
}

#[test]
fn each_limit_is_held() {
    let some_files = || {
        let layer = |text| Layer::new().file("a/b/c", text).file("d", text).bytes();
        Image::new(vec![layer("lower"), layer("upper")])
    };
    let standard = Limits::default;
    let limits = Limits {
        entries: 4,
        ..standard()
    };
    check_limit(limits, &some_files(), Excess::Entries);
    let limits = Limits {
        layers: 1,
        ..standard()
    };
    check_limit(limits, &some_files(), Excess::Layers);
    let limits = Limits {
        members: 3,
        ..standard()
    };
    check_limit(limits, &some_files(), Excess::Members);
    let limits = Limits {
        document_bytes: 100,
        ..standard()
    };
    check_limit(limits, &some_files(), Excess::DocumentBytes);
    let limits = Limits {
        source_bytes: 1000,
        ..standard()
    };
    check_limit(limits, &some_files(), Excess::SourceBytes);
    let limits = Limits {
        unpacked_bytes: 5_000,
        ..standard()
    };
    check_limit(limits, &some_files(), Excess::UnpackedBytes);
    let limits = Limits {
        header_bytes: 1_000,
        ..standard()
    };
    let layer = Layer::new().pax(&[("SCHILY.xattr.user.x", &[b'x'; 2_000])]);
    let image = Image::new(vec![layer.file("a", "x").bytes()]);
    check_limit(limits, &image, Excess::HeaderBytes);
}

#[test]
fn folders_that_no_entry_names_count_too() {
    let limits = Limits {
        entries: 50,
        ..Limits::default()
    };
    let deep = "d/".repeat(60);
    let layer = Layer::new().pax(&[("path", deep.as_bytes())]).folder("a");
    let image = Image::new(vec![layer.bytes()]);
    check_limit(limits, &image, Excess::Entries);
}

#[test]
fn a_decompression_bomb_in_a_layer_or_around_the_archive() {
    let zeros = vec![0; 4 << 20];
    let bomb = Layer::new().entry(EntryType::Regular, "zeros", "", &zeros, 0o644);
    let bomb = bomb.bytes();
    let limits = || Limits {
        ratio_free_bytes: 1 << 20,
        ..Limits::default()
    };
    for packed in [Packed::Gzip, Packed::Zstd] {
        let image = Image::new(vec![bomb.clone()]).packed(packed);
        check_limit(limits(), &image, Excess::Ratio);

        let bench = Bench::with(limits());
        let archive = Image::new(vec![bomb.clone()]).oci().tar();
        match bench.import("big", &packed.pack(&archive)) {
            Err(Error::Limit { what, .. }) => assert_eq!(what, Excess::Ratio),
            other => panic!("{other:?}"),
        }
        bench.check_untouched();
    }
}

#[test]
fn a_layer_or_document_whose_bytes_are_others_than_its_digest_says() {
    let layer = Layer::new().file("a", "x").bytes();
    let image = || Image::new(vec![layer.clone()]).packed(Packed::Gzip);
    let check_corrupt = |parts: &Parts| {
        let bench = Bench::new();
        let fault = bench.import("bad", &parts.tar());
        assert!(matches!(fault, Err(Error::Corrupt { .. })), "{fault:?}");
        bench.check_untouched();
    };
    let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));

    let mut parts = image().oci();
    *parts.part(&blob(&Packed::Gzip.pack(&layer))) =
        Packed::Gzip.pack(&Layer::new().file("b", "x").bytes());
    check_corrupt(&parts);

    let mut parts = image().oci();
    parts.part(&blob(&image().config())).push(b'\n');
    check_corrupt(&parts);

    let mut parts = image().docker(&[]);
    *parts.part(&digest(&layer)[7..]) = Packed::Gzip.pack(&Layer::new().file("b", "x").bytes());
    check_corrupt(&parts);

    let mut parts = image().docker(&[]);
    parts.part(&digest(&image().config())[7..]).push(b'\n');
    check_corrupt(&parts);
}

/// Imports a source that breaks its own format.
#[track_caller]
fn check_malformed(source: &[u8]) {
    let bench = Bench::new();
    let fault = bench.import("bad", source);
    assert!(matches!(fault, Err(Error::Malformed { .. })), "{fault:?}");
    bench.check_untouched();
}

#[test]
fn a_source_that_is_not_as_its_format_says() {
    let layer = Layer::new().file("a", "x").bytes();
    let archive = Image::new(vec![layer.clone()]).oci().tar();
    check_malformed(&archive[..archive.len() - 3_000]);
    check_malformed(
        b"no archive at all, but long enough for a header of one"
            .repeat(20)
            .as_slice(),
    );

    let cut = Image::new(vec![layer[..700].to_vec()]);
    check_malformed(&cut.oci().tar());
    let mut gzip = Packed::Gzip.pack(&layer);
    gzip.truncate(gzip.len() / 2);
    let mut parts = Parts::layout();
    let layer_blob = parts.add_blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip);
    let config = Image::new(vec![layer.clone()]).config();
    let config = parts.add_blob("application/vnd.oci.image.config.v1+json", &config);
    let manifest = json!({"config": config, "layers": [layer_blob]}).to_string();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = parts.add_blob(kind, manifest.as_bytes());
    parts.set_index(vec![manifest]);
    check_malformed(&parts.tar());

    let mut twice = Image::new(vec![layer]).oci();
    twice.add("index.json", b"{}");
    check_malformed(&twice.tar());
    let length = twice.part("index.json").len();
    *twice.part("index.json") = vec![b' '; length];
    twice.0.last_mut().unwrap().1 = vec![b'!'; length];
    check_malformed(&twice.tar());

    let mut artifact = Parts::layout();
    let blob = artifact.add_blob("application/vnd.example.thing", b"x");
    let manifest = json!({"config": blob, "layers": []}).to_string();
    let manifest = artifact.add_blob(kind, manifest.as_bytes());
    artifact.set_index(vec![manifest]);
    check_malformed(&artifact.tar());

    let global = Layer::new().entry(
        EntryType::XGlobalHeader,
        "global",
        "",
        b"15 path=global\n",
        0,
    );
    let global = Image::new(vec![global.file("a", "x").bytes()]);
    check_malformed(&global.oci().tar());
    let sized = Layer::new().pax(&[("size", b"5")]).file("a", "x").bytes();
    check_malformed(&Image::new(vec![sized]).oci().tar());
    let named_twice = Layer::new().pax(&[("path", b"a"), ("path", b"b")]);
    let named_twice = Image::new(vec![named_twice.file("c", "x").bytes()]);
    check_malformed(&named_twice.oci().tar());
}

#[test]
fn a_layout_in_a_folder_is_not_read_through_links() {
    let bench = Bench::new();
    let image = Image::new(vec![Layer::new().file("a", "x").bytes()]);
    let source = image.oci().write_folder(&bench.path("layout"));
    let index = source.join("index.json");
    std::fs::rename(&index, bench.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bench.path("elsewhere"), &index).unwrap();
    let fault = bench.store.import("bad", &source);
    assert!(matches!(fault, Err(Error::Malformed { .. })), "{fault:?}");
    bench.check_untouched();
}

#[test]
fn an_image_for_another_system() {
    let image = || Image::new(vec![Layer::new().file("a", "x").bytes()]);
    for (os, architecture) in [("linux", "z80"), ("windows", super::build::architecture())] {
        let bench = Bench::new();
        let foreign = image().platform(os, architecture);
        let fault = bench.import("bad", &foreign.docker(&[]).tar());
        assert!(matches!(fault, Err(Error::Platform { .. })), "{fault:?}");
        let mut parts = Parts::layout();
        let mut manifest = parts.add_image(&foreign);
        manifest["platform"] = json!({"os": os, "architecture": architecture});
        parts.set_index(vec![manifest]);
        let fault = bench.import("bad", &parts.tar());
        assert!(matches!(fault, Err(Error::Platform { .. })), "{fault:?}");
        bench.check_untouched();
    }
}

#[test]
fn a_source_that_is_none() {
    let bench = Bench::new();
    let fault = bench.store.import("bad", &bench.path("missing"));
    assert!(matches!(fault, Err(Error::Source { .. })), "{fault:?}");
    let fault = bench.import("bad", &Layer::new().file("etc/passwd", "x").bytes());
    assert!(
        matches!(fault, Err(Error::Unrecognised { .. })),
        "{fault:?}"
    );
    let fault = bench.store.import("bad", bench.folder.path());
    assert!(
        matches!(fault, Err(Error::Unrecognised { .. })),
        "{fault:?}"
    );
    let fault = bench.store.import("../bad", &bench.path("source"));
    assert!(matches!(fault, Err(Error::Name { .. })), "{fault:?}");
    bench.check_untouched();
}

#[test]
fn a_plain_folder_with_what_no_image_has() {
    let check = |expected: Refusal, fill: &dyn Fn(&std::path::Path)| {
        let bench = Bench::new();
        let source = bench.path("rootfs");
        std::fs::create_dir_all(source.join("etc")).unwrap();
        fill(&source);
        match bench.store.import("bad", &source) {
            Err(Error::Refused { why, .. }) => assert_eq!(why, expected),
            other => panic!("expected {expected:?}, got {other:?}"),
        }
        bench.check_untouched();
    };
    check(Refusal::Socket, &|source| {
        drop(std::os::unix::net::UnixListener::bind(source.join("etc/socket")).unwrap());
    });
    check(Refusal::MountPoint, &|source| {
        std::os::unix::fs::symlink("etc", source.join("tmp")).unwrap();
    });
    check(Refusal::TooDeep, &|source| {
        std::fs::create_dir_all(source.join("d/".repeat(101))).unwrap();
    });
}

/// Names in an image are anybody's text, and an operator reads them on a terminal.
#[test]
fn a_refusal_is_told_without_control_characters() {
    let bench = Bench::new();
    let evil = "a\x1b]0;owned\x07\n\u{9b}2J\u{202e}\u{2028}\u{61c}b";
    let config = Image::new(vec![]).config();
    let manifest = json!([{"Config": evil, "RepoTags": [evil], "Layers": []}]);
    let mut named = Parts::default();
    named.add("manifest.json", manifest.to_string().as_bytes());
    let manifest = json!([
        {"Config": evil, "RepoTags": [evil], "Layers": []},
        {"Config": evil, "RepoTags": [evil], "Layers": []},
    ]);
    let mut several = Parts::default();
    several.add("manifest.json", manifest.to_string().as_bytes());
    several.add("config", &config);
    let layer = Layer::new().pax(&[("path", evil.as_bytes())]);
    let layer = layer.entry(EntryType::Char, "x", "", b"", 0o644).bytes();
    let image = Image::new(vec![layer]);
    for (at, archive) in [named.tar(), several.tar(), image.oci().tar()]
        .iter()
        .enumerate()
    {
        let source = bench.path(&format!("source-{at}"));
        std::fs::write(&source, archive).unwrap();
        let mut command = cofferdam(["images", "import", "bad"]);
        command
            .arg(&source)
            .env("COFFERDAM_STATE_DIR", bench.state());
        let refused = ended(command);
        assert_eq!(refused.status, 1, "{}", refused.stderr);
        let line = refused.stderr.strip_suffix('\n').unwrap();
        assert!(
            !line.chars().any(cofferdam::telemetry::is_control),
            "{line:?}"
        );
    }
}
