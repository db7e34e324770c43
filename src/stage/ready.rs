//! Whether this process can do its work: what `/readyz` answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::stage::health::Health;
use crate::store::Store;

/// How long an answer stands. Guests can ask too, and must not make Redis busy.
const STANDS: Duration = Duration::from_secs(1);

/// When it was looked, and what was seen.
type Seen = (Instant, Result<(), String>);

/// Looks whether Redis takes writes and the provider takes calls. Clones share what was seen last.
#[derive(Clone, Debug)]
pub struct Readiness {
    store: Store,
    /// Of a process that makes machines.
    provider: Option<Arc<Health>>,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Readiness {
    /// Of a process on `store`, that uses the provider if `provider` is given.
    #[must_use]
    pub fn new(store: Store, provider: Option<Arc<Health>>) -> Self {
        Self {
            store,
            provider,
            seen: Arc::default(),
        }
    }

    /// Whether it is ready now. One round trip, and none when somebody asked less than a second
    /// ago.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn look(&self) -> Result<(), String> {
        let mut seen = self.seen.lock().await;
        if let Some((at, answer)) = &*seen
            && at.elapsed() < STANDS
        {
            return answer.clone();
        }
        let answer = self.probe().await;
        *seen = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn probe(&self) -> Result<(), String> {
        let refusing = self.provider.as_ref().map(|health| health.refusing());
        if let Some(apps) = refusing.filter(|apps| !apps.is_empty()) {
            return Err(format!(
                "the Machines API refuses us in {}",
                apps.join(", ")
            ));
        }
        self.store.probe().await.map_err(|error| error.to_string())
    }
}
