//! What a producer may ask for, and every rule a request can break.
//!
//! A request is one JSON object. Parsing is strict: unknown and repeated fields are refused by
//! name, and every refusal names the field and its rule. `input` and `metadata` are kept byte for
//! byte.

mod capture;
mod fields;
mod rules;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::id::{RunId, Tenant};
pub use crate::run::request::capture::{AGENT_FOLDER, Capture, CaptureLimits, LOCAL_AGENT};
use crate::run::request::fields::{Fields, refuse};
use crate::run::trace::TraceParent;

/// Bounds of a request that an operator sets.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Used when a request names no image.
    pub image: Option<String>,
    /// Used when a request names no region.
    pub region: Option<String>,
    /// Longest time from boot to deadline, and the default.
    pub run_timeout: Duration,
    /// Most processors.
    pub max_cpus: u32,
    /// Most memory.
    pub max_memory_mb: u32,
    /// Bounds of `capture`.
    pub capture: CaptureLimits,
}

/// A request that keeps every rule, with its defaults filled in.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// Idempotency key; `None` means the stream entry's id.
    pub id: Option<RunId>,
    /// Machine image.
    pub image: String,
    /// Any JSON, byte for byte; `null` when absent.
    pub input: Box<RawValue>,
    /// The guest's environment, without ours.
    pub env: BTreeMap<String, String>,
    /// Files for the machine.
    pub files: Vec<File>,
    /// Command; `None` for the image's own.
    pub cmd: Option<Vec<String>>,
    /// What stands before the command; `None` for the image's own.
    pub entrypoint: Option<Vec<String>>,
    /// What the guest agent keeps; `None` when no agent runs the command.
    pub capture: Option<Capture>,
    /// Machine size.
    pub guest: Guest,
    /// Region, or several in order of preference with commas between.
    pub region: Option<String>,
    /// From boot to the deadline.
    pub timeout: Duration,
    /// What was asked for, where that is more than a run may take.
    pub timeout_asked: Option<Duration>,
    /// How long it may wait for its first boot.
    pub queue_ttl: Option<Duration>,
    /// Whose run it is.
    pub tenant: Tenant,
    /// Its place among the tenant's own: 0 goes first, 9 last.
    pub priority: u8,
    /// It may not start before.
    pub not_before_ms: Option<UnixMs>,
    /// A JSON object, returned with the result.
    pub metadata: Option<Box<RawValue>>,
    /// The span that it belongs to: that of its field, or of its metadata.
    pub traceparent: Option<TraceParent>,
}

/// A file for the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path in the machine.
    pub guest_path: String,
    /// Its contents in base64.
    pub raw_value: String,
    /// Permission bits; the provider's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// A machine's size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// `shared` or `performance`.
    pub cpu_kind: String,
    /// Number of processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            cpu_kind: "shared".into(),
            cpus: 1,
            memory_mb: 512,
        }
    }
}

impl Guest {
    /// The size in one word, as use is counted by: `shared:1:512`.
    #[must_use]
    pub fn word(&self) -> String {
        format!("{}:{}:{}", self.cpu_kind, self.cpus, self.memory_mb)
    }
}

/// Which rule a request breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not one JSON object.
    #[error("the request is not a JSON object: {0}")]
    NotAnObject(String),
    /// One field breaks its rule.
    #[error("{field}: {rule}")]
    Field {
        /// Which field.
        field: String,
        /// Its rule, or how it was broken.
        rule: String,
    },
}

/// Most entries of `env`.
pub const ENV_MAX: usize = 256;
/// Most entries of `files`.
pub const FILES_MAX: usize = 256;
/// Largest `mode` of a file: the bits that `chmod` calls 777.
pub const FILE_MODE_MAX: u32 = 0o777;
/// Most words of `cmd`.
pub const CMD_MAX: usize = 256;
/// Largest `metadata`, in bytes of its JSON.
pub const METADATA_MAX_BYTES: usize = 4096;
/// Longest `queue_ttl_s`: 14 days. A request without one waits at most this long too.
pub const QUEUE_TTL_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// How far ahead `not_before_ms` may lie: a year.
pub const NOT_BEFORE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The `priority` that goes last.
pub const PRIORITY_LAST: u8 = 9;
/// What can be read of a request that breaks a rule.
#[derive(Debug)]
pub struct Readable {
    /// Its id; `None` when it has none, and its stream entry's id stands for it.
    pub id: Option<RunId>,
    /// Whose it is.
    pub tenant: Tenant,
    /// What its result is to carry.
    pub metadata: Option<Box<RawValue>>,
    /// The span that it belongs to.
    pub traceparent: Option<TraceParent>,
}

/// What `not_before_ms` is not: as seconds these are the years 2001 to 2286, as milliseconds the
/// first months of 1970.
const SECONDS_MEANT: Range<UnixMs> = 1_000_000_000..10_000_000_000;
/// The `priority` of a request that names none.
pub const PRIORITY_DEFAULT: u8 = 5;

impl RunRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Refusal`] with the first rule that is broken.
    pub fn parse(json: &str, limits: &Limits) -> Result<Self, Refusal> {
        let mut fields = Fields::read(json)?;
        let most = limits.run_timeout;
        let asked = fields.checked("timeout_s", |s| {
            rules::seconds(s, Duration::from_secs(u64::from(u32::MAX)))
        })?;
        let mut request = Self {
            id: fields.checked("id", rules::run_id)?,
            image: fields
                .checked("image", rules::image)?
                .or_else(|| limits.image.clone())
                .ok_or_else(|| refuse("image", "is required, since no default image is set"))?,
            input: fields
                .raw("input")
                .unwrap_or_else(|| RawValue::NULL.to_owned()),
            env: fields.checked("env", rules::env)?.unwrap_or_default(),
            files: fields.checked("files", rules::files)?.unwrap_or_default(),
            cmd: fields.checked("cmd", rules::cmd)?,
            entrypoint: fields.checked("entrypoint", rules::cmd)?,
            capture: fields
                .checked("capture", |asked| capture::read(asked, &limits.capture))?
                .flatten(),
            guest: fields
                .checked("guest", |guest| rules::size(guest, limits))?
                .unwrap_or_default(),
            region: fields
                .checked("region", rules::region)?
                .or_else(|| limits.region.clone()),
            timeout: asked.map_or(most, |asked| asked.min(most)),
            timeout_asked: asked.filter(|asked| *asked > most),
            queue_ttl: fields.checked("queue_ttl_s", |s| rules::seconds(s, QUEUE_TTL_MAX))?,
            tenant: fields.checked("tenant", rules::tenant)?.unwrap_or_default(),
            priority: fields
                .checked("priority", rules::priority)?
                .unwrap_or(PRIORITY_DEFAULT),
            not_before_ms: fields.checked("not_before_ms", Ok)?,
            metadata: fields
                .raw("metadata")
                .map(rules::metadata)
                .transpose()?
                .flatten(),
            traceparent: fields.checked("traceparent", rules::traceparent)?,
        };
        fields.none_left()?;
        if request.traceparent.is_none() {
            let metadata = request.metadata.as_deref();
            request.traceparent = metadata.and_then(TraceParent::in_metadata);
        }
        if let Some(capture) = &request.capture {
            let has_command = request.cmd.is_some() || request.entrypoint.is_some();
            capture::check_with(capture, &request.files, has_command, &limits.capture)?;
        }
        Ok(request)
    }

    /// The rules that need the time: `not_before_ms` may not lie further ahead than a year, and
    /// what would be a time of these years only in seconds is a mistake, not a time long past.
    ///
    /// # Errors
    /// [`Refusal`] with the rule that is broken.
    pub fn check_times(&self, now: UnixMs) -> Result<(), Refusal> {
        let latest = budget::after(now, NOT_BEFORE_MAX);
        if self.not_before_ms.is_some_and(|at| at > latest) {
            let days = NOT_BEFORE_MAX.as_secs() / (24 * 3600);
            let rule = format!("is more than {days} days ahead; it counts Unix milliseconds");
            return Err(refuse("not_before_ms", rule));
        }
        if self
            .not_before_ms
            .is_some_and(|at| SECONDS_MEANT.contains(&at))
        {
            let rule = "looks like seconds; it counts Unix milliseconds".to_owned();
            return Err(refuse("not_before_ms", rule));
        }
        Ok(())
    }

    /// The `id` of a request that may break any other rule. `Ok(None)` when the request has none
    /// and its stream entry's id stands for it; `Err` when it cannot be read.
    ///
    /// # Errors
    /// [`Refusal`] when the text is no JSON object or its `id` is no run id.
    pub fn readable_id(json: &str) -> Result<Option<RunId>, Refusal> {
        Ok(Self::readable(json)?.id)
    }

    /// What a result needs of a request that may break any rule. A `tenant` or `metadata` that
    /// breaks its own is left out.
    ///
    /// # Errors
    /// As [`RunRequest::readable_id`].
    pub fn readable(json: &str) -> Result<Readable, Refusal> {
        let mut fields = Fields::read(json)?;
        let tenant = fields.checked("tenant", rules::tenant).ok().flatten();
        let metadata = fields.raw("metadata").map(rules::metadata);
        let metadata = metadata.and_then(Result::ok).flatten();
        let parent = fields.checked("traceparent", rules::traceparent);
        let in_metadata = || metadata.as_deref().and_then(TraceParent::in_metadata);
        Ok(Readable {
            id: fields.checked("id", rules::run_id)?,
            tenant: tenant.unwrap_or_default(),
            traceparent: parent.ok().flatten().or_else(in_metadata),
            metadata,
        })
    }

    /// Where the bytes of `input` stand in a request: empty when it is absent or null.
    #[must_use]
    pub fn input_span(json: &str) -> Range<usize> {
        #[derive(Deserialize)]
        struct OnlyInput<'a> {
            #[serde(borrow)]
            input: Option<&'a RawValue>,
        }
        let input = serde_json::from_str::<OnlyInput<'_>>(json)
            .ok()
            .and_then(|only| only.input);
        // Borrowed from `json`, so it begins within.
        let start =
            input.map(|input| (input.get().as_ptr().addr()).wrapping_sub(json.as_ptr().addr()));
        match (start, input) {
            (Some(start), Some(input)) => start..start.saturating_add(input.get().len()),
            _ => 0..0,
        }
    }

    /// Just the `input` of a request that was accepted before: byte for byte, `null` when absent.
    #[must_use]
    pub fn input_of(json: &str) -> Option<Box<RawValue>> {
        let mut fields = Fields::read(json).ok()?;
        Some(
            fields
                .raw("input")
                .unwrap_or_else(|| RawValue::NULL.to_owned()),
        )
    }
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits() -> Limits {
        Limits {
            image: Some("host".into()),
            region: None,
            run_timeout: Duration::from_secs(300),
            max_cpus: 8,
            max_memory_mb: 16384,
            capture: CaptureLimits {
                output_bytes: 1000,
                output_max_bytes: 2000,
                has_image_commands: false,
                is_plain_http: true,
            },
        }
    }

    #[track_caller]
    fn check_refused(json: &str, expected: &str) {
        let error = RunRequest::parse(json, &limits())
            .expect_err(json)
            .to_string();
        assert!(
            error.contains(expected),
            "{json}\n said {error:?}\n not {expected:?}"
        );
    }

    #[test]
    fn the_smallest_request_gets_every_default() {
        let request = RunRequest::parse("{}", &limits()).unwrap();
        assert_eq!(request.image, "host");
        assert_eq!(request.input.get(), "null");
        assert_eq!(request.guest, Guest::default());
        assert_eq!(request.timeout, Duration::from_secs(300));
        assert_eq!(request.tenant.as_str(), "default");
        assert_eq!((request.priority, request.not_before_ms), (5, None));
        assert!(request.id.is_none() && request.cmd.is_none() && request.metadata.is_none());
    }

    #[test]
    fn capture_has_defaults_and_may_be_off() {
        let parse = |json: &str| RunRequest::parse(json, &limits()).unwrap().capture;
        let usual = parse(r#"{"cmd":["a"],"capture":true}"#).unwrap();
        assert_eq!((usual.stdout_bytes, usual.stderr_bytes), (1000, 1000));
        assert!(usual.artifacts.is_empty() && usual.stdin.is_none());
        assert_eq!(parse(r#"{"capture":false}"#), None);
        assert_eq!(parse(r#"{"capture":null}"#), None);
        let own = r#"{"entrypoint":["a"],"capture":{"stdout_bytes":0,"artifacts":["out/**"],
            "artifact_bytes":5,"stdin":"x"}}"#;
        let own = parse(own).unwrap();
        assert_eq!((own.stdout_bytes, own.artifact_bytes), (0, Some(5)));
        assert_eq!(own.stdin.as_deref(), Some("x"));
        let mut tls = limits();
        tls.capture.is_plain_http = false;
        let refusal = RunRequest::parse(r#"{"cmd":["a"],"capture":true}"#, &tls).unwrap_err();
        assert!(refusal.to_string().contains("http:// only"), "{refusal}");
    }

    #[test]
    fn input_and_metadata_are_kept_byte_for_byte() {
        let json = r#"{"input": [1.0,  1e400,"é"], "metadata": { "b":1, "a" : 2 }}"#;
        let request = RunRequest::parse(json, &limits()).unwrap();
        assert_eq!(request.input.get(), r#"[1.0,  1e400,"é"]"#);
        assert_eq!(request.metadata.unwrap().get(), r#"{ "b":1, "a" : 2 }"#);
    }

    #[test]
    fn a_longer_timeout_than_allowed_is_capped() {
        let request = RunRequest::parse(r#"{"timeout_s": 9000}"#, &limits()).unwrap();
        assert_eq!(request.timeout, Duration::from_secs(300));
        assert_eq!(request.timeout_asked, Some(Duration::from_secs(9000)));
        let request = RunRequest::parse(r#"{"timeout_s": 7}"#, &limits()).unwrap();
        assert_eq!(request.timeout, Duration::from_secs(7));
        assert_eq!(request.timeout_asked, None);
    }

    #[test]
    fn every_broken_rule_names_its_field() {
        check_refused("", "not a JSON object");
        check_refused("[]", "not a JSON object");
        check_refused("{} {}", "not a JSON object");
        check_refused(r#"{"image":"a","image":"b"}"#, "image: is given twice");
        check_refused(r#"{"imagee":"a"}"#, "imagee: is not a field");
        check_refused(r#"{"id":"a b"}"#, "id: must be 1 to 64");
        check_refused(r#"{"id":7}"#, "id: invalid type");
        check_refused(r#"{"image":""}"#, "image: must be 1 to 512");
        check_refused(r#"{"env":{"A B":"x"}}"#, "env: \"A B\" is not a name");
        check_refused(
            r#"{"env":{"SANDBOX_RUN_ID":"x"}}"#,
            "env: SANDBOX_RUN_ID is refused",
        );
        check_refused(
            r#"{"env":{"FLY_APP_NAME":"x"}}"#,
            "env: FLY_APP_NAME is refused",
        );
        check_refused(r#"{"env":{"A":1}}"#, "env: invalid type");
        check_refused(r#"{"env":{"A":"\u0000"}}"#, "env: the value of A has a NUL");
        check_refused(
            r#"{"files":[{"guest_path":"a","raw_value":""}]}"#,
            "files: [0].guest_path",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a/../b","raw_value":""}]}"#,
            "files: [0].guest",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/","raw_value":""}]}"#,
            "files: [0].guest_path",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a","raw_value":"!"}]}"#,
            "files: [0].raw_value",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a","raw_value":"","owner":1}]}"#,
            "files: unknown field `owner`",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a","raw_value":"","mode":755}]}"#,
            "files: [0].mode must be 0 to 511",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a","raw_value":"","mode":-1}]}"#,
            "files: invalid value",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a","raw_value":""},{"guest_path":"/a","raw_value":""}]}"#,
            "files: [1].guest_path /a is given twice",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a/b","raw_value":""},{"guest_path":"/a","raw_value":""}]}"#,
            "files: [1].guest_path /a and /a/b cannot both be files",
        );
        check_refused(r#"{"cmd":[]}"#, "cmd: must have 1 to");
        check_refused(r#"{"cmd":[""]}"#, "cmd: has an empty program name");
        check_refused(r#"{"entrypoint":[]}"#, "entrypoint: must have 1 to");
        check_refused(r#"{"capture":7}"#, "capture: must be true or an object");
        check_refused(r#"{"capture":true}"#, "cmd: is required with capture");
        check_refused(
            r#"{"cmd":["a"],"capture":{"stdout":1}}"#,
            "capture: unknown field `stdout`",
        );
        check_refused(
            r#"{"cmd":["a"],"capture":{"stderr_bytes":2001}}"#,
            "capture: stderr_bytes must be 2000 at most",
        );
        check_refused(
            r#"{"cmd":["a"],"capture":{"artifacts":["../x"]}}"#,
            "capture: artifacts: \"../x\" must stay below",
        );
        check_refused(
            r#"{"cmd":["a"],"capture":{"unpack":"/a.tar"}}"#,
            "capture: unpack: \"/a.tar\" is not the guest_path",
        );
        check_refused(
            r#"{"cmd":["a"],"capture":true,"files":[{"guest_path":"/.cofferdam/stdin","raw_value":""}]}"#,
            "files: /.cofferdam/stdin is the guest agent's own path",
        );
        check_refused(r#"{"guest":{"cpu_kind":"big"}}"#, "guest: cpu_kind \"big\"");
        check_refused(r#"{"guest":{"cpus":3}}"#, "guest: cpus must be one of");
        check_refused(
            r#"{"guest":{"memory_mb":300}}"#,
            "guest: memory_mb must be 256 to 2048",
        );
        check_refused(
            r#"{"guest":{"cpu_kind":"performance","cpus":16,"memory_mb":32768}}"#,
            "guest: cpus is above the configured maximum of 8",
        );
        check_refused(
            r#"{"guest":{"cpu_kind":"performance","cpus":8,"memory_mb":32768}}"#,
            "guest: memory_mb is above the configured maximum of 16384",
        );
        check_refused(r#"{"guest":{"gpus":1}}"#, "guest: unknown field `gpus`");
        check_refused(r#"{"region":"AMS"}"#, "region: must be a region code");
        check_refused(r#"{"region":"ams,,eu"}"#, "region: must be a region code");
        check_refused(r#"{"timeout_s":0}"#, "timeout_s: must be 1 to");
        check_refused(r#"{"timeout_s":-1}"#, "timeout_s: invalid value");
        check_refused(r#"{"timeout_s":1.5}"#, "timeout_s: invalid type");
        check_refused(r#"{"queue_ttl_s":99999999}"#, "queue_ttl_s: must be 1 to");
        check_refused(r#"{"tenant":"a b"}"#, "tenant: must be 1 to 64");
        check_refused(r#"{"priority":10}"#, "priority: must be 0 (first) to 9");
        check_refused(r#"{"priority":-1}"#, "priority: invalid value");
        check_refused(r#"{"priority":"high"}"#, "priority: invalid type");
        check_refused(r#"{"not_before_ms":-5}"#, "not_before_ms: invalid value");
        check_refused(
            r#"{"not_before_ms":"tomorrow"}"#,
            "not_before_ms: invalid type",
        );
        check_refused(r#"{"metadata":[]}"#, "metadata: must be an object");
        let long = format!(r#"{{"metadata":{{"a":"{}"}}}}"#, "x".repeat(5000));
        check_refused(&long, "metadata: is longer than 4096 bytes");
        let deep = format!(
            r#"{{"metadata":{{"a":{}{}}}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        check_refused(&deep, "metadata: it is nested deeper than 60 levels");
        check_refused(
            r#"{"metadata":{"\ud800":1}}"#,
            "metadata: half of a surrogate pair",
        );
        let no_image = Limits {
            image: None,
            ..limits()
        };
        let error = RunRequest::parse("{}", &no_image).unwrap_err();
        assert_eq!(
            error.to_string(),
            "image: is required, since no default image is set"
        );
    }

    #[test]
    fn a_start_may_not_lie_too_far_ahead() {
        let now = 1_732_000_000_000;
        let check = |at: u64| {
            let json = format!(r#"{{"not_before_ms":{at}}}"#);
            RunRequest::parse(&json, &limits())
                .unwrap()
                .check_times(now)
        };
        assert!(check(0).is_ok() && check(now).is_ok() && check(now + 86_400_000).is_ok());
        // Seconds by mistake: now, in an hour, ten years ago.
        for seconds in [now / 1000, now / 1000 + 3600, now / 1000 - 315_360_000] {
            let refusal = check(seconds).unwrap_err().to_string();
            assert_eq!(
                refusal,
                "not_before_ms: looks like seconds; it counts Unix milliseconds"
            );
        }
        // Times of the past that nobody means as seconds.
        assert!(check(1).is_ok() && check(now - 86_400_000).is_ok());
        // Microseconds by mistake.
        let refusal = check(now * 1000).unwrap_err().to_string();
        assert!(refusal.starts_with("not_before_ms: is more than 366 days ahead"));
    }

    #[test]
    fn an_id_is_readable_in_a_request_that_breaks_other_rules() {
        let id = RunRequest::readable_id(r#"{"id":"pr-17","bogus":1}"#).unwrap();
        assert_eq!(id.unwrap().as_str(), "pr-17");
        assert!(RunRequest::readable_id(r#"{"bogus":1}"#).unwrap().is_none());
        assert!(RunRequest::readable_id(r#"{"id":"a b"}"#).is_err());
        assert!(RunRequest::readable_id("nonsense").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = RunRequest::parse(&text, &limits());
            let _ = RunRequest::readable_id(&text);
        }

        #[test]
        fn an_accepted_input_comes_back_unchanged(value in "[a-z0-9 ]{0,40}") {
            let json = format!(r#"{{"id":"x","input":"{value}"}}"#);
            let request = RunRequest::parse(&json, &limits()).unwrap();
            prop_assert_eq!(request.input.get(), format!("\"{value}\""));
            let input = RunRequest::input_of(&json).unwrap();
            let span = RunRequest::input_span(&json);
            assert_eq!(if span.is_empty() { "null" } else { &json[span] }, input.get());
            prop_assert_eq!(input.get(), format!("\"{value}\""));
        }
    }
}
