//! A sandbox that runs, and what can be asked of it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::bubblewrap::plan::DEFAULT_WORKDIR;
use crate::cgroup::Counters;
use crate::control::Requests;
use crate::error::Error;
use crate::exit::exit;
use crate::init::wire::{Ending, Exec, ExecResult, Failure, Program, Request, Step};
use crate::outcome::{ExecOutput, Exit, Process as Listed};
use crate::pidfd::Process;
use crate::procfs;

/// An exec is answered by init; one that has been taken over may never do so.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// So much of each output of an exec is kept.
const EXEC_KEEP_BYTES: u32 = 256 << 10;
/// The longest time an exec can have.
const EXEC_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What all holders of a sandbox share.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// bubblewrap's outer process, our child.
    pub(super) monitor: Process,
    /// The first process in the sandbox.
    pub(super) pid1: Process,
    /// Our init.
    pub(super) init: u32,
    /// The main program's number inside the sandbox.
    pub(super) main: u32,
    pub(super) requests: tokio::sync::Mutex<Requests>,
    pub(super) execs: Execs,
    /// The server has ended it, so no signal proves that memory ran out.
    pub(super) killed: AtomicBool,
}

/// The execs that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Execs {
    next: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Result<ExecResult, Failure>>>>,
}

impl Execs {
    fn expect(&self) -> (u32, oneshot::Receiver<Result<ExecResult, Failure>>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(id, answer);
        (id, answered)
    }

    pub(super) fn answer(&self, id: u32, result: Result<ExecResult, Failure>) {
        if let Some(answer) = self.waiting().remove(&id) {
            let _ = answer.send(result);
        }
    }

    pub(super) fn waiting(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Result<ExecResult, Failure>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox {
    /// Ends every process of the sandbox at once.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.pid1.kill();
        self.monitor.kill();
    }
}

/// A sandbox that has been started. Dropping it ends the sandbox.
#[derive(Debug)]
pub struct Running {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) listener: Option<TcpListener>,
    pub(super) exit: oneshot::Receiver<Exit>,
}

impl Running {
    /// The sandbox's own listener: what connects to 127.0.0.1 inside of it, at the port of the
    /// spec. It is the only thing a guest can reach, and whoever connects is this sandbox. Given
    /// out once; while it is held, the sandbox's network stays, even after its end.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// A handle by which others can act on the sandbox.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.sandbox))
    }

    /// Waits until the sandbox is over: every process gone, its counters read, its control group
    /// and user id given back. Dropping the future ends the sandbox.
    pub async fn wait(mut self) -> Exit {
        // Without an answer the server itself is ending and has ended the sandbox.
        (&mut self.exit)
            .await
            .unwrap_or_else(|_| exit(None, true, Counters::default()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit.try_recv().is_err() {
            self.sandbox.kill();
        }
    }
}

/// Acts on a running sandbox. Clones act on the same one.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Sandbox>);

impl Handle {
    /// Sends a signal to the sandbox's main process.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal, `NotFound` when the process has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        if signal == Signal::KILL {
            self.0.killed.store(true, Ordering::SeqCst);
        }
        let main = self.main()?;
        let process = Process::open(main)?;
        // The number can have gone to another process between the two lines above.
        if self.main()? != main {
            return Err(io::ErrorKind::NotFound.into());
        }
        process.signal(signal)
    }

    /// Ends every process of the sandbox at once. Safe to repeat.
    pub fn kill(&self) {
        self.0.kill();
    }

    /// Runs another program in the sandbox, with the same isolation and limits, with `env` as its
    /// whole environment and `workdir` as its folder. It is killed after `timeout` (then
    /// `exit_signal` is 9); each output is cut at 256 KiB.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotExecutable`] and [`Error::Workdir`] when the program
    /// cannot be started, [`Error::Busy`] when eight run already, [`Error::Spec`] when it is too
    /// large to be passed, [`Error::Ended`] when the sandbox has ended.
    pub async fn exec(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        workdir: Option<String>,
        stdin: Vec<u8>,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        let Some(name) = argv.first().cloned() else {
            return Err(Error::Spec("an exec needs a program".into()));
        };
        let timeout = timeout.min(EXEC_TIMEOUT_MAX);
        let workdir = workdir.unwrap_or_else(|| DEFAULT_WORKDIR.into());
        let (id, answered) = self.0.execs.expect();
        let exec = Exec {
            id,
            program: Program {
                argv,
                env,
                workdir: workdir.clone(),
            },
            stdin,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            keep_bytes: EXEC_KEEP_BYTES,
        };
        let sent = {
            // The lock is a tokio one: requests must go out whole, one after the other.
            let mut requests = self.0.requests.lock().await;
            tokio::time::timeout(ANSWER_GRACE, requests.send(&Request::Exec(exec))).await
        };
        let answer = match sent {
            Ok(Ok(())) => tokio::time::timeout(timeout + ANSWER_GRACE, answered).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                self.0.execs.waiting().remove(&id);
                return Err(Error::Spec("the exec is too large".into()));
            }
            Ok(Err(_)) | Err(_) => {
                self.0.execs.waiting().remove(&id);
                return Err(Error::Ended);
            }
        };
        self.0.execs.waiting().remove(&id);
        let Ok(Ok(result)) = answer else {
            return Err(Error::Ended);
        };
        result
            .map(output)
            .map_err(|failure| refusal(failure, &name, &workdir))
    }

    /// The processes of the sandbox, without our own.
    ///
    /// # Errors
    /// When the sandbox has ended or `/proc` cannot be read.
    pub fn processes(&self) -> io::Result<Vec<Listed>> {
        let ours = [self.0.pid1.pid(), self.0.init];
        let members = procfs::members(self.0.pid1.pid())?;
        let guests = members
            .into_iter()
            .filter(|member| !ours.contains(&member.pid));
        Ok(guests.filter_map(procfs::describe).collect())
    }

    /// The main process by its number on the host: init's child with the number init told.
    fn main(&self) -> io::Result<u32> {
        let members = procfs::members(self.0.pid1.pid())?;
        let is_main =
            |member: &procfs::Member| member.parent == self.0.init && member.inner == self.0.main;
        let main = members
            .into_iter()
            .find(is_main)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(main.pid)
    }
}

fn output(ran: ExecResult) -> ExecOutput {
    let (exit_code, exit_signal) = match ran.ending {
        Ending::Code(code) => (Some(code), None),
        Ending::Signal(signal) => (None, Some(signal)),
    };
    ExecOutput {
        stdout: String::from_utf8_lossy(&ran.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ran.stderr).into_owned(),
        exit_code,
        exit_signal,
    }
}

/// What init's refusal to start a program means.
pub(super) fn refusal(failure: Failure, program: &str, workdir: &str) -> Error {
    const ENOENT: i32 = 2;
    match failure.step {
        Step::Workdir => Error::Workdir(workdir.to_owned()),
        Step::Program if failure.errno == ENOENT => Error::NotFound(program.to_owned()),
        Step::Program => Error::NotExecutable {
            program: program.to_owned(),
            reason: failure.detail,
        },
        Step::Busy => Error::Busy(failure.detail),
        Step::Prepare => Error::Boot(failure.detail),
    }
}
