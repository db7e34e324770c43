//! Whether the provider accepts our calls: what readiness shows, and what is logged once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{error, info};

use crate::stage::breaker::Breakers;

/// What a worker knows of the provider. Apps are told apart: one with a wrong name or a token that
/// is not for it refuses us for good, while another takes every call.
#[derive(Debug, Default)]
pub struct ProviderHealth {
    /// The apps in which this worker makes machines.
    apps: Vec<String>,
    /// Apps that refuse our calls, each with its last message.
    refusing: Mutex<BTreeMap<String, String>>,
    /// The circuits of apps and regions.
    pub breakers: Breakers,
}

impl ProviderHealth {
    /// For a worker that makes machines in these apps. Nothing is known of them yet.
    #[must_use]
    pub fn of(apps: &[String]) -> Self {
        Self {
            apps: apps.to_owned(),
            ..Self::default()
        }
    }

    /// Whether every app refuses.
    #[must_use]
    pub fn is_refused_everywhere(&self) -> bool {
        let refusing = self.lock();
        !refusing.is_empty() && self.apps.iter().all(|app| refusing.contains_key(app))
    }

    /// The token, the app, the address or the account was refused.
    pub fn refused(&self, app: &str, message: &str) {
        let known = self.lock().insert(app.to_owned(), message.to_owned());
        if known.is_none() {
            error!(
                app,
                error = message,
                "the Machines API refuses us; booting stops, requests are kept"
            );
        }
    }

    /// A create call was accepted. Says whether the app refused before.
    pub fn accepted(&self, app: &str) -> bool {
        let was_refused = self.lock().remove(app).is_some();
        if was_refused {
            info!(app, "the Machines API accepts our calls again");
        }
        was_refused
    }

    /// The apps that refuse, each with its last message.
    #[must_use]
    pub fn refusing(&self) -> Vec<String> {
        let refusing = self.lock();
        let refusing = refusing.iter();
        refusing
            .map(|(app, message)| format!("{app} ({message})"))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_accepts_our_calls_does_not_hide_one_that_refuses() {
        let health = ProviderHealth::of(&["right".to_owned(), "wrong".to_owned()]);
        health.refused("wrong", "token validation error");
        health.accepted("right");
        assert_eq!(health.refusing(), ["wrong (token validation error)"]);
        assert!(!health.is_refused_everywhere());
        health.refused("right", "token validation error");
        assert!(health.is_refused_everywhere());
        health.accepted("right");
        health.accepted("wrong");
        assert!(health.refusing().is_empty());
    }
}
