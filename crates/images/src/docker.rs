//! Archives of `docker save`, in the form that has no OCI layout in it: `manifest.json` names each
//! image's configuration and layers. Newer ones have both, and are read as OCI layouts.

use serde::Deserialize;

use crate::blob::{Container, check_digest};
use crate::digest::Digest;
use crate::error::Error;
use crate::limits::Limits;
use crate::oci::means;
use crate::plan::{Plan, null_is_default, parse};
use crate::reference::Reference;

/// The file that tells such an archive from any other.
pub(crate) const MARKER: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Reads the documents of the archive's image: the only one, or the one named as `wanted`.
pub(crate) fn plan(
    container: &Container,
    wanted: &Reference,
    limits: &Limits,
) -> Result<Plan, Error> {
    let images: Vec<Image> = parse(MARKER, &container.document(MARKER, limits)?)?;
    let image = choose(&images, wanted)?;
    let config = container.document(&image.config, limits)?;
    if let Some(named) = digest_in(&image.config) {
        check_digest(&image.config, named, Digest::of(&config))?;
    }
    let places = image.layers.iter().map(|name| (name.clone(), None));
    Plan::new(&config, None, places.collect(), limits)
}

fn choose<'a>(images: &'a [Image], wanted: &Reference) -> Result<&'a Image, Error> {
    match images {
        [] => Err(Error::malformed(MARKER, "it lists no image")),
        [only] => Ok(only),
        several => several
            .iter()
            .find(|image| image.repo_tags.iter().any(|name| means(name, wanted)))
            .ok_or_else(|| Error::Ambiguous {
                names: several
                    .iter()
                    .flat_map(|image| image.repo_tags.clone())
                    .collect(),
            }),
    }
}

/// A configuration is named by its digest: `DIGEST.json`, or `blobs/sha256/DIGEST`.
fn digest_in(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    Digest::from_hex(last.strip_suffix(".json").unwrap_or(last))
}
