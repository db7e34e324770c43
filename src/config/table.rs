//! Every setting: its name, default, meaning, and why that default.
//!
//! This table is the only place where a default stands. The parsers read it, the flags and the
//! help texts of the command are made from it, and a test holds the table of `docs/settings.md` to it.

/// One setting: an environment variable, and a flag of each command that uses it.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when it is unset.
    pub default: Unset,
    /// What it does, in one sentence, with its unit.
    pub meaning: &'static str,
    /// Why this default, or why there is none.
    pub why: &'static str,
    /// Its value is never shown.
    pub secret: bool,
}

/// What holds when a setting is unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// As if this text had been given.
    Text(&'static str),
    /// Nothing; the part it belongs to does without.
    Absent,
    /// The command refuses to start.
    Required,
    /// Found out at start, as described.
    Derived(&'static str),
}

impl Setting {
    /// The flag, without its dashes: `COFFERDAM_LEASE_S` is `lease-s`, `REDIS_URL` is `redis-url`.
    #[must_use]
    pub fn flag(&self) -> String {
        let name = self.name.strip_prefix("COFFERDAM_").unwrap_or(self.name);
        name.to_ascii_lowercase().replace('_', "-")
    }

    /// The setting whose value is the path of a file that holds this one, for a secret.
    #[must_use]
    pub fn file(&self) -> Option<&'static Setting> {
        let is_file_of = |other: &&Setting| other.name.strip_suffix("_FILE") == Some(self.name);
        SETTINGS.iter().find(is_file_of)
    }

    /// The default as people read it.
    #[must_use]
    pub fn default_shown(&self) -> &'static str {
        match self.default {
            Unset::Text(text) | Unset::Derived(text) => text,
            Unset::Absent => "none",
            Unset::Required => "none, required",
        }
    }
}

macro_rules! settings {
    ($($(#[$secret:ident])? $id:ident = $name:literal, $default:expr, $meaning:literal, $why:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $id: Setting = Setting {
                name: $name,
                default: $default,
                meaning: $meaning,
                why: $why,
                secret: settings!(@ $($secret)?),
            };
        )*
        /// Every setting, in the order in which people meet them.
        pub const SETTINGS: &[Setting] = &[$($id),*];
    };
    (@ secret) => { true };
    (@) => { false };
}

use self::Unset::{Absent, Derived, Required, Text};

settings! {
    #[secret] REDIS_URL = "REDIS_URL", Text("redis://127.0.0.1:6379"),
        "Where Redis is: `redis://`, `rediss://`, `unix://` or `redis+sentinel://`, see redis.md. `up` starts its own when this is unset.",
        "Redis's own default, so a local Redis is found by itself.";
    REDIS_URL_FILE = "REDIS_URL_FILE", Absent,
        "File that holds `REDIS_URL`, instead of that setting.",
        "A file, such as a mounted secret, shows in no list of processes and in no environment.";
    REDIS_CA_FILE = "COFFERDAM_REDIS_CA_FILE", Absent,
        "File with the certificates of authorities, in PEM, that TLS with Redis trusts beside those of the system.",
        "Managed services and companies often sign with an authority of their own.";
    REDIS_CERT_FILE = "COFFERDAM_REDIS_CERT_FILE", Absent,
        "File with the certificate, in PEM, by which Redis knows us; with `COFFERDAM_REDIS_KEY_FILE`.",
        "Only a Redis that asks for one needs it.";
    REDIS_KEY_FILE = "COFFERDAM_REDIS_KEY_FILE", Absent,
        "File with the key of that certificate, in PEM, without a passphrase.",
        "As for `COFFERDAM_REDIS_CERT_FILE`.";
    REDIS_TLS_NAME = "COFFERDAM_REDIS_TLS_NAME", Absent,
        "Name that the certificate of Redis must have, where that is not the host of `REDIS_URL`.",
        "Behind a tunnel, a proxy or Sentinel the address is not always the name.";
    REDIS_WAIT = "COFFERDAM_REDIS_WAIT", Absent,
        "`replicas:milliseconds`: how many replicas must have what decides a run's fate, and how long they are waited for, before it counts as done.",
        "Off: without replicas nothing would ever be done, and each wait costs a round trip to them.";
    NAMESPACE = "COFFERDAM_NAMESPACE", Text("cofferdam"),
        "First part of every key; written with braces, `{cofferdam}`, it puts all keys into one Redis Cluster slot.",
        "Says whose keys they are to someone who looks into a shared Redis.";
    FLY_API_URL = "FLY_API_URL", Text("http://_api.internal:4280/v1"),
        "The Machines API. `up` starts the local server when this is unset.",
        "The API as seen from inside a Fly network, where a deployed worker runs.";
    #[secret] FLY_API_TOKEN = "FLY_API_TOKEN", Required,
        "Token for the Machines API; for `machines`, the one token it accepts. `up` makes one for its own server.",
        "A credential has no default.";
    FLY_API_TOKEN_FILE = "FLY_API_TOKEN_FILE", Absent,
        "File that holds `FLY_API_TOKEN`, instead of that setting.",
        "As for `REDIS_URL_FILE`.";
    APPS = "COFFERDAM_APPS", Required,
        "Apps that machines are booted in, comma separated; for `machines`, those that are there from the start, none if unset. `up` with its own server: `sandboxes`.",
        "Strangers' code gets an app and a network of its own, and only you know its name.";
    #[secret] SIGNING_KEYS = "COFFERDAM_SIGNING_KEYS", Required,
        "Keys for the guests' tokens, `kid:base64[,kid:base64…]`, 32 bytes or more each; the first signs, all verify. `up` makes one.",
        "A known default key would let anyone post results.";
    SIGNING_KEYS_FILE = "COFFERDAM_SIGNING_KEYS_FILE", Absent,
        "File that holds `COFFERDAM_SIGNING_KEYS`, instead of that setting.",
        "As for `REDIS_URL_FILE`.";
    GUEST_URL = "COFFERDAM_GUEST_URL", Required,
        "Base URL under which guests reach the endpoint. In machines of the local server, `http://127.0.0.1:PORT` with a port of 1024 or more that guests do not need themselves. `up` with its own server: `http://127.0.0.1:4281`.",
        "It depends on the network the machines are in.";
    LISTEN = "COFFERDAM_LISTEN", Text("[::]:8080"),
        "Where the endpoint for guests listens. `up` takes a free local port when this is unset.",
        "All addresses, since guests come from a private IPv6 network on Fly.";
    ADMIN_LISTEN = "COFFERDAM_ADMIN_LISTEN", Text("127.0.0.1:9090"),
        "Where metrics and health are served; not for guests. When this is unset, `up` takes a free local port, and `worker` and `serve` take one, and log it, if the default is taken.",
        "Local only, because it asks for no credential.";
    CONSOLE_LISTEN = "COFFERDAM_CONSOLE_LISTEN", Text("127.0.0.1:9091"),
        "Where the console is served. `up` takes a free local port when this is unset.",
        "Local only: whoever is to reach it from elsewhere comes through a tunnel, or a private network.";
    #[secret] CONSOLE_KEYS = "COFFERDAM_CONSOLE_KEYS", Required,
        "Who may come into the console, `role:KEY[,role:KEY…]`; the role is `operator` or `viewer`, a key has 32 characters or more. `up` makes two.",
        "A known default key would let anyone in.";
    CONSOLE_KEYS_FILE = "COFFERDAM_CONSOLE_KEYS_FILE", Absent,
        "File that holds `COFFERDAM_CONSOLE_KEYS`, instead of that setting.",
        "As for `REDIS_URL_FILE`.";
    ALLOWED_HOSTS = "COFFERDAM_ALLOWED_HOSTS", Absent,
        "Further host names, comma separated, by which metrics, health, the console and the local Machines server may be addressed; IP addresses, `localhost`, names without a dot and `.internal` names always may.",
        "A web page can point a name of its own at a local address (DNS rebinding) and then use these services from a visitor's browser.";
    IMAGE = "COFFERDAM_IMAGE", Absent,
        "Image for requests that name none. `up` with its own server: `host`.",
        "Without it such requests are rejected, which is better than a guess.";
    REGION = "COFFERDAM_REGION", Absent,
        "Region for requests that name none, or several in order of preference (`ams,eu`).",
        "The Machines API then chooses.";
    MAX_IN_FLIGHT = "COFFERDAM_MAX_IN_FLIGHT", Text("50"),
        "Machines alive at once, whole fleet.",
        "Bounds the bill of a mistake, and is far below an organisation's usual quota.";
    APP_MAX_IN_FLIGHT = "COFFERDAM_APP_MAX_IN_FLIGHT", Text("0"),
        "Machines alive at once in one app; 0 for no limit but the fleet's.",
        "Only needed where apps have limits of their own at the provider.";
    TENANT_MAX_IN_FLIGHT = "COFFERDAM_TENANT_MAX_IN_FLIGHT", Derived("nine for each slot that stays free"),
        "Machines alive at once of one tenant that has no limit of its own; 0 for no limit but the fleet's. Unset, in a fleet of 10 or more, a tenant takes another slot only while it leaves one free for every nine machines that it has.",
        "45 of 50: another tenant's first run need not wait for them to end.";
    BACKLOG_MAX = "COFFERDAM_BACKLOG_MAX", Text("1000000"),
        "Runs that may wait for a machine, all together; a request beyond ends as `rejected` with `queue_full`. 0 for no limit.",
        "About a gigabyte of Redis memory.";
    BACKLOG_MAX_BYTES = "COFFERDAM_BACKLOG_MAX_BYTES", Text("268435456"),
        "Bytes of requests that may wait for a machine, all together; requests beyond stay unread on their stream until there is room. 0 for no limit.",
        "Half of a Redis of 512 MB: the rest is for what is unread, and for results.";
    TENANT_BACKLOG_MAX = "COFFERDAM_TENANT_BACKLOG_MAX", Text("0"),
        "Runs that may wait for a machine, of one tenant that has no limit of its own; 0 for no limit but that of all.",
        "How much is too much differs from tenant to tenant.";
    BOOT_RATE = "COFFERDAM_BOOT_RATE", Text("1"),
        "Create calls per second and app, whole fleet, repeats included; 0 for no limit. `up` with its own server: 0.",
        "The Machines API's own limit for creating machines.";
    BOOT_BURST = "COFFERDAM_BOOT_BURST", Text("3"),
        "Create calls that may come at once before the rate holds.",
        "The Machines API's own burst.";
    CONCURRENCY = "COFFERDAM_CONCURRENCY", Text("32"),
        "Boots, and tear-downs, that one worker drives at once; that many of each, and four times as many tear-downs that wait for a slow exit.",
        "Each is a few waiting calls. With Redis 10 ms away 32 at once are 700 runs a second, and 128 are 1,800; with a near one they bring nothing and a run costs more of the processor.";
    RUN_TIMEOUT_S = "COFFERDAM_RUN_TIMEOUT_S", Text("300"),
        "Seconds from boot to the deadline of a run; a request may ask for less.",
        "Five minutes cover an analysis or a test run, and a hanging guest costs little.";
    IMAGE_PULL_TIMEOUT_S = "COFFERDAM_IMAGE_PULL_TIMEOUT_S", Text("600"),
        "Seconds for which the provider may fetch and unpack an image (the machine is `created`) before the boot counts as failed.",
        "A large image that a host does not have yet takes minutes; what takes longer does not come.";
    BOOT_TIMEOUT_S = "COFFERDAM_BOOT_TIMEOUT_S", Text("60"),
        "Seconds that the start of a machine may take, once its image is there, before the boot counts as failed.",
        "The longest that the Machines API lets a caller wait for a state.";
    REFUSED_MAX_S = "COFFERDAM_REFUSED_MAX_S", Text("900"),
        "Seconds for which a run is retried while the provider has no capacity for it; then it fails.",
        "A full region mostly has room again within minutes, and a producer wants to know.";
    MAX_ATTEMPTS = "COFFERDAM_MAX_ATTEMPTS", Text("3"),
        "Boots that are tried for one run.",
        "Passing trouble is over by the third; after that it is the request.";
    LEASE_S = "COFFERDAM_LEASE_S", Text("15"),
        "Seconds for which a worker that died keeps a boot or a tear-down from the others.",
        "Renewed several times within it, so a slow call is not taken for a death.";
    GRACE_S = "COFFERDAM_GRACE_S", Text("5"),
        "Seconds a guest may take to exit after its result, before it is deleted by force.",
        "Enough to flush and exit; each second is paid for.";
    SWEEP_S = "COFFERDAM_SWEEP_S", Text("15"),
        "Seconds between two sweeps for orphans and overdue runs, such as a guest that ended without a result; 5 at the most while runs wait for a place in the fleet. `up` with its own server: 2.",
        "A listing of an app's machines each time, which the Machines API should not be asked for every second.";
    RETENTION_S = "COFFERDAM_RETENTION_S", Text("86400"),
        "Seconds for which a run can be looked up after its end.",
        "A day: long enough to look into yesterday's failure.";
    RESULTS_RETENTION_S = "COFFERDAM_RESULTS_RETENTION_S", Text("604800"),
        "Seconds for which results stay on their stream; longer while a consumer group has not read them.",
        "A week: a consumer may be down over a weekend.";
    RESULTS_HARD_CAP = "COFFERDAM_RESULTS_HARD_CAP", Text("0"),
        "Results kept at the most, read or unread; 0 for no cap.",
        "Dropping what nobody has read must be asked for.";
    USAGE_RETENTION_S = "COFFERDAM_USAGE_RETENTION_S", Text("34560000"),
        "Seconds for which it is known what a tenant used on a day.",
        "400 days: a year, and time to look back on it.";
    DEAD_MAX = "COFFERDAM_DEAD_MAX", Text("10000"),
        "Dead letters that are kept, the newest.",
        "Enough to see what a producer does wrong, and some megabytes at the usual sizes.";
    AUDIT_MAX = "COFFERDAM_AUDIT_MAX", Text("10000"),
        "Deeds of operators at the console that are kept, the newest, and some more.",
        "Years of a small team's work, in a few megabytes.";
    REQUEST_MAX_BYTES = "COFFERDAM_REQUEST_MAX_BYTES", Text("16777216"),
        "Bytes of one request's JSON.",
        "Room for a git bundle in `files`, without letting one producer fill Redis.";
    RESULT_MAX_BYTES = "COFFERDAM_RESULT_MAX_BYTES", Text("1048576"),
        "Bytes of one result's body.",
        "Results live in Redis; larger things belong in a store of their own.";
    RESULTS_BYTES = "COFFERDAM_RESULTS_BYTES", Text("268435456"),
        "Bytes of results that are kept, all together; a run whose result is one too many ends as `failed` with `result_budget`. 0 for no limit.",
        "Half of a Redis of 512 MB.";
    TENANT_RESULTS_BYTES = "COFFERDAM_TENANT_RESULTS_BYTES", Text("134217728"),
        "The same of one tenant that has no limit of its own; 0 for no limit but that of all.",
        "Half of all: one tenant alone cannot take the others' part.";
    KEEP_REQUESTS = "COFFERDAM_KEEP_REQUESTS", Text("false"),
        "Keep the requests of runs that completed too (`true` or `false`), so that `rerun` can ask for them again; within the same bounds of bytes as those of runs that did not.",
        "A run that has its result is rarely asked for again, and its request may hold secrets. One of 190 bytes takes 380 bytes of Redis, beside 840 for the hash.";
    LOG_BYTES = "COFFERDAM_LOG_BYTES", Text("1048576"),
        "Bytes kept of what one run's guest writes (`cofferdam logs`); the oldest make room.",
        "Some ten thousand lines: the end of a log is what tells.";
    LOGS_BYTES = "COFFERDAM_LOGS_BYTES", Text("67108864"),
        "Bytes kept of what all guests write, all together; what comes beyond is counted and left out. 0 for no limit.",
        "An eighth of a Redis of 512 MB.";
    TENANT_LOGS_BYTES = "COFFERDAM_TENANT_LOGS_BYTES", Text("33554432"),
        "The same of one tenant; 0 for no limit but that of all.",
        "Half of all: one tenant alone cannot take the others' part.";
    OUTPUT_BYTES = "COFFERDAM_OUTPUT_BYTES", Text("65536"),
        "Bytes kept of a command's standard output, and of its standard error, for a request whose `capture` does not say.",
        "What a person reads; the middle of what is longer is left out.";
    OUTPUT_MAX_BYTES = "COFFERDAM_OUTPUT_MAX_BYTES", Text("262144"),
        "The most of each that a request may ask to keep.",
        "Both together fit into a result of the default size.";
    GUEST_PROGRAM = "COFFERDAM_GUEST_PROGRAM", Absent,
        "Path of the guest agent in the machines: of images that bring it, or `/.cofferdam-guest`, where the local Machines server has it in every machine and also knows the commands of images. Without it the worker sends the agent along. `up` with its own server: `/.cofferdam-guest`.",
        "Works with any image; it costs 2 MB for each create call.";
    ARTIFACTS = "COFFERDAM_ARTIFACTS", Derived("none; `up`: `artifacts` in the state folder"),
        "Where artifacts are kept: `file:///folder` or `s3://bucket/prefix`, which is reached as the usual `AWS_…` variables say. Unset, guests are not told of artifacts, and one that is put is refused.",
        "What strangers make is kept only where somebody has said so.";
    ARTIFACT_MAX_BYTES = "COFFERDAM_ARTIFACT_MAX_BYTES", Text("268435456"),
        "Bytes of one artifact.",
        "A build or a recording fits; a disk image does not.";
    RUN_ARTIFACTS = "COFFERDAM_RUN_ARTIFACTS", Text("1000"),
        "Artifacts of one run.",
        "As many as the guest agent puts, and their list fits into a result.";
    RUN_ARTIFACTS_BYTES = "COFFERDAM_RUN_ARTIFACTS_BYTES", Text("1073741824"),
        "Bytes of the artifacts of one run.",
        "Four of the largest.";
    ARTIFACTS_BYTES = "COFFERDAM_ARTIFACTS_BYTES", Text("10737418240"),
        "Bytes of artifacts that are kept, all together; each counts as 64 KiB at least. 0 for no limit.",
        "What a small disk or a small bill can bear.";
    TENANT_ARTIFACTS_BYTES = "COFFERDAM_TENANT_ARTIFACTS_BYTES", Text("5368709120"),
        "The same of one tenant; 0 for no limit but that of all.",
        "Half of all: one tenant alone cannot take the others' part.";
    MAX_CPUS = "COFFERDAM_MAX_CPUS", Text("8"),
        "Processors that a request may ask for.",
        "The largest shared machine on offer.";
    MAX_MEMORY_MB = "COFFERDAM_MAX_MEMORY_MB", Text("16384"),
        "Memory that a request may ask for, in MiB.",
        "What the largest shared machine can have.";
    DRAIN_S = "COFFERDAM_DRAIN_S", Text("30"),
        "Seconds that a process may take to finish its work after a signal.",
        "Below the kill time-outs of the usual supervisors when they are set as documented.";
    MACHINES_LISTEN = "COFFERDAM_MACHINES_LISTEN", Text("127.0.0.1:4280"),
        "Where the local Machines server listens. `up` takes a free local port when this is unset.",
        "Local only: whoever reaches it can start processes here. The port is the real API's.";
    MACHINES_ENDPOINT = "COFFERDAM_MACHINES_ENDPOINT", Text("127.0.0.1:8080"),
        "The endpoint's `host:port` as the local server reaches it; inside a local machine it is where `SANDBOX_RESULT_URL` points to, if that is a port of 127.0.0.1, else `http://127.0.0.1:8080`.",
        "Where `serve` listens when both run on one host.";
    MACHINES_REGIONS = "COFFERDAM_MACHINES_REGIONS", Absent,
        "Regions that the local Machines server has, comma separated; any plausible code is taken, and echoed, if unset.",
        "One host is one place, and clients of the real service send the codes that they know.";
    ALLOW_WEAK_LIMITS = "COFFERDAM_ALLOW_WEAK_LIMITS", Text("false"),
        "Start even where memory, processes and processor time cannot be limited for a machine as a whole (`true` or `false`).",
        "Without such limits one guest can use up the host's memory, and another's is killed for it.";
    IMAGE_MAX_RATIO = "COFFERDAM_IMAGE_MAX_RATIO", Text("200"),
        "Bytes that a layer or an archive may decompress to, for each byte of it; 64 MiB are always allowed.",
        "Text gives 3 to 20, a bomb 1,000; a layer of zeros is the exception to allow.";
    STATE_DIR = "COFFERDAM_STATE_DIR", Derived("`$XDG_STATE_HOME/cofferdam`, else `~/.local/state/cofferdam`"),
        "Local images, machines, and the Redis and keys of `up`; only its owner can read it.",
        "Where the XDG specification keeps state.";
    OTEL_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", Absent,
        "Where traces go, over HTTP: the collector's address, to which `/v1/traces` is added. Unset, there are none, see traces.md.",
        "Traces are for those who have somewhere to send them, and cost them who do not nothing.";
    OTEL_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Absent,
        "The same, whole and for traces alone; it goes first.",
        "The standard has both.";
    #[secret] OTEL_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS", Absent,
        "Headers that go with traces, `name=value,name=value`.",
        "A service that takes them asks for its key there.";
    OTEL_HEADERS_FILE = "OTEL_EXPORTER_OTLP_HEADERS_FILE", Absent,
        "File that holds `OTEL_EXPORTER_OTLP_HEADERS`, instead of that setting.",
        "As for `REDIS_URL_FILE`.";
    OTEL_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT", Text("10000"),
        "Milliseconds that one post of traces may take.",
        "The standard's own.";
    OTEL_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL", Text("http/protobuf"),
        "How traces are sent; nothing else is spoken.",
        "The standard's own.";
    OTEL_SERVICE_NAME = "OTEL_SERVICE_NAME", Text("cofferdam"),
        "The name of this service in traces.",
        "What it is, until an operator has several.";
    OTEL_RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES", Absent,
        "What else traces say of this service, `name=value,name=value`.",
        "Only the operator knows.";
    OTEL_TRACES_SAMPLER = "OTEL_TRACES_SAMPLER", Text("parentbased_always_on"),
        "Which runs have a trace: `always_on`, `always_off`, `traceidratio`, and these with `parentbased_` before, where a request's `traceparent` decides if it has one.",
        "The standard's own.";
    OTEL_TRACES_SAMPLER_ARG = "OTEL_TRACES_SAMPLER_ARG", Text("1.0"),
        "The share of runs for `traceidratio`, from 0 to 1.",
        "The standard's own.";
    OTEL_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER", Text("otlp"),
        "`none` for no traces, whatever else is set.",
        "The standard's own.";
    OTEL_SDK_DISABLED = "OTEL_SDK_DISABLED", Text("false"),
        "`true` for no traces, whatever else is set.",
        "The standard's own.";
    LOG = "COFFERDAM_LOG", Text("info"),
        "What is logged: a level, or `module=level` directives, comma separated.",
        "Changes of state and what needs a person, nothing else.";
    LOG_FORMAT = "COFFERDAM_LOG_FORMAT", Text("text"),
        "How it is logged, on standard error: `text` or `json`.",
        "People read it first.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_flags_are_unique() {
        let names: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        let flags: BTreeSet<_> = SETTINGS.iter().map(Setting::flag).collect();
        assert_eq!(names.len(), SETTINGS.len());
        assert_eq!(flags.len(), SETTINGS.len());
    }

    #[test]
    fn every_setting_says_what_and_why() {
        for setting in SETTINGS {
            assert!(
                setting.meaning.ends_with('.'),
                "{} has no meaning",
                setting.name
            );
            assert!(setting.why.ends_with('.'), "{} has no reason", setting.name);
        }
    }

    #[test]
    fn flags_leave_out_our_prefix() {
        assert_eq!(LEASE_S.flag(), "lease-s");
        assert_eq!(REDIS_URL.flag(), "redis-url");
        assert_eq!(FLY_API_TOKEN.flag(), "fly-api-token");
    }
}
