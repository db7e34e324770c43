//! How a machine may be asked to stop.

use std::time::Duration;

use crate::local::refusal::Refusal;
use crate::machines::wire::Signal;

/// How long a program is given to end at the most, as on the real service.
const LONGEST_STOP: Duration = Duration::from_secs(300);

/// The number of a signal that the API takes.
///
/// # Errors
/// 400 for any other.
pub(crate) fn signal(signal: &Signal) -> Result<i32, Refusal> {
    signal.number().ok_or_else(|| {
        let shown = match signal {
            Signal::Name(name) => name.chars().take(32).collect(),
            Signal::Number(number) => number.to_string(),
        };
        Refusal::invalid(format!("invalid signal '{shown}'"))
    })
}

/// Refuses a time to stop that is longer than the service allows.
pub(crate) fn stop_timeout(timeout: Duration) -> Result<Duration, Refusal> {
    if timeout > LONGEST_STOP {
        return Err(Refusal::invalid("stop timeout must be at most 5m0s"));
    }
    Ok(timeout)
}
