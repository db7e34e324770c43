//! Everything on one machine.

pub mod ready;
