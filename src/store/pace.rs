//! A pause where a server answers at once to a read that was to wait. Some services take such reads and
//! do not wait; they would be asked thousands of times a second.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// An answer with nothing that comes sooner was not waited for.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Between two such reads.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether the last read was answered at once, with nothing.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    is_hurried: bool,
}

impl Pace {
    /// Notes how a read that could wait for `block` ended.
    pub(crate) fn note(&mut self, is_empty: bool, begun: Instant, block: Duration) {
        self.is_hurried = is_empty && block > PAUSE && begun.elapsed() < AT_ONCE;
    }

    /// Pauses if need be. Answers whether `wake` came meanwhile; it must not be asked again then.
    pub(crate) async fn is_ended_by(&self, wake: &mut Pin<&mut impl Future<Output = ()>>) -> bool {
        if !self.is_hurried {
            return false;
        }
        tokio::select! {
            () = wake => true,
            () = sleep(PAUSE) => false,
        }
    }
}
