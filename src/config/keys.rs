//! The signing keys' text: `kid:base64[,kid:base64…]`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::config::secret::Secret;

/// Bytes of a key at the least: as long as the digest that the tokens are made with.
pub const MIN_KEY_BYTES: usize = 32;

/// Characters of a key's id at the most.
pub const MAX_KID_LEN: usize = 16;

/// One key for the guests' tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// Names the key inside a token: `[A-Za-z0-9_-]{1,16}`.
    pub kid: String,
    /// The key itself, [`MIN_KEY_BYTES`] or more.
    pub bytes: Secret<Vec<u8>>,
}

/// Reads keys; the first signs, all verify. A problem names the key's place and never its text.
pub(crate) fn parse(text: &str) -> Result<Vec<SigningKey>, String> {
    let mut keys: Vec<SigningKey> = Vec::new();
    for (index, part) in text.split(',').enumerate() {
        let key = parse_one(part.trim()).map_err(|why| format!("key {}: {why}", index + 1))?;
        if keys.iter().any(|known| known.kid == key.kid) {
            return Err(format!(
                "key {}: the id {:?} is used twice",
                index + 1,
                key.kid
            ));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn parse_one(part: &str) -> Result<SigningKey, String> {
    let (kid, encoded) = part
        .split_once(':')
        .ok_or("is not of the form kid:base64")?;
    let is_kid_sound = (1..=MAX_KID_LEN).contains(&kid.len())
        && kid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !is_kid_sound {
        return Err(format!(
            "its id must be 1 to {MAX_KID_LEN} of A-Z a-z 0-9 _ -"
        ));
    }
    let bytes = decode(encoded).ok_or("is not base64")?;
    if bytes.len() < MIN_KEY_BYTES {
        return Err(format!(
            "has {} bytes; {MIN_KEY_BYTES} or more are needed",
            bytes.len()
        ));
    }
    Ok(SigningKey {
        kid: kid.to_owned(),
        bytes: Secret::new(bytes),
    })
}

/// Standard or URL-safe base64, with or without padding: whatever the tool at hand prints.
fn decode(encoded: &str) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(encoded).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    #[test]
    fn several_keys_keep_their_order() {
        let text = format!(
            "new:{}, old-1:{}",
            STANDARD.encode([0xfb; 32]),
            URL_SAFE_NO_PAD.encode([0xfb; 40])
        );
        let keys = parse(&text).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].kid, "new");
        assert_eq!(keys[0].bytes.expose(), &vec![0xfb; 32]);
        assert_eq!(keys[1].bytes.expose().len(), 40);
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let problem = parse(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn unsound_keys_are_named_by_place_and_never_shown() {
        let good = format!("a:{}", STANDARD.encode([1; 32]));
        let short = STANDARD.encode([1; 31]);
        check_refused("", "key 1: is not of the form");
        check_refused(&format!("{good},"), "key 2: is not of the form");
        check_refused(
            &format!("{good},{good}"),
            "key 2: the id \"a\" is used twice",
        );
        check_refused(&format!("b:{short}"), "has 31 bytes");
        check_refused("b:not base64!", "is not base64");
        check_refused(&good.replace("a:", ":"), "its id must be");
        check_refused(&good.replace("a:", "seventeen-letters:"), "its id must be");
        assert!(!parse(&format!("b:{short}")).unwrap_err().contains(&short));
    }
}
