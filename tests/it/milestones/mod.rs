//! Deaths and stops of real processes at every milestone of the source: each ends in exactly one
//! result for each run, and no machine.
//!
//! The processes are the real `worker` and `serve` on a real Redis; the provider is the local
//! server in this process, with simulated guests. They need the cargo feature `milestones`, with
//! which `scripts/test` builds; without it only the list is compared with the source.

#[cfg(feature = "milestones")]
mod deaths;
mod points;
mod source;
#[cfg_attr(
    not(feature = "milestones"),
    expect(dead_code, reason = "told only where processes can die")
)]
mod stories;
#[cfg_attr(
    not(feature = "milestones"),
    expect(dead_code, reason = "made only where processes can die")
)]
mod world;
