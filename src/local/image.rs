//! What a machine starts from, resolved, and how the API shows it.

use std::sync::{Arc, LazyLock};

use cofferdam_images::{self as images, Store};
use tracing::warn;

use crate::local::refusal::Refusal;
use crate::machines::wire::ImageRef;
use crate::run::digest::sha256;
use cofferdam_sandbox::Root;

/// An image that was found.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its root file system.
    pub(crate) root: Root,
    /// Its digest.
    pub(crate) digest: Option<String>,
    /// The program it starts with.
    pub(crate) entrypoint: Vec<String>,
    /// What follows the program.
    pub(crate) cmd: Vec<String>,
    /// Its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory.
    pub(crate) workdir: Option<String>,
    /// Keeps its files from being deleted.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) lease: Option<images::Lease>,
}

impl Default for Image {
    /// The host's own `/usr`, with nothing to start.
    fn default() -> Self {
        Self {
            root: Root::Host,
            digest: Some(HOST_DIGEST.clone()),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            workdir: None,
            lease: None,
        }
    }
}

impl From<images::Resolved> for Image {
    fn from(found: images::Resolved) -> Self {
        Self {
            digest: Some(match found.rootfs {
                None => HOST_DIGEST.clone(),
                Some(_) => found.digest,
            }),
            root: found.rootfs.map_or(Root::Host, Root::Dir),
            entrypoint: found.entrypoint,
            cmd: found.cmd,
            env: found.env,
            workdir: found.workdir,
            lease: found.lease,
        }
    }
}

/// Stands for the host's own `/usr`, of which there is no one document: the digest of what tells
/// its system and version.
static HOST_DIGEST: LazyLock<String> = LazyLock::new(|| {
    let about = std::fs::read("/usr/lib/os-release").unwrap_or_default();
    format!("sha256:{}", sha256(&about))
});

/// Finds an image.
///
/// # Errors
/// 400 in the wording that the real service has for a manifest it cannot get; 500 when the store
/// of images cannot be read.
pub(crate) async fn resolve(store: &Arc<Store>, reference: &str) -> Result<Image, Refusal> {
    let found = if reference == images::HOST {
        store.resolve(reference)
    } else {
        let (store, name) = (Arc::clone(store), reference.to_owned());
        let looking = tokio::task::spawn_blocking(move || store.resolve(&name));
        looking
            .await
            .map_err(|_| Refusal::new(500, "unknown: looking for the image failed"))?
    };
    found.map(Image::from).map_err(|error| match error {
        images::Error::Name { .. }
        | images::Error::Unknown { .. }
        | images::Error::OtherDigest { .. } => Refusal::new(
            400,
            format!("failed to get manifest {reference}: manifest unknown: {error}"),
        ),
        other => {
            warn!(error = %other, image = reference, "an image cannot be read");
            Refusal::new(500, format!("unknown: the image cannot be read: {other}"))
        }
    })
}

/// Takes `registry/repository:tag@sha256:…` apart. A reference without a registry is of this
/// server's own store.
pub(crate) fn image_ref(reference: &str, digest: Option<&str>) -> ImageRef {
    let (rest, in_name) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    let (registry, repository) = match path.split_once('/') {
        Some((host, repository)) if host.contains(['.', ':']) || host == "localhost" => {
            (host, repository)
        }
        _ => ("local", path),
    };
    let tag = tag.or_else(|| in_name.is_none().then_some("latest"));
    ImageRef {
        registry: Some(registry.to_owned()),
        repository: Some(repository.to_owned()),
        tag: tag.map(str::to_owned),
        digest: digest.or(in_name).map(str::to_owned),
        labels: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reference: &str, expected: (&str, &str, Option<&str>, Option<&str>)) {
        let read = image_ref(reference, None);
        let found = (
            read.registry.as_deref().unwrap_or_default(),
            read.repository.as_deref().unwrap_or_default(),
            read.tag.as_deref(),
            read.digest.as_deref(),
        );
        assert_eq!(found, expected, "{reference}");
    }

    #[test]
    fn references_are_taken_apart() {
        check("host", ("local", "host", Some("latest"), None));
        check("team/app:v2", ("local", "team/app", Some("v2"), None));
        check("ghcr.io/a/b:1", ("ghcr.io", "a/b", Some("1"), None));
        check(
            "localhost:5000/a",
            ("localhost:5000", "a", Some("latest"), None),
        );
        check(
            "localhost:5000/a:b",
            ("localhost:5000", "a", Some("b"), None),
        );
        check(
            "reg.io/a@sha256:00",
            ("reg.io", "a", None, Some("sha256:00")),
        );
        check(
            "reg.io/a:b@sha256:00",
            ("reg.io", "a", Some("b"), Some("sha256:00")),
        );
    }
}
