//! OCI image layouts: `oci-layout`, `index.json`, and everything else by digest under `blobs`.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::blob::{Container, check_digest};
use crate::digest::Digest;
use crate::error::Error;
use crate::limits::Limits;
use crate::plan::{Plan, host_architecture, is_ours, null_is_default, parse};
use crate::reference::Reference;

/// The file that tells an OCI layout from any other folder.
pub(crate) const MARKER: &str = "oci-layout";

/// An index may list other indexes, this many inside one another.
const INDEX_DEPTH: usize = 3;

/// Names longer than this cannot be asked for, and are dropped.
const NAME_BYTES: usize = 1024;

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// A layout that is being read.
struct Layout<'a> {
    container: &'a Container,
    limits: &'a Limits,
    /// Manifests for this host, with their names and those of the indexes around them.
    ours: Vec<(Descriptor, Vec<String>)>,
    /// Platforms of the others.
    others: Vec<String>,
    /// Indexes that were read. Each is read once: ten indexes that each list the next ten times
    /// would otherwise take 10^10 readings.
    indexes: HashSet<Digest>,
}

/// Reads the documents of the layout's image: the only one, or the one named as `wanted`.
pub(crate) fn plan(
    container: &Container,
    wanted: &Reference,
    limits: &Limits,
) -> Result<Plan, Error> {
    let layout: LayoutFile = parse(MARKER, &container.document(MARKER, limits)?)?;
    if !layout.image_layout_version.starts_with("1.") {
        let why = format!("version {:?} is not known", layout.image_layout_version);
        return Err(Error::malformed(MARKER, why));
    }
    let mut layout = Layout {
        container,
        limits,
        ours: Vec::new(),
        others: Vec::new(),
        indexes: HashSet::new(),
    };
    let index: Index = parse("index.json", &container.document("index.json", limits)?)?;
    layout.collect(index, &[], INDEX_DEPTH)?;
    let chosen = layout.choose(wanted)?;
    layout.read(&chosen)
}

impl Layout<'_> {
    fn collect(&mut self, index: Index, names: &[String], depth: usize) -> Result<(), Error> {
        for descriptor in index.manifests {
            let names = [names, &names_of(&descriptor)].concat();
            let media_type = descriptor.media_type.as_str();
            if INDEXES.contains(&media_type) {
                if depth == 0 {
                    return Err(Error::malformed(
                        "index.json",
                        "too many indexes inside one another",
                    ));
                }
                if !self.indexes.insert(descriptor.digest) {
                    continue;
                }
                let bytes = self.blob(&descriptor)?;
                let inner = parse(descriptor.digest, &bytes)?;
                self.collect(inner, &names, depth - 1)?;
            } else if MANIFESTS.contains(&media_type) && !is_attestation(&descriptor) {
                self.sort(descriptor, names);
            }
        }
        Ok(())
    }

    fn sort(&mut self, descriptor: Descriptor, names: Vec<String>) {
        match &descriptor.platform {
            Some(platform) if !is_ours(&platform.os, &platform.architecture) => {
                let text = format!("{}/{}", platform.os, platform.architecture);
                self.others.push(text);
            }
            _ => self.ours.push((descriptor, names)),
        }
    }

    /// The manifest with the wanted name, else the only one.
    fn choose(&self, wanted: &Reference) -> Result<Descriptor, Error> {
        let [(first, _), rest @ ..] = self.ours.as_slice() else {
            if self.others.is_empty() {
                return Err(Error::malformed("index.json", "it lists no image"));
            }
            return Err(Error::Platform {
                found: self.others.join(", "),
                wanted: format!("linux/{}", host_architecture()),
            });
        };
        if rest.iter().all(|(other, _)| other.digest == first.digest) {
            return Ok(first.clone());
        }
        let mut named = self
            .ours
            .iter()
            .filter(|(_, names)| names.iter().any(|name| means(name, wanted)));
        match (named.next(), named.next()) {
            (Some((chosen, _)), None) => Ok(chosen.clone()),
            _ => Err(Error::Ambiguous {
                names: self
                    .ours
                    .iter()
                    .flat_map(|(_, names)| names.clone())
                    .collect(),
            }),
        }
    }

    fn read(&self, chosen: &Descriptor) -> Result<Plan, Error> {
        let manifest: Manifest = parse(chosen.digest, &self.blob(chosen)?)?;
        check_media_type(&manifest.config, &CONFIGS)?;
        let mut places = Vec::new();
        for layer in &manifest.layers {
            check_media_type(layer, &LAYERS)?;
            self.check_size(layer)?;
            places.push((blob_name(&layer.digest), Some(layer.digest)));
        }
        let config = self.blob(&manifest.config)?;
        Plan::new(&config, Some(chosen.digest), places, self.limits)
    }

    /// A document by its digest, checked.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let name = blob_name(&descriptor.digest);
        let bytes = self.container.document(&name, self.limits)?;
        check_digest(&name, descriptor.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    fn check_size(&self, layer: &Descriptor) -> Result<(), Error> {
        let name = blob_name(&layer.digest);
        let length = self.container.open(&name, self.limits)?.length;
        if length == layer.size {
            return Ok(());
        }
        Err(Error::Corrupt {
            what: name,
            wanted: format!("{} bytes", layer.size),
            found: format!("{length} bytes"),
        })
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn check_media_type(descriptor: &Descriptor, known: &[&str]) -> Result<(), Error> {
    if known.contains(&descriptor.media_type.as_str()) {
        return Ok(());
    }
    let why = format!("the kind {:?} cannot be imported", descriptor.media_type);
    Err(Error::malformed(descriptor.digest.to_string(), why))
}

/// What builders add beside an image to tell how it was built.
fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor
        .annotations
        .contains_key("vnd.docker.reference.type")
}

fn names_of(descriptor: &Descriptor) -> Vec<String> {
    [
        "io.containerd.image.name",
        "org.opencontainers.image.ref.name",
    ]
    .iter()
    .filter_map(|key| descriptor.annotations.get(*key))
    .filter(|name| name.len() <= NAME_BYTES)
    .cloned()
    .collect()
}

/// Whether a name in a source means the wanted image. Sources write the whole name, the name with
/// a registry before it, or the tag alone.
pub(crate) fn means(name: &str, wanted: &Reference) -> bool {
    let key = wanted.key();
    name == key || name.ends_with(&format!("/{key}")) || name == wanted.tag()
}
