//! A run: what may be asked, which states it goes through, how it ends.
//!
//! ```text
//!              claimed            created             posted, ended            gone
//!   Queued ───────────▶ Booting ──────────▶ Running ─────────────▶ Settled ───────────▶ Closed
//!     ▲ │                 │  │                │                       ▲                    ▲
//!     │ └── ended ────────┼──┼────────────────┼───────────────────────┼────────────────────┘
//!     │                   │  └─ posted, ended ┼───────────────────────┘
//!     └── deferred, failed┴───────── failed ──┘
//! ```
//!
//! Edges: queued>booting, queued>closed, booting>running, booting>queued, booting>settled,
//! booting>closed (refused for good, and nothing was made),
//! running>settled, running>queued, settled>settled (the machine became known), settled>closed.
//!
//! Deliberately absent: async, input and output, reading of clocks. What a decision needs (the
//! time, the limits) comes in as arguments.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod artifact;
pub mod budget;
pub mod day;
pub mod digest;
pub mod id;
pub mod json;
pub mod masked;
pub mod outcome;
pub mod phase;
pub mod request;
pub mod share;
pub mod size;
pub mod spread;
pub mod step;
pub mod trace;
pub mod wait;
