//! Settings of artifacts: where they are kept, and how much.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::groups;
use crate::config::reader::Reader;
use crate::config::secret::Secret;
use crate::config::table;

/// The variables of the environment that say how a bucket is reached. They have the names that other
/// programs give them too, so they are no settings of ours.
const BUCKET_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_ALLOW_HTTP",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Where artifacts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactPlace {
    /// A folder of this computer, or one that is mounted here.
    Folder(PathBuf),
    /// A bucket of an S3-compatible service.
    Bucket(Bucket),
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What all keys in it begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The variables that say how it is reached, by their names.
    pub variables: Vec<(&'static str, Secret<String>)>,
}

/// How artifacts are kept.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Where; `None` for not at all.
    pub place: Option<ArtifactPlace>,
    /// How much.
    pub bounds: ArtifactBounds,
}

/// How much is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactBounds {
    /// Bytes of one artifact.
    pub max_bytes: u64,
    /// Artifacts of one attempt of a run.
    pub run_max: u64,
    /// Their bytes.
    pub run_bytes: u64,
    /// Bytes of all that are kept; 0 for no limit.
    pub kept_bytes: u64,
    /// The same of one tenant; 0 for no limit.
    pub tenant_kept_bytes: u64,
    /// How long results stay on their stream, and artifacts with them.
    pub kept_for: Duration,
}

impl Artifacts {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let most = 1 << 50;
        Self {
            place: ArtifactPlace::read(reader),
            bounds: ArtifactBounds {
                max_bytes: reader.number(&table::ARTIFACT_MAX_BYTES, 1..=5 << 30),
                run_max: reader.number(&table::RUN_ARTIFACTS, 1..=10_000),
                run_bytes: reader.number(&table::RUN_ARTIFACTS_BYTES, 1..=most),
                kept_bytes: reader.number(&table::ARTIFACTS_BYTES, 0..=most),
                tenant_kept_bytes: reader.number(&table::TENANT_ARTIFACTS_BYTES, 0..=most),
                kept_for: groups::results_retention(reader),
            },
        }
    }
}

impl ArtifactPlace {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut place = reader.read_given(&table::ARTIFACTS, Self::parse)?;
        if let Self::Bucket(bucket) = &mut place {
            let given = BUCKET_VARIABLES.iter().filter_map(|name| {
                let value = reader.system(name)?;
                Some((*name, Secret::new(value)))
            });
            bucket.variables = given.collect();
        }
        Some(place)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not have credentials in it: they come in AWS_… variables".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{text:?} must end with its path"));
        }
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(path) if path.parent().is_some() => Ok(Self::Folder(path)),
                _ => Err(format!(
                    "{text:?} names no folder of this computer, such as file:///var/lib/cofferdam/artifacts"
                )),
            },
            "s3" => {
                let name = url.host_str().unwrap_or_default().to_owned();
                let is_sound = (3..=63).contains(&name.len())
                    && name
                        .bytes()
                        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'));
                let prefix = url.path().trim_matches('/').to_owned();
                let is_plain = |part: &str| {
                    !part.is_empty()
                        && part
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
                };
                if !is_sound {
                    return Err(format!(
                        "{text:?} names no bucket, such as s3://bucket/prefix"
                    ));
                }
                if !prefix.is_empty() && !prefix.split('/').all(is_plain) {
                    return Err(format!(
                        "{text:?}: a prefix is made of A-Z a-z 0-9 _ - . and slashes"
                    ));
                }
                Ok(Self::Bucket(Bucket {
                    name,
                    prefix,
                    variables: Vec::new(),
                }))
            }
            other => Err(format!(
                "begins with {other}:, which is neither file: nor s3:"
            )),
        }
    }
}

impl fmt::Display for ArtifactPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => match Url::from_file_path(path) {
                Ok(url) => url.fmt(f),
                Err(()) => path.display().fmt(f),
            },
            Self::Bucket(Bucket { name, prefix, .. }) => write!(f, "s3://{name}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_folders_and_buckets() {
        for (text, shown) in [
            ("file:///var/lib/artifacts", "file:///var/lib/artifacts"),
            ("file:///with%20space", "file:///with%20space"),
            ("s3://bucket", "s3://bucket/"),
            (
                "s3://my-bucket.x/runs/of/us/",
                "s3://my-bucket.x/runs/of/us",
            ),
        ] {
            assert_eq!(ArtifactPlace::parse(text).unwrap().to_string(), shown);
        }
        for unsound in [
            "",
            "/var/lib",
            "file:///",
            "file://host/a",
            "http://a/b",
            "s3:///a",
            "s3://a",
            "s3://bucket/a//b",
            "s3://bucket/a b",
            "s3://key:secret@bucket/a",
            "s3://bucket/a?x=1",
        ] {
            assert!(ArtifactPlace::parse(unsound).is_err(), "{unsound}");
        }
    }
}
