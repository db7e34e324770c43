//! A request as a producer may write it: it is one, or the refusal names what is wrong.

#![no_main]

use std::time::Duration;

use cofferdam::run::request::{CaptureLimits, Limits, RunRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let limits = Limits {
        image: Some("host".into()),
        region: None,
        run_timeout: Duration::from_secs(300),
        max_cpus: 8,
        max_memory_mb: 16 * 1024,
        capture: CaptureLimits {
            output_bytes: 64 << 10,
            output_max_bytes: 256 << 10,
            has_image_commands: false,
            is_plain_http: true,
        },
    };
    match RunRequest::parse(text, &limits) {
        Ok(request) => {
            let span = RunRequest::input_span(text);
            let found = if span.is_empty() { "null" } else { &text[span] };
            assert_eq!(found, request.input.get());
            assert!(request.timeout <= limits.run_timeout);
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    let _ = RunRequest::readable(text);
});
