//! The data model: every key, its type, who writes it, how long it lives.
//!
//! | Key | Type | Holds | Lives |
//! |---|---|---|---|
//! | `<ns>:runs` | stream | requests; group `cofferdam`; field `run` | an entry until it is admitted |
//! | `<ns>:control` | stream | orders; group `cofferdam`; fields `cancel`, `cancel_tenant`, `pause`, `resume` | an entry until it is obeyed |
//! | `<ns>:results` | stream | results: `run_id`, `outcome`, `result` | trimmed by age, once read |
//! | `<ns>:dead` | stream | entries that are no request: their fields, and at the end `reason`, `source_id`, `source_stream` (`runs`, `control`) | the newest 10,000 |
//! | `<ns>:run:<id>` | hash | one run, fields below | always a TTL, moved on with every change of state |
//! | `<ns>:request:<id>` | string | the run's request, JSON as it came | as its run's hash, and no longer than until the run has ended |
//! | `<ns>:queue:<tenant>` | zset | waiting run ids by priority and order | while the tenant has waiting runs |
//! | `<ns>:tenants` | zset | tenants with waiting runs by the turn at which their next run goes | while any run waits |
//! | `<ns>:parked` | zset | tenants with waiting runs that may not go (at their cap, paused, out of budget), by when to look again, ms (`inf`: when called) | while they wait |
//! | `<ns>:idle` | zset | tenants that take no turns now, by the turn they had got to | until the others are past it |
//! | `<ns>:vtime` | string | the latest turn at which a run went | for ever, one number |
//! | `<ns>:min_start_tag` | string | the turn before which nobody joins, if that is later than what is in flight says | for ever, one number |
//! | `<ns>:seq` | string | places in queues given out, those that nobody took included | for ever, one number |
//! | `<ns>:delayed:<tenant>` | zset | waiting run ids by when they may boot, ms | while the tenant has such runs |
//! | `<ns>:delayed` | zset | tenants with delayed runs by the first of their times, ms | while any run is delayed |
//! | `<ns>:due` | zset | every run that is not closed, by when somebody must look at it, ms | until the run is closed |
//! | `<ns>:wakeups` | list | ids of settled runs whose tear-down is owed now: a bell, `due` is the truth | until a worker takes them |
//! | `<ns>:owed` | set | ids of settled runs, for counting them | until the run is closed |
//! | `<ns>:apps` | set | every app in which some worker boots, or that has machines or runs | until no setting names it and it has none |
//! | `<ns>:inflight:<app>` | hash | run id → attempt, tenant and nonce with spaces between, for every run that may have a machine | until the run is closed or queued |
//! | `<ns>:busy:<tenant>` | set | ids of the tenant's runs that may have a machine | as there |
//! | `<ns>:settings` | hash | `paused` when everything is | until it is resumed |
//! | `<ns>:settings:<tenant>` | hash | what was set for a tenant: `max_in_flight`, `weight`, `paused`, `backlog_max`, `budget_s` | until it is unset |
//! | `<ns>:order` and `<ns>:order:<tenant>` | string | id of the last order that paused or resumed all, or a tenant | a day |
//! | `<ns>:configured` | set | tenants with settings | as those |
//! | `<ns>:usage:<day>:<tenant>` | hash | what a tenant used on a UTC day: `ms` and `ms:<size>` of machine time, `runs:<outcome>` | 400 days |
//! | `<ns>:bucket:<app>` | hash | boots it may make: `tokens`, `at_ms`, `hold_until_ms`, and `refused`, what the provider said when somebody must act | minutes |
//! | `<ns>:fleet` | hash | what the workers last told of their limits: `apps`, `max_in_flight`, `app_max_in_flight`, `tenant_max_in_flight`, `boot_rate` | half a minute after the last worker |
//! | `<ns>:keyrings` | hash | process → when it told of them, ms, a space, its signing keys' ids and fingerprints as JSON; 256 processes | a minute after the last process |
//! | `<ns>:installation` | string | the id of this installation, 16 hexadecimal digits, made by the first claim | for ever |
//! | `<ns>:sweeper` | string | who sweeps | seconds |
//! | `<ns>:probe` | string | that Redis took a write | a minute |
//! | `<ns>:backlog_bytes` | string | bytes of the requests of all runs that have not ended; counted anew when no run is open | for ever, one number |
//!
//! Fields of a run's hash: `state`, `outcome`, `reason` (JSON), `attempt`, `app`, `machine_id`,
//! `instance_id`, `region`, `tenant`, `metadata` (JSON), `size` (of its machine, unless that is
//! the usual one), `digest` (SHA-256 of the accepted post), `request_digest` (SHA-256 of its request's JSON), `result_entry` (the result's id in its
//! stream), `place` (score in its queue), `input_span` (where the input stands in the request: first byte, number of bytes), `request_bytes` (of its request, as counted in `backlog_bytes`), `timeout_ms`, `timeout_asked_ms` (where it is more), `refusals`, `deferred` (boots that do not
//! count), and in Unix milliseconds `submitted_at_ms`, `booting_at_ms`, `running_at_ms`,
//! `settled_at_ms`, `closed_at_ms`,
//! `deadline_ms`, `queue_until_ms`, `nonce` (what tells it from
//! every other request, given at its first claim), `boot_until_ms` (until when its create call may still be on
//! its way), `refused_since_ms`, `preparing_until_ms` (until when its machine is being prepared, as a
//! sweep saw it), `prepared_by_ms` (when it is given up if it still is).
//!
//! The scripts also reach keys that they compute from a run's fields. On a Redis Cluster write the
//! namespace with braces, so that all keys share a slot.

use crate::run::day::Day;
use crate::run::id::RunId;

/// The consumer group of the workers on the streams that they read.
pub const GROUP: &str = "cofferdam";

/// A stream that the workers read through their group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbox {
    /// Requests.
    Runs,
    /// Orders: cancel, pause, resume.
    Control,
}

impl Inbox {
    /// The stream's name without its namespace.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Control => "control",
        }
    }
}

/// Names every key of a namespace.
#[derive(Clone, Debug)]
pub struct Keys {
    namespace: String,
}

impl Keys {
    /// The keys of `namespace`.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    /// The namespace itself, from which scripts make the keys of runs they pick.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn of(&self, rest: &str) -> String {
        format!("{}:{rest}", self.namespace)
    }

    /// The requests stream.
    #[must_use]
    pub fn runs(&self) -> String {
        self.of("runs")
    }

    /// The stream of orders.
    #[must_use]
    pub fn control(&self) -> String {
        self.of("control")
    }

    /// A stream of the workers' group.
    #[must_use]
    pub fn inbox(&self, inbox: Inbox) -> String {
        match inbox {
            Inbox::Runs => self.runs(),
            Inbox::Control => self.control(),
        }
    }

    /// The results stream.
    #[must_use]
    pub fn results(&self) -> String {
        self.of("results")
    }

    /// The stream of entries that are no request.
    #[must_use]
    pub fn dead(&self) -> String {
        self.of("dead")
    }

    /// A run's hash.
    #[must_use]
    pub fn run(&self, id: &RunId) -> String {
        format!("{}:run:{id}", self.namespace)
    }

    /// A run's request.
    #[must_use]
    pub fn request(&self, id: &RunId) -> String {
        format!("{}:request:{id}", self.namespace)
    }

    /// A tenant's waiting runs.
    #[must_use]
    pub fn queue(&self, tenant: &str) -> String {
        format!("{}:queue:{tenant}", self.namespace)
    }

    /// Tenants with waiting runs.
    #[must_use]
    pub fn tenants(&self) -> String {
        self.of("tenants")
    }

    /// Tenants with waiting runs that may not go.
    #[must_use]
    pub fn parked(&self) -> String {
        self.of("parked")
    }

    /// A tenant's runs that may have a machine.
    #[must_use]
    pub fn busy(&self, tenant: &str) -> String {
        format!("{}:busy:{tenant}", self.namespace)
    }

    /// What was set for all.
    #[must_use]
    pub fn fleet_settings(&self) -> String {
        self.of("settings")
    }

    /// What was set for a tenant.
    #[must_use]
    pub fn settings(&self, tenant: &str) -> String {
        format!("{}:settings:{tenant}", self.namespace)
    }

    /// The last order that paused or resumed a tenant; `None` for everything.
    #[must_use]
    pub fn order(&self, tenant: Option<&str>) -> String {
        match tenant {
            Some(tenant) => format!("{}:order:{tenant}", self.namespace),
            None => self.of("order"),
        }
    }

    /// Tenants with settings.
    #[must_use]
    pub fn configured(&self) -> String {
        self.of("configured")
    }

    /// What a tenant used on a day.
    #[must_use]
    pub fn usage(&self, day: Day, tenant: &str) -> String {
        format!("{}:usage:{day}:{tenant}", self.namespace)
    }

    /// A tenant's runs that may not boot yet.
    #[must_use]
    pub fn delayed_of(&self, tenant: &str) -> String {
        format!("{}:delayed:{tenant}", self.namespace)
    }

    /// Tenants with runs that may not boot yet.
    #[must_use]
    pub fn delayed(&self) -> String {
        self.of("delayed")
    }

    /// When somebody must look at a run.
    #[must_use]
    pub fn due(&self) -> String {
        self.of("due")
    }

    /// The bell for owed tear-downs.
    #[must_use]
    pub fn wakeups(&self) -> String {
        self.of("wakeups")
    }

    /// Ended runs whose machine may still be there.
    #[must_use]
    pub fn owed(&self) -> String {
        self.of("owed")
    }

    /// Every app that ever had a machine.
    #[must_use]
    pub fn apps(&self) -> String {
        self.of("apps")
    }

    /// Runs that may have a machine in `app`.
    #[must_use]
    pub fn inflight(&self, app: &str) -> String {
        format!("{}:inflight:{app}", self.namespace)
    }

    /// The boots that `app` may make.
    #[must_use]
    pub fn bucket(&self, app: &str) -> String {
        format!("{}:bucket:{app}", self.namespace)
    }

    /// What the workers last told of their limits.
    #[must_use]
    pub fn fleet(&self) -> String {
        self.of("fleet")
    }

    /// Which signing keys each process has.
    #[must_use]
    pub fn keyrings(&self) -> String {
        self.of("keyrings")
    }

    /// Where it is tried whether Redis takes writes.
    #[must_use]
    pub fn probe(&self) -> String {
        self.of("probe")
    }

    /// Bytes of the requests of all runs that have not ended.
    #[must_use]
    pub fn backlog_bytes(&self) -> String {
        self.of("backlog_bytes")
    }

    /// The id of this installation.
    #[must_use]
    pub fn installation(&self) -> String {
        self.of("installation")
    }

    /// Who sweeps.
    #[must_use]
    pub fn sweeper(&self) -> String {
        self.of("sweeper")
    }
}
