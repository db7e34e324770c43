//! The values that labels can have. Each is an enum, so the number of series is fixed.

use crate::run::outcome::Outcome;

/// A label's value.
pub trait Label: Copy + 'static {
    /// Every value there is.
    const ALL: &'static [Self];

    /// The word in the series.
    fn word(self) -> &'static str;
}

impl Label for Outcome {
    const ALL: &'static [Self] = &Outcome::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

macro_rules! label {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

label! {
    /// A call to the Machines API.
    MachinesCall {
        /// Create a machine.
        Create = "create",
        /// Get one machine.
        Get = "get",
        /// List an app's machines.
        List = "list",
        /// Wait for a machine's state.
        Wait = "wait",
        /// Stop a machine.
        Stop = "stop",
        /// Delete a machine.
        Delete = "delete",
    }
}

label! {
    /// How a call to the Machines API ended.
    AnswerClass {
        /// A status of 2xx.
        Success = "success",
        /// 404: there is no such machine, or no longer.
        NotFound = "not_found",
        /// 429: too many calls.
        RateLimited = "rate_limited",
        /// Any other status of 4xx, or one that should not come.
        Refused = "refused",
        /// A status of 5xx.
        ServerError = "server_error",
        /// No answer in time.
        TimedOut = "timed_out",
        /// No answer at all.
        Unreachable = "unreachable",
    }
}

impl AnswerClass {
    /// The class of a status that came.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Success,
            404 => Self::NotFound,
            429 => Self::RateLimited,
            500..=599 => Self::ServerError,
            _ => Self::Refused,
        }
    }
}

label! {
    /// What the endpoint answered a guest.
    AnswerCode {
        /// A result was repeated, or input was fetched.
        Ok = "200",
        /// A result was accepted.
        Created = "201",
        /// Not JSON.
        BadRequest = "400",
        /// No valid token.
        Unauthorized = "401",
        /// No such path.
        NotFound = "404",
        /// No such method.
        MethodNotAllowed = "405",
        /// Larger than allowed.
        TooLarge = "413",
        /// Redis could not be reached.
        Unavailable = "503",
        /// Anything else.
        Other = "other",
    }
}

impl AnswerCode {
    /// The value for a status.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            200 => Self::Ok,
            201 => Self::Created,
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            413 => Self::TooLarge,
            503 => Self::Unavailable,
            _ => Self::Other,
        }
    }
}

label! {
    /// What a worker has in hand.
    Work {
        /// A boot.
        Boot = "boot",
        /// A tear-down.
        Teardown = "teardown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_place() {
        assert_eq!(AnswerClass::of_status(201), AnswerClass::Success);
        assert_eq!(AnswerClass::of_status(429), AnswerClass::RateLimited);
        assert_eq!(AnswerClass::of_status(412), AnswerClass::Refused);
        assert_eq!(AnswerClass::of_status(302), AnswerClass::Refused);
        assert_eq!(AnswerCode::of_status(418), AnswerCode::Other);
        for code in AnswerCode::ALL {
            if let Ok(status) = code.word().parse() {
                assert_eq!(AnswerCode::of_status(status), *code);
            }
        }
    }
}
