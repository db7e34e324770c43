//! The states of a run, each with what is known in it.

use crate::run::id::Attempt;
use crate::run::outcome::Outcome;

/// A machine as the provider knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineRef {
    /// The app it lives in.
    pub app: String,
    /// Its id.
    pub id: String,
    /// The version of its configuration (`instance_id`), if it is known.
    pub instance_id: Option<String>,
    /// Where it runs.
    pub region: Option<String>,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a machine. `attempt` boots have begun and ended.
    Queued {
        /// How many boots have begun.
        attempt: Attempt,
    },
    /// A machine was asked for, or is about to be. Whether it exists is not known for sure.
    Booting {
        /// Which boot this is.
        attempt: Attempt,
        /// The app that was chosen for it.
        app: String,
    },
    /// The provider has the machine; its result is awaited until the deadline.
    Running {
        /// Which boot brought it.
        attempt: Attempt,
        /// The machine.
        machine: MachineRef,
    },
    /// The result is published; the machine may still be there.
    Settled {
        /// Which attempt it was.
        attempt: Attempt,
        /// How it ended.
        outcome: Outcome,
        /// The app in which a machine may be.
        app: String,
        /// The machine, if the create call has answered.
        machine: Option<MachineRef>,
    },
    /// The result is published and no machine is left.
    Closed {
        /// How it ended.
        outcome: Outcome,
    },
}

/// The name of a [`Phase`] without its fields, as it stands in the run's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// See [`Phase::Queued`].
    Queued,
    /// See [`Phase::Booting`].
    Booting,
    /// See [`Phase::Running`].
    Running,
    /// See [`Phase::Settled`].
    Settled,
    /// See [`Phase::Closed`].
    Closed,
}

impl State {
    /// All of them, in the order of a run's life.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Booting,
        Self::Running,
        Self::Settled,
        Self::Closed,
    ];

    /// The word in the run's hash.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Settled => "settled",
            Self::Closed => "closed",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// What is owed for a run now. The worker does it at once; the sweeper does the same thing late, when
/// the worker that should have done it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Wait for a slot, then boot.
    Boot,
    /// Carry on with the boot that began: its machine has a name to find it by.
    ResumeBoot,
    /// Wait for the result; at the deadline, end it.
    Await,
    /// Tear the machine down.
    Teardown,
    /// Nothing, ever.
    Nothing,
}

impl Phase {
    /// The phase's name.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Queued { .. } => State::Queued,
            Self::Booting { .. } => State::Booting,
            Self::Running { .. } => State::Running,
            Self::Settled { .. } => State::Settled,
            Self::Closed { .. } => State::Closed,
        }
    }

    /// What is owed in this phase.
    #[must_use]
    pub fn owes(&self) -> Duty {
        match self {
            Self::Queued { .. } => Duty::Boot,
            Self::Booting { .. } => Duty::ResumeBoot,
            Self::Running { .. } => Duty::Await,
            Self::Settled { .. } => Duty::Teardown,
            Self::Closed { .. } => Duty::Nothing,
        }
    }

    /// The attempt that the phase belongs to; `None` once the run is closed.
    #[must_use]
    pub fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Queued { attempt }
            | Self::Booting { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Settled { attempt, .. } => Some(*attempt),
            Self::Closed { .. } => None,
        }
    }
}
