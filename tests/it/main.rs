//! One binary for all integration tests: one link, shared helpers.

mod machines_client;
