//! queued → booting → running: the create call, and everything that can come of it.
//!
//! A create call is not idempotent, so a lost answer is followed by a look-up of the machine's name,
//! which is derived from run and attempt. At most one machine of that name is live, and everybody
//! who boots the attempt ends up with that one. A machine that has stopped by then is found too,
//! and no create call is repeated for a run that has ended.

mod failure;
mod lookup;
mod pace;
mod resume;

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::machines::{Call, Certainty, wire};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::machine_name;
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::phase::MachineRef;
use crate::run::request::RunRequest;
use crate::run::trace::{Part, RunTrace};
use crate::stage::boot::failure::{IMAGE_UNKNOWN_MAX, Next};
use crate::stage::boot::pace::Refusal;
use crate::stage::breaker::{Circuit, OPEN_MAX};
use crate::stage::lease::LeaseGuard;
use crate::stage::outline::{exemplar, guest_parent, scope};
use crate::stage::settle::{refuse, settle};
use crate::stage::teardown::delete;
use crate::stage::{Deps, Error, jitter, parsed, pause, spec};
use crate::store::acts::{BootToken, Claimed, Entered, Request, Requeue, Transition};
use crate::telemetry::Timed;
use crate::token::Grant;
use crate::traces::within;

pub use crate::stage::boot::resume::resume;

/// Calls that one boot makes before it hands the run back to the queue.
const TRIES_MAX: u32 = 6;
/// First ceiling of the pause between tries.
const PAUSE_BASE: Duration = Duration::from_millis(200);
/// Longest pause between tries of one boot.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// First ceiling of the time that a refused run waits in the queue.
const WAIT_BASE: Duration = Duration::from_secs(1);
/// Longest time that a refused run waits in the queue before the next try.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Calls that one boot makes when the reason of the refusal is not known.
const UNCLEAR_TRIES_MAX: u32 = 3;

/// How a boot begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the create call: nobody has booted this attempt.
    Create,
    /// With a look-up: another worker may have.
    LookUp,
}

/// What a boot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Booted {
    /// The machine is there and its result is awaited.
    Running,
    /// The run is over already; a tear-down may be owed.
    Over,
    /// The run waits in the queue again.
    Queued,
    /// The run was settled without a machine that could bring a result.
    Settled(ReasonCode),
    /// Another worker acts for the run, or will when the lease ends.
    HandedOver,
}

/// Boots one attempt: usually one HTTP call and one round trip.
///
/// # Errors
/// When Redis does not answer. The run stays in `booting`, and the sweep resumes it.
pub async fn boot(
    deps: &Deps,
    run: &Claimed,
    lease: &LeaseGuard,
    begin: Begin,
) -> Result<Booted, Error> {
    let (limits, began) = (deps.core.limits(), Instant::now());
    // A fetched request counts against the memory budget until the boot is over.
    let (request, _fetched) = match &run.request {
        Request::Here(json) => (RunRequest::parse(json, &limits), None),
        Request::Large { bytes } => {
            let fetched = deps.core.store.fetch(&run.id, *bytes).await?;
            milestone!("boot::fetched");
            let Some(fetched) = fetched else {
                let message = "its request is gone from redis";
                return settle_boot(deps, run, ReasonCode::MachineLost, message).await;
            };
            let bytes = fetched.json.len();
            let parse = move || {
                let request = RunRequest::parse(&fetched.json, &limits);
                (request, Some(fetched.let_go()))
            };
            parsed(bytes, parse).await
        }
    };
    let request = match request {
        Ok(request) => request,
        // The limits have changed since it was admitted.
        Err(refusal) => {
            return settle_boot(deps, run, ReasonCode::InvalidRequest, refusal.to_string()).await;
        }
    };
    let grant = Grant {
        run: run.id.clone(),
        attempt: run.attempt,
        expires_s: run.deadline_ms / 1000,
        nonce: run.nonce.clone(),
    };
    let trace = RunTrace::new(&run.id, run.nonce.as_ref(), None, request.traceparent);
    let body = spec::machine(
        run,
        &request,
        &deps.ring.sign(&grant),
        guest_parent(deps, &trace, run.attempt),
        &deps.guests,
        deps.owner(),
    );
    if begin == Begin::Create {
        deps.core.metrics.boots_started.inc();
    }
    let boot = Boot {
        deps,
        run,
        lease,
        region: request.region.as_deref(),
        name: machine_name(&run.id, run.attempt, run.nonce.as_ref()),
    };
    if let Circuit::Open(until) = boot.acquire_circuit() {
        return boot
            .defer_on_open_circuit(begin == Begin::LookUp, until)
            .await;
    }
    let part = Part::Boot(run.attempt.0);
    let scope = scope(deps, &trace, part, &run.id, run.attempt);
    let booted = within(scope.clone(), boot.drive(&body, begin)).await?;
    // A look-up tells nothing of how long a boot takes.
    if begin == Begin::Create && matches!(booted, Booted::Running | Booted::Over) {
        let took = began.elapsed();
        deps.core.metrics.boot_duration.observe(took.as_secs_f64());
        exemplar(deps, scope.as_ref(), Timed::Boot, took);
    }
    Ok(booted)
}

/// One boot under way.
struct Boot<'a> {
    deps: &'a Deps,
    run: &'a Claimed,
    lease: &'a LeaseGuard,
    region: Option<&'a str>,
    name: String,
}

impl Boot<'_> {
    /// Whether the app and the region may be called.
    fn acquire_circuit(&self) -> Circuit {
        let now = self.deps.core.clock.now_ms();
        let breakers = &self.deps.health.breakers;
        breakers.acquire(&self.run.app, self.region, now)
    }

    /// The state of the circuit for a boot that is under way; starts no trial.
    fn circuit(&self) -> Circuit {
        let now = self.deps.core.clock.now_ms();
        let breakers = &self.deps.health.breakers;
        breakers.state(&self.run.app, self.region, now)
    }

    /// The circuit of the app or the region is open: another app may boot the run if no machine can
    /// exist. Else the lease ends, and the sweep looks for the machine.
    async fn defer_on_open_circuit(&self, may_exist: bool, until: UnixMs) -> Result<Booted, Error> {
        if may_exist {
            return Ok(Booted::HandedOver);
        }
        let why = "the app or the region does not answer";
        let soon = budget::after(self.deps.core.clock.now_ms(), OPEN_MAX);
        let until = until.min(soon);
        let code = ReasonCode::BootFailed;
        self.defer(code, &why, Some(until), Requeue::Held, false)
            .await
    }

    async fn drive(&self, body: &wire::CreateMachine, begin: Begin) -> Result<Booted, Error> {
        let mut next = begin;
        // Whether a machine may exist that we do not know of.
        let mut may_exist = begin == Begin::LookUp;
        // Whether no call of this attempt can have created a machine. A look-up that finds none does
        // not prove it while a create call may be on its way.
        let mut nothing_created = begin == Begin::Create;
        let mut tries = 0;
        // The claim counted the first create call against the boot rate, and no other.
        let mut is_paid = begin == Begin::Create;
        let mut refused = None;
        loop {
            let is_repeated = next == Begin::Create && !std::mem::take(&mut is_paid);
            if is_repeated && let BootToken::NotBefore(at) = self.acquire_rate().await? {
                return self.defer_until(refused, tries, at, nothing_created).await;
            }
            let now = self.deps.core.clock.now_ms();
            if now >= self.run.deadline_ms {
                let message = "the deadline passed while the machine was booting";
                return settle_boot(self.deps, self.run, ReasonCode::Deadline, message).await;
            }
            if !self.lease.is_held(now) {
                return Ok(Booted::HandedOver);
            }
            let failed = match next {
                Begin::LookUp => match self.look_up().await {
                    Ok(Some(machine)) => return self.found(&machine).await,
                    Ok(None) => {
                        may_exist = false;
                        next = Begin::Create;
                        continue;
                    }
                    Err(error) => (Call::List, error),
                },
                Begin::Create => {
                    if is_repeated && !self.is_still_booting().await? {
                        return Ok(Booted::Over);
                    }
                    let created = self.deps.machines.create(&self.run.app, body).await;
                    milestone!("boot::created");
                    match created {
                        Ok(machine) => return self.record_machine(&machine).await,
                        Err(error) => (Call::Create, error),
                    }
                }
            };
            tries += 1;
            self.deps
                .record_call(&self.run.app, self.region, Some(&failed.1));
            if failed.0 == Call::Create && failed.1.certainty() == Certainty::Unknown {
                may_exist = true;
                nothing_created = false;
            }
            if let Circuit::Open(until) = self.circuit() {
                return self.defer_on_open_circuit(may_exist, until).await;
            }
            match self.next_step(failed.0, &failed.1).await? {
                Next::Again(again) if tries < TRIES_MAX => {
                    refused = Some(Refusal::known(failed.0, &failed.1));
                    next = if may_exist { Begin::LookUp } else { again };
                    pause(tries, PAUSE_BASE, PAUSE_MAX).await;
                }
                Next::Unclear(message) if tries < UNCLEAR_TRIES_MAX => {
                    refused = Some(Refusal::unclear(message));
                    next = if may_exist {
                        Begin::LookUp
                    } else {
                        Begin::Create
                    };
                    pause(tries, PAUSE_BASE, PAUSE_MAX).await;
                }
                // A run that may have a machine is not queued again. The lease ends, and the sweep
                // looks for the machine.
                Next::Again(_) | Next::Wait { .. } if may_exist => return Ok(Booted::HandedOver),
                Next::Unclear(message) => {
                    return self
                        .refuse_boot(ReasonCode::BootFailed, message, nothing_created)
                        .await;
                }
                Next::End { code, message } => {
                    return self.refuse_boot(code, message, nothing_created).await;
                }
                Next::Again(_) => {
                    let Refusal { code, .. } = Refusal::known(failed.0, &failed.1);
                    let counts = Requeue::Refused;
                    return self
                        .defer(code, &failed.1, None, counts, nothing_created)
                        .await;
                }
                Next::Wait {
                    code,
                    until,
                    counts,
                } => {
                    return self
                        .defer(code, &failed.1, until, counts, nothing_created)
                        .await;
                }
                Next::Done(booted) => return Ok(booted),
            }
        }
    }

    /// The provider says that a machine of our name exists. It is ours if that is its name.
    async fn adopt(&self, machine_id: &str) -> Result<Next, Error> {
        let known = self.deps.machines.get(&self.run.app, machine_id).await;
        milestone!("boot::adopted");
        match known {
            Ok(machine) if machine.name == self.name && !machine.state.is_gone() => {
                info!(run_id = self.run.id.as_str(), machine_id, "adopted");
                Ok(Next::Done(self.record_machine(&machine.into()).await?))
            }
            // It is gone meanwhile, or the message named another.
            Ok(_) | Err(_) => Ok(Next::Again(Begin::LookUp)),
        }
    }

    /// Records that the machine exists: the run is `running` from now on.
    async fn record_machine(&self, machine: &wire::MachineBrief) -> Result<Booted, Error> {
        let (core, run) = (&self.deps.core, self.run);
        self.deps.accepted(&run.app);
        self.deps.record_call(&run.app, self.region, None);
        let machine = MachineRef {
            app: run.app.clone(),
            id: machine.id.clone(),
            instance_id: machine.version_id().map(str::to_owned),
            region: machine.region.clone(),
        };
        let now = core.clock.now_ms();
        let advanced = core
            .store
            .advance(&run.id, run.boot(), &machine, now)
            .await?;
        milestone!("boot::advanced");
        match advanced {
            Transition::Done(Entered::Running) => {
                info!(run_id = run.id.as_str(), machine_id = machine.id, "running");
                Ok(Booted::Running)
            }
            Transition::Done(_) => Ok(Booted::Over),
            Transition::Over
            | Transition::Older
            | Transition::Refused
            | Transition::Unknown
            | Transition::Repeated
            | Transition::OverBudget => self.delete_unowned(&machine).await,
        }
    }

    /// The run went on without this boot. A machine that the run does not name has no owner.
    async fn delete_unowned(&self, machine: &MachineRef) -> Result<Booted, Error> {
        let known = self.deps.core.store.record(&self.run.id).await?;
        milestone!("boot::unowned");
        let owned = known.is_some_and(|view| {
            view.machine_id.as_deref() == Some(machine.id.as_str()) && view.state != "closed"
        });
        if !owned {
            warn!(
                run_id = self.run.id.as_str(),
                machine_id = machine.id,
                "deleting a machine whose run went on without it"
            );
            if let Err(error) = delete(self.deps, &machine.app, &machine.id).await {
                warn!(machine_id = machine.id, %error, "not deleted; the sweep tries again");
            }
        }
        Ok(Booted::HandedOver)
    }

    /// The provider refused for good. If nothing can have been created the run is closed at once.
    async fn refuse_boot(
        &self,
        code: ReasonCode,
        message: String,
        nothing_created: bool,
    ) -> Result<Booted, Error> {
        let (core, run) = (&self.deps.core, self.run);
        // Without the lease another worker may be booting this attempt too.
        if !nothing_created || !self.lease.is_held(core.clock.now_ms()) {
            return settle_boot(self.deps, run, code, message).await;
        }
        let ending = Ending::without(code, message);
        let act = refuse(core, &run.id, run.boot(), &ending).await?;
        Ok(booted_after(act, code))
    }

    /// The provider refused and no machine was created: back to the queue, or the end if it has
    /// refused for too long.
    async fn defer(
        &self,
        code: ReasonCode,
        error: &(impl Display + Sync),
        until: Option<UnixMs>,
        counts: Requeue,
        nothing_created: bool,
    ) -> Result<Booted, Error> {
        let (core, run) = (&self.deps.core, self.run);
        let now = core.clock.now_ms();
        let since = run.refused_since_ms.unwrap_or(now);
        if counts == Requeue::Refused && now >= budget::after(since, core.runs.refused_max) {
            return self
                .refuse_boot(code, error.to_string(), nothing_created)
                .await;
        }
        let wait = budget::backoff(run.refusals, WAIT_BASE, WAIT_MAX, jitter());
        let mut ready = budget::after(until.unwrap_or(now), wait);
        if code == ReasonCode::ImageRejected {
            // The last try is at the end of that time, however long the pause has grown.
            ready = ready.min(budget::after(since, IMAGE_UNKNOWN_MAX));
        }
        warn!(run_id = run.id.as_str(), attempt = run.attempt.0, %error, "not booted; queued again");
        let Some(view) = core.store.record(&run.id).await? else {
            return Ok(Booted::HandedOver);
        };
        milestone!("boot::deferred");
        let requeued = core
            .store
            .requeue(&view, run.boot(), counts, Some(ready), now)
            .await?;
        milestone!("boot::requeued");
        match requeued {
            Transition::Done(_) => Ok(Booted::Queued),
            Transition::Over
            | Transition::Older
            | Transition::Refused
            | Transition::Unknown
            | Transition::Repeated
            | Transition::OverBudget => Ok(Booted::HandedOver),
        }
    }
}

async fn settle_boot(
    deps: &Deps,
    run: &Claimed,
    code: ReasonCode,
    message: impl Into<String>,
) -> Result<Booted, Error> {
    let ending = Ending::without(code, message);
    let act = settle(&deps.core, &run.id, Some(run.boot()), &ending).await?;
    Ok(booted_after(act, code))
}

fn booted_after(act: Transition, code: ReasonCode) -> Booted {
    match act {
        Transition::Done(_) => Booted::Settled(code),
        Transition::Over | Transition::Repeated | Transition::OverBudget => Booted::Over,
        Transition::Older | Transition::Refused | Transition::Unknown => Booted::HandedOver,
    }
}
