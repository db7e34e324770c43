//! What a machine must not see, reach, use up or outlive, by real attacks from inside.
//!
//! Where an attack can be made outside without harm, it is: as a control that shows that it works
//! when nothing stops it.

mod ends;
mod example;
mod hostile;
pub(crate) mod lab;
mod languages;
pub(crate) mod leftovers;
mod limits;
mod network;
mod roots;
mod walls;
