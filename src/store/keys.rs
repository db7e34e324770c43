//! The data model: every key, its type, who writes it, how long it lives.
//!
//! | Key | Type | Holds | Lives |
//! |---|---|---|---|
//! | `<ns>:runs` | stream | requests; group `cofferdam`; field `run` | an entry until it is admitted |
//! | `<ns>:results` | stream | results: `run_id`, `outcome`, `result` | trimmed by age, once read |
//! | `<ns>:dead` | stream | entries that are no request: their fields, `reason`, `source_id` | the newest 10,000 |
//! | `<ns>:run:<id>` | hash | one run, fields below | always a TTL, moved on with every change of state |
//! | `<ns>:queue:<tenant>` | zset | waiting run ids by priority and order | while the tenant has waiting runs |
//! | `<ns>:tenants` | zset | tenants with waiting runs by their virtual time | while any run waits |
//! | `<ns>:idle` | zset | tenants without waiting runs whose last turn is still ahead of `vtime` | until the virtual time has passed it |
//! | `<ns>:vtime` | string | virtual time of the last turn | for ever, one number |
//! | `<ns>:seq` | string | how many requests were admitted | for ever, one number |
//! | `<ns>:delayed` | zset | ids of runs that may not boot before a time, ms | while any run is delayed |
//! | `<ns>:due` | zset | every run that is not closed, by when somebody must look at it, ms | until the run is closed |
//! | `<ns>:duties` | list | ids of settled runs whose tear-down is owed now: a bell, `due` is the truth | until a worker takes them |
//! | `<ns>:apps` | set | every app that ever had a machine in flight | for ever, a few names |
//! | `<ns>:inflight:<app>` | hash | run id → attempt, for every run that may have a machine | until the run is closed or queued |
//! | `<ns>:bucket:<app>` | hash | boots it may make: `tokens`, `at_ms`, `hold_until_ms` | minutes |
//! | `<ns>:sweeper` | string | who sweeps | seconds |
//!
//! Fields of a run's hash: `state`, `outcome`, `reason` (JSON), `attempt`, `app`, `machine_id`,
//! `instance_id`, `region`, `tenant`, `metadata` (JSON), `request` (JSON, until it is settled),
//! `digest` (SHA-256 of the accepted post), `result_entry` (the result's id in its stream),
//! `place` (score in its queue), `timeout_ms`, `refusals`, `deferred` (boots that do not count),
//! and in Unix milliseconds `submitted_at_ms`, `booting_at_ms`, `running_at_ms`,
//! `started_at_ms` (as the machine's own events tell), `settled_at_ms`, `closed_at_ms`,
//! `deadline_ms`, `queue_until_ms`, `boot_until_ms` (until when its create call may still be on
//! its way), `refused_since_ms`.
//!
//! The scripts also reach keys that they compute from a run's fields. On a Redis Cluster write the
//! namespace with braces, so that all keys share a slot.

use crate::run::id::RunId;

/// The consumer group of the workers on the requests stream.
pub const GROUP: &str = "cofferdam";

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

    /// Runs that may not boot yet.
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
    pub fn duties(&self) -> String {
        self.of("duties")
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

    /// Who sweeps.
    #[must_use]
    pub fn sweeper(&self) -> String {
        self.of("sweeper")
    }
}
