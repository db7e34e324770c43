//! The console: what an operator sees of the fleet in a browser, and what can be done there.
//!
//! ```text
//!  browser ─▶ access: key → cookie, role ─▶ pages: read Redis, bounded ─▶ HTML
//!     ▲                        └──────────▶ acts: CSRF, do it, audit ─▶ back to the page
//!     └── live: events, one reading for all who look at the same page
//! ```
//!
//! Pages are rendered here and work without a script; the script only replaces what is live. Whatever a
//! producer, a guest or the provider wrote is text in them: `maud` escapes all that it is given, and
//! [`text`](page::text) takes out what could control a terminal or turn its direction. No page reads more
//! than a bounded number of keys.

mod access;
mod acts;
mod artifacts;
mod dead;
mod doctor;
mod frame;
mod live;
mod machines;
mod overview;
mod page;
mod picture;
mod run;
mod runs;
mod serve;
mod tenants;
mod workers;

use std::pin::Pin;
use std::sync::Arc;

use crate::artifacts::ArtifactStore;
use crate::clock::Clock;
use crate::config::ConsoleKey;
use crate::http::host::AllowedHosts;
use crate::machines::Client;
use crate::stage::operate::CancelTerms;
use crate::store::Store;

pub use crate::console::doctor::{Finding, Verdict};
pub use crate::console::serve::{Console, serve};

/// What the console needs.
pub struct Deps {
    /// The runs.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Who may come in.
    pub keys: Vec<ConsoleKey>,
    /// The names by which it may be addressed.
    pub hosts: AllowedHosts,
    /// On what terms it cancels runs.
    pub terms: CancelTerms,
    /// The provider, where its address and token are known.
    pub machines: Option<Machines>,
    /// Where artifacts are kept, if that is known here.
    pub artifacts: Option<ArtifactStore>,
    /// Runs the checks of `doctor`, where it can.
    pub examine: Option<Examine>,
}

/// The provider and our apps there.
#[derive(Clone, Debug)]
pub struct Machines {
    /// The Machines API.
    pub client: Client,
    /// The apps that the settings name; those of runs are known from Redis.
    pub apps: Vec<String>,
}

/// Runs the checks of `doctor`.
pub type Examine =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Finding>> + Send>> + Send + Sync>;

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
