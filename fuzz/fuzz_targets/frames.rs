//! What a guest may send in its init's name: it is one message exactly, or none.

#![no_main]

// The crate keeps it to itself.
#[path = "../../crates/sandbox/src/init/wire.rs"]
#[allow(dead_code, reason = "only the reading side is tried")]
mod wire;

use libfuzzer_sys::fuzz_target;
use wire::{Event, Frame, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Some(event) = Event::decode(bytes) {
        let frame = event.encode(u32::MAX).expect("it was as long as this");
        assert_eq!(&frame[4..], bytes);
    }
    if let Some(request) = Request::decode(bytes) {
        let frame = request.encode(u32::MAX).expect("it was as long as this");
        assert_eq!(&frame[4..], bytes);
    }
});
