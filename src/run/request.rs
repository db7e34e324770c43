//! What a producer may ask for, and every rule a request can break.
//!
//! A request is one JSON object. Parsing is strict: unknown and repeated fields are refused by
//! name, and every refusal names the field and its rule. `input` and `metadata` are kept byte for
//! byte.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::run::id::{RunId, Tenant};

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
    /// Machine size.
    pub guest: Guest,
    /// Region, or several in order of preference with commas between.
    pub region: Option<String>,
    /// From boot to the deadline.
    pub timeout: Duration,
    /// How long it may wait for its first boot.
    pub queue_ttl: Option<Duration>,
    /// Whose run it is.
    pub tenant: Tenant,
    /// A JSON object, returned with the result.
    pub metadata: Option<Box<RawValue>>,
}

/// A file for the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path in the machine.
    pub guest_path: String,
    /// Its contents in base64.
    pub raw_value: String,
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
/// Most words of `cmd`.
pub const CMD_MAX: usize = 256;
/// Largest `metadata`, in bytes of its JSON.
pub const METADATA_MAX_BYTES: usize = 4096;
/// Longest `queue_ttl_s`: 14 days. A request without one waits at most this long too.
pub const QUEUE_TTL_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

impl RunRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Refusal`] with the first rule that is broken.
    pub fn parse(json: &str, limits: &Limits) -> Result<Self, Refusal> {
        let mut fields = Fields::read(json)?;
        let request = Self {
            id: fields.checked("id", run_id)?,
            image: fields
                .checked("image", image)?
                .or_else(|| limits.image.clone())
                .ok_or_else(|| refuse("image", "is required, since no default image is set"))?,
            input: fields
                .raw("input")
                .unwrap_or_else(|| RawValue::NULL.to_owned()),
            env: fields.checked("env", env)?.unwrap_or_default(),
            files: fields.checked("files", files)?.unwrap_or_default(),
            cmd: fields.checked("cmd", cmd)?,
            guest: fields
                .checked("guest", |guest| size(guest, limits))?
                .unwrap_or_default(),
            region: fields
                .checked("region", region)?
                .or_else(|| limits.region.clone()),
            timeout: fields
                .checked("timeout_s", |s| {
                    seconds(s, Duration::from_secs(u64::from(u32::MAX)))
                })?
                .map_or(limits.run_timeout, |asked| asked.min(limits.run_timeout)),
            queue_ttl: fields.checked("queue_ttl_s", |s| seconds(s, QUEUE_TTL_MAX))?,
            tenant: fields.checked("tenant", tenant)?.unwrap_or_default(),
            metadata: fields.raw("metadata").map(metadata).transpose()?.flatten(),
        };
        fields.none_left()?;
        Ok(request)
    }

    /// The `id` of a request that may break any other rule. `Ok(None)` when the request has none
    /// and its stream entry's id stands for it; `Err` when it cannot be told.
    ///
    /// # Errors
    /// [`Refusal`] when the text is no JSON object or its `id` is no run id.
    pub fn readable_id(json: &str) -> Result<Option<RunId>, Refusal> {
        Fields::read(json)?.checked("id", run_id)
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

/// The fields of a request that have not been looked at yet.
struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    fn read(json: &str) -> Result<Self, Refusal> {
        let mut repeated = None;
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let fields = deserializer
            .deserialize_map(Unique {
                repeated: &mut repeated,
            })
            .and_then(|fields| deserializer.end().map(|()| fields))
            .map_err(|error| Refusal::NotAnObject(error.to_string()))?;
        match repeated {
            Some(field) => Err(refuse(&field, "is given twice")),
            None => Ok(Self(fields)),
        }
    }

    /// Takes a field as it stands; `null` counts as absent.
    fn raw(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.0.remove(name).filter(|value| value.get() != "null")
    }

    /// Takes a field, reads it as a `T`, and checks it.
    fn checked<T: DeserializeOwned, U>(
        &mut self,
        name: &str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<Option<U>, Refusal> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        let value = serde_json::from_str(raw.get()).map_err(|error| refuse(name, plain(&error)))?;
        check(value).map(Some).map_err(|rule| refuse(name, rule))
    }

    fn none_left(&self) -> Result<(), Refusal> {
        match self.0.keys().next() {
            Some(field) => Err(refuse(field, "is not a field of a request")),
            None => Ok(()),
        }
    }
}

/// Reads an object and notes the first field that stands twice.
struct Unique<'a> {
    repeated: &'a mut Option<String>,
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = BTreeMap<String, Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            if fields.insert(name.clone(), value).is_some() {
                self.repeated.get_or_insert(name);
            }
        }
        Ok(fields)
    }
}

fn refuse(field: &str, rule: impl Into<String>) -> Refusal {
    let field = field.chars().filter(|c| !c.is_control()).take(64).collect();
    Refusal::Field {
        field,
        rule: rule.into(),
    }
}

/// The parser's message without its position, which would count from the field's own start.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ")
        .map_or_else(|| text.clone(), |(message, _)| message.to_owned())
}

fn run_id(text: String) -> Result<RunId, String> {
    text.parse()
        .map_err(|error: crate::run::id::InvalidId| error.to_string())
}

fn tenant(text: String) -> Result<Tenant, String> {
    text.parse()
        .map_err(|error: crate::run::id::InvalidId| error.to_string())
}

fn image(text: String) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(text)
    } else {
        Err("must be 1 to 512 printable characters without spaces".into())
    }
}

fn region(text: String) -> Result<String, String> {
    let codes: Vec<&str> = text.split(',').map(str::trim).collect();
    let fits = codes.len() <= 16
        && codes.iter().all(|code| {
            (2..=16).contains(&code.len())
                && code
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
    if fits {
        Ok(codes.join(","))
    } else {
        Err("must be a region code, or up to 16 with commas between".into())
    }
}

fn env(map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if map.len() > ENV_MAX {
        return Err(format!("has more than {ENV_MAX} entries"));
    }
    for (name, value) in &map {
        let starts = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !starts || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("{name:?} is not a name of letters, digits and _"));
        }
        if name.starts_with("SANDBOX_") || name.starts_with("FLY_") {
            return Err(format!(
                "{name} is refused: SANDBOX_* and FLY_* are set by the platform"
            ));
        }
        if value.contains('\0') {
            return Err(format!("the value of {name} has a NUL character"));
        }
    }
    Ok(map)
}

fn files(list: Vec<File>) -> Result<Vec<File>, String> {
    if list.len() > FILES_MAX {
        return Err(format!("has more than {FILES_MAX} entries"));
    }
    for (index, file) in list.iter().enumerate() {
        let path = &file.guest_path;
        let inside = path
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."));
        if !path.starts_with('/') || !inside || path.len() > 1024 || path.contains('\0') {
            return Err(format!(
                "[{index}].guest_path must be an absolute path of 1024 bytes at most, without . or .."
            ));
        }
        if list
            .iter()
            .take(index)
            .any(|earlier| earlier.guest_path == *path)
        {
            return Err(format!("[{index}].guest_path {path} is given twice"));
        }
        if let Err(error) = STANDARD.decode(&file.raw_value) {
            return Err(format!("[{index}].raw_value is not base64: {error}"));
        }
    }
    Ok(list)
}

fn cmd(words: Vec<String>) -> Result<Vec<String>, String> {
    if words.is_empty() || words.len() > CMD_MAX {
        return Err(format!("must have 1 to {CMD_MAX} words"));
    }
    if words.first().is_some_and(String::is_empty) {
        return Err("has an empty program name".into());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("has a NUL character".into());
    }
    Ok(words)
}

/// Sizes that the Machines API takes (`fly-go`, `machine_types.go`; `flyctl`,
/// `internal/machine/update.go`), within the operator's maxima.
fn size(guest: Guest, limits: &Limits) -> Result<Guest, String> {
    let (counts, least, most, step): (&[u32], u32, u32, u32) = match guest.cpu_kind.as_str() {
        "shared" => (&[1, 2, 4, 6, 8], 256, 2048, 256),
        "performance" => (
            &[1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128],
            2048,
            8192,
            1024,
        ),
        other => {
            return Err(format!(
                "cpu_kind {other:?} is neither shared nor performance"
            ));
        }
    };
    if !counts.contains(&guest.cpus) {
        return Err(format!(
            "cpus must be one of {counts:?} for {}",
            guest.cpu_kind
        ));
    }
    let (least, most) = (least * guest.cpus, most * guest.cpus);
    if !(least..=most).contains(&guest.memory_mb) || !guest.memory_mb.is_multiple_of(step) {
        return Err(format!(
            "memory_mb must be {least} to {most} in steps of {step} for {} {}",
            guest.cpus, guest.cpu_kind
        ));
    }
    if guest.cpus > limits.max_cpus {
        return Err(format!(
            "cpus is above the configured maximum of {}",
            limits.max_cpus
        ));
    }
    if guest.memory_mb > limits.max_memory_mb {
        return Err(format!(
            "memory_mb is above the configured maximum of {}",
            limits.max_memory_mb
        ));
    }
    Ok(guest)
}

fn seconds(value: u64, most: Duration) -> Result<Duration, String> {
    if value == 0 || value > most.as_secs() {
        return Err(format!("must be 1 to {} seconds", most.as_secs()));
    }
    Ok(Duration::from_secs(value))
}

fn metadata(raw: Box<RawValue>) -> Result<Option<Box<RawValue>>, Refusal> {
    if raw.get().len() > METADATA_MAX_BYTES {
        return Err(refuse(
            "metadata",
            format!("is longer than {METADATA_MAX_BYTES} bytes"),
        ));
    }
    if !raw.get().starts_with('{') {
        return Err(refuse("metadata", "must be an object"));
    }
    Ok(Some(raw))
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
        assert!(request.id.is_none() && request.cmd.is_none() && request.metadata.is_none());
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
        let request = RunRequest::parse(r#"{"timeout_s": 7}"#, &limits()).unwrap();
        assert_eq!(request.timeout, Duration::from_secs(7));
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
            r#"{"files":[{"guest_path":"/a","mode":1}]}"#,
            "files: unknown field `mode`",
        );
        check_refused(
            r#"{"files":[{"guest_path":"/a","raw_value":""},{"guest_path":"/a","raw_value":""}]}"#,
            "files: [1].guest_path /a is given twice",
        );
        check_refused(r#"{"cmd":[]}"#, "cmd: must have 1 to");
        check_refused(r#"{"cmd":[""]}"#, "cmd: has an empty program name");
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
        check_refused(r#"{"metadata":[]}"#, "metadata: must be an object");
        let long = format!(r#"{{"metadata":{{"a":"{}"}}}}"#, "x".repeat(5000));
        check_refused(&long, "metadata: is longer than 4096 bytes");
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
            prop_assert_eq!(input.get(), format!("\"{value}\""));
        }
    }
}
