//! Image names as people write them: `python`, `acme/tool:2`, `tool@sha256:…`.

use crate::digest::Digest;
use crate::error::Error;

/// The name of the host's own `/usr`. Nothing can be imported under it.
pub const HOST: &str = "host";

/// The tag of a name that has none.
const LATEST: &str = "latest";
/// The longest name without tag and digest, in bytes; registries allow no more.
const NAME_BYTES: usize = 255;
/// The longest tag, in bytes.
const TAG_BYTES: usize = 128;

/// What a request or an import calls an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    name: String,
    tag: String,
    /// The digest that the image must have.
    pub(crate) digest: Option<Digest>,
}

impl Reference {
    /// Reads `NAME[:TAG][@sha256:DIGEST]`; the tag is `latest` when there is none.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fault = |why| Error::Name {
            name: text.chars().take(NAME_BYTES).collect(),
            why,
        };
        let (full, digest) = match text.split_once('@') {
            Some((full, digest)) => {
                let digest = Digest::parse(digest)
                    .ok_or_else(|| fault("after `@` comes `sha256:` and 64 hexadecimal digits"))?;
                (full, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = split_tag(full);
        if name.is_empty() {
            return Err(fault("it is empty"));
        }
        if name.len() > NAME_BYTES {
            return Err(fault("it is longer than 255 bytes"));
        }
        if !name.split('/').all(is_part) {
            return Err(fault(
                "it is made of letters, digits and `. _ - / :`, each part beginning with a letter or digit",
            ));
        }
        if !is_tag(tag) {
            return Err(fault(
                "a tag is 1 to 128 letters, digits and `. _ -`, not beginning with `.` or `-`",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            tag: tag.to_owned(),
            digest,
        })
    }

    /// Whether this is the host's own `/usr`.
    pub(crate) fn is_host(&self) -> bool {
        self.name == HOST
    }

    /// Name and tag, without the digest: what the store keeps it under.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    /// The tag alone.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }
}

/// A colon before the last slash belongs to a registry's port.
fn split_tag(full: &str) -> (&str, &str) {
    let last_part = full.rfind('/').map_or(0, |slash| slash + 1);
    match full[last_part..].rfind(':') {
        Some(colon) => (&full[..last_part + colon], &full[last_part + colon + 1..]),
        None => (full, LATEST),
    }
}

fn is_part(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric())
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'))
}

fn is_tag(tag: &str) -> bool {
    (1..=TAG_BYTES).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, key: &str) {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(reference.key(), key, "{text}");
    }

    #[test]
    fn a_tag_is_what_follows_the_last_colon_of_the_last_part() {
        check("python", "python:latest");
        check("python:3.13-slim", "python:3.13-slim");
        check("acme/tool", "acme/tool:latest");
        check(
            "localhost:5000/acme/tool",
            "localhost:5000/acme/tool:latest",
        );
        check("localhost:5000/acme/tool:v2", "localhost:5000/acme/tool:v2");
    }

    #[test]
    fn a_digest_is_kept_beside_name_and_tag() {
        let digest = Digest::of(b"x");
        let reference = Reference::parse(&format!("acme/tool:v2@{digest}")).unwrap();
        assert_eq!(reference.digest, Some(digest));
        assert_eq!(reference.key(), "acme/tool:v2");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ":tag",
            "@sha256:00",
            "/absolute",
            "../up",
            "a//b",
            "a b",
            "a\0b",
            "a:",
            "a:-x",
            "a@sha512:00",
            "a/",
            &"a".repeat(256),
            &format!("a:{}", "t".repeat(129)),
        ] {
            let fault = Reference::parse(text);
            assert!(matches!(fault, Err(Error::Name { .. })), "{text:?}");
        }
    }
}
