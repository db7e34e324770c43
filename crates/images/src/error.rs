//! What can be wrong with an image, its name, or its source.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a store of images could not do what it was asked.
///
/// Everything but [`Error::Io`] and [`Error::Busy`] stays as it is however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no image name, or no reference to one.
    #[error("image name {name:?}: {why}")]
    Name {
        /// The text, as it was given.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// No image of this name was imported.
    #[error("no image named {name:?}; `cofferdam images list` shows what there is")]
    Unknown {
        /// The name that was looked for.
        name: String,
    },
    /// The name is known, but refers to another digest than the reference asks for.
    #[error("image {name:?} is {found}, not {wanted}")]
    OtherDigest {
        /// The name without the digest.
        name: String,
        /// The digest in the reference.
        wanted: String,
        /// The digest of the name.
        found: String,
    },
    /// The source cannot be opened.
    #[error("open the image source {}: {source}", path.display())]
    Source {
        /// The source as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The source is there, but is none of the kinds that can be imported.
    #[error("{}: {why}", path.display())]
    Unrecognised {
        /// The source as it was given.
        path: PathBuf,
        /// What was looked for and not found.
        why: &'static str,
    },
    /// The source holds several images and none has the name that is imported.
    #[error("the source holds several images; import it by the name of one: {}", names.join(", "))]
    Ambiguous {
        /// The names the source gives them.
        names: Vec<String>,
    },
    /// The image is made for another kind of machine.
    #[error("the image is for {found}; this host runs {wanted}")]
    Platform {
        /// What the image says it is for.
        found: String,
        /// What this host runs.
        wanted: String,
    },
    /// A document or an archive in the source is not as its format says.
    #[error("{what} in the image source: {why}")]
    Malformed {
        /// The document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes do not have the digest or the length that the image gives them.
    #[error("{what} should be {wanted} and is {found}")]
    Corrupt {
        /// The blob or layer.
        what: String,
        /// What the image says.
        wanted: String,
        /// What it turned out to be.
        found: String,
    },
    /// An entry of a layer, or of a folder, is not let into the store.
    #[error("refused {path:?}: {why}")]
    Refused {
        /// The entry's path, as far as it is text.
        path: String,
        /// The rule that it breaks.
        why: Refusal,
    },
    /// The source is larger than the store's [`Limits`](super::Limits) allow.
    #[error("the image has {what}, more than {max} allowed")]
    Limit {
        /// What there is too much of.
        what: Excess,
        /// The limit.
        max: u64,
    },
    /// Another process kept the store to itself for longer than [`Limits`](super::Limits) wait.
    #[error("another import holds {}; try again when it has ended", lock.display())]
    Busy {
        /// The lock.
        lock: PathBuf,
    },
    /// What the process that unpacks says is wrong with the image, or the bound that it has hit.
    #[error("{0}")]
    Process(String),
    /// The store's own files cannot be read or written.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Wraps what the system said with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// A document that is not as its format says.
    pub(crate) fn malformed(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Malformed {
            what: what.into(),
            why: why.to_string(),
        }
    }

    /// A refused entry.
    pub(crate) fn refused(path: &[u8], why: Refusal) -> Self {
        Self::Refused {
            path: String::from_utf8_lossy(path).into_owned(),
            why,
        }
    }
}

/// The rule that an entry of an image breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The path, or the target of a hard link, has a `..` in it.
    Climbs,
    /// The path, or the target of a hard link, leads through symbolic links without an end.
    ThroughLink,
    /// The path, or the target of a hard link, leads through something that is not a folder.
    ThroughFile,
    /// A hard link to something that is not there, or to a folder.
    BrokenLink,
    /// A symbolic link without a target, or with one that no system would take.
    LinkTarget,
    /// A device, outside `dev`.
    Device,
    /// A socket, outside `dev`.
    Socket,
    /// A path that the same layer has brought already, as something else.
    Duplicate,
    /// A name over 255 bytes, or a path over the limit.
    Overlong,
    /// More folders inside one another than the limit.
    TooDeep,
    /// An empty name, or one with a zero byte.
    BadName,
    /// A sparse file, whose size on disk and in the archive differ.
    Sparse,
    /// A kind of entry that images do not have.
    UnknownKind,
    /// A mount point (`workspace`, `proc`, `dev`, `tmp`) that is not a folder.
    MountPoint,
    /// A folder on which another file system is mounted.
    OtherFileSystem,
    /// A file that changed while it was copied.
    Changed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Climbs => "a path with `..` in it",
            Self::ThroughLink => "the path leads through too many symbolic links",
            Self::ThroughFile => "the path leads through something that is not a folder",
            Self::BrokenLink => "a hard link to something that is no file of the image",
            Self::LinkTarget => "a symbolic link whose target is empty or too long",
            Self::Device => "a device outside dev",
            Self::Socket => "a socket outside dev",
            Self::Duplicate => "the layer has this path twice, and not the same both times",
            Self::Overlong => "the name or path is too long",
            Self::TooDeep => "too many folders inside one another",
            Self::BadName => "an empty name, or one with a zero byte",
            Self::Sparse => "a sparse file",
            Self::UnknownKind => "a kind of entry that images do not have",
            Self::MountPoint => "a mount point that is not a folder",
            Self::OtherFileSystem => "another file system is mounted here",
            Self::Changed => "the file changed while it was copied",
        })
    }
}

/// What an image has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Bytes after unpacking.
    UnpackedBytes,
    /// Bytes in the source.
    SourceBytes,
    /// Files, folders and links.
    Entries,
    /// Layers.
    Layers,
    /// Files in the archive that holds the image.
    Members,
    /// Bytes in one document: a manifest, a configuration, an index.
    DocumentBytes,
    /// Bytes in the headers of one entry: long names, extended attributes.
    HeaderBytes,
    /// Bytes out of the decompressor for each byte into it.
    Ratio,
    /// Names in the store.
    Names,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnpackedBytes => "too many bytes when unpacked",
            Self::SourceBytes => "too many bytes in its source",
            Self::Entries => "too many files, folders and links",
            Self::Layers => "too many layers",
            Self::Members => "too many files in its archive",
            Self::DocumentBytes => "too long a document",
            Self::HeaderBytes => "too long a header",
            Self::Ratio => {
                "a layer that grows too much when decompressed (by COFFERDAM_IMAGE_MAX_RATIO)"
            }
            Self::Names => "too many names beside it",
        })
    }
}
