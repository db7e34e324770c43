//! One binary for all integration tests: one link, shared helpers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot run says why"
)]

mod agreement;
mod cli;
mod crashes;
mod endpoint;
mod hotspots;
mod images;
mod isolation;
mod layering;
mod machines_api;
mod machines_client;
mod packaging;
mod pipeline;
mod promises;
mod readme;
mod services;
mod store;
mod support;
mod up;
