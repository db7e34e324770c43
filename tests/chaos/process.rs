//! One process of the fleet, started again and again under the same name.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// A process, and how it is started. It dies with the thread that started it, by SIGKILL.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    started: Instant,
    /// How often it was started.
    pub(crate) starts: u32,
}

/// A process that was told to end, and since when.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) name: String,
    child: Child,
    since: Instant,
    /// It had just been started: the signal may have come before the program could handle it.
    pub(crate) was_young: bool,
}

/// How soon after its start a program on a busy host may not handle a signal yet.
const YOUNG: Duration = Duration::from_secs(2);

impl Process {
    /// A process that is not started yet. What it says goes to a file in `folder`.
    pub(crate) fn new(
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(String, String)],
        folder: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.to_vec(),
            env: env.to_vec(),
            log: folder.join(format!("{name}.log")),
            child: None,
            started: Instant::now(),
            starts: 0,
        }
    }

    /// Starts it.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .args(&self.args);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.started = Instant::now();
        self.starts += 1;
    }

    /// Changes a variable for its next start.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value));
    }

    /// Takes a variable away for its next start.
    pub(crate) fn unset(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends it a signal, if it runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            send(child, signal);
        }
    }

    /// Tells it to end.
    pub(crate) fn leave(&mut self) -> Option<Leaving> {
        let child = self.child.take()?;
        // One that is stopped would not hear of it.
        send(&child, Signal::TERM);
        send(&child, Signal::CONT);
        Some(Leaving {
            name: self.name.clone(),
            child,
            since: Instant::now(),
            was_young: self.started.elapsed() < YOUNG,
        })
    }

    /// How it ended, if it did so by itself. What it said last is told.
    pub(crate) fn died(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(3).collect();
        Some(format!("{} ended by itself, {status}: {last:?}", self.name))
    }
}

impl Leaving {
    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// How long ago it was told to.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits for it; kills it after `bound`. Says whether that was needed.
    pub(crate) async fn wait(mut self, bound: Duration) -> bool {
        while self.ended().is_none() {
            if self.age() > bound {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}
