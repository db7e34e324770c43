//! Files that a guest makes and puts: their names, and what is known of one that is kept.
//!
//! A name is never part of a path or a key where an artifact is kept, which its [`PutId`] is. It is
//! bounded all the same, since whoever fetches artifacts makes files of these names.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::run::id::{InvalidId, Nonce, RunId};

/// Why a text is no artifact's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Empty, or too long.
    #[error("an artifact's name has 1 to {} bytes", ArtifactName::MAX)]
    Length,
    /// A part of it is too long for a file's name.
    #[error(
        "a part of an artifact's name has at most {} bytes",
        ArtifactName::PART_MAX
    )]
    Part,
    /// It does not stay below the run's own folder.
    #[error(
        "an artifact's name is a path below the run's own: no slash at its ends, no empty part, no . or .."
    )]
    Path,
    /// Characters that no name should have.
    #[error("an artifact's name has no control characters and no backslash")]
    Characters,
}

/// The name of an artifact: a path with slashes, below the run's own folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArtifactName(String);

impl ArtifactName {
    /// Longest name, in bytes.
    pub const MAX: usize = 512;
    /// Longest part between two slashes, in bytes.
    pub const PART_MAX: usize = 200;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ArtifactName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() || text.len() > Self::MAX {
            return Err(InvalidName::Length);
        }
        if text.contains(|c: char| c.is_control() || is_bidirectional(c) || c == '\\') {
            return Err(InvalidName::Characters);
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(InvalidName::Path);
        }
        if text.split('/').any(|part| part.len() > Self::PART_MAX) {
            return Err(InvalidName::Part);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Characters that change the order in which a name is shown, so that it seems to be another.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ArtifactName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The id of one put, under which its bytes are kept: 26 letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PutId(String);

impl PutId {
    const LENGTH: usize = 26;

    /// The one of these bits, which its caller sees to be unique.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self(ulid::Ulid(bits).to_string().to_ascii_lowercase())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PutId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if text.len() == Self::LENGTH && text.bytes().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidId::new(Self::LENGTH, "a-z and 0-9"))
    }
}

impl fmt::Display for PutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where one artifact's bytes are, below the folder or prefix of all: installation, run, request, put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactKey {
    /// Whose it is.
    pub run: RunId,
    /// Of which request.
    pub nonce: Nonce,
    /// By which put.
    pub put: PutId,
}

impl fmt::Display for ArtifactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", run_prefix(&self.run, &self.nonce), self.put)
    }
}

/// Where the artifacts of one request are.
#[must_use]
pub fn run_prefix(run: &RunId, nonce: &Nonce) -> String {
    format!("{}/{run}/{}", nonce.installation(), nonce.rest())
}

/// What is known of an artifact that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// What its guest called it.
    pub name: ArtifactName,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// What kind of data it is, as its guest said or as its name tells.
    pub media_type: String,
    /// The put that brought it.
    pub put: PutId,
}

impl Artifact {
    /// All but its name, as Redis has it.
    #[must_use]
    pub fn record(&self) -> String {
        let Self {
            bytes,
            sha256,
            media_type,
            put,
            ..
        } = self;
        format!("{put} {bytes} {sha256} {media_type}")
    }

    /// What [`record`](Self::record) made.
    #[must_use]
    pub fn of_record(name: &str, record: &str) -> Option<Self> {
        let mut words = record.splitn(4, ' ');
        Some(Self {
            name: name.parse().ok()?,
            put: words.next()?.parse().ok()?,
            bytes: words.next()?.parse().ok()?,
            sha256: words.next()?.to_owned(),
            media_type: words.next()?.to_owned(),
        })
    }
}

/// What is said where nobody knows more.
const ANY_MEDIA_TYPE: &str = "application/octet-stream";
/// Longest media type that is kept.
const MEDIA_TYPE_MAX: usize = 100;

/// Media types by the ends of names.
const MEDIA_TYPES: &[(&str, &str)] = &[
    ("csv", "text/csv"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("log", "text/plain"),
    ("md", "text/markdown"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain"),
    ("webp", "image/webp"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// The media type of an artifact: what its guest said, if that says anything, else what its name tells.
#[must_use]
pub fn media_type(said: Option<&str>, name: &ArtifactName) -> String {
    let said = said.map(str::trim).unwrap_or_default();
    let is_sound = said.contains('/')
        && said.len() <= MEDIA_TYPE_MAX
        && said.bytes().all(|b| matches!(b, b' '..=b'~'));
    // What curl says of every body that it is not told of.
    let is_form = said == "application/x-www-form-urlencoded";
    if is_sound && !is_form && said != ANY_MEDIA_TYPE {
        return said.to_owned();
    }
    let end = name.as_str().rsplit_once('.').map(|(_, end)| end);
    let end = end.map(str::to_ascii_lowercase);
    let known = MEDIA_TYPES
        .iter()
        .find(|(word, _)| Some(*word) == end.as_deref());
    known.map_or(ANY_MEDIA_TYPE, |(_, media)| media).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_runs_own_folder() {
        let long = "a".repeat(200);
        for sound in [
            "a",
            "out/a b.txt",
            ".hidden",
            "...",
            "a/..b/c",
            "é/日本",
            "%2e%2e",
            "#1",
            &long,
        ] {
            assert!(sound.parse::<ArtifactName>().is_ok(), "{sound:?}");
        }
        let (part, whole) = ("a".repeat(201), format!("{long}/{long}/{long}"));
        for hostile in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/.",
            "a\0b",
            "a\nb",
            "a\\b",
            "..\\a",
            "\u{7f}",
            "a\u{85}",
            "\u{202e}gpj.exe",
            &part,
            &whole,
        ] {
            assert!(hostile.parse::<ArtifactName>().is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_made() {
        let artifact = Artifact {
            name: "out/a b.txt".parse().unwrap(),
            bytes: 17,
            sha256: "ab".repeat(32),
            media_type: "text/plain; charset=utf-8".into(),
            put: PutId::from_bits(17),
        };
        let read = Artifact::of_record("out/a b.txt", &artifact.record());
        assert_eq!(read, Some(artifact));
        assert_eq!(Artifact::of_record("a", "nonsense"), None);
    }

    #[test]
    fn a_media_type_is_what_was_said_or_what_the_name_tells() {
        let name = |text: &str| text.parse().unwrap();
        for (said, of, media) in [
            (None, "a.png", "image/png"),
            (None, "a.PNG", "image/png"),
            (None, "png", ANY_MEDIA_TYPE),
            (
                Some("application/octet-stream"),
                "a.json",
                "application/json",
            ),
            (Some("text/x-own"), "a.json", "text/x-own"),
            (Some("nonsense"), "a", ANY_MEDIA_TYPE),
            (Some("text/\u{1b}[31m"), "a.txt", "text/plain"),
        ] {
            assert_eq!(media_type(said, &name(of)), media, "{said:?} {of}");
        }
    }

    #[test]
    fn a_key_is_made_of_ids_alone() {
        let key = ArtifactKey {
            run: "pr-17".parse().unwrap(),
            nonce: "00112233445566778899aabbccdd0001".parse().unwrap(),
            put: "01arz3ndektsv4rrffq69g5fav".parse().unwrap(),
        };
        assert_eq!(
            key.to_string(),
            "0011223344556677/pr-17/8899aabbccdd0001/01arz3ndektsv4rrffq69g5fav"
        );
        for unsound in [
            "",
            "..",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01arz3ndektsv4rrffq69g5f/v",
        ] {
            assert!(unsound.parse::<PutId>().is_err(), "{unsound}");
        }
    }
}
