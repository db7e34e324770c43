//! The Machines API on this computer.

pub mod bwrap;
pub mod engine;
pub mod images;
