//! The HTTP server under the endpoint, the admin listener and the local Machines server.
//!
//! [`serve`] is the accept loop with its bounds, `seats` those of each peer; [`reply`] reads bodies
//! up to a size and writes answers; `socket` gives slow readers up, and closes connections so that
//! the last answer arrives; `pace` says what is slow; [`host`] which names a listener answers to. Routes are not here: each service has its
//! own.

pub mod host;
pub(crate) mod pace;
pub mod reply;
mod seats;
pub mod serve;
mod socket;
