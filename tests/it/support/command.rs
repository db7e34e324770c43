//! The real command, run as a process with an environment of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::until::{until, until_within};

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().expect("it ended by itself"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Ended {
    /// What it printed, if it ended well.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Each line that it printed, as JSON, if it ended well.
    #[track_caller]
    pub(crate) fn json(self) -> Vec<serde_json::Value> {
        self.done()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// The command with nothing in its environment but a path.
pub(crate) fn cofferdam<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub(crate) fn ended(mut command: Command) -> Ended {
    command.output().unwrap().into()
}

/// Runs it to its end with `input` on its standard input.
pub(crate) fn fed(mut command: Command, input: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

/// Whether a finding of `doctor` is as it should be. Which limits hold is the host's affair.
pub(crate) fn is_well(finding: &serde_json::Value) -> bool {
    let expected: &[&str] = match finding["what"].as_str() {
        Some("sandbox limits") => &["ok", "warn"],
        _ => &["ok"],
    };
    finding["verdict"]
        .as_str()
        .is_some_and(|verdict| expected.contains(&verdict))
}

/// A command that stays, until the test ends it. What it says lies in files, so that nothing waits
/// for the test to read it. It dies with the test's thread.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// Starts the command with these words and variables.
    pub(crate) fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_below(&[], args, env)
    }

    /// As [`Daemon::start`], by another command that becomes this one, such as `prlimit`.
    pub(crate) fn start_below(before: &[&str], args: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(before);
        command.arg(env!("CARGO_BIN_EXE_cofferdam")).args(args);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("COFFERDAM_LOG_FORMAT", "json")
            .envs(env.iter().copied());
        let file = |name| File::create(folder.path().join(name)).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        Self {
            child: command.spawn().unwrap(),
            folder,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        format!(
            "stdout:\n{}stderr:\n{}",
            self.read("stdout"),
            self.read("stderr")
        )
    }

    /// Waits for a line of standard output with `words` in it.
    pub(crate) async fn line(&mut self, words: &str) -> String {
        until(&format!("a line with {words:?}"), async || {
            let found = self.read("stdout");
            let found = found
                .lines()
                .find(|line| line.contains(words))
                .map(str::to_owned);
            found.ok_or_else(|| self.said())
        })
        .await
    }

    /// Waits until it listens on `count` addresses, and tells them in order.
    pub(crate) async fn addresses(&mut self, count: usize) -> Vec<String> {
        until(&format!("{count} addresses"), async || {
            let log = self.read("stderr");
            let lines = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            let listening = lines.filter(|line: &serde_json::Value| line["message"] == "listening");
            let found = listening.filter_map(|line| Some(line["address"].as_str()?.to_owned()));
            let found: Vec<_> = found.collect();
            if found.len() >= count {
                Ok(found)
            } else {
                Err(self.said())
            }
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether a signal has stopped it, and it waits to go on.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.trim_start().starts_with('T')
    }

    /// Seconds of processor time that it has used so far.
    pub(crate) fn processor_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        // From the third field on; user and system time are the fourteenth and the fifteenth.
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |n: usize| fields[n - 3].parse::<f64>().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "it is 100")]
        let per_s = rustix::param::clock_ticks_per_second() as f64;
        (ticks(14) + ticks(15)) / per_s
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self, bound: Duration) -> ExitStatus {
        let (child, folder) = (&mut self.child, self.folder.path());
        until_within(bound, "the process to end", || {
            let status = child.try_wait().unwrap();
            let seen = || fs::read_to_string(folder.join("stderr")).unwrap();
            std::future::ready(status.ok_or_else(seen))
        })
        .await
    }

    /// Tells it to end and waits until it has; it must end well.
    pub(crate) async fn finish(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended(Duration::from_secs(40)).await;
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
