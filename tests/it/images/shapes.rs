//! Every shape of source gives the same image, and layers are laid over one another as they should.

use std::io::Write;

use serde_json::json;

use super::build::{Image, Layer, Packed, Parts, architecture, digest};
use super::{Bench, files, names};
use crate::support::command::{cofferdam, ended};
use cofferdam_images::{Error, Kind};

/// Two layers: the second replaces a file, hides one, and adds a link.
fn two_layers() -> Image {
    let lower = Layer::new()
        .folder("etc/")
        .file("etc/kept", "lower")
        .file("etc/changed", "lower")
        .file("etc/hidden", "lower")
        .bytes();
    let upper = Layer::new()
        .folder("etc/")
        .file("etc/changed", "upper")
        .file("etc/.wh.hidden", "")
        .hard_link("etc/twin", "etc/kept")
        .symlink("etc/link", "/etc/kept")
        .bytes();
    Image::new(vec![lower, upper]).run(json!({
        "Entrypoint": ["/bin/guest"],
        "Cmd": ["--fast"],
        "Env": ["PATH=/bin", "EMPTY=", "BARE", "EQUALS=a=b"],
        "WorkingDir": "/srv",
        "User": "1000",
    }))
}

#[track_caller]
fn check_two_layers(bench: &Bench) {
    assert_eq!(
        bench.files("app"),
        files([
            ("etc/", "0755"),
            ("etc/changed", "0644 upper"),
            ("etc/kept", "0644 lower"),
            ("etc/link", "-> /etc/kept"),
            ("etc/twin", "0644 lower"),
        ])
    );
    let app = bench.store.resolve("app").unwrap();
    assert_eq!(app.digest, digest(&two_layers().config()));
    assert_eq!(app.entrypoint, ["/bin/guest"]);
    assert_eq!(app.cmd, ["--fast"]);
    let env = [
        ("PATH", "/bin"),
        ("EMPTY", ""),
        ("BARE", ""),
        ("EQUALS", "a=b"),
    ];
    assert_eq!(
        app.env,
        env.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(app.workdir.as_deref(), Some("/srv"));
    assert_eq!(app.user.as_deref(), Some("1000"));
}

#[test]
fn an_oci_layout_is_imported_from_its_folder_whatever_its_layers_are_packed_with() {
    for packed in [Packed::Not, Packed::Gzip, Packed::Zstd] {
        let bench = Bench::new();
        let parts = two_layers().packed(packed).oci();
        let source = parts.write_folder(&bench.path("layout"));
        let imported = bench.store.import("app", &source).unwrap();
        assert_eq!(imported.name, "app:latest");
        assert_eq!(imported.kind, Kind::Oci);
        assert_eq!(imported.layers, 2);
        assert!(!imported.already_unpacked);
        check_two_layers(&bench);
    }
}

#[test]
fn an_oci_layout_is_imported_from_an_archive_and_from_a_compressed_one() {
    for packed in [Packed::Not, Packed::Gzip, Packed::Zstd] {
        let bench = Bench::new();
        let archive = two_layers().packed(Packed::Gzip).oci().tar();
        let imported = bench.import("app", &packed.pack(&archive)).unwrap();
        assert_eq!(imported.kind, Kind::Oci);
        check_two_layers(&bench);
    }
}

#[test]
fn an_archive_is_imported_from_a_stream_whether_it_is_compressed_or_not() {
    for packed in [Packed::Not, Packed::Gzip, Packed::Zstd] {
        let bench = Bench::new();
        let archive = packed.pack(&two_layers().oci().tar());
        let (reader, mut writer) = std::io::pipe().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&archive));
        bench.store.import_archive("app", reader).unwrap();
        sender.join().unwrap().unwrap();
        check_two_layers(&bench);
    }
}

#[test]
fn a_docker_archive_is_imported_with_packed_layers_or_plain_ones() {
    for packed in [Packed::Not, Packed::Gzip] {
        let bench = Bench::new();
        let archive = two_layers().packed(packed).docker(&["app:latest"]).tar();
        let imported = bench.import("app", &archive).unwrap();
        assert_eq!(imported.kind, Kind::Docker);
        check_two_layers(&bench);
    }
}

#[test]
fn a_docker_archive_that_holds_a_layout_too_is_read_as_the_layout() {
    let bench = Bench::new();
    let image = two_layers();
    let mut parts = image.oci();
    parts.0.extend(image.docker(&["app:latest"]).0);
    let imported = bench.import("app", &parts.tar()).unwrap();
    assert_eq!(imported.kind, Kind::Oci);
    check_two_layers(&bench);
}

#[test]
fn a_docker_archive_may_name_a_repeated_layer_by_a_link() {
    let bench = Bench::new();
    let layer = Layer::new().file("once", "x").bytes();
    let image = Image::new(vec![layer.clone(), layer.clone()]);
    let config = image.config();
    let manifest = json!([{
        "Config": format!("{}.json", &digest(&config)[7..]),
        "RepoTags": null,
        "Layers": ["a/layer.tar", "b/layer.tar"],
    }]);
    let archive = Layer::new()
        .file("manifest.json", &manifest.to_string())
        .entry(tar::EntryType::Regular, "a/layer.tar", "", &layer, 0o644)
        .symlink("b/layer.tar", "../a/layer.tar")
        .pax(&[("path", format!("{}.json", &digest(&config)[7..]).as_bytes())])
        .entry(tar::EntryType::Regular, "config", "", &config, 0o644)
        .bytes();
    bench.import("app", &archive).unwrap();
    assert_eq!(bench.files("app"), files([("once", "0644 x")]));
}

#[test]
fn a_plain_folder_is_copied_and_named_by_its_contents() {
    let bench = Bench::new();
    let source = bench.path("rootfs");
    std::fs::create_dir_all(source.join("bin")).unwrap();
    std::fs::write(source.join("bin/sh"), "#!").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4711);
    std::fs::set_permissions(source.join("bin/sh"), mode).unwrap();
    std::fs::write(source.join(".wh.name"), "an ordinary name here").unwrap();
    std::os::unix::fs::symlink("/bin/sh", source.join("sh")).unwrap();

    let first = bench.store.import("plain", &source).unwrap();
    assert_eq!(first.kind, Kind::Folder);
    let expected = files([
        (".wh.name", "0644 an ordinary name here"),
        ("bin/", "0755"),
        ("bin/sh", "0755 #!"),
        ("sh", "-> /bin/sh"),
    ]);
    assert_eq!(bench.files("plain"), expected);
    assert_eq!(bench.store.resolve("plain").unwrap().cmd, [""; 0]);

    let again = bench.store.import("plain:2", &source).unwrap();
    assert!(again.already_unpacked);
    assert_eq!(again.digest, first.digest);

    std::fs::write(source.join("bin/sh"), "#?").unwrap();
    let changed = bench.store.import("plain", &source).unwrap();
    assert_ne!(changed.digest, first.digest);
    assert_eq!(changed.replaced, Some(first.digest));
}

#[test]
fn a_file_keeps_whether_it_runs_and_when_it_changed_and_loses_all_other_bits() {
    let bench = Bench::new();
    let layer = Layer::new()
        .program("setuid", 0o6755)
        .program("private", 0o700)
        .program("nobody", 0)
        .bytes();
    bench
        .import("app", &Image::new(vec![layer]).oci().tar())
        .unwrap();
    let found = bench.files("app");
    let modes = ["setuid", "private", "nobody"].map(|name| &found[name][..4]);
    assert_eq!(modes, ["0755", "0755", "0644"]);
    let about = bench.root("app").join("setuid").metadata().unwrap();
    let modified = about.modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 1_700_000_000);
}

#[test]
fn whiteouts_hide_what_is_below_and_never_what_their_own_layer_brings() {
    let bench = Bench::new();
    let lower = Layer::new()
        .file("opaque/old", "lower")
        .file("opaque/deep/old", "lower")
        .file("gone/file", "lower")
        .file("swapped/file", "lower")
        .symlink("link", "opaque")
        .bytes();
    let upper = Layer::new()
        .file("opaque/deep/new", "upper")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/later", "upper")
        .file(".wh.gone", "")
        .file(".wh.link", "")
        .file("swapped/new", "upper")
        .file(".wh.swapped", "")
        .file(".wh..wh.plnk", "")
        .file(".wh.never-there", "")
        .file("nowhere/.wh.at-all", "")
        .bytes();
    bench
        .import("app", &Image::new(vec![lower, upper]).oci().tar())
        .unwrap();
    assert_eq!(
        bench.files("app"),
        files([
            ("opaque/", "0755"),
            ("opaque/deep/", "0755"),
            ("opaque/deep/new", "0644 upper"),
            ("opaque/later", "0644 upper"),
            ("swapped/", "0755"),
            ("swapped/new", "0644 upper"),
        ])
    );
}

#[test]
fn a_layer_may_put_one_kind_of_thing_in_place_of_another() {
    let bench = Bench::new();
    let lower = Layer::new()
        .file("a/inner", "lower")
        .file("b", "lower")
        .symlink("c", "/a")
        .hard_link("d", "b")
        .bytes();
    let upper = Layer::new()
        .file("a", "upper")
        .folder("b")
        .file("b/inner", "upper")
        .folder("c")
        .file("c/inner", "upper")
        .bytes();
    bench
        .import("app", &Image::new(vec![lower, upper]).oci().tar())
        .unwrap();
    assert_eq!(
        bench.files("app"),
        files([
            ("a", "0644 upper"),
            ("b/", "0755"),
            ("b/inner", "0644 upper"),
            ("c/", "0755"),
            ("c/inner", "0644 upper"),
            ("d", "0644 lower"),
        ])
    );
}

#[test]
fn long_names_and_extended_attributes_in_front_of_an_entry_are_read() {
    let bench = Bench::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let capability: &[u8] = b"\x01\x00\x00\x02\n\n=\x00";
    let layer = Layer::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("SCHILY.xattr.security.capability", capability),
        ])
        .file("short", "pax")
        .entry(
            tar::EntryType::GNULongName,
            "././@LongLink",
            "",
            format!("gnu-{}\0", "n".repeat(150)).as_bytes(),
            0,
        )
        .file("short", "gnu")
        .bytes();
    bench
        .import("app", &Image::new(vec![layer]).oci().tar())
        .unwrap();
    let found = bench.files("app");
    assert_eq!(found[&long], "0644 pax");
    assert_eq!(found[&format!("gnu-{}", "n".repeat(150))], "0644 gnu");
    assert!(!found.contains_key("short"));
}

#[test]
fn what_is_below_dev_is_left_out() {
    let bench = Bench::new();
    let layer = Layer::new()
        .folder("dev/")
        .entry(tar::EntryType::Char, "dev/console", "", b"", 0o600)
        .entry(tar::EntryType::Fifo, "dev/initctl", "", b"", 0o600)
        .file("dev/file", "x")
        .bytes();
    bench
        .import("app", &Image::new(vec![layer]).oci().tar())
        .unwrap();
    assert_eq!(bench.files("app"), files([]));
    assert_eq!(names(&bench.root("app").join("dev")), [""; 0]);
}

#[test]
fn of_several_images_the_one_for_this_host_and_of_this_name_is_taken() {
    let bench = Bench::new();
    let image = |text: &str| Image::new(vec![Layer::new().file("which", text).bytes()]);
    let mut parts = Parts::layout();
    let mut foreign = parts.add_image(&image("foreign").platform("linux", "z80"));
    foreign["platform"] = json!({"os": "linux", "architecture": "z80"});
    let mut ours = parts.add_image(&image("ours"));
    ours["platform"] = json!({"os": "linux", "architecture": architecture()});
    let mut attestation = parts.add_image(&image("attestation").platform("unknown", "unknown"));
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let inner = json!({"schemaVersion": 2, "manifests": [foreign, ours, attestation]});
    let kind = "application/vnd.oci.image.index.v1+json";
    let mut inner = parts.add_blob(kind, &serde_json::to_vec(&inner).unwrap());
    inner["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:v1"});
    let mut other = parts.add_image(&image("other"));
    other["annotations"] = json!({"org.opencontainers.image.ref.name": "other:v1"});
    parts.set_index(vec![inner, other]);
    let archive = parts.tar();

    bench.import("app:v1", &archive).unwrap();
    assert_eq!(bench.files("app:v1"), files([("which", "0644 ours")]));
    bench.import("other:v1", &archive).unwrap();
    assert_eq!(bench.files("other:v1"), files([("which", "0644 other")]));
    let fault = bench.import("third", &archive);
    let Err(Error::Ambiguous { names }) = fault else {
        panic!("{fault:?}");
    };
    assert_eq!(names, ["docker.io/library/app:v1", "other:v1"]);
}

#[test]
fn the_host_is_always_there_and_cannot_be_imported_over() {
    let bench = Bench::new();
    for name in ["host", "host:latest"] {
        let host = bench.store.resolve(name).unwrap();
        assert_eq!(host.rootfs, None);
        let fault = bench.store.import(name, &bench.path("state"));
        assert!(matches!(fault, Err(Error::Name { .. })), "{fault:?}");
    }
    let fault = bench.store.resolve(&format!("host@{}", digest(b"")));
    assert!(matches!(fault, Err(Error::OtherDigest { .. })), "{fault:?}");
}

#[test]
fn a_digest_in_a_reference_may_be_the_configurations_or_the_manifests_and_must_match() {
    let bench = Bench::new();
    let image = two_layers();
    let mut parts = Parts::layout();
    let manifest = parts.add_image(&image);
    let manifest_digest = manifest["digest"].as_str().unwrap().to_owned();
    parts.set_index(vec![manifest]);
    let imported = bench.import("app:v1", &parts.tar()).unwrap();
    for digest in [&imported.digest, &manifest_digest] {
        let found = bench.store.resolve(&format!("app:v1@{digest}")).unwrap();
        assert_eq!(found.digest, imported.digest);
    }
    let fault = bench.store.resolve(&format!("app:v1@{}", digest(b"other")));
    assert!(matches!(fault, Err(Error::OtherDigest { .. })), "{fault:?}");
    let fault = bench.store.resolve("app");
    assert!(matches!(fault, Err(Error::Unknown { .. })), "{fault:?}");
}

#[test]
fn a_zstd_layer_may_begin_with_a_frame_of_notes() {
    for (first, around_all) in [(0x50, false), (0x5f, false), (0x53, true)] {
        let bench = Bench::new();
        let mut note = vec![first, 0x2a, 0x4d, 0x18, 5, 0, 0, 0];
        note.extend(b"notes");
        let noted = |bytes: &[u8]| [note.clone(), Packed::Zstd.pack(bytes)].concat();
        let layer = Layer::new().file("a", "x").bytes();
        let archive = if around_all {
            noted(&Image::new(vec![layer]).oci().tar())
        } else {
            let image = Image::new(vec![layer.clone()]);
            let mut parts = Parts::layout();
            let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
            let layer = parts.add_blob(kind, &noted(&layer));
            let config = image.config();
            let config = parts.add_blob("application/vnd.oci.image.config.v1+json", &config);
            let manifest = json!({"config": config, "layers": [layer]}).to_string();
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let manifest = parts.add_blob(kind, manifest.as_bytes());
            parts.set_index(vec![manifest]);
            parts.tar()
        };
        bench.import("app", &archive).unwrap();
        assert_eq!(bench.files("app"), files([("a", "0644 x")]));
    }
}

#[test]
fn what_is_packed_with_xz_or_bzip2_is_named_in_the_refusal() {
    for (first, name) in [
        (&b"\xfd7zXZ\0\0\x04rest of it"[..], "xz"),
        (b"BZh91AY&SYrest of it", "bzip2"),
    ] {
        let bench = Bench::new();
        let told = bench.import("bad", first).unwrap_err().to_string();
        assert!(told.contains(&format!("packed with {name}: ")), "{told}");
        let image = Image::new(vec![Layer::new().file("a", "x").bytes()]);
        let mut docker = image.docker(&["bad:latest"]);
        docker.0[0].1 = first.to_vec();
        let told = bench.import("bad", &docker.tar()).unwrap_err().to_string();
        assert!(
            told.contains(&format!(
                "layer 1 in the image source: it is packed with {name}"
            )),
            "{told}"
        );
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(first).unwrap();
        drop(writer);
        let told = bench
            .store
            .import_archive("bad", reader)
            .unwrap_err()
            .to_string();
        assert!(told.contains(&format!("packed with {name}: ")), "{told}");
    }
}

/// As archives have it whose image has one layer twice.
#[test]
fn an_archive_may_have_the_same_part_again() {
    let bench = Bench::new();
    let layer = Layer::new().file("once", "x").bytes();
    let image = Image::new(vec![layer.clone(), layer]);
    for parts in [image.oci(), image.docker(&["app:latest"])] {
        let mut parts = parts;
        let again = parts.0.clone();
        parts.0.extend(again);
        bench.import("app", &parts.tar()).unwrap();
        assert_eq!(bench.files("app"), files([("once", "0644 x")]));
    }
    // A root entry, and members that begin with a slash, in the archive around it.
    let mut archive = Layer::new().folder("./").folder("/");
    for (name, bytes) in &image.oci().0 {
        let path = format!("/{name}");
        archive = archive.entry(tar::EntryType::Regular, &path, "", bytes, 0o644);
    }
    bench.import("slashed", &archive.bytes()).unwrap();
    assert_eq!(bench.files("slashed"), files([("once", "0644 x")]));
}

#[test]
fn a_folder_with_a_pipe_is_copied() {
    use rustix::fs::{CWD, FileType, Mode};
    let bench = Bench::new();
    let source = bench.path("rootfs");
    std::fs::create_dir_all(source.join("etc")).unwrap();
    let path = source.join("etc/pipe");
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    bench.store.import("app", &source).unwrap();
    let about = bench
        .root("app")
        .join("etc/pipe")
        .symlink_metadata()
        .unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&about.file_type()));
    assert!(bench.store.remove("app").unwrap().deleted);
}

#[test]
fn the_command_imports_from_standard_input_as_its_help_says() {
    let bench = Bench::new();
    let zeros = "\0".repeat(1 << 20);
    let layer = Layer::new().file("a", "x").file("zeros", &zeros).bytes();
    let archive = bench.path("archive");
    let image = Image::new(vec![layer]).packed(Packed::Gzip);
    std::fs::write(&archive, Packed::Zstd.pack(&image.oci().tar())).unwrap();
    let run = |ratio: &str| {
        let mut command = cofferdam(["images", "import", "app", "-"]);
        command.env("COFFERDAM_STATE_DIR", bench.state());
        command.env("COFFERDAM_IMAGE_MAX_RATIO", ratio);
        command.stdin(std::fs::File::open(&archive).unwrap());
        ended(command)
    };
    let told = run("200").done();
    assert!(told.starts_with("imported app:latest"), "{told}");
    let file = std::fs::read_to_string(bench.root("app").join("a")).unwrap();
    assert_eq!(file, "x");
    let refused = run("0");
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    let told = "COFFERDAM_IMAGE_MAX_RATIO";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
}

#[test]
fn the_ratio_is_a_setting_and_its_refusal_names_it() {
    let zeros = vec![0; 80 << 20];
    let layer = Layer::new().entry(tar::EntryType::Regular, "zeros", "", &zeros, 0o644);
    let image = Image::new(vec![layer.bytes()]).packed(Packed::Zstd);
    let bench = Bench::new();
    let archive = bench.path("archive");
    std::fs::write(&archive, image.oci().tar()).unwrap();
    let run = |ratio: &str| {
        let mut command = cofferdam(["images", "import", "app"]);
        command
            .arg(&archive)
            .env("COFFERDAM_STATE_DIR", bench.state());
        command.env("COFFERDAM_IMAGE_MAX_RATIO", ratio);
        ended(command)
    };
    let refused = run("200");
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    let told = "COFFERDAM_IMAGE_MAX_RATIO";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    run("1000000").done();
}
