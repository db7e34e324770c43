//! The token with which a guest posts its result.
//!
//! `cd2.<key id>.<run id>.<attempt>.<expiry, Unix seconds>.<nonce>.<base64url of HMAC-SHA256>`,
//! where the HMAC covers all before its dot. The version prefix fixes the algorithm, so nothing in
//! a token chooses one. A token is only the right to ask: whether it is spent, and whether the run
//! of that id is still the one of that nonce, is for the store to say.
//!
//! Runs that were claimed by a version without nonces have tokens `cd1`, which are the same
//! without the nonce.

pub mod fleet;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::run::digest::hex;
use crate::run::id::{Attempt, Nonce, RunId};

const VERSION: &str = "cd2";
const WITHOUT_NONCE: &str = "cd1";

/// Longest token that is checked, in bytes: version, 16 of key id, 64 of run id, 10 and 20 of
/// numbers, 32 of nonce, 43 of HMAC, and the dots.
pub const TOKEN_MAX_BYTES: usize = 3 + 16 + 64 + 10 + 20 + Nonce::LENGTH + 43 + 6;

/// Shortest key, in bytes: the length of SHA-256's output (RFC 2104, section 3).
pub const KEY_MIN_BYTES: usize = 32;

/// What a key's fingerprint is made from. No token begins like this.
const FINGERPRINT_OF: &[u8] = b"cofferdam signing key fingerprint";

/// What a token grants: posting for one attempt of one run, until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which run.
    pub run: RunId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// Unix seconds from which the token is worth nothing.
    pub expires_s: u64,
    /// Which request of that id; `None` for one of a version without nonces.
    pub nonce: Option<Nonce>,
}

/// The token is not valid. Deliberately one answer for every reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid")]
pub struct Invalid;

/// Why a key ring cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There must be at least one key.
    #[error("no signing key is given")]
    None,
    /// A key id that could not stand in a token.
    #[error("key id {0:?} must be 1 to 16 letters, digits, _ or -")]
    Id(String),
    /// Two keys with one id.
    #[error("key id {0:?} is given twice")]
    Twice(String),
    /// A key that is too short to sign with.
    #[error("key {0:?} is shorter than {KEY_MIN_BYTES} bytes")]
    Short(String),
}

/// The keys: the first signs, all verify. To rotate, add a new key last everywhere, then move it
/// to the front, then drop the old one after the longest run's deadline.
#[derive(Clone)]
pub struct KeyRing(Vec<(String, hmac::Key)>);

impl KeyRing {
    /// A ring of `(key id, secret)` pairs.
    ///
    /// # Errors
    /// [`KeyError`] naming the key at fault.
    pub fn new<I, K>(keys: I) -> Result<Self, KeyError>
    where
        I: IntoIterator<Item = (String, K)>,
        K: AsRef<[u8]>,
    {
        let mut ring: Vec<(String, hmac::Key)> = Vec::new();
        for (id, secret) in keys {
            let fits = (1..=16).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !fits {
                return Err(KeyError::Id(id));
            }
            if ring.iter().any(|(known, _)| *known == id) {
                return Err(KeyError::Twice(id));
            }
            if secret.as_ref().len() < KEY_MIN_BYTES {
                return Err(KeyError::Short(id));
            }
            ring.push((id, hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref())));
        }
        if ring.is_empty() {
            Err(KeyError::None)
        } else {
            Ok(Self(ring))
        }
    }

    /// Each key's id and fingerprint: eight digits that distinguish keys and do not reveal one.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<(String, String)> {
        let keys = self.0.iter();
        keys.map(|(id, key)| {
            let tag = hmac::sign(key, FINGERPRINT_OF);
            (id.clone(), hex(&tag.as_ref()[..4]))
        })
        .collect()
    }

    /// Signs a grant with the first key.
    #[must_use]
    pub fn sign(&self, grant: &Grant) -> String {
        let Some((id, key)) = self.0.first() else {
            unreachable!("a ring has a key")
        };
        let Grant {
            run,
            attempt,
            expires_s,
            nonce,
        } = grant;
        let mut token = match nonce {
            Some(nonce) => format!("{VERSION}.{id}.{run}.{attempt}.{expires_s}.{nonce}"),
            None => format!("{WITHOUT_NONCE}.{id}.{run}.{attempt}.{expires_s}"),
        };
        let tag = hmac::sign(key, token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(tag.as_ref(), &mut token);
        token
    }

    /// Checks a token's HMAC, in constant time, and then its expiry against `now_s`.
    ///
    /// # Errors
    /// [`Invalid`], whatever is wrong.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Grant, Invalid> {
        let grant = self.read(token)?;
        if now_s >= grant.expires_s {
            Err(Invalid)
        } else {
            Ok(grant)
        }
    }

    /// What a token grants or granted, after a check of its HMAC, in constant time. Its expiry is
    /// not checked: this shows who made it, not what may be done with it.
    ///
    /// # Errors
    /// [`Invalid`], whatever is wrong.
    pub fn read(&self, token: &str) -> Result<Grant, Invalid> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Invalid);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(Invalid)?;
        let mut parts = signed.split('.');
        let mut next = || parts.next().ok_or(Invalid);
        let (version, key_id, run, attempt, expiry) = (next()?, next()?, next()?, next()?, next()?);
        let nonce = match version {
            VERSION => Some(next()?),
            WITHOUT_NONCE => None,
            _ => return Err(Invalid),
        };
        if parts.next().is_some() {
            return Err(Invalid);
        }
        let (_, key) = self.0.iter().find(|(id, _)| id == key_id).ok_or(Invalid)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| Invalid)?;
        hmac::verify(key, signed.as_bytes(), &tag).map_err(|_| Invalid)?;
        Ok(Grant {
            run: run.parse().map_err(|_| Invalid)?,
            attempt: Attempt(attempt.parse().map_err(|_| Invalid)?),
            expires_s: expiry.parse().map_err(|_| Invalid)?,
            nonce: match nonce {
                Some(nonce) => Some(nonce.parse().map_err(|_| Invalid)?),
                None => None,
            },
        })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(id, _)| id))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(keys: &[(&str, u8)]) -> KeyRing {
        KeyRing::new(
            keys.iter()
                .map(|(id, byte)| ((*id).to_owned(), [*byte; 32])),
        )
        .unwrap()
    }

    fn grant() -> Grant {
        Grant {
            run: "pr-17".parse().unwrap(),
            attempt: Attempt(1),
            expires_s: 2_000_000_000,
            nonce: Some("00112233445566778899aabbccddeeff".parse().unwrap()),
        }
    }

    /// Computed with Python: `hmac.new(b'\x01'*32, b'cd2.k1.pr-17.1.2000000000.0011…', 'sha256')`.
    #[test]
    fn a_token_is_what_an_independent_implementation_makes_of_it() {
        let token = ring(&[("k1", 1)]).sign(&grant());
        assert_eq!(token, PYTHON_MADE);
        let grant = Grant {
            nonce: None,
            ..grant()
        };
        assert_eq!(ring(&[("k1", 1)]).sign(&grant), PYTHON_MADE_WITHOUT_NONCE);
        assert_eq!(
            ring(&[("k1", 1)]).verify(PYTHON_MADE_WITHOUT_NONCE, 0),
            Ok(grant)
        );
    }

    const PYTHON_MADE: &str = "cd2.k1.pr-17.1.2000000000.00112233445566778899aabbccddeeff.\
                               eFBChTiOpqKp9l462Fbp4LgEauwMosx86KI2Kg1hYsE";
    const PYTHON_MADE_WITHOUT_NONCE: &str =
        "cd1.k1.pr-17.1.2000000000.nWY7Y4CHVeFzXoRzm_T2hw_yVORKKOMDO7Qzpwt3js4";

    #[test]
    fn a_token_is_read_after_its_time_but_not_if_it_is_not_ours() {
        let token = ring(&[("a", 1)]).sign(&grant());
        assert_eq!(ring(&[("a", 1)]).read(&token), Ok(grant()));
        assert_eq!(ring(&[("a", 2)]).read(&token), Err(Invalid));
    }

    #[test]
    fn keys_rotate_without_a_gap() {
        let (old, both, new) = (
            ring(&[("a", 1)]),
            ring(&[("b", 2), ("a", 1)]),
            ring(&[("b", 2)]),
        );
        assert!(both.verify(&old.sign(&grant()), 0).is_ok());
        assert!(new.verify(&both.sign(&grant()), 0).is_ok());
        assert_eq!(new.verify(&old.sign(&grant()), 0), Err(Invalid));
    }

    #[test]
    fn a_token_expires_on_the_second() {
        let ring = ring(&[("a", 1)]);
        let token = ring.sign(&grant());
        assert!(ring.verify(&token, 1_999_999_999).is_ok());
        assert_eq!(ring.verify(&token, 2_000_000_000), Err(Invalid));
    }

    #[test]
    fn the_longest_token_is_not_too_long() {
        let ring = KeyRing::new([("k".repeat(16), [1; 32])]).unwrap();
        let grant = Grant {
            run: "r".repeat(64).parse().unwrap(),
            attempt: Attempt(u32::MAX),
            expires_s: u64::MAX,
            nonce: grant().nonce,
        };
        let token = ring.sign(&grant);
        assert_eq!(token.len(), TOKEN_MAX_BYTES);
        assert_eq!(ring.verify(&token, 0), Ok(grant));
    }

    #[test]
    fn a_faulty_ring_is_refused_by_name() {
        let none: [(String, [u8; 32]); 0] = [];
        assert_eq!(KeyRing::new(none).unwrap_err(), KeyError::None);
        let short = KeyRing::new([("a".to_owned(), vec![0; 31])]).unwrap_err();
        assert_eq!(short, KeyError::Short("a".into()));
        let twice = KeyRing::new([("a".to_owned(), [0; 32]), ("a".to_owned(), [1; 32])]);
        assert_eq!(twice.unwrap_err(), KeyError::Twice("a".into()));
        let dotted = KeyRing::new([("a.b".to_owned(), [0; 32])]).unwrap_err();
        assert_eq!(dotted, KeyError::Id("a.b".into()));
    }

    #[test]
    fn fingerprints_tell_keys_apart() {
        let prints = ring(&[("a", 1), ("b", 2)]).fingerprints();
        assert_eq!(prints.len(), 2);
        assert_eq!(prints[0].0, "a");
        assert_eq!(prints[0].1.len(), 8);
        assert_ne!(prints[0].1, prints[1].1);
        assert_eq!(ring(&[("c", 1)]).fingerprints()[0].1, prints[0].1);
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", ring(&[("a", 7)])), r#"["a"]"#);
    }

    proptest! {
        #[test]
        fn any_changed_character_makes_it_invalid(at in 0usize..120, to in "[A-Za-z0-9._-]") {
            let ring = ring(&[("k1", 1)]);
            let token = ring.sign(&grant());
            prop_assume!(at < token.len() && token[at..=at] != to);
            let mut forged = token;
            forged.replace_range(at..=at, &to);
            // The last base64 digit carries two bits that decode to nothing.
            let verified = ring.verify(&forged, 0);
            prop_assert_eq!(verified, Err(Invalid), "{}", forged);
        }

        #[test]
        fn no_text_makes_the_verifier_panic(text in ".{0,200}") {
            prop_assert!(ring(&[("k1", 1)]).verify(&text, 0).is_err());
        }
    }
}
