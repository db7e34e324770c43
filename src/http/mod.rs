//! The HTTP server under the endpoint, the admin listener and the local Machines server.
//!
//! [`serve`] is the accept loop with its bounds; [`reply`] reads bodies up to a size and writes
//! answers; `socket` closes connections so that the last answer arrives. Routes are not here: each service has its own.

pub mod reply;
pub mod serve;
mod socket;
