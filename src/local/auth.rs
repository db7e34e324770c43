//! Authentication: the server has one bearer token.

use std::fmt;

use hyper::header::{AUTHORIZATION, HeaderMap};
use ring::hmac;
use ring::rand::SystemRandom;

/// The server's token, kept so that a comparison takes the same time whatever is presented.
#[derive(Clone)]
pub(crate) struct Gate {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Gate {
    /// A gate for `token`, which may carry its scheme (`Bearer …`, `FlyV1 …`). `None` when there
    /// is no token in it, or when the system has no randomness to give.
    pub(crate) fn new(token: &str) -> Option<Self> {
        let bare = without_scheme(token.trim_start()).trim();
        if bare.is_empty() {
            return None;
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        let tag = hmac::sign(&key, bare.as_bytes());
        Some(Self { key, tag })
    }

    /// Whether the request's head carries the token. Both schemes are accepted, as are both at
    /// once, which clients send that put a scheme before a token that has one.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(presented) = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) else {
            return false;
        };
        let presented = presented.trim();
        let bare = without_scheme(presented);
        let had_scheme = bare.len() < presented.len();
        let same = hmac::verify(
            &self.key,
            without_scheme(bare).as_bytes(),
            self.tag.as_ref(),
        );
        had_scheme && same.is_ok()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate(..)")
    }
}

/// The token without `Bearer ` or `FlyV1 ` before it. Schemes are compared without regard to case.
/// Some clients leave the blank out before a macaroon.
fn without_scheme(text: &str) -> &str {
    for scheme in ["bearer", "flyv1"] {
        let Some((head, rest)) = text.split_at_checked(scheme.len()) else {
            continue;
        };
        let begins_token = MACAROONS.iter().any(|begin| rest.starts_with(begin));
        let ends = rest.starts_with([' ', '\t']) || begins_token;
        if head.eq_ignore_ascii_case(scheme) && ends {
            return rest.trim_start();
        }
    }
    text
}

/// How macaroons begin, in the forms that the service has given out.
const MACAROONS: [&str; 4] = ["fm1r_", "fm1a_", "fm2_", "m2."];

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(configured: &str, presented: Option<&str>, expected: bool) {
        let gate = Gate::new(configured).expect("the token is not empty");
        let mut headers = HeaderMap::new();
        if let Some(value) = presented {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("ascii"));
        }
        assert_eq!(gate.admits(&headers), expected, "{presented:?}");
    }

    #[test]
    fn both_schemes_are_accepted_and_nothing_else() {
        check("fm2_abc", Some("Bearer fm2_abc"), true);
        check("fm2_abc", Some("FlyV1 fm2_abc"), true);
        check("fm2_abc", Some("bearer fm2_abc"), true);
        check("FlyV1 fm2_abc", Some("FlyV1 fm2_abc"), true);
        check("FlyV1 fm2_abc", Some("Bearer FlyV1 fm2_abc"), true);
        check("Bearer fm2_abc", Some("FlyV1 fm2_abc"), true);
        check("fm2_abc", Some("FlyV1fm2_abc"), true);
        check("FlyV1fm2_abc", Some("FlyV1 fm2_abc"), true);
        check("fm2_abc", Some("Bearer FlyV1fm2_abc"), true);
        check("fm2_abc", Some("flyv1\tfm2_abc"), true);
        check("m2.abc", Some("FlyV1m2.abc"), true);
        check("fm2_abc", Some("FlyV1"), false);
        check("abc", Some("FlyV1abc"), false);
        check("fm2_abc", None, false);
        check("fm2_abc", Some("fm2_abc"), false);
        check("fm2_abc", Some("Basic fm2_abc"), false);
        check("fm2_abc", Some("Bearer fm2_ab"), false);
        check("fm2_abc", Some("Bearer fm2_abcd"), false);
        check("fm2_abc", Some("Bearer "), false);
    }

    #[test]
    fn an_empty_token_makes_no_gate() {
        assert!(Gate::new("").is_none());
        assert!(Gate::new("  ").is_none());
        assert!(Gate::new("FlyV1 ").is_none());
    }

    #[test]
    fn a_gate_does_not_show_its_token() {
        let gate = Gate::new("secret-token").expect("the token is not empty");
        assert_eq!(format!("{gate:?}"), "Gate(..)");
    }
}
