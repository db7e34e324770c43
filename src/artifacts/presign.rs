//! Addresses that are signed for one length: AWS Signature Version 4, in the query.
//!
//! `object_store` signs addresses and does not let `Content-Length` be signed, without which whoever has one
//! could send 5 GiB. So what it has signed is signed anew, with that header.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use url::{Position, Url};

use crate::run::digest::{hex, sha256};

/// What stays as it is in a query that is signed.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

const SIGNATURE: &str = "X-Amz-Signature";
const SIGNED_HEADERS: &str = "X-Amz-SignedHeaders";

/// The address of a `PUT`, signed by `object_store`, for `bytes` bytes and no other number. `None` when it
/// is not signed as is known here.
pub(super) fn for_length(signed: &Url, secret: &str, bytes: u64) -> Option<Url> {
    let mut query: BTreeMap<String, String> = signed.query_pairs().into_owned().collect();
    query.remove(SIGNATURE)?;
    let headers = query.insert(SIGNED_HEADERS.into(), "content-length;host".into());
    let scope = query.get("X-Amz-Credential")?.split_once('/')?.1.to_owned();
    let date = query.get("X-Amz-Date")?.clone();
    if headers? != "host" {
        return None;
    }
    let encoded = |text: &str| utf8_percent_encode(text, STRICT).to_string();
    let pairs = query.iter();
    let pairs = pairs.map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    let query = pairs.collect::<Vec<_>>().join("&");
    let host = &signed[Position::BeforeHost..Position::AfterPort];
    let path = signed.path();
    let request = format!(
        "PUT\n{path}\n{query}\ncontent-length:{bytes}\nhost:{host}\n\ncontent-length;host\nUNSIGNED-PAYLOAD"
    );
    let digest = sha256(request.as_bytes());
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/') {
        key = sign(&key, part);
    }
    let signature = hex(&sign(&key, &to_sign));
    let mut url = signed.clone();
    url.set_query(Some(&format!("{query}&{SIGNATURE}={signature}")));
    Some(url)
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real server checks them in `tests/it/artifacts/bucket.rs`.
    #[test]
    fn an_address_is_signed_anew_with_its_length_and_only_if_it_is_understood() {
        let url = "http://127.0.0.1:9/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&\
            X-Amz-Credential=id%2F20261130%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20261130T000000Z&\
            X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
        let url = Url::parse(url).unwrap();
        let [one, other] = [1, 2].map(|bytes| for_length(&url, "secret", bytes).unwrap());
        assert_ne!(one, other);
        assert!(
            one.as_str().contains("SignedHeaders=content-length%3Bhost"),
            "{one}"
        );
        assert!(!one.as_str().contains("Signature=00"), "{one}");
        assert_eq!(for_length(&one, "secret", 1), None);
        let plain = Url::parse("http://127.0.0.1:9/b/k").unwrap();
        assert_eq!(for_length(&plain, "secret", 1), None);
    }
}
