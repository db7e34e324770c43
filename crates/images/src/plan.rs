//! What an image consists of, read from its documents before anything is unpacked.

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Excess};
use crate::limits::Limits;

/// An image as its documents describe it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Digest of the configuration: what the unpacked image is kept under.
    pub(crate) config: Digest,
    /// Digest of the manifest, where the source has one.
    pub(crate) manifest: Option<Digest>,
    pub(crate) settings: RunConfig,
    /// From the lowest to the highest.
    pub(crate) layers: Vec<Layer>,
}

/// One layer of a [`Plan`].
#[derive(Debug)]
pub(crate) struct Layer {
    /// The part of the source that it is read from.
    pub(crate) name: String,
    /// Digest of it as stored, where the source tells it.
    pub(crate) stored: Option<Digest>,
    /// Digest of it decompressed.
    pub(crate) diff_id: Digest,
}

/// What an image says about how its program is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct RunConfig {
    #[serde(default)]
    pub(crate) entrypoint: Vec<String>,
    #[serde(default)]
    pub(crate) cmd: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) workdir: Option<String>,
    #[serde(default)]
    pub(crate) user: Option<String>,
}

/// The configuration document, in the spelling that OCI and Docker share.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: Run,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    user: String,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Plan {
    /// Joins the configuration with the layers' places, lowest first.
    pub(crate) fn new(
        config: &[u8],
        manifest: Option<Digest>,
        places: Vec<(String, Option<Digest>)>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let what = "the image configuration";
        let document: Config = parse(what, config)?;
        check_platform(&document.os, &document.architecture)?;
        let diff_ids = document.rootfs.diff_ids;
        if diff_ids.len() != places.len() {
            let (has, wants) = (places.len(), diff_ids.len());
            let why = format!("it lists {wants} layers and the manifest {has}");
            return Err(Error::malformed(what, why));
        }
        if diff_ids.len() as u64 > limits.layers {
            let (what, max) = (Excess::Layers, limits.layers);
            return Err(Error::Limit { what, max });
        }
        let layers = places
            .into_iter()
            .zip(diff_ids)
            .map(|((name, stored), diff_id)| Layer {
                name,
                stored,
                diff_id,
            });
        Ok(Self {
            config: Digest::of(config),
            manifest,
            settings: document.config.into(),
            layers: layers.collect(),
        })
    }
}

impl From<Run> for RunConfig {
    fn from(run: Run) -> Self {
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text, String::new()),
        };
        let filled = |text: String| (!text.is_empty()).then_some(text);
        Self {
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            env: run.env.into_iter().map(pair).collect(),
            workdir: filled(run.working_dir),
            user: filled(run.user),
        }
    }
}

/// Reads a JSON document; a fault names it.
pub(crate) fn parse<T: DeserializeOwned>(what: impl Display, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|fault| Error::malformed(what.to_string(), fault))
}

/// An error unless an image for this system and architecture runs here.
fn check_platform(os: &str, architecture: &str) -> Result<(), Error> {
    if is_ours(os, architecture) {
        return Ok(());
    }
    Err(Error::Platform {
        found: format!("{os}/{architecture}"),
        wanted: format!("linux/{}", host_architecture()),
    })
}

/// Whether an image for this system and architecture runs here.
pub(crate) fn is_ours(os: &str, architecture: &str) -> bool {
    os == "linux" && architecture == host_architecture()
}

/// This host's architecture, as images name it.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Both documents write an absent list or text as `null` at times.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
