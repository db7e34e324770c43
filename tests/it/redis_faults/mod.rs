//! A Redis that loses answers, dies, hangs, loads, takes no writes, has no room, changes places or
//! forgets:
//! nothing is lost, doubled or left, the endpoint says "come again", and nobody spins.

mod deadlines;
mod forgotten;
mod full;
mod lost;
mod places;
pub(crate) mod scene;
mod trouble;
