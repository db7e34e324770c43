//! A boot whose worker is gone.

use tracing::info;

use crate::milestone::milestone;
use crate::run::id::Attempt;
use crate::stage::boot::{Begin, Booted, boot};
use crate::stage::lease::LeaseGuard;
use crate::stage::{Deps, Error};
use crate::store::acts::Claimed;
use crate::store::codec::RunRecord;

/// Resumes a boot whose worker is gone, with a look-up of its machine.
///
/// # Errors
/// As [`boot`].
pub async fn resume(deps: &Deps, view: &RunRecord, lease: &LeaseGuard) -> Result<Booted, Error> {
    let attempt = Attempt(view.attempt);
    let Some(stored) = deps.core.store.request(&view.id).await? else {
        return Ok(Booted::HandedOver);
    };
    milestone!("boot::resumed");
    let is_same = stored.attempt == Some(attempt) && stored.nonce == view.nonce;
    let (Some(app), true) = (view.app.clone(), is_same) else {
        return Ok(Booted::HandedOver);
    };
    let run = Claimed {
        id: view.id.clone(),
        tenant: view.tenant.clone(),
        attempt,
        app,
        deadline_ms: view.deadline_ms.unwrap_or(0),
        refusals: view.refusals,
        refused_since_ms: view.refused_since_ms,
        nonce: stored.nonce,
        request: stored.request,
    };
    info!(
        run_id = run.id.as_str(),
        attempt = attempt.0,
        "resuming a boot of another worker"
    );
    boot(deps, &run, lease, Begin::LookUp).await
}
