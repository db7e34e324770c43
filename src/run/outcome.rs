//! How a run ends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a run ended; each has its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest posted a result.
    Completed,
    /// No result can come any more.
    Failed,
    /// A deadline passed.
    TimedOut,
    /// Someone cancelled it.
    Cancelled,
    /// The request broke a rule.
    Rejected,
}

impl Outcome {
    /// All of them, for labels and tables.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Rejected,
    ];

    /// The word in the result and in the run's hash.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }
}

/// Why a run ended otherwise than by a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// No machine could be brought to start.
    BootFailed,
    /// The provider cannot get the image.
    ImageRejected,
    /// No region had capacity.
    NoCapacity,
    /// The machine ended and the guest had posted nothing.
    ExitedWithoutResult,
    /// The guest was killed because its machine was out of memory.
    OomKilled,
    /// The machine or its host is gone and it is not known how.
    MachineLost,
    /// The run's own deadline passed.
    Deadline,
    /// It was not started by `queue_ttl_s`.
    ExpiredInQueue,
    /// The guest posted a result, and as many bytes of results are kept as may.
    ResultBudget,
    /// Someone cancelled it.
    Cancelled,
    /// The request broke a rule.
    InvalidRequest,
    /// As many runs wait as may.
    QueueFull,
}

impl ReasonCode {
    /// All of them, for labels and tables.
    pub const ALL: [Self; 12] = [
        Self::BootFailed,
        Self::ImageRejected,
        Self::NoCapacity,
        Self::ExitedWithoutResult,
        Self::OomKilled,
        Self::MachineLost,
        Self::Deadline,
        Self::ExpiredInQueue,
        Self::ResultBudget,
        Self::Cancelled,
        Self::InvalidRequest,
        Self::QueueFull,
    ];

    /// The word in the result and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BootFailed => "boot_failed",
            Self::ImageRejected => "image_rejected",
            Self::NoCapacity => "no_capacity",
            Self::ExitedWithoutResult => "exited_without_result",
            Self::OomKilled => "oom_killed",
            Self::MachineLost => "machine_lost",
            Self::Deadline => "deadline",
            Self::ExpiredInQueue => "expired_in_queue",
            Self::ResultBudget => "result_budget",
            Self::Cancelled => "cancelled",
            Self::InvalidRequest => "invalid_request",
            Self::QueueFull => "queue_full",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// The outcome that this reason belongs to.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::BootFailed
            | Self::ImageRejected
            | Self::NoCapacity
            | Self::ExitedWithoutResult
            | Self::OomKilled
            | Self::MachineLost
            | Self::ResultBudget => Outcome::Failed,
            Self::Deadline | Self::ExpiredInQueue => Outcome::TimedOut,
            Self::Cancelled => Outcome::Cancelled,
            Self::InvalidRequest | Self::QueueFull => Outcome::Rejected,
        }
    }
}

/// Longest reason message, in bytes; longer ones are cut.
const MESSAGE_MAX_BYTES: usize = 2048;

/// Why a run ended: a code for programs, a message for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One of a fixed list.
    pub code: ReasonCode,
    /// What happened, in words; at most 2 KiB.
    pub message: String,
}

impl Reason {
    /// A reason whose message is cut to its bound.
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX_BYTES {
            let mut end = MESSAGE_MAX_BYTES;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        Self { code, message }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The code's word, as JSON has it.
        self.code.serialize(&mut *f)?;
        write!(f, ": {}", self.message)
    }
}

/// How the machine's main process ended, where that was seen before the run settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code.
    pub code: Option<i32>,
    /// Signal number.
    pub signal: Option<i32>,
    /// The kernel killed it because it was out of memory.
    pub oom_killed: bool,
}

/// The end of a run, with what its result says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest's result: one JSON value, kept byte for byte.
    Completed {
        /// The body of the post.
        payload: String,
    },
    /// No result; the reason says why.
    Without {
        /// Why.
        reason: Reason,
        /// How the machine ended, if that was seen.
        exit: Option<ExitStatus>,
        /// The last that the guest wrote, if it wrote anything.
        output_tail: Option<String>,
    },
}

impl Ending {
    /// An end without a result and without an exit.
    pub fn without(code: ReasonCode, message: impl Into<String>) -> Self {
        Self::Without {
            reason: Reason::new(code, message),
            exit: None,
            output_tail: None,
        }
    }

    /// Whether its result tells the last that the guest wrote.
    #[must_use]
    pub fn has_output_tail(&self) -> bool {
        matches!(self.outcome(), Outcome::Failed | Outcome::TimedOut)
    }

    /// The outcome that this end has.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Completed { .. } => Outcome::Completed,
            Self::Without { reason, .. } => reason.code.outcome(),
        }
    }
}

/// As logs have it.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed { .. } => f.write_str("completed"),
            Self::Without { reason, .. } => reason.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_contracts() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        for code in ReasonCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(ReasonCode::parse(code.as_str()), Some(code));
        }
        let codes: Vec<_> = ReasonCode::ALL
            .iter()
            .map(|code| serde_json::to_value(code).unwrap())
            .collect();
        assert_eq!(
            codes,
            [
                "boot_failed",
                "image_rejected",
                "no_capacity",
                "exited_without_result",
                "oom_killed",
                "machine_lost",
                "deadline",
                "expired_in_queue",
                "result_budget",
                "cancelled",
                "invalid_request",
                "queue_full"
            ]
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let reason = Reason::new(ReasonCode::BootFailed, "ä".repeat(2000));
        assert!(reason.message.len() <= MESSAGE_MAX_BYTES);
        assert!(reason.message.ends_with('ä'));
    }
}
