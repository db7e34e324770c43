//! The door to the Machines API: the real one, and the local one that speaks the same.
//!
//! - [`client`]: one method for each call we make, every one bounded in time and bytes.
//! - [`listing`]: those that list machines, page by page.
//! - [`wire`]: the one description of the bodies, shared with the local server.
//! - [`retry`]: what is to be done about a call that failed, as a pure function.
//! - [`error`]: what a failure is made of, and how sure it is that nothing happened.
//!
//! Of the API's calls we use create, get, list, wait, start, stop and delete on machines, the
//! reading of apps, tokens and logs, and nothing else: no updates, leases, volumes or services.
//! A create has no idempotency key. Its place is taken by the machine's name, which is unique
//! among the machines of an app that are not destroyed: after a lost answer the client looks for
//! the name, and a second create under it is refused with the first machine's id.

pub mod call;
pub mod client;
mod cookies;
pub mod error;
pub mod listing;
pub mod retry;
pub mod settings;
mod transport;
pub mod wire;

pub use call::{Call, Class, Observed, Observer, Request};
pub use client::{Client, Force, MAX_WAIT, Wait};
pub use error::{Certainty, Error, Refusal};
pub use listing::{Detail, ListFilter, Service};
pub use retry::{Decision, judge};
pub use settings::{ClientSettings, Token};
