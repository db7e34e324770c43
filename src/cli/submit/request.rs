//! Makes the JSON of a request from the arguments of `submit`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::args::submit::Submit;
use crate::cli::status::WrongUse;
use crate::cli::submit::files;
use crate::clock::{Clock, UnixMs};
use crate::run::budget;
use crate::run::request::{CaptureLimits, File, Guest, Limits, RunRequest};

/// A request as it is written; what was not given is left out, so that the worker's defaults hold.
#[derive(Debug, Serialize)]
struct Draft<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<File>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    capture: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<Guest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ttl_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before_ms: Option<UnixMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
}

/// Writes the request that the arguments describe.
///
/// # Errors
/// [`WrongUse`] for an argument that breaks a rule, or a file that cannot be read.
pub(crate) fn from_args(args: &Submit) -> anyhow::Result<String> {
    let draft = Draft {
        id: args.id.as_deref(),
        image: args.image.as_deref(),
        input: args
            .input
            .as_deref()
            .map(|text| json("--input", text))
            .transpose()?,
        env: pairs("--env", &args.env)?,
        files: read_files(&args.file)?,
        cmd: &args.cmd,
        entrypoint: &args.entrypoint,
        capture: args.capture,
        guest: guest(args.cpus, args.cpu_kind.as_deref(), args.memory_mb),
        region: args.region.as_deref(),
        timeout_s: args.timeout,
        queue_ttl_s: args.queue_ttl,
        tenant: args.tenant.as_deref(),
        priority: args.priority,
        not_before_ms: args.not_before.as_deref().map(time).transpose()?,
        metadata: args
            .metadata
            .as_deref()
            .map(|text| json("--metadata", text))
            .transpose()?,
    };
    let text = serde_json::to_string(&draft)?;
    check(&text).map_err(|rule| WrongUse::new(format!("the request is refused: {rule}")))?;
    Ok(text)
}

/// Checks what can be told without knowing the worker's own limits.
///
/// # Errors
/// The rule that the request breaks.
pub(crate) fn check(json: &str) -> Result<(), String> {
    let anything = Limits {
        image: Some("unknown".to_owned()),
        region: None,
        run_timeout: Duration::from_secs(u64::from(u32::MAX)),
        max_cpus: u32::MAX,
        max_memory_mb: u32::MAX,
        capture: CaptureLimits {
            output_bytes: usize::MAX,
            output_max_bytes: usize::MAX,
            has_image_commands: true,
            is_plain_http: true,
        },
    };
    let parsed = RunRequest::parse(json, &anything);
    parsed.map(drop).map_err(|refusal| refusal.to_string())
}

/// A machine's size, where any part of it is given.
pub(crate) fn guest(
    cpus: Option<u32>,
    cpu_kind: Option<&str>,
    memory_mb: Option<u32>,
) -> Option<Guest> {
    if cpus.is_none() && cpu_kind.is_none() && memory_mb.is_none() {
        return None;
    }
    let usual = Guest::default();
    Some(Guest {
        cpu_kind: cpu_kind.map_or(usual.cpu_kind, str::to_owned),
        cpus: cpus.unwrap_or(usual.cpus),
        memory_mb: memory_mb.unwrap_or(usual.memory_mb),
    })
}

/// Unix milliseconds, or `+SECONDS` from now.
fn time(text: &str) -> Result<UnixMs, WrongUse> {
    let wrong = || {
        let rule = "is neither Unix milliseconds nor +SECONDS";
        WrongUse::new(format!("--not-before {text:?} {rule}"))
    };
    let Some(seconds) = text.strip_prefix('+') else {
        return text.parse().map_err(|_| wrong());
    };
    let seconds: u32 = seconds.parse().map_err(|_| wrong())?;
    let wait = Duration::from_secs(u64::from(seconds));
    Ok(budget::after(Clock::system().now_ms(), wait))
}

/// JSON as it was given, or from `@FILE`.
fn json(flag: &str, text: &str) -> anyhow::Result<Box<RawValue>> {
    let text = match text.strip_prefix('@') {
        Some("-") => {
            let mut whole = String::new();
            std::io::stdin()
                .read_to_string(&mut whole)
                .map_err(|error| unreadable(flag, "-", &error))?;
            whole
        }
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| unreadable(flag, path, &error))?
        }
        None => text.to_owned(),
    };
    let value = serde_json::from_str(text.trim());
    Ok(value.map_err(|error| WrongUse::new(format!("{flag} is not JSON: {error}")))?)
}

fn read_files(args: &[String]) -> anyhow::Result<Vec<File>> {
    let pairs = args.iter().map(|arg| pair("--file", arg));
    Ok(files::files(&pairs.collect::<Result<Vec<_>, _>>()?)?)
}

/// Pairs `NAME=VALUE` of a flag, each name once.
pub(crate) fn pairs<'a>(
    flag: &str,
    args: &'a [String],
) -> Result<BTreeMap<&'a str, &'a str>, WrongUse> {
    let mut pairs = BTreeMap::new();
    for arg in args {
        let (name, value) = pair(flag, arg)?;
        if pairs.insert(name, value).is_some() {
            return Err(WrongUse::new(format!("{flag} {name} is given twice")));
        }
    }
    Ok(pairs)
}

fn pair<'a>(flag: &str, arg: &'a str) -> Result<(&'a str, &'a str), WrongUse> {
    let pair = arg.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.ok_or_else(|| WrongUse::new(format!("{flag} {arg:?} has no '=' in it")))
}

fn unreadable(flag: &str, path: &str, error: &std::io::Error) -> WrongUse {
    WrongUse::new(format!("{flag}: cannot read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn written(line: &[&str]) -> anyhow::Result<String> {
        let line = ["cofferdam", "submit"].iter().chain(line);
        let Command::Submit(args) = Cli::try_parse_from(line).unwrap().command else {
            unreachable!("the line says submit");
        };
        from_args(&args)
    }

    #[test]
    fn what_was_not_given_is_left_out() {
        assert_eq!(written(&[]).unwrap(), "{}");
        assert_eq!(
            written(&["--cpus", "2"]).unwrap(),
            r#"{"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512}}"#
        );
    }

    #[test]
    fn input_is_kept_byte_for_byte() {
        let text = written(&["--input", r#"{"b": 1.0,"a":1e2}"#, "--", "echo", "--x"]).unwrap();
        assert_eq!(text, r#"{"input":{"b": 1.0,"a":1e2},"cmd":["echo","--x"]}"#);
    }

    #[test]
    fn files_are_read_and_encoded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [0, 255]).unwrap();
        let text = written(&["--file", &format!("/in/a={}", path.display())]).unwrap();
        assert_eq!(
            text,
            r#"{"files":[{"guest_path":"/in/a","raw_value":"AP8="}]}"#
        );
    }

    #[track_caller]
    fn check_refused(line: &[&str], expected: &str) {
        let error = written(line).unwrap_err();
        assert!(error.is::<WrongUse>(), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn wrong_arguments_are_reported_by_name() {
        check_refused(&["--input", "{"], "--input is not JSON");
        check_refused(
            &["--input", "@/nowhere/at-all"],
            "--input: cannot read /nowhere/at-all",
        );
        check_refused(&["--env", "A"], "--env \"A\" has no '='");
        check_refused(&["--env", "A=1", "--env", "A=2"], "--env A is given twice");
        check_refused(&["--env", "FLY_X=1"], "env: FLY_X is refused");
        check_refused(&["--id", "a b"], "id: must be");
        check_refused(&["--metadata", "[]"], "metadata");
        check_refused(&["--file", "relative=/dev/null"], "files");
    }
}
