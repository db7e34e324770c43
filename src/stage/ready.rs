//! Whether this process can do its work: what `/readyz` answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::stage::health::Health;
use crate::stage::keys::Keys;
use crate::store::Store;

/// How long an answer stands. Guests can ask too, and must not make Redis busy.
const STANDS: Duration = Duration::from_secs(1);

/// When it was looked, and what was seen.
type Seen = (Instant, Result<String, String>);

/// Looks whether Redis takes writes, the provider takes calls, and the signing keys are the
/// others' too. Clones share what was seen last.
#[derive(Clone, Debug)]
pub struct Readiness {
    store: Store,
    /// Of a process that makes machines.
    provider: Option<Arc<Health>>,
    /// Of a process that tells the others of its signing keys.
    keys: Option<Arc<Keys>>,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Readiness {
    /// Of a process on `store`, that uses the provider if `provider` is given.
    #[must_use]
    pub fn new(store: Store, provider: Option<Arc<Health>>) -> Self {
        Self {
            store,
            provider,
            keys: None,
            seen: Arc::default(),
        }
    }

    /// It is not ready either while its signing keys are not those of the others.
    #[must_use]
    pub fn with_keys(mut self, keys: Arc<Keys>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Whether it is ready now: that it is, and in which apps it cannot make machines. One round
    /// trip, and none when somebody asked less than a second ago.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn look(&self) -> Result<String, String> {
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

    async fn probe(&self) -> Result<String, String> {
        let mut how = "ready".to_owned();
        if let Some(health) = &self.provider {
            let refusing = health.refusing();
            let told = format!("the Machines API refuses us in {}", refusing.join(", "));
            if health.is_refused_everywhere() {
                return Err(told);
            }
            if !refusing.is_empty() {
                how = format!("{how}, but {told}");
            }
        }
        if let Some(why) = self.keys.as_ref().and_then(|keys| keys.unready()) {
            return Err(why);
        }
        let probed = self.store.probe().await;
        probed.map(|()| how).map_err(|error| error.to_string())
    }
}
