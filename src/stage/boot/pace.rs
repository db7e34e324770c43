//! The boot rate also applies to the create calls of a boot after its first.

use crate::clock::UnixMs;
use crate::machines::{Call, Decision, Error as ApiError, judge};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::outcome::ReasonCode;
use crate::stage::Error;
use crate::stage::boot::{Boot, Booted, PAUSE_MAX, UNCLEAR_TRIES_MAX};
use crate::store::acts::{BootToken, Requeue};

/// How the last call of a boot that goes on was refused.
pub(super) struct Refusal {
    pub(super) code: ReasonCode,
    message: String,
    is_unclear: bool,
}

impl Refusal {
    pub(super) fn known(call: Call, error: &ApiError) -> Self {
        // Several hosts without capacity in a row are a region without capacity.
        let code = match judge(call, error) {
            Decision::OtherHost => ReasonCode::NoCapacity,
            _ => ReasonCode::BootFailed,
        };
        Self {
            code,
            message: error.to_string(),
            is_unclear: false,
        }
    }

    pub(super) fn unclear(message: String) -> Self {
        Self {
            code: ReasonCode::BootFailed,
            message,
            is_unclear: true,
        }
    }
}

impl Boot<'_> {
    /// Waits until the boot rate allows another create call, if that is soon.
    pub(super) async fn acquire_rate(&self) -> Result<BootToken, Error> {
        let core = &self.deps.core;
        let (rate, burst) = (core.runs.boot_rate, core.runs.boot_burst.get());
        let now = core.clock.now_ms();
        let leave = core
            .store
            .take_boot_token(&self.run.app, rate, burst, PAUSE_MAX, now);
        let leave = leave.await?;
        milestone!("boot::paced");
        if let BootToken::Taken(at) = leave {
            tokio::time::sleep(budget::left(now, at)).await;
        }
        Ok(leave)
    }

    /// The boot rate allows no create call before `at`, and none is on its way: back to the queue, so
    /// that the permit is free for others.
    pub(super) async fn defer_until(
        &self,
        refused: Option<Refusal>,
        tries: u32,
        at: UnixMs,
        nothing_created: bool,
    ) -> Result<Booted, Error> {
        let Some(refusal) = refused else {
            let (code, why) = (ReasonCode::BootFailed, "the boot rate is reached");
            return self
                .defer(code, &why, Some(at), Requeue::Held, nothing_created)
                .await;
        };
        let Refusal { code, message, .. } = refusal;
        // An unknown refusal is tried a few times, over all boots of the run.
        if refusal.is_unclear && tries + self.run.refusals >= UNCLEAR_TRIES_MAX {
            return self.refuse_boot(code, message, nothing_created).await;
        }
        let counts = Requeue::Refused;
        self.defer(code, &message, Some(at), counts, nothing_created)
            .await
    }
}
