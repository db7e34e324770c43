//! A refused call, in the form the Machines API gives it.

use std::borrow::Cow;

/// A refused call: its status and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// The text under `error`, or under `message` for leases.
    pub(crate) error: Cow<'static, str>,
    /// The code under `status`, where the API gives one.
    pub(crate) code: Option<Cow<'static, str>>,
    /// The value of `Retry-After`, in seconds.
    pub(crate) retry_after_s: Option<u64>,
    /// Which of the API's body shapes it has.
    pub(crate) shape: Shape,
}

/// The shapes of an error's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `{"error":"…","status":"…"}`
    Error,
    /// `{"status":"error","message":"…"}`, which the lease calls use.
    Lease,
    /// The text alone, as the API's router answers unknown paths.
    Plain,
    /// The text is the whole body, already JSON or whatever a fault rule wants.
    Verbatim,
}

impl Refusal {
    /// `{"error": error}` with `status`.
    pub(crate) fn new(status: u16, error: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            error: error.into(),
            code: None,
            retry_after_s: None,
            shape: Shape::Error,
        }
    }

    /// The same with a code under `status`.
    pub(crate) fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// 400: the request breaks a rule.
    pub(crate) fn invalid(error: impl AsRef<str>) -> Self {
        Self::new(400, format!("invalid_argument: {}", error.as_ref()))
    }

    /// 404 for a machine that is not there, or not there any more.
    pub(crate) fn no_machine() -> Self {
        Self::new(404, "not_found: machine not found")
    }

    /// 404 for an app that is not there.
    pub(crate) fn no_app(app: &str) -> Self {
        Self::new(404, format!("not_found: app '{app}' not found"))
    }

    /// 412: the machine is not in a state for this.
    pub(crate) fn precondition(error: impl AsRef<str>) -> Self {
        Self::new(412, format!("failed_precondition: {}", error.as_ref()))
    }

    /// 409 or another status in the shape of the lease calls.
    pub(crate) fn lease(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            shape: Shape::Lease,
            ..Self::new(status, message)
        }
    }

    /// 404 as the API's router answers a path that it does not know.
    pub(crate) fn unknown_route() -> Self {
        Self {
            shape: Shape::Plain,
            ..Self::new(404, "404 page not found\n")
        }
    }

    /// 501 for a call of the real API that this server does not have.
    pub(crate) fn unimplemented(what: impl AsRef<str>) -> Self {
        Self::new(
            501,
            format!(
                "unimplemented: {} on the local Machines server",
                what.as_ref()
            ),
        )
    }

    /// 429 as the API's limiter answers.
    pub(crate) fn rate_limited() -> Self {
        Self::new(429, "rate limit exceeded")
    }

    /// 503: the server is ending.
    pub(crate) fn ending() -> Self {
        Self {
            retry_after_s: Some(1),
            ..Self::new(503, "unavailable: the server is shutting down")
        }
    }
}
