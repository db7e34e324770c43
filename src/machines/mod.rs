//! The door to the Machines API.
//!
//! [`wire`] is the one description of its bodies, shared with the local server.

pub mod wire;
