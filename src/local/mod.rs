//! The Machines API on this computer.

pub mod engine;
pub mod images;
