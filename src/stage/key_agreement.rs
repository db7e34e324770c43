//! Whether the fleet's processes have the same signing keys: what readiness shows, and what is
//! logged once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::clock::UnixMs;
use crate::telemetry::Metrics;
use crate::token::KeyRing;
use crate::token::fleet::{self, Holder, Mismatch, Use};

/// What one process knows of the keys of all.
#[derive(Debug)]
pub struct KeyAgreement {
    /// This process and its keys.
    pub own: Holder,
    is_quiet: watch::Sender<bool>,
    compared: Mutex<Compared>,
}

#[derive(Debug, Default)]
struct Compared {
    logged: Vec<Mismatch>,
    unready: Option<Mismatch>,
}

impl KeyAgreement {
    /// For the process `name` with the keys of `ring`, which runs since `now`. Nothing is known of others
    /// yet.
    #[must_use]
    pub fn new(name: &str, uses: Use, ring: &KeyRing, now: UnixMs) -> Self {
        Self {
            own: Holder {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                since_ms: now,
                ..Holder::new(name.to_owned(), uses, ring.fingerprints())
            },
            is_quiet: watch::Sender::new(false),
            compared: Mutex::default(),
        }
    }

    /// This process as it is now.
    #[must_use]
    pub fn heartbeat(&self, metrics: &Metrics) -> Holder {
        let shown = |gauge: i64| u64::try_from(gauge).unwrap_or(0);
        Holder {
            in_hand: metrics.in_hand(),
            orphans: shown(metrics.orphan_machines.get()),
            foreign: shown(metrics.foreign_machines.get()),
            closed_ways: shown(metrics.circuits_open.get()),
            refused_apps: shown(metrics.apps_refused.get()),
            is_quiet: self.is_quiet(),
            ..self.own.clone()
        }
    }

    /// Whether this process was told to take no more work.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        *self.is_quiet.borrow()
    }

    /// Returns when this process is to take no more work.
    pub async fn becomes_quiet(&self) {
        // It fails when there is no sender, and this is one.
        let _ = self.is_quiet.subscribe().wait_for(|quiet| *quiet).await;
    }

    /// Takes no more work, or takes work again.
    pub fn set_quiet(&self, is_quiet: bool) {
        if self.is_quiet.send_replace(is_quiet) == is_quiet {
            return;
        }
        match is_quiet {
            true => warn!("told to take no more work; what is in hand goes on"),
            false => info!("told to take work again"),
        }
    }

    /// Compares the keys of all processes, and logs new mismatches that concern this one.
    pub fn compare(&self, holders: &[Holder]) {
        let name = &self.own.name;
        let mut found = fleet::mismatches(holders);
        found.retain(|mismatch| mismatch.signer == *name || mismatch.verifier == *name);
        let mut compared = self.lock();
        for mismatch in &found {
            if !compared.logged.contains(mismatch) {
                error!(
                    kid = mismatch.kid,
                    found = %mismatch,
                    "results will be refused: set the same COFFERDAM_SIGNING_KEYS for worker and \
                     serve, and restart them"
                );
            }
        }
        if found.is_empty() && !compared.logged.is_empty() {
            info!("worker and serve have the same signing keys again");
        }
        *compared = Compared {
            logged: found,
            unready: fleet::unready(name, holders),
        };
    }

    /// Why this process is not ready, if it is not.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        let unready = self.lock().unready.as_ref().map(ToString::to_string);
        unready.map(|found| format!("the signing keys differ: {found}"))
    }

    fn lock(&self) -> MutexGuard<'_, Compared> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
