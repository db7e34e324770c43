//! One binary for all integration tests: one link, shared helpers.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on stops, and one that cannot run here says why"
)]

mod isolation;
