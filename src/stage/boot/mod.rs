//! queued → booting → running: the create call, and everything that can come of it.
//!
//! Creating is not safe to repeat by itself, so a lost answer is followed by a look-up of the
//! machine's name, which follows from run and attempt. At most one machine of that name is live,
//! and whoever boots the attempt, once or twice or late, ends up with that one. A machine that has
//! ended by then is found too, and no create call is repeated for a run that has.

mod answer;
mod found;
mod pace;

use std::fmt::Display;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::machines::{Call, Certainty, wire};
use crate::milestone::milestone;
use crate::run::budget;
use crate::run::id::{Attempt, machine_name};
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::phase::MachineRef;
use crate::run::request::RunRequest;
use crate::stage::boot::answer::{IMAGE_UNKNOWN_MAX, Next};
use crate::stage::boot::pace::Refusal;
use crate::stage::breaker::{Answer, REST_MAX};
use crate::stage::hold::Hold;
use crate::stage::teardown::remove;
use crate::stage::{Deps, Error, end, parsed, pause, refuse, roll, spec};
use crate::store::acts::{BootToken, Claimed, Entered, Request, Requeue, Transition};
use crate::store::codec::RunRecord;
use crate::token::Grant;

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
/// Calls that one boot makes when it is refused in words that are not known.
const UNCLEAR_TRIES_MAX: u32 = 3;

/// How a boot begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the create call: nobody has booted this attempt.
    Create,
    /// With a look-up: somebody may have.
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
    /// The run ended without a machine that could bring a result.
    Ended(ReasonCode),
    /// Another worker acts for the run, or will.
    Left,
}

/// Boots one attempt: usually one HTTP call and one round trip.
///
/// # Errors
/// When Redis does not answer. The run stays in `booting`, and the sweep carries on from the
/// machine's name.
pub async fn boot(deps: &Deps, run: &Claimed, hold: &Hold, begin: Begin) -> Result<Booted, Error> {
    let limits = deps.core.limits();
    // What is fetched takes up its part of the budget until the boot is over.
    let (request, _fetched) = match &run.request {
        Request::Here(json) => (RunRequest::parse(json, &limits), None),
        Request::Large { bytes } => {
            let fetched = deps.core.store.fetch(&run.id, *bytes).await?;
            milestone!("boot::fetched");
            let Some(fetched) = fetched else {
                let message = "its request is gone from redis";
                return finish(deps, run, ReasonCode::MachineLost, message).await;
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
        // The rules were others when it was admitted.
        Err(refusal) => {
            return finish(deps, run, ReasonCode::InvalidRequest, refusal.to_string()).await;
        }
    };
    let grant = Grant {
        run: run.id.clone(),
        attempt: run.attempt,
        expires_s: run.deadline_ms / 1000,
        nonce: run.nonce.clone(),
    };
    let body = spec::machine(
        run,
        &request,
        &deps.ring.sign(&grant),
        &deps.urls,
        deps.owner(),
    );
    if begin == Begin::Create {
        deps.core.metrics.boots_started.inc();
    }
    let boot = Boot {
        deps,
        run,
        hold,
        region: request.region.as_deref(),
        name: machine_name(&run.id, run.attempt, run.nonce.as_ref()),
    };
    if let Answer::Wait(until) = boot.way() {
        return boot.stand_back(begin == Begin::LookUp, until).await;
    }
    boot.drive(&body, begin).await
}

/// One boot under way.
struct Boot<'a> {
    deps: &'a Deps,
    run: &'a Claimed,
    hold: &'a Hold,
    region: Option<&'a str>,
    name: String,
}

impl Boot<'_> {
    /// Whether the app and the region may be called.
    fn way(&self) -> Answer {
        let now = self.deps.core.clock.now_ms();
        let breakers = &self.deps.health.breakers;
        breakers.ask(&self.run.app, self.region, now)
    }

    /// The same, changing nothing: for a boot that is under way.
    fn rests(&self) -> Answer {
        let now = self.deps.core.clock.now_ms();
        let breakers = &self.deps.health.breakers;
        breakers.look(&self.run.app, self.region, now)
    }

    /// The app or the region does not answer: another app may boot the run, if it is sure that
    /// there is no machine. Else the lease ends, and the sweep looks.
    async fn stand_back(&self, unsure: bool, until: UnixMs) -> Result<Booted, Error> {
        if unsure {
            return Ok(Booted::Left);
        }
        let why = "the app or the region does not answer";
        let soon = budget::after(self.deps.core.clock.now_ms(), REST_MAX);
        let until = until.min(soon);
        let code = ReasonCode::BootFailed;
        self.defer(code, &why, Some(until), Requeue::Held, false)
            .await
    }

    async fn drive(&self, body: &wire::CreateMachine, begin: Begin) -> Result<Booted, Error> {
        let mut next = begin;
        // Whether a machine may be there without our knowing.
        let mut unsure = begin == Begin::LookUp;
        // Whether no call of this attempt can have made a machine: a look-up that finds none is no
        // proof while a create call may be on its way.
        let mut nothing_made = begin == Begin::Create;
        let mut tries = 0;
        // The claim gave leave for the first create call, and for no other.
        let mut has_leave = begin == Begin::Create;
        let mut refused = None;
        loop {
            let is_repeated = next == Begin::Create && !std::mem::take(&mut has_leave);
            if is_repeated && let BootToken::NotBefore(at) = self.leave().await? {
                return self.stand_in_line(refused, tries, at, nothing_made).await;
            }
            let now = self.deps.core.clock.now_ms();
            if now >= self.run.deadline_ms {
                let message = "the deadline passed while the machine was booting";
                return finish(self.deps, self.run, ReasonCode::Deadline, message).await;
            }
            if !self.hold.holds(now) {
                return Ok(Booted::Left);
            }
            let failed = match next {
                Begin::LookUp => match self.look_up().await {
                    Ok(Some(machine)) => return self.found(&machine).await,
                    Ok(None) => {
                        unsure = false;
                        next = Begin::Create;
                        continue;
                    }
                    Err(error) => (Call::List, error),
                },
                Begin::Create => {
                    if is_repeated && !self.is_wanted().await? {
                        return Ok(Booted::Over);
                    }
                    let created = self.deps.machines.create(&self.run.app, body).await;
                    milestone!("boot::created");
                    match created {
                        Ok(machine) => return self.arrived(&machine).await,
                        Err(error) => (Call::Create, error),
                    }
                }
            };
            tries += 1;
            self.deps.heard(&self.run.app, self.region, Some(&failed.1));
            if failed.0 == Call::Create && failed.1.certainty() == Certainty::Unknown {
                unsure = true;
                nothing_made = false;
            }
            if let Answer::Wait(until) = self.rests() {
                return self.stand_back(unsure, until).await;
            }
            match self.answer(failed.0, &failed.1).await? {
                Next::Again(again) if tries < TRIES_MAX => {
                    refused = Some(Refusal::known(failed.0, &failed.1));
                    next = if unsure { Begin::LookUp } else { again };
                    pause(tries, PAUSE_BASE, PAUSE_MAX).await;
                }
                Next::Unclear(message) if tries < UNCLEAR_TRIES_MAX => {
                    refused = Some(Refusal::unclear(message));
                    next = if unsure { Begin::LookUp } else { Begin::Create };
                    pause(tries, PAUSE_BASE, PAUSE_MAX).await;
                }
                // What is not known cannot be handed back. The lease ends, and the sweep looks.
                Next::Again(_) | Next::Wait { .. } if unsure => return Ok(Booted::Left),
                Next::Unclear(message) => {
                    return self
                        .give_up(ReasonCode::BootFailed, message, nothing_made)
                        .await;
                }
                Next::End { code, message } => {
                    return self.give_up(code, message, nothing_made).await;
                }
                Next::Again(_) => {
                    let Refusal { code, .. } = Refusal::known(failed.0, &failed.1);
                    let counts = Requeue::Refused;
                    return self
                        .defer(code, &failed.1, None, counts, nothing_made)
                        .await;
                }
                Next::Wait {
                    code,
                    until,
                    counts,
                } => {
                    return self
                        .defer(code, &failed.1, until, counts, nothing_made)
                        .await;
                }
                Next::Done(booted) => return Ok(booted),
            }
        }
    }

    /// A machine of our name exists: ours, if its name really is.
    async fn adopt(&self, machine_id: &str) -> Result<Next, Error> {
        let known = self.deps.machines.get(&self.run.app, machine_id).await;
        milestone!("boot::adopted");
        match known {
            Ok(machine) if machine.name == self.name && !machine.state.is_gone() => {
                info!(run_id = self.run.id.as_str(), machine_id, "adopted");
                Ok(Next::Done(self.arrived(&machine.into()).await?))
            }
            // It went away meanwhile, or the text named another: look again.
            Ok(_) | Err(_) => Ok(Next::Again(Begin::LookUp)),
        }
    }

    /// The provider has the machine.
    async fn arrived(&self, machine: &wire::MachineBrief) -> Result<Booted, Error> {
        let (core, run) = (&self.deps.core, self.run);
        self.deps.accepted(&run.app);
        self.deps.heard(&run.app, self.region, None);
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
            | Transition::OverBudget => self.disown(&machine).await,
        }
    }

    /// The run went on without this boot. A machine that it does not name has no other owner.
    async fn disown(&self, machine: &MachineRef) -> Result<Booted, Error> {
        let known = self.deps.core.store.record(&self.run.id).await?;
        milestone!("boot::disowned");
        let owned = known.is_some_and(|view| {
            view.machine_id.as_deref() == Some(machine.id.as_str()) && view.state != "closed"
        });
        if !owned {
            warn!(
                run_id = self.run.id.as_str(),
                machine_id = machine.id,
                "removing a machine whose run went on without it"
            );
            if let Err(error) = remove(self.deps, &machine.app, &machine.id).await {
                warn!(machine_id = machine.id, %error, "left for the sweep");
            }
        }
        Ok(Booted::Left)
    }

    /// The provider said no for good. Where nothing can have been made the run is closed at once.
    async fn give_up(
        &self,
        code: ReasonCode,
        message: String,
        nothing_made: bool,
    ) -> Result<Booted, Error> {
        let (core, run) = (&self.deps.core, self.run);
        // Whose lease has ended may not be the only one who boots this attempt.
        if !nothing_made || !self.hold.holds(core.clock.now_ms()) {
            return finish(self.deps, run, code, message).await;
        }
        let ending = Ending::without(code, message);
        let act = refuse(core, &run.id, run.boot(), &ending).await?;
        Ok(after_end(act, code))
    }

    /// The provider said no and no machine was made: back to the queue, or the end if it has
    /// said no for too long.
    async fn defer(
        &self,
        code: ReasonCode,
        error: &(impl Display + Sync),
        until: Option<UnixMs>,
        counts: Requeue,
        nothing_made: bool,
    ) -> Result<Booted, Error> {
        let (core, run) = (&self.deps.core, self.run);
        let now = core.clock.now_ms();
        let since = run.refused_since_ms.unwrap_or(now);
        if counts == Requeue::Refused && now >= budget::after(since, core.runs.refused_max) {
            return self.give_up(code, error.to_string(), nothing_made).await;
        }
        let wait = budget::backoff(run.refusals, WAIT_BASE, WAIT_MAX, roll());
        let mut ready = budget::after(until.unwrap_or(now), wait);
        if code == ReasonCode::ImageRejected {
            // The last look is at the end of that time, however long the pause has grown.
            ready = ready.min(budget::after(since, IMAGE_UNKNOWN_MAX));
        }
        warn!(run_id = run.id.as_str(), attempt = run.attempt.0, %error, "not booted; waits in the queue");
        let Some(view) = core.store.record(&run.id).await? else {
            return Ok(Booted::Left);
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
            | Transition::OverBudget => Ok(Booted::Left),
        }
    }
}

/// Carries on with a boot whose worker is gone: looks for its machine first.
///
/// # Errors
/// As [`boot`].
pub async fn reboot(deps: &Deps, view: &RunRecord, hold: &Hold) -> Result<Booted, Error> {
    let attempt = Attempt(view.attempt);
    let Some(stored) = deps.core.store.request(&view.id).await? else {
        return Ok(Booted::Left);
    };
    milestone!("boot::taken_up");
    let is_same = stored.attempt == Some(attempt) && stored.nonce == view.nonce;
    let (Some(app), true) = (view.app.clone(), is_same) else {
        return Ok(Booted::Left);
    };
    let run = Claimed {
        id: view.id.clone(),
        tenant: view.tenant.clone(),
        attempt,
        app,
        deadline_ms: view.deadline_ms.unwrap_or(0),
        refusals: view.refusals,
        refused_since_ms: view.refused_since_ms,
        nonce: stored.nonce,
        request: stored.request,
    };
    info!(
        run_id = run.id.as_str(),
        attempt = attempt.0,
        "carrying on with a boot that was left"
    );
    boot(deps, &run, hold, Begin::LookUp).await
}

async fn finish(
    deps: &Deps,
    run: &Claimed,
    code: ReasonCode,
    message: impl Into<String>,
) -> Result<Booted, Error> {
    let ending = Ending::without(code, message);
    let act = end(&deps.core, &run.id, Some(run.boot()), &ending).await?;
    Ok(after_end(act, code))
}

fn after_end(act: Transition, code: ReasonCode) -> Booted {
    match act {
        Transition::Done(_) => Booted::Ended(code),
        Transition::Over | Transition::Repeated | Transition::OverBudget => Booted::Over,
        Transition::Older | Transition::Refused | Transition::Unknown => Booted::Left,
    }
}
