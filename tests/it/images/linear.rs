//! Small archives that once took a long time: the work grows as they do, and not as its square.

use std::time::Duration;

use cofferdam_images::{Error, Refusal};
use serde_json::json;
use tokio::time::Instant;

use super::Bench;
use super::build::{Image, Layer, Packed, Parts};
use super::files;

fn time_of(layer: Layer) -> Duration {
    let archive = Image::new(vec![layer.bytes()])
        .packed(Packed::Gzip)
        .oci()
        .tar();
    let bench = Bench::new();
    let began = Instant::now();
    bench.import("app", &archive).unwrap();
    began.elapsed()
}

/// Four times the entries take about four times the time; sixteen times, if it grew as the square.
/// Others use this computer too, so the best of three counts.
#[track_caller]
fn check_linear(layer: impl Fn(usize) -> Layer) {
    let ratios = (0..3).map(|_| {
        let short = time_of(layer(500));
        time_of(layer(2000)).as_secs_f64() / short.as_secs_f64()
    });
    let best = ratios.fold(f64::INFINITY, f64::min);
    assert!(best < 9.0, "{best} times the time");
}

fn with_files(count: usize) -> Layer {
    (0..count).fold(Layer::new(), |layer, at| layer.file(&format!("a/{at}"), ""))
}

/// 4,000 files and as many marks, 40 KiB in all, took 38 s.
#[test]
fn a_folder_is_made_opaque_once_however_often_it_is_said() {
    check_linear(|count| {
        (0..count).fold(with_files(count), |layer, _| {
            layer.file("a/.wh..wh..opq", "")
        })
    });
}

#[test]
fn a_folder_that_the_layer_brings_is_hidden_below_once_however_often_it_is_said() {
    check_linear(|count| (0..count).fold(with_files(count), |layer, _| layer.file(".wh.a", "")));
}

#[test]
fn whiteouts_that_come_again_leave_what_their_layer_brings() {
    let bench = Bench::new();
    let lower = Layer::new()
        .file("a/old", "lower")
        .file("a/b/old", "lower")
        .file("a/b/c/old", "lower");
    let upper = Layer::new()
        .file("a/b/c/new", "upper")
        .file("a/b/c/.wh..wh..opq", "")
        .file("a/b/new", "upper")
        .file("a/.wh..wh..opq", "")
        .file("a/b/.wh..wh..opq", "")
        .file("a/later", "upper")
        .file("a/.wh.b", "")
        .file("a/.wh..wh..opq", "")
        .file(".wh.a", "");
    let image = Image::new(vec![lower.bytes(), upper.bytes()]);
    bench.import("app", &image.oci().tar()).unwrap();
    assert_eq!(
        bench.files("app"),
        files([
            ("a/", "0755"),
            ("a/b/", "0755"),
            ("a/b/c/", "0755"),
            ("a/b/c/new", "0644 upper"),
            ("a/b/new", "0644 upper"),
            ("a/later", "0644 upper"),
        ])
    );
}

/// The link's target alone has two thousand names, and forty such links may be followed.
#[test]
fn a_path_through_links_with_thousands_of_names_is_refused() {
    let long = "d/../".repeat(600);
    let layer = Layer::new()
        .folder("d")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("link", "d")
        .file("link/canary", "x");
    let bench = Bench::new();
    let archive = Image::new(vec![layer.bytes()]).oci().tar();
    let fault = bench.import("bad", &archive).unwrap_err();
    assert!(
        matches!(
            &fault,
            Error::Refused {
                why: Refusal::ThroughLink,
                ..
            }
        ),
        "{fault:?}"
    );
}

/// Each index lists the next a hundred times: a million readings of the last.
#[test]
fn indexes_that_list_one_another_many_times_are_read_once_each() {
    let bench = Bench::new();
    let mut parts = Parts::layout();
    let image = Image::new(vec![Layer::new().file("file", "x").bytes()]);
    let mut listed = parts.add_image(&image);
    for _ in 0..3 {
        let index = json!({"schemaVersion": 2, "manifests": vec![listed; 100]});
        let bytes = serde_json::to_vec(&index).unwrap();
        listed = parts.add_blob("application/vnd.oci.image.index.v1+json", &bytes);
    }
    parts.set_index(vec![listed; 100]);
    let imported = bench.import("app", &parts.tar()).unwrap();
    assert_eq!(imported.entries, 1);
}
