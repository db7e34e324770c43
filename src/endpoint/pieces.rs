//! Memory for pieces of artifacts that pass through us: bounded for all, and for each tenant, so that one
//! tenant's uploads leave room for another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::endpoint::kib;
use crate::run::id::Tenant;

/// Of all artifacts together.
const ALL_MAX_BYTES: usize = 32 << 20;
/// Of one tenant's: two to a bucket, or forty to a folder.
const TENANT_MAX_BYTES: usize = 10 << 20;
/// How long a put waits for its part.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tenants that are known before those that hold nothing are forgotten.
const TENANTS_KNOWN: usize = 1024;

/// A permit for each KiB.
#[derive(Debug)]
pub(super) struct Pieces {
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<Tenant, Weak<Semaphore>>>,
}

/// What one put holds; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(kib(ALL_MAX_BYTES) as usize)),
            tenants: Mutex::default(),
        }
    }

    /// Waits for so many bytes. `None` when it takes too long.
    pub(super) async fn take(&self, tenant: &Tenant, bytes: usize) -> Option<Held> {
        let wanted = kib(bytes);
        let both = async {
            // The tenant's own bound comes first: what waits for it takes nothing from others.
            let of_tenant = self.of(tenant).acquire_many_owned(wanted).await.ok()?;
            let of_all = Arc::clone(&self.all)
                .acquire_many_owned(wanted)
                .await
                .ok()?;
            Some(Held {
                _of_tenant: of_tenant,
                _of_all: of_all,
            })
        };
        timeout(WAIT_TIMEOUT, both).await.ok()?
    }

    fn of(&self, tenant: &Tenant) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= TENANTS_KNOWN {
            tenants.retain(|_, permits| permits.strong_count() > 0);
        }
        if let Some(permits) = tenants.get(tenant).and_then(Weak::upgrade) {
            return permits;
        }
        let permits = Arc::new(Semaphore::new(kib(TENANT_MAX_BYTES) as usize));
        tenants.insert(tenant.clone(), Arc::downgrade(&permits));
        permits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_tenant_takes_a_part_and_leaves_the_rest() {
        const PART: usize = 5 << 20;
        let pieces = Pieces::new();
        let (one, other): (Tenant, Tenant) = ("one".parse().unwrap(), "other".parse().unwrap());
        let first = pieces.take(&one, PART).await.unwrap();
        let second = pieces.take(&one, PART).await.unwrap();
        assert!(pieces.take(&one, PART).await.is_none());
        let others = pieces.take(&other, PART).await.unwrap();
        drop(first);
        let third = pieces.take(&one, PART).await.unwrap();
        drop((second, third, others));
        for n in 0..2 * TENANTS_KNOWN {
            let tenant = format!("t{n}").parse().unwrap();
            drop(pieces.take(&tenant, 1).await.unwrap());
        }
        assert!(pieces.tenants.lock().unwrap().len() <= TENANTS_KNOWN);
        assert_eq!(pieces.all.available_permits(), kib(ALL_MAX_BYTES) as usize);
    }
}
