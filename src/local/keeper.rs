//! One start of one machine, from its image to the end of its last process.
//!
//! A keeper reports what it observes and does what it is told: it decides nothing about the
//! machine's life. An order that arrives before its program runs ends it early.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::local::faults::rule::StuckIn;
use crate::local::guest_call::GuestCall;
use crate::local::log_forward::{LogForward, LogSender};
use crate::local::logs::{Log, Stream};
use crate::local::registry::life::{Observation, Order};
use crate::local::registry::machine::{MachineRecord, Next};
use crate::local::runner::{Handle, Runner, Running};
use crate::local::shared::Shared;
use crate::local::spec;
use crate::machines::wire::MachineState;
use crate::milestone::milestone;
use crate::run::budget;
use crate::stage::spec::{CAPTURE, DEADLINE, LOG_URL, RUN_TOKEN};
use cofferdam_sandbox::{Error, Exit, OutputSink};

/// How long after its deadline a machine is deleted. A worker deletes it at the deadline.
const DEADLINE_SLACK: Duration = Duration::from_secs(10);
/// Later deadlines are not waited for.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// A start that a keeper is to carry out.
#[derive(Debug)]
pub(crate) struct Start {
    /// The machine.
    pub(crate) id: String,
    /// The number of the start.
    pub(crate) generation: u64,
    /// How long to wait first.
    pub(crate) pause: Duration,
    /// Fetch and unpack only.
    pub(crate) prepare_only: bool,
    /// What the machine is told meanwhile.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// Ends it at once.
    pub(crate) kill: CancellationToken,
}

/// Why a start did not come to a running program.
enum Early {
    /// It was told to end.
    Abandoned,
    /// The machine is gone, so there is nothing to report.
    Gone,
    /// Its image is there, and nothing was to be started.
    Prepared,
    /// There is no program to run, and so its run is over.
    Ended(Exit),
    /// It failed.
    Failed(String),
}

/// A machine whose program runs.
struct Booted {
    machine: Arc<MachineRecord>,
    running: Running,
    forward: Option<LogForward>,
}

/// Carries out one start to its end, and returns what ended it; `None` when the machine is gone.
pub(crate) async fn keep(shared: &Shared, mut start: Start) -> Option<Observation> {
    Some(match boot(shared, &mut start).await {
        Ok(booted) => Observation::Exited(follow(shared, &mut start, booted).await),
        Err(Early::Abandoned) => Observation::Abandoned,
        Err(Early::Prepared) => Observation::Prepared,
        Err(Early::Ended(exit)) => Observation::Exited(exit),
        Err(Early::Failed(reason)) => {
            let machine_id = start.id;
            warn!(machine_id, reason, "machine could not be started");
            Observation::Failed(reason)
        }
        Err(Early::Gone) => return None,
    })
}

/// Goes from `created` to a running program.
async fn boot(shared: &Shared, start: &mut Start) -> Result<Booted, Early> {
    let injected = shared.read(|registry| Some(registry.by_id(&start.id)?.injected.clone()));
    let injected = injected.ok_or(Early::Gone)?;
    hold(start, Some(start.pause + injected.slow_pull)).await?;
    if let Some((StuckIn::Created, length)) = injected.stick {
        hold(start, length).await?;
    }
    if start.prepare_only {
        return Err(Early::Prepared);
    }
    let machine = shared.observe(&start.id, start.generation, Observation::Pulled);
    let (machine, _) = machine.ok_or(Early::Gone)?;
    if machine.next != Next::Policy {
        return Err(Early::Abandoned);
    }
    if let Some((StuckIn::Starting, length)) = injected.stick {
        hold(start, length).await?;
    }
    let spec = spec::build(&machine).map_err(|refusal| Early::Failed(refusal.error.into()))?;
    let log = shared
        .parts()
        .logs
        .open(&machine.app, &machine.id, &machine.region);
    let forward = forward(shared, &machine);
    let sender = forward.as_ref().map(LogForward::sender);
    let output = sink(shared, log.clone(), sender);
    let running = match shared.parts().runner.start(spec, output).await {
        Ok(running) => running,
        Err(error) => return Err(no_program(shared, start, (&log, forward), &error).await),
    };
    shared.attach(&start.id, start.generation, running.handle());
    shared.observe(&start.id, start.generation, Observation::Started);
    Ok(Booted {
        machine,
        running,
        forward,
    })
}

/// What a program that could not be started means. One that is not there, or cannot be run, will
/// not be the next time: the machine has started and its program has ended, and its log says why.
async fn no_program(
    shared: &Shared,
    start: &Start,
    (log, forward): (&Log, Option<LogForward>),
    error: &Error,
) -> Early {
    let Some(exit) = error.as_exit() else {
        return Early::Failed(error.to_string());
    };
    let line = format!("{error}\n");
    log.write(Stream::Stderr, line.as_bytes(), shared.now());
    log.close(shared.now());
    if let Some(forward) = forward {
        forward.sender().send(Stream::Stderr, line.into());
        forward.finish().await;
    }
    shared.observe(&start.id, start.generation, Observation::Started);
    Early::Ended(exit)
}

/// Waits for so long, or for ever, unless the machine is told to end.
async fn hold(start: &mut Start, length: Option<Duration>) -> Result<(), Early> {
    if length == Some(Duration::ZERO) {
        return Ok(());
    }
    let until = length.map(|length| Instant::now() + length);
    let over = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return Ok(()),
            () = start.kill.cancelled() => return Err(Early::Abandoned),
            order = start.orders.recv() => match order {
                Some(Order::Signal(_)) => {}
                Some(Order::Stop { .. } | Order::Kill) | None => return Err(Early::Abandoned),
            },
        }
    }
}

/// Follows a running program to its end, passing on what the machine is told.
async fn follow(shared: &Shared, start: &mut Start, booted: Booted) -> Exit {
    let Booted {
        machine,
        mut running,
        forward,
    } = booted;
    let handle = running.handle();
    let ended = CancellationToken::new();
    // Also when this panics: the relay must not outlive the machine.
    let _end_relay = ended.clone().drop_guard();
    if let (Some(listener), Some(relay)) = (running.take_listener(), &shared.parts().relay) {
        let (relay, ended) = (relay.clone(), ended.clone());
        let token = machine
            .config
            .env
            .0
            .get(RUN_TOKEN)
            .map(|token| token.as_str().into());
        let relaying = async move { relay.serve(listener, token, ended).await };
        shared.parts().shutdown.spawn(relaying);
    }
    milestone!("keeper::started");
    let mut stopping = Stopping::default();
    let exit = running.wait();
    tokio::pin!(exit);
    let mut killed = false;
    let mut overdue = overdue_at(shared, &machine);
    let exit = loop {
        tokio::select! {
            biased;
            exit = &mut exit => break exit,
            () = start.kill.cancelled(), if !killed => {
                killed = true;
                handle.kill();
            }
            Some(order) = start.orders.recv() => {
                stopping.take(order, held(shared, &start.id), &handle);
            }
            () = stopping.due() => stopping.go_on(&handle),
            () = at(overdue) => {
                overdue = None;
                warn!(machine_id = machine.id, "deleting a machine that is past its deadline");
                shared.delete(&machine.app, &machine.id);
                handle.kill();
            }
        }
    };
    ended.cancel();
    let log = shared
        .parts()
        .logs
        .open(&machine.app, &machine.id, &machine.region);
    log.close(shared.now());
    // Before the end is told: what the guest wrote is part of what is told then.
    if let Some(forward) = forward {
        forward.finish().await;
    }
    exit
}

/// Posts what a guest without the agent writes, where it was told to post its output.
fn forward(shared: &Shared, machine: &MachineRecord) -> Option<LogForward> {
    let env = &machine.config.env.0;
    let parts = shared.parts();
    // A simulated guest writes nothing of its own.
    if env.contains_key(CAPTURE) || matches!(parts.runner, Runner::Simulated(_)) {
        return None;
    }
    let endpoint = parts.relay.as_ref()?.endpoint();
    let call = GuestCall::new(endpoint, env, LOG_URL)?;
    Some(LogForward::start(call, &parts.shutdown))
}

/// When a machine is deleted here, whatever the worker does: some time after the deadline that it was
/// created with, which its guest cannot change.
fn overdue_at(shared: &Shared, machine: &MachineRecord) -> Option<Instant> {
    let deadline_s: u64 = machine.config.metadata.get(DEADLINE)?.parse().ok()?;
    let at = budget::after(deadline_s.saturating_mul(1000), DEADLINE_SLACK);
    Some(Instant::now() + budget::left(shared.now(), at).min(DEADLINE_MAX))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// How long a fault keeps a machine in the state that it is in; `None` when none does.
fn held(shared: &Shared, id: &str) -> Option<Option<Duration>> {
    let machine = shared.read(|registry| registry.by_id(id).map(Arc::clone))?;
    let (state, length) = machine.injected.stick?;
    let is_in = match state {
        StuckIn::Stopping => MachineState::Stopping,
        StuckIn::Restarting => MachineState::Restarting,
        StuckIn::Replacing => MachineState::Replacing,
        StuckIn::Created | StuckIn::Starting | StuckIn::Destroying => return None,
    };
    (machine.state == is_in).then_some(length)
}

/// Where the end of a program stands that was asked for.
#[derive(Default)]
struct Stopping {
    /// What is done next, and when.
    next: Option<(Instant, Step)>,
}

#[derive(Clone, Copy)]
enum Step {
    /// Ask it to end.
    Ask { signal: i32, timeout: Duration },
    /// Kill it.
    Kill,
}

impl Stopping {
    /// Takes an order in. A fault may keep it from being carried out, for ever or for a while.
    fn take(&mut self, order: Order, held: Option<Option<Duration>>, handle: &Handle) {
        match order {
            Order::Kill => handle.kill(),
            Order::Signal(signal) => handle.signal(signal),
            Order::Stop { signal, timeout } => {
                let delay = match held {
                    None => Duration::ZERO,
                    Some(Some(length)) => length,
                    Some(None) => return,
                };
                self.next = Some((Instant::now() + delay, Step::Ask { signal, timeout }));
            }
        }
    }

    /// When the next step is due; never, when there is none.
    async fn due(&self) {
        match self.next {
            Some((at, _)) => sleep_until(at).await,
            None => pending().await,
        }
    }

    fn go_on(&mut self, handle: &Handle) {
        match self.next.take() {
            Some((_, Step::Ask { signal, timeout })) => {
                handle.signal(signal);
                self.next = Some((Instant::now() + timeout, Step::Kill));
            }
            Some((_, Step::Kill)) => handle.kill(),
            None => {}
        }
    }
}

fn sink(shared: &Shared, log: Log, forward: Option<LogSender>) -> OutputSink {
    use cofferdam_sandbox::Stream as From;
    let clock = shared.parts().clock.clone();
    Arc::new(move |from, bytes| {
        let stream = match from {
            From::Stdout => Stream::Stdout,
            From::Stderr => Stream::Stderr,
        };
        log.write(stream, &bytes, clock.now_ms());
        if let Some(forward) = &forward {
            forward.send(stream, bytes);
        }
    })
}
