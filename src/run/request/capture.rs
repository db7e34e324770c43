//! The field `capture`: the guest agent runs the command, and posts its output, exit code and files.

use serde::Deserialize;

use crate::run::request::fields::refuse;
use crate::run::request::{File, Refusal};

/// Most globs for artifacts, and the longest.
const GLOBS_MAX: usize = 64;
/// Longest glob, in bytes.
const GLOB_MAX_BYTES: usize = 256;
/// Paths in a machine below this folder, and that begin with it and a dash, are the agent's own.
pub const AGENT_FOLDER: &str = "/.cofferdam";
/// Where the local Machines server has the agent in every machine.
pub const LOCAL_AGENT: &str = "/.cofferdam-guest";

/// Bounds of `capture` that an operator sets, and what the deployment can do.
#[derive(Clone, Debug)]
pub struct CaptureLimits {
    /// Bytes kept of standard output, and of standard error, when a request does not say.
    pub output_bytes: usize,
    /// The most that a request may ask for, of each.
    pub output_max_bytes: usize,
    /// Whether the machines' server knows which command an image has, so that a request need name none.
    pub has_image_commands: bool,
    /// Whether guests reach the endpoint without TLS, which the agent does not speak.
    pub is_plain_http: bool,
}

/// What the agent keeps and collects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Bytes kept of standard output.
    pub stdout_bytes: usize,
    /// Bytes kept of standard error.
    pub stderr_bytes: usize,
    /// Which files are artifacts: globs below the working folder.
    pub artifacts: Vec<String>,
    /// Bytes of all artifacts together; `None` for what the endpoint takes.
    pub artifact_bytes: Option<u64>,
    /// The command's standard input; `None` for an empty one.
    pub stdin: Option<String>,
    /// A tar archive among `files` that is unpacked into the working folder before the command starts.
    pub unpack: Option<String>,
}

/// `true`, or what differs from the defaults.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be true or an object")]
pub(super) enum Asked {
    Switch(bool),
    Object(serde_json::Map<String, serde_json::Value>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    stdout_bytes: Option<u64>,
    stderr_bytes: Option<u64>,
    artifacts: Vec<String>,
    artifact_bytes: Option<u64>,
    stdin: Option<String>,
    unpack: Option<String>,
}

/// Reads the field. `None` when it is `false`.
pub(super) fn read(asked: Asked, limits: &CaptureLimits) -> Result<Option<Capture>, String> {
    let given = match asked {
        Asked::Switch(false) => return Ok(None),
        Asked::Switch(true) => Given::default(),
        Asked::Object(fields) => serde_json::from_value(serde_json::Value::Object(fields))
            .map_err(|error| error.to_string())?,
    };
    if !limits.is_plain_http {
        return Err(
            "is not possible here: the guest agent reaches the endpoint over http:// only, and \
             COFFERDAM_GUEST_URL begins with https://"
                .to_owned(),
        );
    }
    let kept = |name: &str, bytes: Option<u64>| match bytes.map(usize::try_from) {
        None => Ok(limits.output_bytes),
        Some(Ok(bytes)) if bytes <= limits.output_max_bytes => Ok(bytes),
        Some(_) => Err(format!(
            "{name} must be {} at most",
            limits.output_max_bytes
        )),
    };
    if given.artifacts.len() > GLOBS_MAX {
        return Err(format!("artifacts has more than {GLOBS_MAX} entries"));
    }
    for glob in &given.artifacts {
        check_glob(glob).map_err(|rule| format!("artifacts: {glob:?} {rule}"))?;
    }
    Ok(Some(Capture {
        stdout_bytes: kept("stdout_bytes", given.stdout_bytes)?,
        stderr_bytes: kept("stderr_bytes", given.stderr_bytes)?,
        artifacts: given.artifacts,
        artifact_bytes: given.artifact_bytes,
        stdin: given.stdin,
        unpack: given.unpack,
    }))
}

/// The rules that `capture` and other fields have together.
pub(super) fn check_with(
    capture: &Capture,
    files: &[File],
    has_command: bool,
    limits: &CaptureLimits,
) -> Result<(), Refusal> {
    if !has_command && !limits.has_image_commands {
        let rule =
            "is required with capture: the Machines API does not tell which command an image has";
        return Err(refuse("cmd", rule));
    }
    if let Some(path) = &capture.unpack
        && !files.iter().any(|file| file.guest_path == *path)
    {
        let rule = format!("unpack: {path:?} is not the guest_path of one of files");
        return Err(refuse("capture", rule));
    }
    let is_ours = |file: &&File| {
        let rest = file.guest_path.strip_prefix(AGENT_FOLDER);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '-']))
    };
    match files.iter().find(is_ours) {
        None => Ok(()),
        Some(file) => {
            let rule = format!("{} is the guest agent's own path", file.guest_path);
            Err(refuse("files", rule))
        }
    }
}

/// A glob names files below the working folder: a relative path with `*`, `**`, `?`, `[…]`, `{…,…}`.
fn check_glob(glob: &str) -> Result<(), &'static str> {
    if glob.is_empty() || glob.len() > GLOB_MAX_BYTES {
        return Err("must be 1 to 256 bytes long");
    }
    if glob.contains('\0') {
        return Err("has a NUL character");
    }
    if glob.starts_with('/') || glob.split('/').any(|part| part == "..") {
        return Err("must stay below the working folder: no / at the start, no ..");
    }
    let mut braces = 0_u32;
    let mut is_in_class = false;
    let mut rest = glob.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' if rest.next().is_none() => return Err("ends with a backslash"),
            '\\' => {}
            ']' if is_in_class => is_in_class = false,
            _ if is_in_class => {}
            '[' => is_in_class = true,
            '{' => braces += 1,
            '}' if braces == 0 => return Err("closes a brace that it did not open"),
            '}' => braces -= 1,
            _ => {}
        }
    }
    match (is_in_class, braces) {
        (true, _) => Err("has a [ without its ]"),
        (_, 1..) => Err("has a { without its }"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(glob: &str, expected: &str) {
        let rule = check_glob(glob).expect_err(glob);
        assert!(rule.contains(expected), "{glob}: {rule}");
    }

    #[test]
    fn globs_are_whole_and_stay_below_the_folder() {
        for glob in ["out/**", "*.txt", "a/[!b]?/{c,d}*", "a\\[b", "[a{]"] {
            assert_eq!(check_glob(glob), Ok(()), "{glob}");
        }
        check_refused("", "1 to 256");
        check_refused("/etc/*", "no / at the start");
        check_refused("../x", "no ..");
        check_refused("a/../b", "no ..");
        check_refused("a[b", "without its ]");
        check_refused("a{b", "without its }");
        check_refused("a}b", "did not open");
        check_refused("a\\", "backslash");
        check_refused("a\0", "NUL");
    }
}
