//! A machine's life: what each request and each observation does to it.
//!
//! ```text
//!            launch                 program runs            program ends
//!  created ─────────▶ starting ───────────────▶ started ───────────────▶ stopped ──▶ start …
//!     │                  │                    ▲  │  │ stop                 ▲  │
//!     │ skip_launch      │ cannot start       │  │  └───▶ stopping ────────┘  │ auto_destroy
//!     ▼                  ▼                    │  │ restart, update            ▼
//!  stopped         launch_failed ─▶ destroyed └──┴── restarting, replacing  destroying ─▶ destroyed
//! ```
//!
//! Functions here change one value and say what is to be done about it; they do nothing else.
//! The keeper reports with the number of the start; reports of earlier starts are dropped.

use std::time::Duration;

use serde_json::json;

use crate::clock::UnixMs;
use crate::local::action::Ending;
use crate::local::ids::Ids;
use crate::local::refusal::Refusal;
use crate::local::registry::exits;
use crate::local::registry::machine::{EventDetails, MachineRecord, Next, Process};
use crate::machines::wire::{MachineState, RestartPolicy};
use cofferdam_sandbox::Exit;

/// How long a program has to end by default.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The signal it gets by default: SIGINT.
const STOP_SIGNAL: i32 = 2;
/// How often a program that fails is started again by default.
const MAX_RETRIES: u32 = 10;
/// The pause before a first restart; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Something to be done about one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start a process for it, after a pause.
    Launch {
        /// The number of this start.
        generation: u64,
        /// How long to wait first.
        pause: Duration,
        /// Fetch and unpack only, start nothing.
        prepare_only: bool,
    },
    /// Tell its process something.
    Order(u64, Order),
    /// Nothing runs any more; what is left is to remove it.
    Finish,
}

/// What a process can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// End: first with this signal, after that time by force.
    Stop {
        /// The signal.
        signal: i32,
        /// The time.
        timeout: Duration,
    },
    /// End at once.
    Kill,
    /// Take this signal.
    Signal(i32),
}

/// What was seen of a machine's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observation {
    /// Its image is there; it is about to be started.
    Pulled,
    /// Its image is there, and nothing is to be started.
    Prepared,
    /// Its program runs.
    Started,
    /// It could not be started.
    Failed(String),
    /// Its program has ended, with everything it started.
    Exited(Exit),
    /// It was told to end before there was a program.
    Abandoned,
    /// Its keeper failed. The program was killed, and how it ended is not known.
    Lost,
}

/// What a change needs besides the machine: the time and fresh ids.
#[derive(Debug)]
pub(crate) struct Now<'a> {
    /// The time.
    pub(crate) ms: UnixMs,
    /// Draws ids.
    pub(crate) ids: &'a mut Ids,
    /// The number of the last start, on the whole server.
    pub(crate) generation: &'a mut u64,
}

impl Now<'_> {
    fn note(&mut self, machine: &mut MachineRecord, what: EventDetails) {
        machine.note(what, self.ms, self.ids);
    }
}

/// Creates a machine: called once, on a machine that is `created`.
pub(crate) fn create(machine: &mut MachineRecord, skip_launch: bool, now: &mut Now<'_>) -> Effect {
    now.note(machine, EventDetails::asked("launch", "created"));
    machine.enter(MachineState::Created, now.ms);
    launch(machine, Duration::ZERO, skip_launch, now)
}

/// Starts a machine that is stopped.
///
/// # Errors
/// 412 when it is not stopped.
pub(crate) fn start(machine: &mut MachineRecord, now: &mut Now<'_>) -> Result<Effect, Refusal> {
    match &machine.state {
        MachineState::Stopped | MachineState::Suspended => {}
        MachineState::Starting | MachineState::Restarting => {
            return Err(Refusal::precondition("machine still attempting to start"));
        }
        MachineState::Started | MachineState::Stopping => {
            return Err(Refusal::precondition(
                "machine still active, refusing to start",
            ));
        }
        MachineState::Replacing => {
            return Err(Refusal::precondition(
                "machine getting replaced, refusing to start",
            ));
        }
        other => {
            return Err(Refusal::precondition(format!(
                "unable to start machine from current state: '{other}'"
            )));
        }
    }
    machine.restarts = 0;
    now.note(machine, EventDetails::asked("start", "starting"));
    machine.enter(MachineState::Starting, now.ms);
    Ok(launch(machine, Duration::ZERO, false, now))
}

/// Asks a machine to stop. One that has stopped is left as it is.
///
/// # Errors
/// 412 when it is being replaced or destroyed, 404 when it is gone.
pub(crate) fn stop(
    machine: &mut MachineRecord,
    ending: Ending,
    now: &mut Now<'_>,
) -> Result<Option<Effect>, Refusal> {
    match &machine.state {
        MachineState::Stopped | MachineState::Suspended | MachineState::Failed => return Ok(None),
        MachineState::Created
        | MachineState::Starting
        | MachineState::Started
        | MachineState::Restarting => {
            now.note(machine, EventDetails::asked("stop", "stopping"));
            machine.enter(MachineState::Stopping, now.ms);
        }
        MachineState::Stopping => {}
        MachineState::Destroyed => return Err(Refusal::no_machine()),
        other => {
            return Err(Refusal::precondition(format!(
                "unable to stop machine from current state: '{other}'"
            )));
        }
    }
    machine.next = Next::Stop;
    Ok(end_process(machine, ending))
}

/// Ends a machine's program and starts it again; starts one that has stopped.
///
/// # Errors
/// As [`start`], for a machine that is neither started nor stopped.
pub(crate) fn restart(
    machine: &mut MachineRecord,
    ending: Ending,
    force_stop: bool,
    now: &mut Now<'_>,
) -> Result<Option<Effect>, Refusal> {
    if machine.state != MachineState::Started {
        return start(machine, now).map(Some);
    }
    now.note(machine, EventDetails::asked("restart", "restarting"));
    machine.enter(MachineState::Restarting, now.ms);
    machine.next = Next::Restart;
    let process = machine.process;
    Ok(match (force_stop, process) {
        (true, Some(process)) => Some(Effect::Order(process.generation, Order::Kill)),
        _ => end_process(machine, ending),
    })
}

/// Replaces the running version by the new one, which the caller has put in place already.
pub(crate) fn replace(
    machine: &mut MachineRecord,
    start: bool,
    now: &mut Now<'_>,
) -> Option<Effect> {
    machine.restarts = 0;
    now.note(machine, EventDetails::asked("update", "replacing"));
    machine.enter(MachineState::Replacing, now.ms);
    machine.next = Next::Replace { start };
    match machine.process {
        Some(_) => end_process(machine, Ending::default()),
        None => go_on(machine, None, now),
    }
}

/// Passes a signal on.
///
/// # Errors
/// 412 when nothing runs that could take it.
pub(crate) fn pass_signal(machine: &MachineRecord, signal: i32) -> Result<Effect, Refusal> {
    match (&machine.state, machine.process) {
        (MachineState::Started | MachineState::Stopping, Some(process)) => {
            Ok(Effect::Order(process.generation, Order::Signal(signal)))
        }
        (state, _) => Err(Refusal::precondition(format!(
            "unable to signal machine from current state: '{state}'"
        ))),
    }
}

/// Destroys a machine.
///
/// # Errors
/// 404 when it is gone, 412 when it is active and no force was asked for; one that was never
/// started, was suspended or has failed is not.
pub(crate) fn destroy(
    machine: &mut MachineRecord,
    force: bool,
    now: &mut Now<'_>,
) -> Result<Option<Effect>, Refusal> {
    match &machine.state {
        MachineState::Destroyed => return Err(Refusal::no_machine()),
        MachineState::Destroying => return Ok(kill_or_finish(machine)),
        MachineState::Created | MachineState::Suspended | MachineState::Failed => {}
        state if state.is_alive() && !force => {
            return Err(Refusal::precondition(
                "machine still active, refusing to destroy",
            ));
        }
        _ => {}
    }
    now.note(machine, EventDetails::asked("destroy", "destroying"));
    machine.enter(MachineState::Destroying, now.ms);
    machine.next = Next::Destroy;
    Ok(kill_or_finish(machine))
}

/// Takes in what was seen of a machine's process. `None` for a report of an earlier start.
pub(crate) fn observe(
    machine: &mut MachineRecord,
    generation: u64,
    seen: Observation,
    now: &mut Now<'_>,
) -> Option<Option<Effect>> {
    let process = machine.process.as_mut()?;
    if process.generation != generation {
        return None;
    }
    let undisturbed = machine.next == Next::Policy;
    Some(match seen {
        Observation::Pulled => {
            if machine.state == MachineState::Created {
                machine.enter(MachineState::Starting, now.ms);
            }
            None
        }
        Observation::Started => {
            process.up = true;
            if undisturbed {
                now.note(machine, EventDetails::seen("start", "started"));
                machine.enter(MachineState::Started, now.ms);
            }
            None
        }
        Observation::Prepared => {
            machine.process = None;
            if undisturbed {
                machine.enter(MachineState::Stopped, now.ms);
                return Some(None);
            }
            go_on(machine, None, now)
        }
        Observation::Failed(reason) => {
            machine.process = None;
            could_not_start(machine, &reason, now)
        }
        Observation::Exited(exit) => {
            machine.process = None;
            go_on(machine, Some(exit), now)
        }
        Observation::Abandoned | Observation::Lost => {
            machine.process = None;
            go_on(machine, None, now)
        }
    })
}

/// Marks a machine as destroyed: nothing runs any more.
pub(crate) fn finish(machine: &mut MachineRecord, now: &mut Now<'_>) {
    now.note(machine, EventDetails::seen("destroy", "destroyed"));
    machine.process = None;
    machine.lease = None;
    machine.enter(MachineState::Destroyed, now.ms);
    machine.strip();
}

fn launch(
    machine: &mut MachineRecord,
    pause: Duration,
    prepare_only: bool,
    now: &mut Now<'_>,
) -> Effect {
    *now.generation += 1;
    let generation = *now.generation;
    machine.next = Next::Policy;
    machine.process = Some(Process {
        generation,
        up: false,
    });
    Effect::Launch {
        generation,
        pause,
        prepare_only,
    }
}

/// What follows the end of a process, or the lack of one.
fn go_on(machine: &mut MachineRecord, exit: Option<Exit>, now: &mut Now<'_>) -> Option<Effect> {
    let again = exit
        .as_ref()
        .is_some_and(|exit| machine.next == Next::Policy && wants_restart(machine, exit));
    if let Some(exit) = &exit {
        let restarting = again || machine.next == Next::Restart;
        let request = exits::request(machine, exit, restarting, now.ms);
        let told = EventDetails {
            request,
            ..EventDetails::seen("exit", "stopped")
        };
        now.note(machine, told);
    }
    if again {
        machine.restarts += 1;
        machine.enter(MachineState::Restarting, now.ms);
        return Some(launch(machine, pause(machine.restarts), false, now));
    }
    match machine.next {
        Next::Restart | Next::Replace { start: true } => {
            machine.enter(MachineState::Starting, now.ms);
            Some(launch(machine, Duration::ZERO, false, now))
        }
        Next::Replace { start: false } => rest(machine, now),
        Next::Destroy => Some(Effect::Finish),
        Next::Policy | Next::Stop if machine.config.auto_destroy == Some(true) => {
            machine.next = Next::Destroy;
            machine.enter(MachineState::Destroying, now.ms);
            Some(Effect::Finish)
        }
        Next::Policy | Next::Stop => rest(machine, now),
    }
}

fn rest(machine: &mut MachineRecord, now: &Now<'_>) -> Option<Effect> {
    machine.next = Next::Policy;
    machine.enter(MachineState::Stopped, now.ms);
    None
}

/// A first start that fails takes the machine with it; a later one leaves it `failed`.
fn could_not_start(machine: &mut MachineRecord, reason: &str, now: &mut Now<'_>) -> Option<Effect> {
    let request = json!({ "error": reason });
    if machine.next == Next::Destroy {
        return Some(Effect::Finish);
    }
    let was_up = machine.events.iter().any(|event| event.status == "started");
    if was_up {
        let told = EventDetails {
            request,
            ..EventDetails::seen("start", "failed")
        };
        now.note(machine, told);
        machine.enter(MachineState::Failed, now.ms);
        return None;
    }
    let told = EventDetails {
        request,
        ..EventDetails::seen("launch", "launch_failed")
    };
    now.note(machine, told);
    machine.enter(MachineState::LaunchFailed, now.ms);
    machine.next = Next::Destroy;
    Some(Effect::Finish)
}

fn kill_or_finish(machine: &MachineRecord) -> Option<Effect> {
    Some(match machine.process {
        Some(process) => Effect::Order(process.generation, Order::Kill),
        None => Effect::Finish,
    })
}

fn end_process(machine: &MachineRecord, ending: Ending) -> Option<Effect> {
    let process = machine.process?;
    let configured = machine.config.stop_config.as_ref();
    let configured_signal = || configured?.signal.as_ref()?.number();
    let configured_timeout = || Some(configured?.timeout?.0);
    let order = Order::Stop {
        signal: ending
            .signal
            .or_else(configured_signal)
            .unwrap_or(STOP_SIGNAL),
        timeout: ending
            .timeout
            .or_else(configured_timeout)
            .unwrap_or(STOP_TIMEOUT),
    };
    Some(Effect::Order(process.generation, order))
}

fn wants_restart(machine: &MachineRecord, exit: &Exit) -> bool {
    let restart = machine.config.restart.as_ref();
    match restart.and_then(|restart| restart.policy.as_ref()) {
        Some(RestartPolicy::No) => false,
        Some(RestartPolicy::Always) => true,
        _ => {
            let most = restart.and_then(|r| r.max_retries).unwrap_or(MAX_RETRIES);
            exit.code != Some(0) && machine.restarts < most
        }
    }
}

fn pause(restarts: u32) -> Duration {
    let doublings = restarts.saturating_sub(1).min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}
