//! Paths inside an image: relative, without `..`, of bounded length and depth.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Refusal};
use crate::limits::Limits;

/// The longest name in one folder, in bytes; Linux file systems allow no more.
const NAME_BYTES: usize = 255;

/// A path below the root of an image, in its one spelling. Empty for the root itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Inside(Vec<u8>);

impl Inside {
    /// The root of the image.
    pub(crate) fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads a path as an archive spells it. `./` and doubled slashes are left out, and one that
    /// begins with `/` begins at the root of the image.
    pub(crate) fn parse(spelled: &[u8], limits: &Limits) -> Result<Self, Error> {
        check(spelled, limits).map_err(|why| {
            let shown = &spelled[..spelled.len().min(NAME_BYTES)];
            Error::refused(shown, why)
        })
    }

    /// The path of something in this folder.
    pub(crate) fn join(&self, name: &[u8], limits: &Limits) -> Result<Self, Error> {
        let mut longer = self.0.clone();
        longer.push(b'/');
        longer.extend_from_slice(name);
        Self::parse(&longer[usize::from(self.is_root())..], limits)
    }

    /// The folder it is in and its name there. None for the root.
    pub(crate) fn split(&self) -> Option<(Self, &OsStr)> {
        if self.is_root() {
            return None;
        }
        let (folder, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[][..], &self.0[..]),
        };
        Some((Self(folder.to_vec()), OsStr::from_bytes(name)))
    }

    /// Whether this is the root of the image.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is below `folder`, a single name.
    pub(crate) fn is_below(&self, folder: &str) -> bool {
        self.0
            .strip_prefix(folder.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// The path as bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the system takes it; the root is `.`.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(if self.is_root() { b"." } else { &self.0 })
    }

    /// Each folder on the way, from the outermost to the path itself.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Self> + '_ {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes
            .map(|(at, _)| at)
            .chain((!self.is_root()).then_some(self.0.len()))
            .map(|end| Self(self.0[..end].to_vec()))
    }
}

fn check(spelled: &[u8], limits: &Limits) -> Result<Inside, Refusal> {
    if spelled.len() > limits.path_bytes {
        return Err(Refusal::Overlong);
    }
    if spelled.is_empty() || spelled.contains(&0) {
        return Err(Refusal::BadName);
    }
    let mut parts = Vec::new();
    for part in spelled.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Refusal::Climbs),
            _ if part.len() > NAME_BYTES => return Err(Refusal::Overlong),
            _ => parts.push(part),
        }
    }
    if parts.len() > limits.depth {
        return Err(Refusal::TooDeep);
    }
    Ok(Inside(parts.join(&b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(spelled: &[u8]) -> Result<Inside, Error> {
        Inside::parse(spelled, &Limits::default())
    }

    #[test]
    fn every_spelling_of_a_path_is_read_as_the_same_one() {
        for spelled in [
            "usr/bin/env",
            "./usr/bin/env",
            "usr//bin/./env/",
            "/usr/bin/env",
            "///usr/bin/env",
        ] {
            assert_eq!(
                parse(spelled.as_bytes()).unwrap().as_bytes(),
                b"usr/bin/env"
            );
        }
        for spelled in ["./", ".", "/", "//./"] {
            assert!(parse(spelled.as_bytes()).unwrap().is_root());
        }
    }

    #[test]
    fn a_path_that_leads_out_is_refused_by_name() {
        let deep = b"d/".repeat(101);
        let long = b"n".repeat(256);
        for (spelled, expected) in [
            (&b".."[..], Refusal::Climbs),
            (b"/..", Refusal::Climbs),
            (b"a/../../b", Refusal::Climbs),
            (b"a/..", Refusal::Climbs),
            (b"", Refusal::BadName),
            (b"a\0b", Refusal::BadName),
            (&deep, Refusal::TooDeep),
            (&long, Refusal::Overlong),
        ] {
            match parse(spelled) {
                Err(Error::Refused { why, .. }) => assert_eq!(why, expected),
                other => panic!("{spelled:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn steps_go_from_the_outermost_folder_to_the_path() {
        let steps: Vec<_> = parse(b"a/b/c").unwrap().steps().collect();
        let texts: Vec<_> = steps.iter().map(Inside::as_bytes).collect();
        assert_eq!(texts, [&b"a"[..], b"a/b", b"a/b/c"]);
        assert_eq!(Inside::root().steps().count(), 0);
    }

    #[test]
    fn below_a_folder_is_not_beside_it() {
        assert!(parse(b"dev/null").unwrap().is_below("dev"));
        assert!(!parse(b"dev").unwrap().is_below("dev"));
        assert!(!parse(b"device/x").unwrap().is_below("dev"));
    }
}
