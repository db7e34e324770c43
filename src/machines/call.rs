//! The names of the calls, and what is told of each for counting.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A call of the API that the client makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Create a machine: not safe to repeat by itself.
    Create,
    /// Read one machine.
    Get,
    /// List an app's machines.
    List,
    /// Wait for a state.
    Wait,
    /// Start a stopped machine.
    Start,
    /// Ask a machine to stop.
    Stop,
    /// Remove a machine.
    Delete,
    /// Read an app.
    App,
    /// Ask what the token may do.
    Token,
    /// Read logs.
    Logs,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Get,
        Self::List,
        Self::Wait,
        Self::Start,
        Self::Stop,
        Self::Delete,
        Self::App,
        Self::Token,
        Self::Logs,
    ];

    /// Its name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::List => "list",
            Self::Wait => "wait",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::App => "app",
            Self::Token => "token",
            Self::Logs => "logs",
        }
    }
}

/// What one call asked for, as errors tell it: no query, no headers, no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The call.
    pub call: Call,
    /// HTTP method.
    pub method: &'static str,
    /// Path.
    pub path: String,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// How a call ended, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 2xx.
    Ok,
    /// The machine that was to be read, waited for or removed is not there: 404, and what else says
    /// so. A delete wants no more than that.
    Gone,
    /// 4xx, save those here; and 3xx, which are not followed.
    Refused,
    /// 408: a wait that did not see its state, or a host that did not answer.
    TimedOut,
    /// 429.
    RateLimited,
    /// 5xx.
    ServerError,
    /// 2xx that cannot be read.
    Unreadable,
    /// No whole answer.
    NoAnswer,
    /// Not sent.
    NotSent,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Gone,
        Self::Refused,
        Self::TimedOut,
        Self::RateLimited,
        Self::ServerError,
        Self::Unreadable,
        Self::NoAnswer,
        Self::NotSent,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Unreadable => "unreadable",
            Self::NoAnswer => "no_answer",
            Self::NotSent => "not_sent",
        }
    }

    /// The class of an answer by its status alone.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Ok,
            408 => Self::TimedOut,
            429 => Self::RateLimited,
            500.. => Self::ServerError,
            _ => Self::Refused,
        }
    }
}

/// One call that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What was asked for. A listing is one for each page.
    pub request: Request,
    /// The status of its answer, if there was one.
    pub status: Option<u16>,
    /// How it ended.
    pub class: Class,
    /// How long it took.
    pub took: Duration,
}

/// Is told of every call that has ended, on the task that made it: it must not block.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<dyn Fn(Observed) + Send + Sync>>);

impl Observer {
    /// Tells `f` of every call.
    pub fn new(f: impl Fn(Observed) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(f)))
    }

    pub(super) fn tell(&self, observed: Observed) {
        if let Some(f) = &self.0 {
            f(observed);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Observer(set)"
        } else {
            "Observer(none)"
        })
    }
}
