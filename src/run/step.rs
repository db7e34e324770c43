//! The whole policy of a run's life: which event is accepted in which phase, and where it leads.
//!
//! The store's scripts compare and set; what they accept is computed here ([`moves`]). One test
//! walks every phase and event through [`step`] and through the scripts and wants one answer.

use crate::run::id::Attempt;
use crate::run::outcome::{Outcome, ReasonCode};
use crate::run::phase::{MachineRef, Phase, State};

/// What can happen to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker took it from the queue to boot it in `app`.
    Claimed {
        /// The app that has capacity.
        app: String,
    },
    /// The provider has the machine of `attempt`.
    Created {
        /// Which boot.
        attempt: Attempt,
        /// The machine.
        machine: MachineRef,
    },
    /// The provider refused for now: another attempt, later. It keeps its number, which is never
    /// given out again: whoever else may be at the same boot, its machine and its token are of an
    /// older attempt from here on.
    Deferred {
        /// Which boot.
        attempt: Attempt,
    },
    /// The machine of `attempt` failed and is gone: another attempt.
    Failed {
        /// Which boot.
        attempt: Attempt,
    },
    /// The guest of `attempt` posted a result.
    Posted {
        /// Which boot's token it came with.
        attempt: Attempt,
    },
    /// The run ends without a result.
    Ended {
        /// Why. The reason says in which phases this can happen.
        reason: ReasonCode,
        /// Which attempt it was seen at; `None` for whichever it is, as when someone cancels.
        attempt: Option<Attempt>,
    },
    /// The provider refused the boot of `attempt` for good, and no call of that boot can have made
    /// anything: there is nothing to tear down.
    Refused {
        /// Which boot.
        attempt: Attempt,
        /// Why.
        reason: ReasonCode,
    },
    /// No machine of the run is left.
    Gone,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The run has ended already.
    #[error("the run is over")]
    Over,
    /// The event is of another attempt than the run is at.
    #[error("the event is of another attempt")]
    OtherAttempt,
    /// The event cannot happen in this phase.
    #[error("the event does not fit the run's state")]
    NotNow,
}

/// Applies an event. The answer is the next phase, or why there is none.
///
/// # Errors
/// See [`Rejected`]. A refused event has changed nothing.
pub fn step(phase: &Phase, event: &Event) -> Result<Phase, Rejected> {
    match phase {
        Phase::Queued { attempt } => queued(*attempt, event),
        Phase::Booting { attempt, app } => booting(*attempt, app, event),
        Phase::Running { attempt, machine } => running(*attempt, machine, event),
        Phase::Settled {
            attempt,
            outcome,
            app,
            ..
        } => settled(*attempt, *outcome, app, event),
        Phase::Closed { .. } => match event {
            Event::Claimed { .. }
            | Event::Created { .. }
            | Event::Deferred { .. }
            | Event::Failed { .. }
            | Event::Posted { .. }
            | Event::Ended { .. }
            | Event::Refused { .. }
            | Event::Gone => Err(Rejected::Over),
        },
    }
}

fn queued(attempt: Attempt, event: &Event) -> Result<Phase, Rejected> {
    match event {
        Event::Claimed { app } => Ok(Phase::Booting {
            attempt: attempt.next(),
            app: app.clone(),
        }),
        // No machine is left in this phase, so there is nothing to tear down.
        Event::Ended {
            attempt: Some(of), ..
        } if *of != attempt => Err(Rejected::OtherAttempt),
        Event::Ended { reason, .. } => match reason {
            ReasonCode::ExpiredInQueue
            | ReasonCode::Cancelled
            | ReasonCode::InvalidRequest
            | ReasonCode::BootFailed
            | ReasonCode::NoCapacity => Ok(Phase::Closed {
                outcome: reason.outcome(),
            }),
            ReasonCode::Deadline
            | ReasonCode::QueueFull
            | ReasonCode::ImageRejected
            | ReasonCode::ExitedWithoutResult
            | ReasonCode::OomKilled
            | ReasonCode::MachineLost
            | ReasonCode::ResultBudget => Err(Rejected::NotNow),
        },
        Event::Created { .. }
        | Event::Deferred { .. }
        | Event::Failed { .. }
        | Event::Refused { .. }
        | Event::Posted { .. } => Err(Rejected::OtherAttempt),
        Event::Gone => Err(Rejected::NotNow),
    }
}

fn booting(attempt: Attempt, app: &str, event: &Event) -> Result<Phase, Rejected> {
    match event {
        Event::Created {
            attempt: of,
            machine,
        } => {
            same(attempt, *of)?;
            Ok(Phase::Running {
                attempt,
                machine: machine.clone(),
            })
        }
        Event::Deferred { attempt: of } | Event::Failed { attempt: of } => {
            same(attempt, *of)?;
            Ok(Phase::Queued { attempt })
        }
        // A guest can be faster than the answer to the call that created it.
        Event::Posted { attempt: of } => {
            same(attempt, *of)?;
            Ok(settle(attempt, Outcome::Completed, app, None))
        }
        Event::Ended {
            reason,
            attempt: of,
        } => {
            same(attempt, of.unwrap_or(attempt))?;
            ended_with_machine(*reason)?;
            Ok(settle(attempt, reason.outcome(), app, None))
        }
        Event::Refused {
            attempt: of,
            reason,
        } => {
            same(attempt, *of)?;
            ended_with_machine(*reason)?;
            Ok(Phase::Closed {
                outcome: reason.outcome(),
            })
        }
        Event::Claimed { .. } | Event::Gone => Err(Rejected::NotNow),
    }
}

fn running(attempt: Attempt, machine: &MachineRef, event: &Event) -> Result<Phase, Rejected> {
    match event {
        Event::Posted { attempt: of } => {
            same(attempt, *of)?;
            Ok(settle(
                attempt,
                Outcome::Completed,
                &machine.app,
                Some(machine),
            ))
        }
        Event::Failed { attempt: of } => {
            same(attempt, *of)?;
            Ok(Phase::Queued { attempt })
        }
        Event::Ended {
            reason,
            attempt: of,
        } => {
            same(attempt, of.unwrap_or(attempt))?;
            ended_with_machine(*reason)?;
            Ok(settle(
                attempt,
                reason.outcome(),
                &machine.app,
                Some(machine),
            ))
        }
        // Two workers may have brought the same boot to its end; the second one changes nothing.
        Event::Created { attempt: of, .. }
        | Event::Deferred { attempt: of }
        | Event::Refused { attempt: of, .. } => {
            same(attempt, *of)?;
            Err(Rejected::NotNow)
        }
        Event::Claimed { .. } | Event::Gone => Err(Rejected::NotNow),
    }
}

fn settled(
    attempt: Attempt,
    outcome: Outcome,
    app: &str,
    event: &Event,
) -> Result<Phase, Rejected> {
    match event {
        // The result overtook the create call's answer. What is to be torn down is known now; if
        // another machine was known, it was gone before its name could be used again.
        Event::Created {
            attempt: of,
            machine: made,
        } => {
            same(attempt, *of)?;
            Ok(settle(attempt, outcome, app, Some(made)))
        }
        Event::Gone => Ok(Phase::Closed { outcome }),
        Event::Posted { attempt: of }
        | Event::Deferred { attempt: of }
        | Event::Failed { attempt: of }
        | Event::Refused { attempt: of, .. }
        | Event::Ended {
            attempt: Some(of), ..
        } => {
            same(attempt, *of)?;
            Err(Rejected::Over)
        }
        Event::Claimed { .. } | Event::Ended { attempt: None, .. } => Err(Rejected::Over),
    }
}

fn settle(attempt: Attempt, outcome: Outcome, app: &str, machine: Option<&MachineRef>) -> Phase {
    Phase::Settled {
        attempt,
        outcome,
        app: app.to_owned(),
        machine: machine.cloned(),
    }
}

fn same(attempt: Attempt, of: Attempt) -> Result<(), Rejected> {
    if attempt == of {
        Ok(())
    } else {
        Err(Rejected::OtherAttempt)
    }
}

fn ended_with_machine(reason: ReasonCode) -> Result<(), Rejected> {
    match reason {
        ReasonCode::ExpiredInQueue | ReasonCode::QueueFull => Err(Rejected::NotNow),
        ReasonCode::BootFailed
        | ReasonCode::ImageRejected
        | ReasonCode::NoCapacity
        | ReasonCode::ExitedWithoutResult
        | ReasonCode::OomKilled
        | ReasonCode::MachineLost
        | ReasonCode::ResultBudget
        | ReasonCode::Deadline
        | ReasonCode::Cancelled
        | ReasonCode::InvalidRequest => Ok(()),
    }
}

/// From which states `event` is accepted, and where it leads: what a script is given to compare
/// with. Attempts are compared by the scripts themselves, by the same rule.
#[must_use]
pub fn moves(event: &Event) -> Vec<(State, State)> {
    let attempt = match event {
        Event::Created { attempt, .. }
        | Event::Deferred { attempt }
        | Event::Failed { attempt }
        | Event::Refused { attempt, .. }
        | Event::Posted { attempt }
        | Event::Ended {
            attempt: Some(attempt),
            ..
        } => *attempt,
        Event::Claimed { .. } | Event::Ended { attempt: None, .. } | Event::Gone => Attempt(1),
    };
    samples(attempt)
        .into_iter()
        .filter_map(|phase| {
            step(&phase, event)
                .ok()
                .map(|next| (phase.state(), next.state()))
        })
        .collect()
}

/// One phase of each state, at `attempt`.
#[must_use]
pub fn samples(attempt: Attempt) -> [Phase; 5] {
    let app = String::from("app");
    let machine = MachineRef {
        app: app.clone(),
        id: "m".into(),
        instance_id: None,
        region: None,
    };
    [
        Phase::Queued { attempt },
        Phase::Booting {
            attempt,
            app: app.clone(),
        },
        Phase::Running { attempt, machine },
        Phase::Settled {
            attempt,
            outcome: Outcome::Completed,
            app,
            machine: None,
        },
        Phase::Closed {
            outcome: Outcome::Completed,
        },
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine() -> MachineRef {
        MachineRef {
            app: "app".into(),
            id: "m1".into(),
            instance_id: None,
            region: None,
        }
    }

    fn ended(reason: ReasonCode) -> Event {
        Event::Ended {
            reason,
            attempt: None,
        }
    }

    fn edges(event: &Event) -> String {
        let edges: Vec<_> = moves(event)
            .iter()
            .map(|(from, to)| format!("{}>{}", from.as_str(), to.as_str()))
            .collect();
        edges.join(" ")
    }

    #[test]
    fn the_picture_in_the_module_lists_every_edge() {
        let attempt = Attempt(1);
        let table = [
            (Event::Claimed { app: "app".into() }, "queued>booting"),
            (
                Event::Created {
                    attempt,
                    machine: machine(),
                },
                "booting>running settled>settled",
            ),
            (Event::Deferred { attempt }, "booting>queued"),
            (Event::Failed { attempt }, "booting>queued running>queued"),
            (Event::Posted { attempt }, "booting>settled running>settled"),
            (
                ended(ReasonCode::Cancelled),
                "queued>closed booting>settled running>settled",
            ),
            (
                ended(ReasonCode::Deadline),
                "booting>settled running>settled",
            ),
            (ended(ReasonCode::ExpiredInQueue), "queued>closed"),
            (
                Event::Refused {
                    attempt,
                    reason: ReasonCode::ImageRejected,
                },
                "booting>closed",
            ),
            (Event::Gone, "settled>closed"),
        ];
        let picture = include_str!("mod.rs");
        for (event, expected) in table {
            assert_eq!(edges(&event), expected, "{event:?}");
            for edge in expected.split(' ') {
                assert!(picture.contains(edge), "run/mod.rs does not list {edge}");
            }
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        let attempt = (0u32..4).prop_map(Attempt);
        prop_oneof![
            Just(Event::Claimed { app: "app".into() }),
            attempt.clone().prop_map(|attempt| Event::Created {
                attempt,
                machine: machine()
            }),
            attempt
                .clone()
                .prop_map(|attempt| Event::Deferred { attempt }),
            attempt
                .clone()
                .prop_map(|attempt| Event::Failed { attempt }),
            attempt
                .clone()
                .prop_map(|attempt| Event::Posted { attempt }),
            (attempt, proptest::sample::select(ReasonCode::ALL.to_vec()))
                .prop_map(|(attempt, reason)| Event::Refused { attempt, reason }),
            (
                proptest::sample::select(ReasonCode::ALL.to_vec()),
                proptest::option::of(0u32..4)
            )
                .prop_map(|(reason, of)| Event::Ended {
                    reason,
                    attempt: of.map(Attempt)
                }),
            Just(Event::Gone),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_run_ends_once_and_stays_ended(events in prop::collection::vec(event(), 0..60)) {
            let mut phase = Phase::Queued { attempt: Attempt(0) };
            let mut outcome = None;
            let mut highest = Attempt(0);
            for event in &events {
                let Ok(next) = step(&phase, event) else { continue };
                let over = matches!(phase.state(), State::Settled | State::Closed);
                let still_over = matches!(next.state(), State::Settled | State::Closed);
                prop_assert!(!over || still_over, "{phase:?} left by {event:?}");
                prop_assert!(phase.state() != State::Closed);
                if let Phase::Settled { outcome: now, .. } | Phase::Closed { outcome: now } = &next {
                    prop_assert!(outcome.is_none_or(|before| before == *now), "outcome changed");
                    outcome = Some(*now);
                }
                if let Some(attempt) = next.attempt() {
                    // No number is given out twice.
                    let claimed = matches!(event, Event::Claimed { .. });
                    let follows = if claimed { attempt > highest } else { attempt == highest };
                    prop_assert!(follows, "{attempt} after {highest}");
                    highest = attempt;
                }
                phase = next;
            }
        }

        #[test]
        fn an_event_of_another_attempt_never_settles(of in 0u32..5, at in 1u32..5) {
            prop_assume!(of != at);
            for phase in samples(Attempt(at)) {
                let posted = Event::Posted { attempt: Attempt(of) };
                prop_assert!(step(&phase, &posted).is_err());
            }
        }
    }
}
