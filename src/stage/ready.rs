//! Whether this process can do its work: what `/readyz` answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::stage::health::ProviderHealth;
use crate::stage::key_agreement::KeyAgreement;
use crate::store::Store;

/// How long an answer is cached. Guests can ask too, and must not load Redis.
const CACHED_FOR: Duration = Duration::from_secs(1);

/// An answer and its time.
type Cached = (Instant, Result<String, String>);

/// Checks that Redis takes writes, the provider accepts calls, and all processes have the same
/// signing keys. Clones share the last answer.
#[derive(Clone, Debug)]
pub struct Readiness {
    store: Store,
    /// For a process that makes machines.
    provider: Option<Arc<ProviderHealth>>,
    /// For a process that has signing keys.
    keys: Option<Arc<KeyAgreement>>,
    cached: Arc<Mutex<Option<Cached>>>,
}

impl Readiness {
    /// For a process on `store`, that uses the provider if `provider` is given.
    #[must_use]
    pub fn new(store: Store, provider: Option<Arc<ProviderHealth>>) -> Self {
        Self {
            store,
            provider,
            keys: None,
            cached: Arc::default(),
        }
    }

    /// Also checks that the signing keys are those of the other processes.
    #[must_use]
    pub fn with_keys(mut self, keys: Arc<KeyAgreement>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Whether the process is ready, and in which apps it cannot make machines. One round trip, and
    /// none when the last answer is less than a second old.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn check(&self) -> Result<String, String> {
        let mut cached = self.cached.lock().await;
        if let Some((at, answer)) = &*cached
            && at.elapsed() < CACHED_FOR
        {
            return answer.clone();
        }
        let answer = self.probe().await;
        *cached = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn probe(&self) -> Result<String, String> {
        let mut how = "ready".to_owned();
        if let Some(health) = &self.provider {
            let refusing = health.refusing();
            let refused = format!("the Machines API refuses us in {}", refusing.join(", "));
            if health.is_refused_everywhere() {
                return Err(refused);
            }
            if !refusing.is_empty() {
                how = format!("{how}, but {refused}");
            }
        }
        if let Some(why) = self.keys.as_ref().and_then(|keys| keys.unready()) {
            return Err(why);
        }
        let probed = self.store.probe().await;
        probed.map(|()| how).map_err(|error| error.to_string())
    }
}
