//! Images made by hand, in every shape that can be imported, good ones and bad ones.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// A layer that is being written.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"", 0o755)
    }

    pub(crate) fn file(self, path: &str, contents: &str) -> Self {
        self.entry(EntryType::Regular, path, "", contents.as_bytes(), 0o640)
    }

    pub(crate) fn program(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Regular, path, "", b"#!/bin/sh\n", mode)
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"", 0o777)
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"", 0o644)
    }

    /// Any entry, its names written as they are: no rule of the tar crate is asked.
    pub(crate) fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        link: &str,
        contents: &[u8],
        mode: u32,
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        let names = header.as_gnu_mut().unwrap();
        names.name[..path.len()].copy_from_slice(path.as_bytes());
        names.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, contents).unwrap();
        self
    }

    /// A pax record for the entry that comes next.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    /// These entries, and then those of another.
    pub(crate) fn then(self, other: Self) -> Self {
        let mut bytes = self.bytes();
        // Two empty blocks end an archive.
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(other.bytes());
        let mut joined = Builder::new(Vec::new());
        joined.get_mut().extend(&bytes[..bytes.len() - 1024]);
        Self(joined)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// How a layer is stored.
#[derive(Clone, Copy)]
pub(crate) enum Packed {
    Not,
    Gzip,
    Zstd,
}

impl Packed {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Not => bytes.to_vec(),
            Self::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Not => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// An image that is to be written in some shape.
pub(crate) struct Image {
    layers: Vec<(Vec<u8>, Packed)>,
    run: Value,
    platform: (String, String),
}

impl Image {
    pub(crate) fn new(layers: Vec<Vec<u8>>) -> Self {
        let layers = layers.into_iter().map(|layer| (layer, Packed::Not));
        Self {
            layers: layers.collect(),
            run: json!({}),
            platform: ("linux".to_owned(), architecture().to_owned()),
        }
    }

    pub(crate) fn packed(mut self, packed: Packed) -> Self {
        for layer in &mut self.layers {
            layer.1 = packed;
        }
        self
    }

    pub(crate) fn run(mut self, run: Value) -> Self {
        self.run = run;
        self
    }

    pub(crate) fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platform = (os.to_owned(), architecture.to_owned());
        self
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<_> = self.layers.iter().map(|(tar, _)| digest(tar)).collect();
        let (os, architecture) = &self.platform;
        serde_json::to_vec(&json!({
            "os": os,
            "architecture": architecture,
            "config": self.run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap()
    }

    /// The files of an OCI layout that holds this image alone.
    pub(crate) fn oci(&self) -> Parts {
        let mut parts = Parts::layout();
        let manifest = parts.add_image(self);
        parts.set_index(vec![manifest]);
        parts
    }

    /// The files of an archive as `docker save` wrote it before it learned OCI.
    pub(crate) fn docker(&self, tags: &[&str]) -> Parts {
        let config = self.config();
        let config_name = format!("{}.json", hex(&config));
        let mut parts = Parts::default();
        let mut names = Vec::new();
        for (at, (tar, packed)) in self.layers.iter().enumerate() {
            let name = format!("{}{at}/layer.tar", hex(tar));
            parts.add(&name, &packed.pack(tar));
            names.push(name);
        }
        parts.add(&config_name, &config);
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        parts.add("manifest.json", &serde_json::to_vec(&manifest).unwrap());
        parts
    }
}

/// Named files that make up a source.
#[derive(Clone, Default)]
pub(crate) struct Parts(pub(crate) Vec<(String, Vec<u8>)>);

impl Parts {
    pub(crate) fn layout() -> Self {
        let mut parts = Self::default();
        parts.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        parts
    }

    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.push((name.to_owned(), bytes.to_vec()));
    }

    /// Adds a blob and gives its descriptor.
    pub(crate) fn add_blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        self.add(&format!("blobs/sha256/{}", hex(bytes)), bytes);
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    }

    /// Adds an image's blobs and gives its manifest's descriptor.
    pub(crate) fn add_image(&mut self, image: &Image) -> Value {
        let mut layers = Vec::new();
        for (tar, packed) in &image.layers {
            let kind = format!("application/vnd.oci.image.layer.v1.tar{}", packed.suffix());
            layers.push(self.add_blob(&kind, &packed.pack(tar)));
        }
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = self.add_blob(kind, &image.config());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let manifest = serde_json::to_vec(&manifest).unwrap();
        self.add_blob("application/vnd.oci.image.manifest.v1+json", &manifest)
    }

    pub(crate) fn set_index(&mut self, manifests: Vec<Value>) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.add("index.json", &serde_json::to_vec(&index).unwrap());
    }

    /// The bytes of the first part whose name begins so.
    pub(crate) fn part(&mut self, name: &str) -> &mut Vec<u8> {
        let found = self.0.iter_mut().find(|(part, _)| part.starts_with(name));
        &mut found.unwrap().1
    }

    /// Writes the files into a new folder.
    pub(crate) fn write_folder(&self, path: &Path) -> PathBuf {
        for (name, bytes) in &self.0 {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        path.to_owned()
    }

    /// The files as one tar archive.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, bytes.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// This host's architecture as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
