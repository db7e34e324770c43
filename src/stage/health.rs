//! Whether the provider takes our calls: what readiness shows, and what is logged once.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{error, info};

use crate::stage::breaker::Breakers;

/// What a worker knows of the provider. Apps are told apart: one with a wrong name or a token that
/// is not for it refuses us for good, while another takes every call.
#[derive(Debug, Default)]
pub struct Health {
    refusing: Mutex<BTreeSet<String>>,
    /// Apps and regions that do not answer.
    pub breakers: Breakers,
}

impl Health {
    /// The token, the app or the address was refused.
    pub fn refused(&self, app: &str, message: &str) {
        if self.lock().insert(app.to_owned()) {
            error!(
                app,
                message, "the Machines API refuses us; booting stops, requests are kept"
            );
        }
    }

    /// A create call was answered as it should be.
    pub fn accepted(&self, app: &str) {
        if self.lock().remove(app) {
            info!(app, "the Machines API takes our calls again");
        }
    }

    /// The apps whose last word was a refusal.
    #[must_use]
    pub fn refusing(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_takes_our_calls_does_not_speak_for_another() {
        let health = Health::default();
        health.refused("wrong", "token validation error");
        health.accepted("right");
        assert_eq!(health.refusing(), ["wrong"]);
        health.accepted("wrong");
        assert!(health.refusing().is_empty());
    }
}
