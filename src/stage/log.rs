//! What a guest writes → the log of its run.

use crate::config::Results;
use crate::milestone::milestone;
use crate::stage::{Core, Error};
use crate::store::acts::BootId;
use crate::store::logs::LogBounds;
pub use crate::store::logs::{Appended, LogStream};
use crate::token::Grant;

/// Appends a piece of a guest's output, before which `dropped` bytes were left out. One round trip. A
/// repeat appends it again.
///
/// # Errors
/// When Redis does not answer; the piece may have been appended.
pub async fn append(
    core: &Core<Results>,
    grant: &Grant,
    stream: LogStream,
    text: &[u8],
    dropped: u64,
) -> Result<Appended, Error> {
    let boot = BootId {
        attempt: grant.attempt,
        nonce: grant.nonce.as_ref(),
    };
    let bounds = LogBounds {
        run_bytes: core.runs.log_bytes,
        bytes: core.runs.logs_bytes,
        tenant_bytes: core.runs.tenant_logs_bytes,
        kept_for: core.runs.retention,
    };
    let now = core.clock.now_ms();
    let piece = (stream, text, dropped);
    let appended = core
        .store
        .append_log(&grant.run, boot, piece, bounds, now)
        .await?;
    milestone!("log::appended");
    Ok(appended)
}
