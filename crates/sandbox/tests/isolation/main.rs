//! What a machine must not see, reach, use up or outlive, by real attacks from inside.
//!
//! Where an attack can be made outside without harm, it is: as a control that shows that it works
//! when nothing stops it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stderr, reason = "a test that cannot run says why")]

mod ends;
mod hostile;
mod lab;
mod languages;
mod leftovers;
mod limits;
mod network;
mod roots;
mod shared;
mod walls;
