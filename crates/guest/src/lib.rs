//! The guest agent of cofferdam as bytes, to be put into machines.

/// The agent: a static program for this build's own architecture, 2 MiB at the most. It needs nothing of
/// the image it runs in. How it is called and what its environment tells it stands in `src/main.rs`.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cofferdam-guest"));
