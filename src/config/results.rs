//! How the endpoint accepts results and output.

use std::time::Duration;

use crate::config::groups::{lease, results_retention, retention};
use crate::config::reader::Reader;
use crate::config::table;
use crate::config::traces;

/// How the endpoint accepts results.
#[derive(Clone, Debug)]
pub struct Results {
    /// Bytes of one result's body.
    pub max_bytes: usize,
    /// Bytes of results that are kept, all together; 0 for no limit.
    pub kept_bytes: u64,
    /// Bytes of results that are kept, of one tenant without a limit of its own; 0 for no limit.
    pub tenant_kept_bytes: u64,
    /// How long results stay on their stream.
    pub kept_for: Duration,
    /// Bytes kept of what one run's guest writes.
    pub log_bytes: usize,
    /// Bytes kept of what all guests write, all together; 0 for no limit.
    pub logs_bytes: u64,
    /// The same of one tenant; 0 for no limit.
    pub tenant_logs_bytes: u64,
    /// How long a run can be looked up after its end.
    pub retention: Duration,
    /// How long a worker that died keeps the tear-down from the others.
    pub lease: Duration,
    /// Whether it is noted when the post of a result began, for the run's trace.
    pub notes_posts: bool,
    /// Whether the requests of runs that completed are kept, so that they can be asked for again.
    pub keeps_requests: bool,
}

impl Results {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            max_bytes: reader.bytes(&table::RESULT_MAX_BYTES, 256 * 1024 * 1024),
            kept_bytes: reader.number(&table::RESULTS_BYTES, 0..=1 << 50),
            tenant_kept_bytes: reader.number(&table::TENANT_RESULTS_BYTES, 0..=1 << 50),
            kept_for: results_retention(reader),
            log_bytes: reader.bytes(&table::LOG_BYTES, 256 * 1024 * 1024),
            logs_bytes: reader.number(&table::LOGS_BYTES, 0..=1 << 50),
            tenant_logs_bytes: reader.number(&table::TENANT_LOGS_BYTES, 0..=1 << 50),
            retention: retention(reader),
            lease: lease(reader),
            notes_posts: traces::are_on(reader),
            keeps_requests: reader.flag(&table::KEEP_REQUESTS),
        }
    }
}
