//! What a guest may send in its init's name: it is one message exactly, or none.

#![no_main]

// The crate keeps it to itself.
#[path = "../../src/init/wire.rs"]
#[allow(dead_code, reason = "only the reading side is tried")]
mod wire;

use libfuzzer_sys::fuzz_target;
use wire::{Frame, News, Order};

fuzz_target!(|bytes: &[u8]| {
    if let Some(news) = News::decode(bytes) {
        let frame = news.encode(u32::MAX).expect("it was as long as this");
        assert_eq!(&frame[4..], bytes);
    }
    if let Some(order) = Order::decode(bytes) {
        let frame = order.encode(u32::MAX).expect("it was as long as this");
        assert_eq!(&frame[4..], bytes);
    }
});
