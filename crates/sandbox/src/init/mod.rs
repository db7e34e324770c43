//! The first program of every sandbox, and what it and the library say to each other.
//!
//! The program is `main.rs`, with `exec.rs` and `trial.rs`. It is a program of its own that shares
//! [`wire`] with the library and depends on the standard library only; the build script links it
//! statically, so that it runs in any image.

pub(crate) mod wire;

/// The program, as it is written into the engine's folder.
pub(crate) static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
