//! What a failed call of a boot means for the boot.

use std::time::Duration;

use crate::machines::{Call, Decision, Error as ApiError, judge};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::outcome::ReasonCode;
use crate::stage::Error;
use crate::stage::boot::{Begin, Boot, Booted};
use crate::store::acts::Requeue;

/// Pause after an answer was lost, before looking for the machine: a commit may not be visible at
/// once (`flyctl` waits as long before its own look-up).
const SETTLING: Duration = Duration::from_millis(500);
/// For how long an image that the registry does not know is asked for again: one that was pushed a
/// moment ago is not seen everywhere for up to ten seconds.
pub(super) const IMAGE_UNKNOWN_MAX: Duration = Duration::from_secs(15);
/// Between two of these calls at the least; the run waits in the queue meanwhile.
const IMAGE_PAUSE: Duration = Duration::from_secs(2);
/// How long no worker boots in an app whose token, address or account is refused.
const MISCONFIGURED_PAUSE: Duration = Duration::from_secs(5);
/// How long no worker boots in an app that is over its rate limit, if the answer names no time.
const RATE_PAUSE: Duration = Duration::from_secs(1);

/// What follows from a failed call.
pub(super) enum Next {
    /// Another call.
    Again(Begin),
    /// Back to the queue.
    Wait {
        code: ReasonCode,
        until: Option<u64>,
        counts: Requeue,
    },
    /// Refused for an unknown reason, in these words: another call, a few times.
    Unclear(String),
    /// No machine, for good.
    End { code: ReasonCode, message: String },
    /// Nothing more to do here.
    Done(Booted),
}

impl Next {
    /// Back to the queue without a pause of its own: the pause is the app's, which an operator can
    /// end, and another app may boot the run at once.
    const APP_HELD: Self = Self::Wait {
        code: ReasonCode::BootFailed,
        until: None,
        counts: Requeue::Held,
    };
}

impl Boot<'_> {
    /// What follows from a failed call.
    pub(super) async fn next_step(&self, call: Call, error: &ApiError) -> Result<Next, Error> {
        let now = self.deps.core.clock.now_ms();
        Ok(match judge(call, error) {
            Decision::Retry | Decision::OtherHost => Next::Again(Begin::Create),
            Decision::LookUp => {
                tokio::time::sleep(SETTLING).await;
                Next::Again(Begin::LookUp)
            }
            Decision::Adopt { machine_id } => self.adopt(&machine_id).await?,
            Decision::RateLimited { retry_after } => {
                let until = budget::after(now, retry_after.unwrap_or(RATE_PAUSE));
                let (store, app) = (&self.deps.core.store, &self.run.app);
                store.hold(app, until, None, now).await?;
                milestone!("boot::app_held");
                Next::APP_HELD
            }
            Decision::OtherRegion => Next::Wait {
                code: ReasonCode::NoCapacity,
                until: None,
                counts: Requeue::Refused,
            },
            Decision::Unauthorized | Decision::Misconfigured { .. } | Decision::Quota => {
                let message = error.to_string();
                self.deps.refused(&self.run.app, &message);
                let until = budget::after(now, MISCONFIGURED_PAUSE);
                let (store, app) = (&self.deps.core.store, &self.run.app);
                store.hold(app, until, Some(&message), now).await?;
                milestone!("boot::app_refused");
                Next::APP_HELD
            }
            Decision::ImageRejected { message } => {
                let code = ReasonCode::ImageRejected;
                Next::End { code, message }
            }
            Decision::ImageUnknown { message } => {
                let since = self.run.refused_since_ms.unwrap_or(now);
                if now >= budget::after(since, IMAGE_UNKNOWN_MAX) {
                    let code = ReasonCode::ImageRejected;
                    return Ok(Next::End { code, message });
                }
                Next::Wait {
                    code: ReasonCode::ImageRejected,
                    until: Some(budget::after(now, IMAGE_PAUSE)),
                    counts: Requeue::Refused,
                }
            }
            Decision::Invalid { message } => {
                let code = ReasonCode::BootFailed;
                Next::End { code, message }
            }
            Decision::Unclear { message } if message.is_empty() => Next::Unclear(error.to_string()),
            Decision::Unclear { message } => Next::Unclear(message),
            // Decisions about other calls than the two that are made here.
            Decision::Gone
            | Decision::NotYet
            | Decision::Held
            | Decision::StillActive
            | Decision::ReadAgain => Next::Again(Begin::LookUp),
        })
    }
}
