//! The data model: every key, its type, who writes it, how long it lives.
//!
//! | Key | Type | Holds | Lives |
//! |---|---|---|---|
//! | `<ns>:runs` | stream | requests; group `cofferdam`; field `run` | an entry until it is admitted |
//! | `<ns>:control` | stream | orders; group `cofferdam`; fields `cancel`, `cancel_tenant`, `pause`, `resume` | an entry until it is obeyed |
//! | `<ns>:results` | stream | results: `run_id`, `outcome`, `result` | trimmed by age, once read |
//! | `<ns>:dead` | stream | entries that are no request: their fields, and at the end `reason`, `source_id`, `source_stream` (`runs`, `control`) | the newest 10,000 |
//! | `<ns>:ended` | stream | runs that have ended, as they did: `id`, `outcome` | the newest million or so, for as long as their hashes; group `cofferdam-traces` where there are traces |
//! | `<ns>:ended:outcome:<outcome>`, `<ns>:ended:reason:<code>`, `<ns>:ended:tenant:<tenant>` | stream | the same of one outcome (but `completed`), reason or tenant | the newest 10,000 or so; the whole key as the hash of its last run |
//! | `<ns>:minute:<ms>` | hash | ends in the minute that begins then: by outcome, and by bucket of time (see `run::spread`) `w…` waited, `b…` booted, `r…` ran | two hours |
//! | `<ns>:kept_requests` | stream | requests of ended runs that are kept so that they can be asked for again: `id`, `tenant`, `bytes`, `until_ms`, `settled_at_ms` | as the hash of the last; 32 MiB of requests, 4 MiB of a tenant's |
//! | `<ns>:kept_requests_bytes` | hash | their bytes: by tenant, and of all under the empty name | as there |
//! | `<ns>:run:<id>` | hash | one run, fields below | always a TTL, moved on with every change of state |
//! | `<ns>:request:<id>` | string | the run's request, JSON as it came | as its run's hash; with the run's end it goes, unless that was no result of its guest or `COFFERDAM_KEEP_REQUESTS` is set, it is of 64 KiB at most and `kept_requests` has room |
//! | `<ns>:log:<id>` | stream | what the run's guest wrote, in pieces: `at_ms`, `stream` (`stdout`, `stderr`), `text`; the oldest make room | as the run's hash |
//! | `<ns>:logs` and `<ns>:logs:<tenant>` | hash | bytes of all logs, and of a tenant's, counted as in `kept` | twice as long as a log after the last piece |
//! | `<ns>:queue:<tenant>` | zset | waiting run ids by priority and order | while the tenant has waiting runs |
//! | `<ns>:tenants` | zset | tenants with waiting runs by the start tag of their next run | while any run waits |
//! | `<ns>:parked` | zset | tenants with waiting runs that may not go (at their cap or share, paused, out of budget), by when they may go again, ms (`inf`: when something of theirs changes, 0: at the next claim) | while they wait |
//! | `<ns>:idle` | zset | tenants with nothing that may go, by the start tag they had come to | until virtual time is past it |
//! | `<ns>:vtime` | string | virtual time: the latest start tag at which a run went | for ever, one number |
//! | `<ns>:min_start_tag` | string | the least start tag with which a tenant joins, if that is more than follows from what is in flight | for ever, one number |
//! | `<ns>:seq` | string | places in queues given out, those that nobody took included | for ever, one number |
//! | `<ns>:delayed:<tenant>` | zset | waiting run ids by when they may boot, ms | while the tenant has such runs |
//! | `<ns>:delayed` | zset | tenants with delayed runs by the first of their times, ms | while any run is delayed |
//! | `<ns>:due` | zset | every run that is not closed, by when it is due, ms | until the run is closed |
//! | `<ns>:wakeups` | list | ids of settled runs whose tear-down is owed now, with what it needs; empty: there may be capacity for a boot. Hints: `due` is the record | until a worker takes them |
//! | `<ns>:owed` | set | ids of settled runs, for counting them | until the run is closed |
//! | `<ns>:apps` | set | every app in which some worker boots, or that has machines or runs | until no setting names it and it has none |
//! | `<ns>:inflight:<app>` | hash | run id → attempt, tenant and nonce with spaces between, for every run that may have a machine | until the run is closed or queued |
//! | `<ns>:busy:<tenant>` | set | ids of the tenant's runs that may have a machine | as there |
//! | `<ns>:settings` | hash | `paused` when everything is | until it is resumed |
//! | `<ns>:settings:<tenant>` | hash | what was set for a tenant: `max_in_flight`, `weight`, `paused`, `backlog_max`, `budget_s`, `results_bytes` | until it is unset |
//! | `<ns>:order` and `<ns>:order:<tenant>` | string | id of the last order that paused or resumed all, or a tenant | a day |
//! | `<ns>:configured` | set | tenants with settings | as those |
//! | `<ns>:usage:<day>:<tenant>` | hash | what a tenant used on a UTC day: `ms` and `ms:<size>` of machine time, `runs:<outcome>` | `COFFERDAM_USAGE_RETENTION_S` |
//! | `<ns>:bucket:<app>` | hash | boots it may make: `tokens`, `at_ms`, `hold_until_ms`, and `refused`, what the provider said when somebody must act | minutes |
//! | `<ns>:fleet` | hash | the workers' limits, as they last announced them: `apps`, `max_in_flight`, `app_max_in_flight`, `tenant_max_in_flight`, `boot_rate` | half a minute after the last worker |
//! | `<ns>:keyrings` | hash | the processes' heartbeats: process → when it was, ms, a space, as JSON what it is: its signing keys' ids and fingerprints, its role, version, since when it runs, and what it has in hand; 256 processes | a minute after the last process |
//! | `<ns>:quiet` | set | workers that take no more work, by name; 256 of them | a day after the last was added |
//! | `<ns>:audit` | stream | what operators did: `who`, `role`, `act`, `what`, `answer` | the newest 10,000 or so |
//! | `<ns>:installation` | string | the id of this installation, 16 hexadecimal digits, made by the first claim | for ever |
//! | `<ns>:sweeper` | string | who sweeps | seconds |
//! | `<ns>:probe` | string | that Redis took a write | a minute |
//! | `<ns>:meta` | hash | which data set this is: `epoch`, made by the first process; `before`, the epoch that it knew when the data were gone; `schema`, the version of this data model; `beats`, heartbeats so far; and `lost`, `lost_at_ms` when a process last missed what it had seen (`emptied`, `set_back`, `foreign`) | for ever |
//! | `<ns>:gate` | | nothing: no key of that name is ever written. Every script names it where the namespace has braces: while a cluster moves our slot from node to node, it refuses a script one of whose keys is missing as a whole, and not in its middle | never |
//! | `<ns>:backlog_bytes` | string | bytes of the requests of all runs that have not ended; counted anew when no run is open | for ever, one number |
//! | `<ns>:kept` and `<ns>:kept:<tenant>` | hash | bytes of the results that came by a post: `sum` of all ever, start of a slice of time, ms → what it was then, `base` of them given back with all before slice `from`; and in that of all `since`, when the first result on the stream was published | that of all for ever; a tenant's twice the results' retention after its last |
//! | `<ns>:artifacts:<id>:<nonce>` | hash | the artifacts of one request: `attempt`, whose they are; `tenant`; `bytes` of that attempt, `charged` bytes of all; `f:<name>` → put, bytes, SHA-256, media type; `p:<put>` → bytes, until when it may come, name: room for one that is on its way | as long as the artifacts, and a week |
//! | `<ns>:artifact_runs` | zset | run id and nonce, with a space between, of every request that may have artifacts, by when its last token ends, ms | until its artifacts are removed |
//! | `<ns>:artifact_bytes` | hash | bytes of artifacts that are kept: `all`, `of:<tenant>` | counted anew when nobody has any |
//!
//! Fields of a run's hash: `state`, `outcome`, `reason` (JSON), `attempt`, `app`, `machine_id`,
//! `instance_id`, `region`, `tenant`, `metadata` (JSON), `image`, `image_2` … `image_8` (the image that it asks for, in pieces of 64 bytes, up to which Redis
//! keeps a hash compact), `size` (of its machine, unless that is
//! the usual one), `digest` (SHA-256 of the accepted post), `request_digest` (SHA-256 of its request's JSON), `result_entry` (the result's id in its
//! stream), `place` (score in its queue), `input_span` (where the input stands in the request: first byte, number of bytes), `log_bytes` (of its log, with 64 for each piece), `log_dropped` (bytes that the guest wrote and its log does not have), `request_bytes` (of its request, as counted in `backlog_bytes`), `timeout_ms`, `timeout_asked_ms` (where it is more), `refusals`, `deferred` (boots that do not
//! count), and in Unix milliseconds `submitted_at_ms`, `booting_at_ms`, `running_at_ms`,
//! `settled_at_ms`, `closed_at_ms`,
//! `deadline_ms`, `queue_until_ms`, `nonce` (unique to the
//! request, given at its first claim), `boot_until_ms` (until when its create call may still be on
//! its way), `refused_since_ms`, `preparing_until_ms` (until when its machine is being prepared, as a
//! sweep saw it), `prepared_by_ms` (when it is given up if it still is). And `traceparent` (the span of its
//! producer that it belongs to), `posted_at_ms` (when the post of its result began, where there are traces), `past` (boots that came to nothing, the last ten, JSON).
//!
//! Scripts also reach keys that they compute from a run's fields, by functions that are rendered from
//! the same list (`lua`). On a Redis Cluster write the namespace with braces, so that all keys
//! share a slot.

use std::fmt::{Display, Write as _};

use crate::clock::UnixMs;
use crate::run::day::Day;
use crate::run::id::{Nonce, RunId};

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

/// Makes a method of [`Keys`] and an entry of [`KINDS`] for each kind of key.
macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident($($part:ident: $type:ty),*) = $word:literal;)*) => {
        impl Keys {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self, $($part: $type),*) -> String {
                self.join($word, &[$(&$part),*])
            })*
        }

        /// Each kind of key: its name, its word, and what follows that.
        const KINDS: &[(&str, &str, &[&str])] =
            &[$((stringify!($name), $word, &[$(stringify!($part)),*])),*];
    };
}

/// Names every key of a namespace.
#[derive(Clone, Debug)]
pub struct Keys {
    namespace: String,
}

keys! {
    /// The requests stream.
    runs() = "runs";
    /// The stream of orders.
    control() = "control";
    /// The results stream.
    results() = "results";
    /// The stream of entries that are no request.
    dead() = "dead";
    /// A run's hash.
    run(id: &RunId) = "run";
    /// A run's request.
    request(id: &RunId) = "request";
    /// Runs that have ended.
    ended() = "ended";
    /// Runs that ended with an outcome.
    ended_of_outcome(outcome: &str) = "ended:outcome";
    /// Runs that ended for a reason.
    ended_of_reason(code: &str) = "ended:reason";
    /// Runs of a tenant that have ended.
    ended_of_tenant(tenant: &str) = "ended:tenant";
    /// What ended in a minute.
    minute(begins_ms: UnixMs) = "minute";
    /// Requests that are kept after their runs' ends.
    kept_requests() = "kept_requests";
    /// How many bytes those are.
    kept_requests_bytes() = "kept_requests_bytes";
    /// What a run's guest wrote.
    log(id: &RunId) = "log";
    /// Bytes of logs that are kept, of all.
    logs() = "logs";
    /// Bytes of logs that are kept, of a tenant.
    logs_of(tenant: &str) = "logs";
    /// A tenant's waiting runs.
    queue(tenant: &str) = "queue";
    /// Tenants with waiting runs.
    tenants() = "tenants";
    /// Tenants with waiting runs that may not go.
    parked() = "parked";
    /// Tenants that wait for nothing, with the start tag they had come to.
    idle() = "idle";
    /// Virtual time.
    vtime() = "vtime";
    /// The least start tag that a tenant joins with.
    min_start_tag() = "min_start_tag";
    /// Places in queues given out.
    seq() = "seq";
    /// A tenant's runs that may have a machine.
    busy(tenant: &str) = "busy";
    /// What was set for all.
    fleet_settings() = "settings";
    /// What was set for a tenant.
    settings(tenant: &str) = "settings";
    /// The last order that paused or resumed everything.
    fleet_order() = "order";
    /// The last order that paused or resumed a tenant.
    order(tenant: &str) = "order";
    /// Tenants with settings.
    configured() = "configured";
    /// What a tenant used on a day.
    usage(day: Day, tenant: &str) = "usage";
    /// A tenant's runs that may not boot yet.
    delayed_of(tenant: &str) = "delayed";
    /// Tenants with runs that may not boot yet.
    delayed() = "delayed";
    /// Every run that is not closed, by when it is due.
    due() = "due";
    /// The list on which workers are woken.
    wakeups() = "wakeups";
    /// Ended runs whose machine may still be there.
    owed() = "owed";
    /// Every app that ever had a machine.
    apps() = "apps";
    /// Runs that may have a machine in an app.
    inflight(app: &str) = "inflight";
    /// The boots that an app may make.
    bucket(app: &str) = "bucket";
    /// The workers' limits, as they last announced them.
    fleet() = "fleet";
    /// Which signing keys each process has.
    keyrings() = "keyrings";
    /// Workers that take no more work.
    quiet() = "quiet";
    /// What operators did.
    audit() = "audit";
    /// Where it is tried whether Redis takes writes.
    probe() = "probe";
    /// Which data set this is.
    meta() = "meta";
    /// Never there: see [`Keys`].
    gate() = "gate";
    /// Bytes of the requests of all runs that have not ended.
    backlog_bytes() = "backlog_bytes";
    /// Bytes of results that are kept, of all.
    kept() = "kept";
    /// Bytes of results that are kept, of a tenant.
    kept_of(tenant: &str) = "kept";
    /// The artifacts of one request.
    artifacts(id: &RunId, nonce: &Nonce) = "artifacts";
    /// Requests that may have artifacts.
    artifact_runs() = "artifact_runs";
    /// Bytes of artifacts that are kept.
    artifact_bytes() = "artifact_bytes";
    /// The id of this installation.
    installation() = "installation";
    /// Who sweeps.
    sweeper() = "sweeper";
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

    /// Whether the braces of the namespace put all keys into one slot of a cluster.
    #[must_use]
    pub fn are_in_one_slot(&self) -> bool {
        self.namespace.starts_with('{')
    }

    /// A stream of the workers' group.
    #[must_use]
    pub fn inbox(&self, inbox: Inbox) -> String {
        match inbox {
            Inbox::Runs => self.runs(),
            Inbox::Control => self.control(),
        }
    }

    /// What the key of every run's hash begins with.
    #[must_use]
    pub fn run_prefix(&self) -> String {
        self.join("run", &[&""])
    }

    /// What the key of every tenant's use begins with; day and tenant follow, with a colon between.
    #[must_use]
    pub fn usage_prefix(&self) -> String {
        self.join("usage", &[&""])
    }

    fn join(&self, word: &str, parts: &[&dyn Display]) -> String {
        let mut key = format!("{}:{word}", self.namespace);
        for part in parts {
            // A string takes everything.
            let _ = write!(key, ":{part}");
        }
        key
    }
}

/// The Lua functions by which a script makes keys, those that `source` calls: `run_key(ns, id)` is
/// what [`Keys::run`] is here.
pub(crate) fn lua(source: &str) -> String {
    let mut functions = String::new();
    for (name, word, parts) in KINDS {
        let is_called = source
            .match_indices(&format!("{name}_key("))
            .any(|(at, _)| !source[..at].ends_with(|c: char| c == '_' || c.is_alphanumeric()));
        if !is_called {
            continue;
        }
        let arguments: String = parts.iter().map(|part| format!(", {part}")).collect();
        let rest: String = parts
            .iter()
            .map(|part| format!(" .. ':' .. {part}"))
            .collect();
        let rest = rest.replacen(" .. ':'", ":'", 1);
        let end = if parts.is_empty() { "'" } else { "" };
        let _ = writeln!(
            functions,
            "local function {name}_key(ns{arguments}) return ns .. ':{word}{end}{rest} end"
        );
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_makes_keys_as_the_program_does() {
        assert_eq!(
            lua("local key = run_key(ns, id) .. vtime_key(ns)"),
            "local function run_key(ns, id) return ns .. ':run:' .. id end\n\
             local function vtime_key(ns) return ns .. ':vtime' end\n"
        );
        assert_eq!(
            lua("usage_key(ns, day, tenant)"),
            "local function usage_key(ns, day, tenant) \
             return ns .. ':usage:' .. day .. ':' .. tenant end\n"
        );
        assert_eq!(
            Keys::new("ns").usage("2026-11-29".parse().unwrap(), "a"),
            "ns:usage:2026-11-29:a"
        );
        assert_eq!(Keys::new("{ns}").vtime(), "{ns}:vtime");
    }
}
