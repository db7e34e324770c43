//! Whether the fleet's processes have the same signing keys: what readiness shows, and what is
//! logged once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{error, info};

use crate::token::KeyRing;
use crate::token::fleet::{self, Holder, Mismatch, Use};

/// What one process knows of the keys of all.
#[derive(Debug)]
pub struct KeyAgreement {
    /// This process and its keys.
    pub own: Holder,
    compared: Mutex<Compared>,
}

#[derive(Debug, Default)]
struct Compared {
    logged: Vec<Mismatch>,
    unready: Option<Mismatch>,
}

impl KeyAgreement {
    /// For the process `name` with the keys of `ring`. Nothing is known of others yet.
    #[must_use]
    pub fn new(name: &str, uses: Use, ring: &KeyRing) -> Self {
        Self {
            own: Holder {
                name: name.to_owned(),
                uses,
                keys: ring.fingerprints(),
            },
            compared: Mutex::default(),
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
