//! Named points at the awaits of the steps, where a test can kill, stop or delay the process.
//!
//! ```text
//! FAILPOINTS='boot::created=return(die)'               the process dies there, as by `kill -9`
//! FAILPOINTS='boot::created=1*return(stop)'            it stops there, once, until SIGCONT
//! FAILPOINTS='boot::created=1*return(panic)'           the task panics there, once
//! FAILPOINTS='report::settled=2*off->return(delay 50)' from the third time on it waits 50 ms
//! ```
//!
//! A milestone stands after each await at which the world outside may have changed, and is named
//! for what has happened by then. It exists only with the cargo feature `milestones`, which no
//! release has: without it `milestone!` is nothing at all. Every loop of a process begins with the
//! milestone `loop::` and its name.

#[cfg(feature = "milestones")]
pub(crate) use armed::{arm, reach};

/// Marks a point of a step: `milestone!("boot::created")`. Only in async functions.
macro_rules! milestone {
    ($name:literal) => {
        #[cfg(feature = "milestones")]
        $crate::milestone::reach($name).await;
    };
}

pub(crate) use milestone;

/// The milestone at which a loop begins.
pub(crate) async fn at_loop(name: &str) {
    #[cfg(feature = "milestones")]
    reach(&format!("loop::{name}")).await;
    #[cfg(not(feature = "milestones"))]
    let _ = name;
}

#[cfg(feature = "milestones")]
mod armed {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use tracing::warn;

    /// How long a signal takes at the most to be seen by every thread.
    const SEEN: Duration = Duration::from_millis(200);

    /// What happens at a milestone.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Die,
        Stop,
        Panic,
        Delay(Duration),
    }

    impl Action {
        fn read(word: &str) -> Option<Self> {
            match word.split_once(' ') {
                None if word == "die" => Some(Self::Die),
                None if word == "stop" => Some(Self::Stop),
                None if word == "panic" => Some(Self::Panic),
                Some(("delay", ms)) => Some(Self::Delay(Duration::from_millis(ms.parse().ok()?))),
                _ => None,
            }
        }
    }

    /// Takes what `FAILPOINTS` says. To be kept for as long as the milestones are to count.
    #[must_use]
    pub(crate) fn arm() -> fail::FailScenario<'static> {
        fail::FailScenario::setup()
    }

    /// The process has come to a milestone.
    ///
    /// # Panics
    /// When that is what is to happen there, and when something else than `die`, `stop`, `panic` or
    /// `delay MILLISECONDS` is.
    pub(crate) async fn reach(name: &str) {
        let Some(word) = fail::eval(name, Option::unwrap_or_default) else {
            return;
        };
        let action = Action::read(&word)
            .unwrap_or_else(|| panic!("milestone {name}: {word:?} is nothing that can happen"));
        warn!(name, ?action, "milestone");
        match action {
            Action::Die => signal(Signal::KILL),
            Action::Stop => signal(Signal::STOP),
            Action::Panic => panic!("milestone {name}"),
            Action::Delay(wait) => tokio::time::sleep(wait).await,
        }
    }

    /// Sends this process a signal that it cannot handle. Another thread may be the one to take it,
    /// so this one waits here until it is seen by all.
    fn signal(signal: Signal) {
        kill_process(getpid(), signal).expect("a process may send itself a signal");
        std::thread::sleep(SEEN);
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_happens_is_read_from_a_word() {
            for (word, action) in [
                ("die", Some(Action::Die)),
                ("stop", Some(Action::Stop)),
                ("panic", Some(Action::Panic)),
                ("delay 50", Some(Action::Delay(Duration::from_millis(50)))),
                ("delay", None),
                ("delay x", None),
                ("", None),
            ] {
                assert_eq!(Action::read(word), action, "{word:?}");
            }
        }
    }
}
