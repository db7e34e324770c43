//! A provider that says no, says nonsense, or does not let go, through the whole pipeline: each
//! run still has its one result, and no machine is left.
//!
//! What each answer means is a table in `machines/retry`; workers that die meanwhile are in
//! `crashes`.

mod answers;
mod late_looks;
mod lost;
mod nonsense;
mod outage;
mod pace;
mod refused;
mod stuck;
mod token;
