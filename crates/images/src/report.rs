//! What the store tells of its images.

use std::path::PathBuf;

use serde::Serialize;

use crate::roots::{Kind, Lease};

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The name with its tag.
    pub name: String,
    /// `sha256:…` of the image's configuration; of its contents where it was a plain folder.
    pub digest: String,
    /// What it was imported from.
    pub kind: Kind,
    /// Number of layers; 0 for a plain folder.
    pub layers: u64,
    /// Files, folders and links that were unpacked.
    pub entries: u64,
    /// Bytes that were unpacked.
    pub bytes: u64,
    /// It was unpacked before, and only got this name now.
    pub already_unpacked: bool,
    /// The image this name stood for until now, if it was another.
    pub replaced: Option<String>,
}

/// An image in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The name with its tag.
    pub name: String,
    /// As in [`Imported`].
    pub digest: String,
    /// What it was imported from.
    pub kind: Kind,
    /// Number of layers; 0 for a plain folder.
    pub layers: u64,
    /// Files, folders and links that were unpacked.
    pub entries: u64,
    /// Bytes that were unpacked.
    pub bytes: u64,
    /// Some machine uses it now.
    pub in_use: bool,
}

/// A name that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The name with its tag.
    pub name: String,
    /// The image it stood for.
    pub digest: String,
    /// The image's files are gone. They stay while another name or a machine uses them.
    pub deleted: bool,
}

/// An image that a machine can start from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The folder that is the root file system; none for the host's own `/usr`.
    pub rootfs: Option<PathBuf>,
    /// As in [`Imported`]; `host` for the host's own `/usr`.
    pub digest: String,
    /// Program and first arguments; may be empty.
    pub entrypoint: Vec<String>,
    /// Further arguments, for when a request has none of its own; may be empty.
    pub cmd: Vec<String>,
    /// Environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// Working directory, when the image names one.
    pub workdir: Option<String>,
    /// User, when the image names one. Machines have a user of their own, whatever it says.
    pub user: Option<String>,
    /// To be held as long as a machine uses the root; none for the host's own `/usr`.
    pub lease: Option<Lease>,
}
