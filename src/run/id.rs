//! Names of things: they parse on the way in and are never bare strings inside.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::run::digest::sha256;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {max} characters of {allowed}")]
pub struct InvalidId {
    max: usize,
    allowed: &'static str,
}

impl InvalidId {
    pub(super) const fn new(max: usize, allowed: &'static str) -> Self {
        Self { max, allowed }
    }
}

/// The id of a run, `[A-Za-z0-9_-]{1,64}`: the producer's idempotency key, or the request's
/// stream entry id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(String);

impl RunId {
    /// Longest id, in bytes.
    pub const MAX: usize = 64;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = !text.is_empty()
            && text.len() <= Self::MAX
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId {
                max: Self::MAX,
                allowed: "A-Z, a-z, 0-9, _ and -",
            })
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Whose run it is, `[A-Za-z0-9_.:-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(String);

impl Tenant {
    /// Longest name, in bytes.
    pub const MAX: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Tenant {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = !text.is_empty()
            && text.len() <= Self::MAX
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId {
                max: Self::MAX,
                allowed: "A-Z, a-z, 0-9, _, ., : and -",
            })
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many boots of a run have begun. 0 stands in a run that was never booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Unique to a request among those of all installations: 32 hexadecimal digits, of
/// which the first 16 are the installation that it was first claimed in. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(String);

impl Nonce {
    /// Its length, in bytes.
    pub const LENGTH: usize = 32;
    /// Digits of an installation's id.
    const INSTALLATION: usize = 16;

    /// The nonce as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the installation.
    #[must_use]
    pub fn installation(&self) -> &str {
        self.0.get(..Self::INSTALLATION).unwrap_or_default()
    }

    /// What follows the id of the installation.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0.get(Self::INSTALLATION..).unwrap_or_default()
    }
}

impl FromStr for Nonce {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() == Self::LENGTH && text.bytes().all(is_hex_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId {
                max: Self::LENGTH,
                allowed: "0-9 and a-f",
            })
        }
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What every machine of cofferdam is called first.
pub const MACHINE_PREFIX: &str = "sandbox-";

/// Longest machine name that is surely accepted (a DNS label).
const MACHINE_NAME_MAX: usize = 63;

/// Hexadecimal digits of the hash that stands for a run id which cannot stand itself.
const HASH_DIGITS: usize = 32;

/// Hexadecimal digits of the hash of a run's nonce at the end of a name.
const TAG_DIGITS: usize = 12;

/// The name of the machine of one attempt: `sandbox-<run id>-<attempt>-<tag>`, where the tag is of
/// the run's nonce. A run that was claimed by a version without nonces has none, nor a tag.
///
/// The same run, attempt and nonce always give the same name, which is what makes a boot safe to
/// repeat; another installation, or a later request of the same id, gives another one. A run id that cannot stand in a machine name (capitals, `_`, too long) is replaced by
/// `h` and 32 hexadecimal digits of its SHA-256; an id that merely looks like that is hashed too,
/// so that no producer can choose an id that names another run's machine.
#[must_use]
pub fn machine_name(run: &RunId, attempt: Attempt, nonce: Option<&Nonce>) -> String {
    let end = match nonce {
        Some(nonce) => format!("{attempt}-{}", hash(nonce.as_str(), TAG_DIGITS)),
        None => attempt.to_string(),
    };
    let plain = format!("{MACHINE_PREFIX}{run}-{end}");
    let stands = plain.len() <= MACHINE_NAME_MAX
        && run
            .as_str()
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !looks_hashed(run.as_str());
    if stands {
        return plain;
    }
    format!("{MACHINE_PREFIX}h{}-{end}", hash(run.as_str(), HASH_DIGITS))
}

/// The run and attempt that a machine's name with a tag is about; `None` for other names. Of a run id
/// that could not stand in the name it is the hash.
#[must_use]
pub fn run_of_machine(name: &str) -> Option<(RunId, Attempt)> {
    let (rest, tag) = name.strip_prefix(MACHINE_PREFIX)?.rsplit_once('-')?;
    if tag.len() != TAG_DIGITS || !tag.bytes().all(is_hex_digit) {
        return None;
    }
    let (run, attempt) = rest.rsplit_once('-')?;
    Some((run.parse().ok()?, Attempt(attempt.parse().ok()?)))
}

/// The first hexadecimal digits of a text's SHA-256.
fn hash(text: &str, digits: usize) -> String {
    let mut hash = sha256(text.as_bytes());
    hash.truncate(digits);
    hash
}

fn is_hex_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

fn looks_hashed(run: &str) -> bool {
    run.len() == HASH_DIGITS + 1
        && run.starts_with('h')
        && run.bytes().skip(1).all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn run_ids_have_a_fixed_alphabet_and_length() {
        for good in ["a", "1732-0", "pr_17", &"x".repeat(64)] {
            assert!(good.parse::<RunId>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "ä", "a.b", &"x".repeat(65)] {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
    }

    fn nonce(last: u8) -> Nonce {
        format!("00112233445566778899aabbccdd{last:04x}")
            .parse()
            .unwrap()
    }

    #[test]
    fn a_plain_id_stands_in_the_machine_name() {
        let run: RunId = "pr-17".parse().unwrap();
        assert_eq!(machine_name(&run, Attempt(2), None), "sandbox-pr-17-2");
        // The first digits of `printf 00112233445566778899aabbccdd0001 | sha256sum`.
        let name = machine_name(&run, Attempt(2), Some(&nonce(1)));
        assert_eq!(name, "sandbox-pr-17-2-5d7c57e23aee");
    }

    #[test]
    fn a_name_with_a_tag_tells_its_run() {
        let run: RunId = "a-1".parse().unwrap();
        let (tagged, plain) = (
            machine_name(&run, Attempt(3), Some(&nonce(1))),
            machine_name(&run, Attempt(3), None),
        );
        assert_eq!(run_of_machine(&tagged), Some((run, Attempt(3))));
        let others = [
            &plain,
            "sandbox-",
            "sandbox-a",
            "sandbox-a-b-0123456789ab",
            "db-1-0123456789ab",
        ];
        for other in others {
            assert_eq!(run_of_machine(other), None, "{other}");
        }
    }

    #[test]
    fn a_nonce_has_a_fixed_alphabet_and_length_and_names_its_installation() {
        assert_eq!(nonce(1).installation(), "0011223344556677");
        for bad in ["", "abc", &"g".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
            assert!(bad.parse::<Nonce>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_that_looks_like_a_hash_cannot_take_another_runs_name() {
        let victim: RunId = "PR_17".parse().unwrap();
        for nonce in [None, Some(&nonce(1))] {
            let name = machine_name(&victim, Attempt(1), nonce);
            let middle = name.strip_prefix("sandbox-").unwrap();
            let attacker: RunId = middle.split('-').next().unwrap().parse().unwrap();
            assert_ne!(machine_name(&attacker, Attempt(1), nonce), name);
        }
    }

    proptest! {
        #[test]
        fn every_machine_name_can_be_a_dns_label(id in "[A-Za-z0-9_-]{1,64}", n in 1u32..100_000, tagged: bool) {
            let nonce = tagged.then(|| nonce(1));
            let name = machine_name(&id.parse().unwrap(), Attempt(n), nonce.as_ref());
            prop_assert!(name.len() <= 63);
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!name.ends_with('-'));
        }

        #[test]
        fn two_attempts_never_share_a_name(
            a in "[A-Za-z0-9_-]{1,64}", b in "[A-Za-z0-9_-]{1,64}",
            m in 1u32..40, n in 1u32..40, x in 0u8..4, y in 0u8..4,
        ) {
            // A run has one nonce or none, 0 stands for none.
            prop_assume!((&a, m, x) != (&b, n, y));
            let (one, two) = (a.parse().unwrap(), b.parse().unwrap());
            let (x, y) = ((x > 0).then(|| nonce(x)), (y > 0).then(|| nonce(y)));
            prop_assert_ne!(
                machine_name(&one, Attempt(m), x.as_ref()),
                machine_name(&two, Attempt(n), y.as_ref())
            );
        }
    }
}
