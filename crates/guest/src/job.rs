//! What the agent is told: the guest's usual environment, and `SANDBOX_CAPTURE`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

/// The environment variable with the bounds of what is kept, as JSON.
const CAPTURE: &str = "SANDBOX_CAPTURE";
/// What is kept before the deadline for ending the command and telling the result: a tenth of the time
/// there is, within these bounds.
const MARGIN_MIN: Duration = Duration::from_millis(500);
const MARGIN_MAX: Duration = Duration::from_secs(5);

/// One command and how to tell of it.
#[derive(Debug)]
pub(crate) struct Job {
    /// The bearer token of every call.
    pub(crate) token: String,
    /// The result is posted here.
    pub(crate) result_url: String,
    /// Live output is posted here, if anywhere.
    pub(crate) log_url: Option<String>,
    /// Artifacts are put below this, if anywhere.
    pub(crate) artifact_url: Option<String>,
    /// So much of standard output is kept.
    pub(crate) stdout_bytes: usize,
    /// So much of standard error is kept.
    pub(crate) stderr_bytes: usize,
    /// Which files are artifacts, as globs below the working folder.
    pub(crate) artifacts: Vec<String>,
    /// Bytes of all artifacts together.
    pub(crate) artifact_bytes: u64,
    /// The file with standard input.
    pub(crate) stdin: Option<PathBuf>,
    /// A tar archive that is unpacked into the working folder first.
    pub(crate) unpack: Option<PathBuf>,
    /// When the machine is ended from outside.
    pub(crate) deadline: SystemTime,
    /// When the command is ended.
    end_at: SystemTime,
}

/// The JSON of `SANDBOX_CAPTURE`.
#[derive(Debug, Deserialize)]
struct Bounds {
    stdout_bytes: usize,
    stderr_bytes: usize,
    #[serde(default)]
    artifacts: Vec<String>,
    #[serde(default)]
    artifact_bytes: u64,
    #[serde(default)]
    stdin: Option<PathBuf>,
    #[serde(default)]
    unpack: Option<PathBuf>,
}

impl Job {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let optional = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let needed = |name: &str| optional(name).ok_or_else(|| format!("{name} is not set"));
        let bounds: Bounds = serde_json::from_str(&needed(CAPTURE)?)
            .map_err(|error| format!("{CAPTURE}: {error}"))?;
        let deadline_s: u64 = needed("SANDBOX_DEADLINE")?
            .parse()
            .map_err(|_| "SANDBOX_DEADLINE is not a number of seconds".to_owned())?;
        let deadline = UNIX_EPOCH + Duration::from_secs(deadline_s);
        Ok(Self {
            token: needed("SANDBOX_RUN_TOKEN")?,
            result_url: needed("SANDBOX_RESULT_URL")?,
            log_url: optional("SANDBOX_LOG_URL"),
            artifact_url: optional("SANDBOX_ARTIFACT_URL"),
            stdout_bytes: bounds.stdout_bytes,
            stderr_bytes: bounds.stderr_bytes,
            artifacts: bounds.artifacts,
            artifact_bytes: bounds.artifact_bytes,
            stdin: bounds.stdin,
            unpack: bounds.unpack,
            deadline,
            end_at: end_at(SystemTime::now(), deadline),
        })
    }

    /// How long the command may still run.
    pub(crate) fn time_left(&self) -> Duration {
        left(self.end_at)
    }

    /// How long the result may still take.
    pub(crate) fn time_to_tell(&self) -> Duration {
        left(self.deadline)
    }
}

fn left(until: SystemTime) -> Duration {
    until.duration_since(SystemTime::now()).unwrap_or_default()
}

fn end_at(now: SystemTime, deadline: SystemTime) -> SystemTime {
    let whole = deadline.duration_since(now).unwrap_or_default();
    deadline - (whole / 10).clamp(MARGIN_MIN, MARGIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_ends_a_little_before_the_deadline() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        for (whole_s, margin_ms) in [(1, 500), (2, 500), (20, 2_000), (300, 5_000)] {
            let deadline = now + Duration::from_secs(whole_s);
            let margin = deadline.duration_since(end_at(now, deadline)).unwrap();
            assert_eq!(margin, Duration::from_millis(margin_ms), "{whole_s} s");
        }
    }
}
