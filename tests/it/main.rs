//! One binary for all integration tests: one link, shared helpers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agreement;
mod crashes;
mod cli;
mod endpoint;
mod images;
mod layering;
mod machines_client;
mod store;
mod support;
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on stops, and one that cannot run here says why"
)]

mod isolation;
