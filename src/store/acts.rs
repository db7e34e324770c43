//! What the acts in a run's life are given and what they answer.

use std::ops::Range;
use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::id::{Attempt, Nonce, RunId, Tenant};
use crate::run::outcome::Ending;
use crate::run::request::Guest;
use crate::run::trace::TraceParent;
use crate::store::codec::RunRecord;
use crate::store::error::Error;

/// A request on its way to becoming a run.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The run's id.
    pub id: RunId,
    /// The stream entry that it is, and that is acknowledged with it.
    pub entry: String,
    /// SHA-256 of its JSON, which tells an identical repeat from another request of the same
    /// id.
    pub digest: String,
    /// Whose run it is.
    pub tenant: Tenant,
    /// When the request was appended.
    pub submitted_at_ms: UnixMs,
    /// What becomes of it.
    pub fate: Fate,
}

/// What a request becomes.
#[derive(Clone, Debug)]
pub enum Fate {
    /// A run that waits for a machine.
    Queued {
        /// How long its JSON is, which stays in Redis.
        request_bytes: usize,
        /// Where its input stands in that.
        input: Range<usize>,
        /// From boot to deadline.
        timeout: Duration,
        /// What was asked for, where that is more than a run may take.
        timeout_asked: Option<Duration>,
        /// How long it may wait, from when it may start; `None` for the most that is allowed.
        queue_ttl: Option<Duration>,
        /// 0 goes first, 9 last.
        priority: u8,
        /// It may not start before; `None` for at once.
        not_before: Option<UnixMs>,
        /// The image that it asks for.
        image: String,
        /// The size of its machine.
        size: Guest,
        /// Its metadata as JSON.
        metadata: Option<String>,
        /// The span that it belongs to.
        traceparent: Option<TraceParent>,
    },
    /// A result at once, because it breaks a rule, or the backlog is full.
    Rejected {
        /// What the result says.
        ending: Ending,
        /// Its metadata as JSON, where that can be read.
        metadata: Option<String>,
        /// The span that it belongs to.
        traceparent: Option<TraceParent>,
    },
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is a run now (or has its result).
    New,
    /// It is a run already; nothing changed.
    Known,
    /// Another request has become a run of that id. This one is set aside as dead.
    Taken,
    /// As many runs wait as may, all together. Nothing changed: the request is still there.
    Full,
    /// As many runs of the tenant wait as may. Nothing changed: the request is still there.
    TenantFull,
}

/// On what terms requests are admitted.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long the hash of a rejected run stays.
    pub retention: Duration,
    /// Most runs waiting, all together.
    pub backlog_max: Option<u64>,
    /// Most runs of one tenant waiting, unless it has a limit of its own.
    pub tenant_backlog_max: Option<u64>,
}

/// What a worker may boot now.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The runs, each in `booting` now and leased to the caller.
    pub runs: Vec<Claimed>,
    /// Why there are not more.
    pub stop: Stop,
    /// When asking again can bring more, if that is known.
    pub wake_at_ms: Option<UnixMs>,
}

/// Why a claim brought no more runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The caller has as many as it wanted.
    Wanted,
    /// Nothing that waits may go.
    Empty,
    /// The fleet is at its cap.
    Full,
    /// No app may boot now.
    Held,
    /// Everything is paused.
    Paused,
}

/// One run to boot.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Which run.
    pub id: RunId,
    /// Whose run.
    pub tenant: String,
    /// Which boot this is.
    pub attempt: Attempt,
    /// Where it is to boot.
    pub app: String,
    /// Its deadline.
    pub deadline_ms: UnixMs,
    /// How often the provider refused it before, in a row.
    pub refusals: u32,
    /// Since when the provider refuses it.
    pub refused_since_ms: Option<UnixMs>,
    /// Unique to the request; `None` when a version without nonces claimed it.
    pub nonce: Option<Nonce>,
    /// Its request.
    pub request: Request,
}

/// The request of a run.
#[derive(Clone, Debug)]
pub enum Request {
    /// Its JSON.
    Here(String),
    /// Too large to travel with other runs: to be [fetched](crate::store::Store::fetch).
    Large {
        /// How long its JSON is.
        bytes: u64,
    },
}

/// Runs that are due, each leased to the caller.
#[derive(Clone, Debug, Default)]
pub struct Overdue {
    /// Those that can be read.
    pub runs: Vec<RunRecord>,
    /// Those whose hash is gone.
    pub lost: Vec<RunId>,
}

/// The limits on boots, as [`Store::claim`](crate::store::Store::claim) checks them.
#[derive(Clone, Debug)]
pub struct FleetLimits {
    /// The apps in which machines may be made.
    pub apps: Vec<String>,
    /// Most machines in flight, over the whole fleet.
    pub max_in_flight: u32,
    /// Most machines in flight in one app.
    pub app_max_in_flight: Option<u32>,
    /// Most machines in flight of one tenant, unless it has a limit of its own; 0 for no limit. `None`
    /// to [share](crate::run::share) the fleet.
    pub tenant_max_in_flight: Option<u32>,
    /// Boots per second and app; 0 for no limit.
    pub boot_rate: f64,
    /// Boots at once after a pause.
    pub boot_burst: u32,
}

/// A token for another create call of a boot that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootToken {
    /// One was taken: the call may go at this time, which is soon.
    Taken(UnixMs),
    /// None was taken: there is none before this time.
    NotBefore(UnixMs),
}

/// Why a run goes back to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// The provider had no machine for it. The boot does not count as a try; how long this lasts
    /// does.
    Refused,
    /// Nobody may boot now, whichever run it is. Nothing counts.
    Held,
    /// Its machine failed and is gone. The boot counts.
    Failed,
}

impl Requeue {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// What a worker holds a run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A boot: its create call may be on its way.
    Boot,
    /// Whatever else the run owes.
    Duty,
}

impl Work {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Duty => "duty",
        }
    }
}

/// What an act on a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Done; the run is in this state now.
    Done(Entered),
    /// The very same post was accepted before.
    Repeated,
    /// Settled by this post, or by the same one before, but without its payload: as many bytes of
    /// results are kept as may.
    OverBudget,
    /// The run has ended already.
    Over,
    /// The run is at another attempt, or of another request of that id.
    Older,
    /// The run's state does not accept it.
    Refused,
    /// There is no such run.
    Unknown,
}

/// The state that an act led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Waiting for a machine.
    Queued,
    /// Its machine is there.
    Running,
    /// Its result is published, a tear-down is owed.
    Settled,
    /// It is over.
    Closed,
}

impl Transition {
    pub(crate) fn read(script: &str, word: &str) -> Result<Self, Error> {
        Ok(match word {
            "queued" => Self::Done(Entered::Queued),
            "running" => Self::Done(Entered::Running),
            "settled" => Self::Done(Entered::Settled),
            "closed" => Self::Done(Entered::Closed),
            "repeated" => Self::Repeated,
            "over_budget" => Self::OverBudget,
            "over" => Self::Over,
            "older" => Self::Older,
            "refused" => Self::Refused,
            "unknown" => Self::Unknown,
            other => {
                return Err(Error::Corrupt {
                    what: format!("the answer of {script}"),
                    found: other.to_owned(),
                });
            }
        })
    }
}

/// Which boot of which request: what an act is compared with before it changes a run. After Redis was
/// emptied the same run id and attempt can be those of another request; its nonce is another then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId<'a> {
    /// Which boot.
    pub attempt: Attempt,
    /// Unique to the request among all of that id; `None` before its first claim, and when a
    /// version without nonces claimed it.
    pub nonce: Option<&'a Nonce>,
}

impl BootId<'_> {
    /// Its words in a script.
    pub(crate) fn words(boot: Option<Self>) -> [String; 2] {
        let attempt = boot.map(|boot| boot.attempt.0.to_string());
        let nonce = boot.and_then(|boot| boot.nonce).map(Nonce::as_str);
        [
            attempt.unwrap_or_default(),
            nonce.unwrap_or_default().to_owned(),
        ]
    }
}

impl Claimed {
    /// Which boot it is.
    #[must_use]
    pub fn boot(&self) -> BootId<'_> {
        BootId {
            attempt: self.attempt,
            nonce: self.nonce.as_ref(),
        }
    }
}

/// How and on what terms a run ends.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'a> {
    /// The end.
    pub ending: &'a Ending,
    /// The post that ends it, if one does.
    pub post: Option<Post<'a>>,
    /// How long the hash stays after the end.
    pub retention: Duration,
    /// When the tear-down is overdue if nobody has taken it up.
    pub lease: Duration,
}

/// A guest's post.
#[derive(Clone, Copy, Debug)]
pub struct Post<'a> {
    /// SHA-256 of its body.
    pub digest: &'a str,
    /// Bytes of results that may be kept.
    pub budget: ResultsBudget,
    /// When it began, where that is to be known.
    pub begun_ms: Option<UnixMs>,
    /// Whether the request is kept, while there is room, so that it can be asked for again.
    pub keeps_request: bool,
}

/// How many bytes of results may be kept. Counted are those that came by a post, whole; others have no
/// payload. What is trimmed is given back by the slice, a sixteenth of the retention.
#[derive(Clone, Copy, Debug)]
pub struct ResultsBudget {
    /// Of all; 0 for any number.
    pub bytes: u64,
    /// Of one tenant that has no limit of its own; 0 for any number.
    pub tenant_bytes: u64,
    /// How long results are kept.
    pub retention: Duration,
}

impl ResultsBudget {
    /// No bound.
    pub const NONE: Self = Self {
        bytes: 0,
        tenant_bytes: 0,
        retention: Duration::from_secs(16),
    };
}
