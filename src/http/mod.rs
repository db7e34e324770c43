//! The HTTP server under the endpoint, the admin listener and the local Machines server.
//!
//! [`serve`] is the accept loop with its bounds, `peers` the bound of each peer; [`reply`] reads bodies
//! up to a size and writes answers; `socket` drops slow readers, and closes connections so that
//! the last answer arrives; `rate` is the minimum rate of a transfer; [`host`] which names a listener answers to. Routes are not here: each service has its
//! own.

pub mod host;
mod peers;
pub(crate) mod rate;
pub mod reply;
pub mod serve;
mod socket;
