//! The Machines API on this computer.

pub mod engine;
