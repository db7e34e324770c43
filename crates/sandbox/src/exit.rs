//! What an end means: the exit that is told, put together from all that is known about it.

use rustix::process::Signal;

use crate::cgroup::Counters;
use crate::init::wire::Ending;
use crate::outcome::Exit;

/// Puts together what is known about the end. A sandbox that ended without init's word was killed
/// as a whole. The kernel's count alone does not tell whom it killed: it was the main process only
/// if that ended by the signal, and not by ours.
pub(crate) fn exit(ending: Option<Ending>, by_server: bool, counters: Counters) -> Exit {
    let (code, signal) = match ending {
        Some(Ending::Code(code)) => (Some(code), None),
        Some(Ending::Signal(signal)) => (None, Some(signal)),
        None => (None, Some(Signal::KILL.as_raw())),
    };
    let short = counters.oom_kills > 0;
    let is_main = short && !by_server && signal == Some(Signal::KILL.as_raw());
    Exit {
        code,
        signal,
        oom_killed: is_main && counters.own_limit_reached,
        oom_killed_by_host: is_main && !counters.own_limit_reached,
        oom_elsewhere: short && !is_main,
        cpu_ms: counters.cpu_ms,
        peak_bytes: counters.peak_bytes,
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ending: Option<Ending>, by_server: bool, oom_kills: u64, expected: Exit) {
        let counters = Counters {
            oom_kills,
            own_limit_reached: true,
            cpu_ms: None,
            peak_bytes: None,
        };
        assert_eq!(exit(ending, by_server, counters), expected);
    }

    fn killed() -> Exit {
        Exit {
            signal: Some(9),
            ..Exit::default()
        }
    }

    #[test]
    fn a_137_proves_nothing() {
        let coded = Exit {
            code: Some(137),
            ..Exit::default()
        };
        check(Some(Ending::Code(137)), false, 0, coded.clone());
        check(
            Some(Ending::Code(137)),
            false,
            1,
            Exit {
                oom_elsewhere: true,
                ..coded
            },
        );
        check(Some(Ending::Signal(9)), false, 0, killed());
        check(
            Some(Ending::Signal(9)),
            false,
            1,
            Exit {
                oom_killed: true,
                ..killed()
            },
        );
        check(
            Some(Ending::Signal(9)),
            true,
            1,
            Exit {
                oom_elsewhere: true,
                ..killed()
            },
        );
        let term = Exit {
            signal: Some(15),
            oom_elsewhere: true,
            ..Exit::default()
        };
        check(Some(Ending::Signal(15)), false, 2, term);
    }

    #[test]
    fn a_kill_below_the_own_limit_is_the_hosts() {
        let counters = Counters {
            oom_kills: 1,
            ..Counters::default()
        };
        let by_host = Exit {
            oom_killed_by_host: true,
            ..killed()
        };
        assert_eq!(exit(Some(Ending::Signal(9)), false, counters), by_host);
        let coded = exit(Some(Ending::Code(1)), false, counters);
        assert!(
            coded.oom_elsewhere && !coded.oom_killed_by_host,
            "{coded:?}"
        );
    }

    #[test]
    fn an_end_without_a_word_is_a_kill() {
        check(None, false, 0, killed());
        check(
            None,
            false,
            3,
            Exit {
                oom_killed: true,
                ..killed()
            },
        );
        check(None, true, 0, killed());
    }
}
