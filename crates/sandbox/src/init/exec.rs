//! Runs programs beside the main one, a few at a time, each with an end.

#![expect(
    clippy::disallowed_types,
    reason = "this program has the standard library only, and no test pauses its time"
)]

use std::io::{self, Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::wire::{Ending, Event, Exec, ExecResult, Failure, Step};
use crate::{Reporter, ending, spawn, start};

/// Execs at once. One keeps its slot as long as any process it left holds its outputs open.
const AT_ONCE: usize = 8;
/// A running program is asked whether it has ended after pauses that grow from this to that.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// So long the outputs of a program that has ended may take to close.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Counts the execs that run.
#[derive(Clone, Default)]
pub(crate) struct Slots(Arc<AtomicUsize>);

/// One of the slots; given back when dropped.
struct Slot(Slots);

impl Slots {
    fn take(&self) -> Option<Slot> {
        let taken = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let slot = Slot(self.clone());
        (taken <= AT_ONCE).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `exec` on a thread of its own and reports how it went.
pub(crate) fn serve(exec: Exec, slots: &Slots, reporter: &Reporter) {
    let id = exec.id;
    let Some(slot) = slots.take() else {
        let detail = format!("{AT_ONCE} programs run already");
        return reporter.report(&done(id, Err(failure(Step::Busy, &detail))));
    };
    let told = reporter.clone();
    let spawned = spawn(move || {
        let result = run(exec, slot);
        told.report(&done(id, result));
    });
    if let Err(error) = spawned {
        reporter.report(&done(id, Err(failure(Step::Program, &error.to_string()))));
    }
}

fn run(exec: Exec, slot: Slot) -> Result<ExecResult, Failure> {
    let deadline = Instant::now() + Duration::from_millis(u64::from(exec.timeout_ms));
    let mut child = start(
        &exec.program,
        [Stdio::piped(), Stdio::piped(), Stdio::piped()],
    )?;
    let (closed, closings) = channel();
    let slot = Arc::new(slot);
    let keep = usize::try_from(exec.keep_bytes).unwrap_or(usize::MAX);
    let stdout = child
        .stdout
        .take()
        .map(|pipe| collect(pipe, keep, closed.clone(), slot.clone()));
    let stderr = child
        .stderr
        .take()
        .map(|pipe| collect(pipe, keep, closed, slot.clone()));
    if let Some(mut pipe) = child.stdin.take() {
        // The program may read none of it; then this ends with the program.
        let _ = spawn(move || {
            let _ = pipe.write_all(&exec.stdin);
            drop(slot);
        });
    }
    let ending = wait(&mut child, &closings, deadline);
    Ok(ExecResult {
        ending,
        stdout: gathered(stdout),
        stderr: gathered(stderr),
    })
}

/// Waits until the program has ended, or kills it at the deadline. What it wrote last is waited for,
/// but not what processes it left behind may still write.
fn wait(child: &mut Child, closings: &Receiver<()>, deadline: Instant) -> Ending {
    let mut pause = PAUSE_MIN;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let _ = closings.recv_timeout(LAST_WORDS);
                return ending(status);
            }
            Ok(None) if Instant::now() < deadline => {}
            Ok(None) | Err(_) => return end(child),
        }
        // Nothing is ever sent. When both outputs are closed the end is near.
        match closings.recv_timeout(pause) {
            Err(RecvTimeoutError::Disconnected) => thread::sleep(PAUSE_MIN),
            _ => pause = PAUSE_MAX.min(pause * 2),
        }
    }
}

/// The ending of a program whose time is up: its own if it was quicker, else by our signal.
fn end(child: &mut Child) -> Ending {
    let _ = child.kill();
    child.wait().map_or(Ending::Signal(9), ending)
}

type Gathering = Arc<Mutex<Vec<u8>>>;

/// Reads a pipe to its end and keeps the first `keep` bytes.
fn collect(
    mut pipe: impl Read + Send + 'static,
    keep: usize,
    closed: Sender<()>,
    slot: Arc<Slot>,
) -> Gathering {
    let gathering = Gathering::default();
    let filled = Arc::clone(&gathering);
    let _ = spawn(move || {
        let mut piece = [0; 16 << 10];
        loop {
            match pipe.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => {
                    let mut kept = filled.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = keep.saturating_sub(kept.len()).min(length);
                    kept.extend(&piece[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        drop((closed, slot));
    });
    gathering
}

fn gathered(gathering: Option<Gathering>) -> Vec<u8> {
    gathering.map_or_else(Vec::new, |bytes| {
        std::mem::take(&mut *bytes.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

fn done(id: u32, result: Result<ExecResult, Failure>) -> Event {
    Event::Done { id, result }
}

fn failure(step: Step, detail: &str) -> Failure {
    Failure {
        step,
        errno: 0,
        detail: detail.to_owned(),
    }
}
