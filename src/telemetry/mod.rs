//! What the process tells about itself: log lines on standard error, and [`Metrics`].

mod exemplars;
mod group_lag;
pub mod human;
mod in_hand;
mod labels;
mod metrics;
mod plain;
mod series;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

pub use crate::telemetry::exemplars::{OPEN_METRICS, Timed};
pub use crate::telemetry::group_lag::GroupLag;
pub use crate::telemetry::labels::{
    DataChange, Label, MachinesCall, REDIS_SCRIPTS, RedisError, ResponseClass, ResponseCode,
    SpanFate, TaskKind,
};
pub use crate::telemetry::metrics::{CONTENT_TYPE, Counters, Metrics};
pub use crate::telemetry::plain::{is_control, printable};

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not made of levels and `module=level`.
    #[error("read the log filter {filter:?}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else in this process has set up logging.
    #[error("logging was started before")]
    AlreadyStarted,
}

/// Sends the log of this process to standard error. Text has colours only on a terminal, and not
/// where `NO_COLOR` asks for none.
///
/// # Errors
/// When the filter is unsound, or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<(), Error> {
    let directives = EnvFilter::try_new(filter).map_err(|source| Error::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(directives)
        .fmt_fields(plain::fields())
        .with_writer(|| plain::OneLine(std::io::stderr()));
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // On a terminal the builder itself honours NO_COLOR.
        LogFormat::Text if std::io::stderr().is_terminal() => builder.try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    started.map_err(|_| Error::AlreadyStarted)
}
