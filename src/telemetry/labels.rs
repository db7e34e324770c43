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
    /// What became of a span.
    SpanFate {
        /// The collector took it.
        Sent = "sent",
        /// It was given up.
        Dropped = "dropped",
    }
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
        /// Start a machine.
        Start = "start",
        /// Stop a machine.
        Stop = "stop",
        /// Delete a machine.
        Delete = "delete",
        /// Read an app.
        App = "app",
        /// Ask what the token may do.
        Token = "token",
        /// Read logs.
        Logs = "logs",
    }
}

label! {
    /// How a call to the Machines API ended.
    ResponseClass {
        /// It did what was asked.
        Ok = "ok",
        /// There is no such machine (any more), which the caller had to expect.
        Gone = "gone",
        /// The service said no.
        Refused = "refused",
        /// A wait that did not see its state, or a host that did not answer.
        TimedOut = "timed_out",
        /// Too many calls.
        RateLimited = "rate_limited",
        /// The service failed.
        ServerError = "server_error",
        /// A yes that cannot be read.
        Unreadable = "unreadable",
        /// No whole answer.
        NoAnswer = "no_answer",
        /// Not sent.
        NotSent = "not_sent",
    }
}

label! {
    /// Why a call to Redis failed.
    RedisError {
        /// No connection, no answer in time, or not ready to serve yet.
        Unavailable = "unavailable",
        /// A certificate was refused, by us or by it.
        Tls = "tls",
        /// `maxmemory` is reached.
        OutOfMemory = "out_of_memory",
        /// It is a replica.
        ReadOnly = "read_only",
        /// It cannot keep what is written, and so takes no writes.
        Misconfigured = "misconfigured",
        /// Fewer replicas are connected than it must have to take writes.
        TooFewReplicas = "too_few_replicas",
        /// The user may not do it, or the password is wrong.
        NoPermission = "no_permission",
        /// A key has another type than the data model says.
        WrongType = "wrong_type",
        /// The keys of one command lie in several slots of a cluster.
        CrossSlot = "cross_slot",
        /// The keys lie on another node of a cluster.
        Moved = "moved",
        /// The server does not know the command.
        UnknownCommand = "unknown_command",
        /// An answer that is not as it should be.
        Unreadable = "unreadable",
        /// Any other refusal.
        Other = "other",
    }
}

label! {
    /// How the data in Redis are others than a process had seen.
    DataChange {
        /// They were gone.
        Emptied = "emptied",
        /// An older copy was put back, or what was acknowledged last is lost.
        SetBack = "set_back",
        /// They are of another installation.
        Foreign = "foreign",
    }
}

label! {
    /// What the endpoint answered a guest.
    ResponseCode {
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
        /// An artifact goes to an address of the store.
        Elsewhere = "307",
        /// The body took too long.
        TooSlow = "408",
        /// An artifact without its length.
        LengthRequired = "411",
        /// Larger than allowed.
        TooLarge = "413",
        /// The body is compressed.
        Encoded = "415",
        /// Artifacts are not kept.
        NotKept = "501",
        /// Where artifacts are kept refuses.
        StoreRefused = "502",
        /// Redis, or where artifacts are kept, could not be reached.
        Unavailable = "503",
        /// No room is left where artifacts are kept.
        StoreFull = "507",
        /// Anything else.
        Other = "other",
    }
}

impl ResponseCode {
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
            307 => Self::Elsewhere,
            408 => Self::TooSlow,
            411 => Self::LengthRequired,
            413 => Self::TooLarge,
            415 => Self::Encoded,
            501 => Self::NotKept,
            502 => Self::StoreRefused,
            503 => Self::Unavailable,
            507 => Self::StoreFull,
            _ => Self::Other,
        }
    }
}

/// The scripts that run in Redis, by name, in the order of `store::scripts`.
pub const REDIS_SCRIPTS: &[&str] = &[
    "admit",
    "claim",
    "take_token",
    "advance",
    "requeue",
    "settle",
    "end_lost",
    "close",
    "renew",
    "preparing",
    "overdue",
    "lead",
    "configure",
    "pause",
    "mend",
    "census",
    "why",
    "input",
    "log",
    "reserve_artifact",
    "pending_artifact",
    "keep_artifact",
    "release_artifact",
    "forget_artifacts",
    "known_artifacts",
    "dead_letter",
    "small",
    "keyrings",
    "quiet",
    "prioritise",
    "read",
    "take_over",
    "request",
    "group",
    "probe",
    "revive",
    "unread",
    "trim",
    "needed",
    "forget_app",
    "forget",
];

label! {
    /// What a task of a worker does.
    TaskKind {
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
        assert_eq!(ResponseCode::of_status(418), ResponseCode::Other);
        for code in ResponseCode::ALL {
            if let Ok(status) = code.word().parse() {
                assert_eq!(ResponseCode::of_status(status), *code);
            }
        }
    }
}
