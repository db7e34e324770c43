//! A token as anybody may send it: none that we did not sign is valid.

#![no_main]

use cofferdam::token::KeyRing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let ring = KeyRing::new([("k1".to_owned(), [7; 32])]).expect("32 bytes are a key");
    assert!(ring.verify(text, 0).is_err(), "{text}");
});
