//! The Machines API over HTTP, as a client of the real service meets it.
//!
//! The stories run against the local server, with real sandboxes where this host can make them;
//! a test that cannot run here says so. [`either`] holds the few stories that also run against the
//! real service, when `FLY_API_TOKEN` and `COFFERDAM_TEST_FLY_APP` are given.

mod apps;
mod calls;
mod either;
mod faults;
mod life;
mod reach;
mod refused;
mod server;
