//! cofferdam runs strangers' code: one throw-away machine per request, exactly one result, nothing
//! left behind.
//!
//! ```text
//!  producer ─XADD→ runs ──▶ intake ──▶ boot ──▶ [ machine: guest ] ──▶ report ──▶ results ─▶ consumers
//!                             │          │             │                 │
//!                 state:   queued   →  booting  →   running     →     settled ──▶ teardown ──▶ closed
//!                             └──────────┴──── sweep: whatever is overdue, the same steps, later ───┘
//! ```
//!
//! # What always holds
//!
//! - The whole policy is [`run::step`](crate::run::step::step), a pure function. The scripts in
//!   Redis compare and set; a test holds both to one answer in every cell.
//! - Whatever must happen together is one script: spending the token, ending the run, publishing
//!   its result, owing its tear-down.
//! - Every run that is not closed has one entry in `due` that says when somebody must look at it.
//!   A worker does what is owed at once; the sweeper does the same thing late. There is no second
//!   way to recover.
//! - Machine names follow from run, attempt and nonce. A boot that is repeated finds its machine
//!   again, and a machine that no run has is recognised. What is not provably ours is left alone.
//! - No process holds anything that another cannot take over. A run in flight costs a worker no
//!   task, no timer and no connection.
//!
//! Deliberately absent: execution of guest code in this process, call-back addresses chosen by a
//! tenant, retries inside the HTTP client, and locks.
//!
//! # Reading order
//!
//! Values: [`run`], [`token`], [`clock`]. The process: [`config`], [`telemetry`], [`shutdown`],
//! `descriptors` (how many it may have open),
//! `milestone` (where tests stop the process).
//! Doors, each of which owns one outside thing: [`store`] (Redis), [`machines`] (the Machines
//! API), [`artifacts`] (a folder or a bucket), [`traces`] (a collector), [`http`]. The steps of the pipeline, in the order of the
//! flow: [`stage`]. Services: [`worker`], [`sweeper`], [`endpoint`], [`admin`], [`console`], and [`local`],
//! the Machines API on one Linux
//! host. Hands: [`up`], [`cli`].

pub mod admin;
pub mod artifacts;
pub mod assembly;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
mod descriptors;
pub mod endpoint;
pub mod http;
#[cfg(feature = "local")]
pub mod local;
pub mod machines;
mod milestone;
pub mod run;
pub mod shutdown;
pub mod stage;
pub mod store;
pub mod sweeper;
pub mod telemetry;
pub mod token;
pub mod traces;
#[cfg(feature = "local")]
pub mod up;
/// Of `up`, what finds one that runs.
#[cfg(not(feature = "local"))]
pub mod up {
    pub mod ready;
}
pub mod worker;
