//! A Redis that loses answers, dies, hangs, loads, takes no writes, has no room or changes places:
//! nothing is lost, doubled or left, the endpoint says "come again", and nobody spins.

mod full;
mod lost;
mod places;
mod scene;
mod trouble;
