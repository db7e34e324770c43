//! A posted result: what is accepted is JSON that an ordinary parser takes.

#![no_main]

use cofferdam::run::json;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| {
    if json::check(bytes).is_ok() {
        serde_json::from_slice::<&RawValue>(bytes).expect("what is accepted is JSON");
    }
});
