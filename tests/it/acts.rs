//! Random sequences of acts on a real Redis beside a small reference model: after each act the
//! answers, the hashes and every index agree.
//!
//! A failure prints the shortest sequence that still fails; it can be pasted into a test of its own
//! that calls [`play`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use cofferdam::clock::{Clock, UnixMs};
use cofferdam::run::id::{Attempt, Nonce, RunId, Tenant};
use cofferdam::run::outcome::{Ending, Outcome, ReasonCode};
use cofferdam::run::phase::{MachineRef, Phase, State};
use cofferdam::run::step::{Event, step};
use cofferdam::stage::Core;
use cofferdam::stage::intake::intake;
use cofferdam::stage::settle::settle_missing;
use cofferdam::store::acts::{
    BootId, Entered, FleetLimits, Post, Requeue, ResultsBudget, Settlement, Stop,
    Transition as Answer, Work,
};
use cofferdam::store::requests::Requests;
use cofferdam::store::tenants::Change;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;

use crate::support::raw::Raw;
use crate::support::{parts, redis};

/// Sequences are tried for so long, and each has at most so many acts.
const BUDGET: Duration = Duration::from_secs(10);
const ACTS_MAX: usize = 60;

const LEASE: Duration = Duration::from_secs(15);
const RETENTION: Duration = Duration::from_secs(3600);
const TIMEOUT_S: u64 = 60;
const TENANTS: usize = 3;
const RUNS: usize = 12;
const FLEET_MAX: usize = 5;
const APP_MAX: usize = 3;
const TENANT_MAX: usize = 2;
const APPS: [&str; 2] = ["one", "two"];
/// Places of one priority, as `store/lua/parts/places.lua` has it.
const PER_PRIORITY: u64 = 1 << 49;

/// Which attempt an act speaks of: the run's, or one beside it.
#[derive(Clone, Copy, Debug)]
enum Of {
    Before,
    Now,
    After,
}

#[derive(Clone, Debug)]
enum Act {
    Submit {
        run: usize,
        priority: u64,
        delay_s: Option<u64>,
        ttl_s: Option<u64>,
    },
    Claim {
        want: usize,
    },
    Advance(Index, Of, Whose),
    Requeue(Index, Of, Whose, Requeue, Option<u64>),
    Post(Index, Of, u8, Whose),
    End(Index, Option<(Of, Whose)>, ReasonCode),
    Close(Index, Of, Whose),
    Renew(Index, Of, Work),
    Overdue {
        most: usize,
    },
    /// Something is taken away by hand, and mended.
    Damage(Index, Part),
    Mend,
    Pause(Option<usize>, bool),
    Configure(usize, Option<u32>),
    Clock {
        by_s: i64,
    },
}

/// Whose nonce an act bears.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Own,
    /// That of another request of the same id.
    Another,
    /// None, as of a version without nonces.
    None,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Busy,
    InFlight,
    Queue,
    Due,
    /// The run's own hash, which ends it.
    Hash,
}

fn act() -> impl Strategy<Value = Act> {
    let run = || any::<Index>();
    let of = || prop_oneof![1 => Just(Of::Before), 8 => Just(Of::Now), 1 => Just(Of::After)];
    let whose =
        || prop_oneof![5 => Just(Whose::Own), 1 => Just(Whose::Another), 1 => Just(Whose::None)];
    let seconds = |most: u64| proptest::option::weighted(0.3, 1..most);
    let requeues = vec![Requeue::Refused, Requeue::Held, Requeue::Failed];
    let parts = vec![
        Part::Busy,
        Part::InFlight,
        Part::Queue,
        Part::Due,
        Part::Hash,
    ];
    prop_oneof![
        6 => (0..RUNS, 0..10u64, seconds(300), seconds(120)).prop_map(
            |(run, priority, delay_s, ttl_s)| Act::Submit { run, priority, delay_s, ttl_s }
        ),
        5 => (1..4usize).prop_map(|want| Act::Claim { want }),
        4 => (run(), of(), whose()).prop_map(|(run, of, whose)| Act::Advance(run, of, whose)),
        3 => (run(), of(), whose(), select(requeues), seconds(60))
            .prop_map(|(run, of, whose, why, wait)| Act::Requeue(run, of, whose, why, wait)),
        3 => (run(), of(), 0..2u8, whose())
            .prop_map(|(run, of, body, whose)| Act::Post(run, of, body, whose)),
        3 => (run(), proptest::option::of((of(), whose())), select(ReasonCode::ALL.to_vec()))
            .prop_map(|(run, of, reason)| Act::End(run, of, reason)),
        4 => (run(), of(), whose()).prop_map(|(run, of, whose)| Act::Close(run, of, whose)),
        2 => (run(), of(), select(vec![Work::Boot, Work::Duty]))
            .prop_map(|(run, of, work)| Act::Renew(run, of, work)),
        2 => (1..4usize).prop_map(|most| Act::Overdue { most }),
        1 => (run(), select(parts)).prop_map(|(run, part)| Act::Damage(run, part)),
        1 => Just(Act::Mend),
        1 => (proptest::option::of(0..TENANTS), any::<bool>()).prop_map(|(t, on)| Act::Pause(t, on)),
        1 => (0..TENANTS, proptest::option::of(0..4u32)).prop_map(|(t, most)| Act::Configure(t, most)),
        2 => (-30..120i64).prop_map(|by_s| Act::Clock { by_s }),
    ]
}

fn boot(attempt: Attempt, nonce: Option<&Nonce>) -> BootId<'_> {
    BootId { attempt, nonce }
}

/// What the model knows of a run.
#[derive(Debug)]
struct Run {
    tenant: String,
    request: String,
    phase: Phase,
    /// Also known once it is closed.
    attempt: Attempt,
    place: u64,
    ready_at: UnixMs,
    queue_until: UnixMs,
    boot_until: Option<UnixMs>,
    deadline: UnixMs,
    due: UnixMs,
    /// Given at the first claim.
    nonce: Option<Nonce>,
    /// The body that was accepted.
    body: Option<u8>,
    /// A claim found it after `queue_until`, and may have left it to the sweep.
    left_to_sweep: bool,
}

impl Run {
    fn flies(&self) -> bool {
        let state = self.phase.state();
        matches!(state, State::Booting | State::Running | State::Settled)
    }

    fn is_over(&self) -> bool {
        matches!(self.phase.state(), State::Settled | State::Closed)
    }

    fn app(&self) -> Option<&str> {
        match &self.phase {
            Phase::Booting { app, .. } | Phase::Settled { app, .. } => Some(app),
            Phase::Running { machine, .. } => Some(&machine.app),
            Phase::Queued { .. } | Phase::Closed { .. } => None,
        }
    }

    fn nonce_of(&self, whose: Whose) -> Option<Nonce> {
        match whose {
            Whose::Own => self.nonce.clone(),
            Whose::Another => Some("f".repeat(Nonce::LENGTH).parse().unwrap()),
            Whose::None => None,
        }
    }

    fn attempt_of(&self, of: Of) -> Attempt {
        let now = self.attempt.0;
        Attempt(match of {
            Of::Before => now.saturating_sub(1),
            Of::Now => now,
            Of::After => now + 1,
        })
    }

    /// What an act answers that bears a nonce: one of another request changes nothing.
    fn apply_for(&mut self, nonce: Option<&Nonce>, event: &Event, of: Option<Attempt>) -> Answer {
        if nonce == self.nonce.as_ref() {
            self.apply(event, of)
        } else {
            Answer::Older
        }
    }

    /// What an act answers, which moves the run if it is accepted.
    fn apply(&mut self, event: &Event, of: Option<Attempt>) -> Answer {
        if of.is_some_and(|of| of != self.attempt) {
            return Answer::Older;
        }
        let settles = matches!(event, Event::Posted { .. } | Event::Ended { .. });
        match step(&self.phase, event) {
            Ok(next) => {
                self.phase = next;
                Answer::Done(match self.phase.state() {
                    State::Queued => Entered::Queued,
                    State::Booting | State::Running => Entered::Running,
                    State::Settled => Entered::Settled,
                    State::Closed => Entered::Closed,
                })
            }
            Err(_) if settles && self.is_over() => Answer::Over,
            Err(_) => Answer::Refused,
        }
    }
}

struct World {
    core: Core,
    raw: Raw,
    requests: Requests,
    runs: BTreeMap<String, Run>,
    paused: bool,
    paused_tenants: BTreeSet<String>,
    caps: BTreeMap<String, u32>,
    shifted_s: i64,
}

fn room() -> FleetLimits {
    FleetLimits {
        apps: APPS.map(str::to_owned).to_vec(),
        max_in_flight: FLEET_MAX as u32,
        app_max_in_flight: Some(APP_MAX as u32),
        tenant_max_in_flight: Some(TENANT_MAX as u32),
        boot_rate: 0.0,
        boot_burst: 1,
    }
}

fn tenant_of(run: usize) -> String {
    format!("t{}", run % TENANTS)
}

fn after(now: UnixMs, by: Duration) -> UnixMs {
    now + by.as_millis() as u64
}

impl World {
    async fn new() -> Self {
        let settings = redis::settings();
        let mut core = parts::core(&settings, parts::runs()).await;
        core.clock = Clock::skewed(0);
        core.store.ensure_group().await.unwrap();
        Self {
            raw: Raw::new(&settings).await,
            requests: Requests::new(core.store.clone(), "worker"),
            core,
            runs: BTreeMap::new(),
            paused: false,
            paused_tenants: BTreeSet::new(),
            caps: BTreeMap::new(),
            shifted_s: 0,
        }
    }

    /// A run that is known, if any is.
    fn pick(&self, index: Index) -> Option<(String, RunId)> {
        let known: Vec<&String> = self.runs.keys().collect();
        (!known.is_empty()).then(|| {
            let id = (*index.get(&known)).clone();
            (id.clone(), id.parse().unwrap())
        })
    }

    fn cap(&self, tenant: &str) -> usize {
        match self.caps.get(tenant) {
            Some(0) => usize::MAX,
            Some(most) => *most as usize,
            None => TENANT_MAX,
        }
    }

    fn busy(&self, tenant: &str) -> usize {
        let of = self.runs.values().filter(|run| run.tenant == tenant);
        of.filter(|run| run.flies()).count()
    }

    fn in_app(&self, app: &str) -> usize {
        let runs = self.runs.values();
        runs.filter(|run| run.flies() && run.app() == Some(app))
            .count()
    }

    /// Waiting runs that a claim may take now, whatever room there is.
    fn claimable(&self, tenant: &str, now: UnixMs) -> Vec<&String> {
        let runs = self.runs.iter().filter(|(_, run)| {
            run.tenant == tenant
                && run.phase.state() == State::Queued
                && run.ready_at <= now
                && run.queue_until > now
                && !run.left_to_sweep
        });
        runs.map(|(id, _)| id).collect()
    }

    async fn perform(&mut self, act: &Act) -> Result<(), TestCaseError> {
        let now = self.core.clock.now_ms();
        let store = self.core.store.clone();
        match act {
            Act::Submit {
                run,
                priority,
                delay_s,
                ttl_s,
            } => {
                self.submit(*run, *priority, *delay_s, *ttl_s, now).await?;
            }
            Act::Claim { want } => self.claim(*want, now).await?,
            Act::Advance(index, of, whose) => {
                let Some((name, id)) = self.pick(*index) else {
                    return Ok(());
                };
                let run = self.runs.get_mut(&name).unwrap();
                let attempt = run.attempt_of(*of);
                let machine = MachineRef {
                    app: run.app().unwrap_or("one").to_owned(),
                    id: format!("m-{name}-{}", attempt.0),
                    instance_id: Some("01J".into()),
                    region: None,
                };
                let nonce = run.nonce_of(*whose);
                let advanced = store.advance(&id, boot(attempt, nonce.as_ref()), &machine, now);
                let answer = advanced.await.unwrap();
                let event = Event::Created { attempt, machine };
                let expected = run.apply_for(nonce.as_ref(), &event, Some(attempt));
                prop_assert_eq!(answer, expected);
                if answer == Answer::Done(Entered::Running) {
                    run.due = run.deadline;
                }
            }
            Act::Requeue(index, of, whose, why, wait) => {
                let Some((name, id)) = self.pick(*index) else {
                    return Ok(());
                };
                let run = self.runs.get_mut(&name).unwrap();
                let (attempt, nonce) = (run.attempt_of(*of), run.nonce_of(*whose));
                let view = store.record(&id).await.unwrap().unwrap();
                let ready = wait.map(|s| now + s * 1000);
                let answer = store
                    .requeue(&view, boot(attempt, nonce.as_ref()), *why, ready, now)
                    .await
                    .unwrap();
                let event = match why {
                    Requeue::Failed => Event::Failed { attempt },
                    Requeue::Refused | Requeue::Held => Event::Deferred { attempt },
                };
                prop_assert_eq!(answer, run.apply_for(nonce.as_ref(), &event, Some(attempt)));
                if answer == Answer::Done(Entered::Queued) {
                    (run.due, run.boot_until) = (run.queue_until, None);
                    run.ready_at = ready.unwrap_or(0);
                    run.left_to_sweep = false;
                }
            }
            Act::Post(index, of, body, whose) => {
                let Some((name, id)) = self.pick(*index) else {
                    return Ok(());
                };
                let run = self.runs.get_mut(&name).unwrap();
                let attempt = run.attempt_of(*of);
                let ending = Ending::Completed {
                    payload: body.to_string(),
                };
                let digest = format!("digest-{body}");
                let nonce = run.nonce_of(*whose);
                let end = Settlement {
                    ending: &ending,
                    post: Some(Post {
                        digest: &digest,
                        begun_ms: None,
                        keeps_request: false,
                        budget: ResultsBudget::NONE,
                    }),
                    retention: RETENTION,
                    lease: LEASE,
                };
                let at = Some(boot(attempt, nonce.as_ref()));
                let answer = store.settle(&id, at, &end, now).await.unwrap();
                let mut expected =
                    run.apply_for(nonce.as_ref(), &Event::Posted { attempt }, Some(attempt));
                if expected == Answer::Over && run.body == Some(*body) {
                    expected = Answer::Repeated;
                }
                prop_assert_eq!(answer, expected);
                if matches!(answer, Answer::Done(_)) {
                    (run.body, run.due) = (Some(*body), after(now, LEASE));
                }
            }
            Act::End(index, of, reason) => {
                let Some((name, id)) = self.pick(*index) else {
                    return Ok(());
                };
                let run = self.runs.get_mut(&name).unwrap();
                let attempt = of.map(|(of, _)| run.attempt_of(of));
                let nonce = of.map_or(run.nonce.clone(), |(_, whose)| run.nonce_of(whose));
                let ending = Ending::without(*reason, "because");
                let end = Settlement {
                    ending: &ending,
                    post: None,
                    retention: RETENTION,
                    lease: LEASE,
                };
                let answer = {
                    let at = attempt.map(|attempt| boot(attempt, nonce.as_ref()));
                    store.settle(&id, at, &end, now).await.unwrap()
                };
                let event = Event::Ended {
                    reason: *reason,
                    attempt,
                };
                prop_assert_eq!(answer, run.apply_for(nonce.as_ref(), &event, attempt));
                if answer == Answer::Done(Entered::Settled) {
                    run.due = after(now, LEASE);
                }
            }
            Act::Close(index, of, whose) => {
                let Some((name, id)) = self.pick(*index) else {
                    return Ok(());
                };
                let run = self.runs.get_mut(&name).unwrap();
                let (attempt, nonce) = (run.attempt_of(*of), run.nonce_of(*whose));
                let closed = store.close(&id, boot(attempt, nonce.as_ref()), now, RETENTION);
                let (answer, _) = closed.await.unwrap();
                prop_assert_eq!(
                    answer,
                    run.apply_for(nonce.as_ref(), &Event::Gone, Some(attempt))
                );
            }
            Act::Renew(index, of, work) => {
                let Some((name, id)) = self.pick(*index) else {
                    return Ok(());
                };
                let run = self.runs.get_mut(&name).unwrap();
                let attempt = run.attempt_of(*of);
                let lost = store
                    .renew(&[(id, attempt, *work)], now, LEASE)
                    .await
                    .unwrap();
                let state = run.phase.state();
                let holds =
                    attempt == run.attempt && matches!(state, State::Booting | State::Settled);
                prop_assert_eq!(lost.is_empty(), holds);
                if holds {
                    run.due = run.due.max(after(now, LEASE));
                    if *work == Work::Boot {
                        run.boot_until = Some(after(now, LEASE));
                    }
                }
            }
            Act::Overdue { most } => {
                let open = self
                    .runs
                    .iter()
                    .filter(|(_, run)| run.phase.state() != State::Closed);
                let mut late: Vec<_> = open
                    .filter(|(_, run)| run.due <= now)
                    .map(|(id, run)| (run.due, id.clone()))
                    .collect();
                late.sort();
                late.truncate(*most);
                let views = store.overdue(now, LEASE, *most).await.unwrap();
                let seen: Vec<_> = views.runs.iter().map(|view| view.id.to_string()).collect();
                let expected: Vec<_> = late.into_iter().map(|(_, id)| id).collect();
                prop_assert_eq!(&seen, &expected);
                for id in expected {
                    self.runs.get_mut(&id).unwrap().due = after(now, LEASE);
                }
            }
            Act::Damage(index, part) => {
                let Some((name, _)) = self.pick(*index) else {
                    return Ok(());
                };
                self.damage(&name, *part, now).await?;
            }
            Act::Mend => {
                let before = self.raw.dump().await;
                let (mended, _) = store.mend(0, 1000, now).await.unwrap();
                let missing = self.runs.iter().filter(|(id, run)| {
                    run.left_to_sweep
                        && run.phase.state() == State::Queued
                        && !members(&before, &format!("queue:{}", run.tenant)).contains_key(*id)
                        && !members(&before, &format!("delayed:{}", run.tenant)).contains_key(*id)
                });
                prop_assert_eq!(mended, missing.count() as u64, "of what was in order");
                self.runs
                    .values_mut()
                    .for_each(|run| run.left_to_sweep = false);
            }
            Act::Pause(tenant, on) => {
                let name = tenant.map(tenant_of);
                let tenant: Option<Tenant> = name.as_ref().map(|name| name.parse().unwrap());
                store.pause(tenant.as_ref(), *on, None).await.unwrap();
                match (name, on) {
                    (None, on) => self.paused = *on,
                    (Some(name), true) => drop(self.paused_tenants.insert(name)),
                    (Some(name), false) => drop(self.paused_tenants.remove(&name)),
                }
            }
            Act::Configure(tenant, most) => {
                let name = tenant_of(*tenant);
                let change = [Change::MaxInFlight(*most)];
                store
                    .configure(&name.parse().unwrap(), &change)
                    .await
                    .unwrap();
                match most {
                    Some(most) => drop(self.caps.insert(name, *most)),
                    None => drop(self.caps.remove(&name)),
                }
            }
            Act::Clock { by_s } => {
                // Keys expire by Redis's clock: far from it they would be gone too early.
                let by_s = (self.shifted_s + by_s).clamp(-60, 1200) - self.shifted_s;
                self.core.clock.shift(by_s * 1000);
                self.shifted_s += by_s;
            }
        }
        Ok(())
    }

    async fn submit(
        &mut self,
        run: usize,
        priority: u64,
        delay_s: Option<u64>,
        ttl_s: Option<u64>,
        now: UnixMs,
    ) -> Result<(), TestCaseError> {
        let (id, tenant) = (format!("r{run}"), tenant_of(run));
        let mut request = json!({
            "id": id, "tenant": tenant, "timeout_s": TIMEOUT_S, "priority": priority,
        });
        let ready_at = delay_s.map(|s| now + s * 1000);
        if let Some(at) = ready_at {
            request["not_before_ms"] = at.into();
        }
        if let Some(ttl) = ttl_s {
            request["queue_ttl_s"] = ttl.into();
        }
        let request = request.to_string();
        self.raw.add("runs", &[("run", &request)]).await;
        let entries = self
            .requests
            .next(10, Duration::from_millis(50))
            .await
            .unwrap();
        let counts = intake(&self.core, &entries).await.unwrap();
        let expected = match self.runs.get(&id) {
            None => (1, 0, 0),
            // Of one that vanished no digest is known, and so no difference.
            Some(known) if known.request.is_empty() || known.request == request => (0, 1, 0),
            Some(_) => (0, 0, 1),
        };
        prop_assert_eq!((counts.queued, counts.known, counts.conflicts), expected);
        if counts.queued == 0 {
            return Ok(());
        }
        let place: Option<u64> = self.raw.say("HGET", &format!("run:{id}"), &["place"]).await;
        let view = self
            .core
            .store
            .record(&id.parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        let (place, queue_until) = (place.unwrap(), view.queue_until_ms.unwrap());
        prop_assert_eq!(place / PER_PRIORITY, priority);
        for other in self.runs.values() {
            prop_assert!(
                other.place % PER_PRIORITY < place % PER_PRIORITY,
                "out of order"
            );
        }
        let run = Run {
            tenant,
            request,
            phase: Phase::Queued {
                attempt: Attempt(0),
            },
            attempt: Attempt(0),
            place,
            ready_at: ready_at.unwrap_or(0),
            queue_until,
            boot_until: None,
            deadline: 0,
            due: queue_until,
            nonce: None,
            body: None,
            left_to_sweep: false,
        };
        self.runs.insert(id, run);
        Ok(())
    }

    async fn claim(&mut self, want: usize, now: UnixMs) -> Result<(), TestCaseError> {
        let claim = self
            .core
            .store
            .claim(&room(), want, now, LEASE)
            .await
            .unwrap();
        let mut last: HashMap<String, u64> = HashMap::new();
        for claimed in &claim.runs {
            let id = claimed.id.to_string();
            prop_assert!(!self.paused && !self.paused_tenants.contains(&claimed.tenant));
            let run = self.runs.get_mut(&id).unwrap();
            prop_assert_eq!(&run.tenant, &claimed.tenant);
            prop_assert!(
                run.ready_at <= now && run.queue_until > now,
                "{id} may not go"
            );
            let event = Event::Claimed {
                app: claimed.app.clone(),
            };
            run.apply(&event, None);
            prop_assert_eq!(run.phase.state(), State::Booting, "{} was not queued", id);
            run.attempt = run.attempt.next();
            prop_assert_eq!(claimed.attempt, run.attempt);
            prop_assert!(
                claimed.nonce.is_some() && run.nonce.is_none() || claimed.nonce == run.nonce
            );
            run.nonce.clone_from(&claimed.nonce);
            run.deadline = now + TIMEOUT_S * 1000;
            prop_assert_eq!(claimed.deadline_ms, run.deadline);
            (run.due, run.boot_until) = (after(now, LEASE), Some(after(now, LEASE)));
            let before = last.insert(run.tenant.clone(), run.place);
            prop_assert!(
                before.is_none_or(|before| before < run.place),
                "{id} out of turn"
            );
            let (tenant, app) = (claimed.tenant.clone(), &*claimed.app);
            prop_assert!(
                self.busy(&tenant) <= self.cap(&tenant),
                "{tenant} is over its cap"
            );
            prop_assert!(self.in_app(app) <= APP_MAX, "{app} is over its cap");
        }
        let flying = self.runs.values().filter(|run| run.flies()).count();
        prop_assert!(
            claim.runs.is_empty() || flying <= FLEET_MAX,
            "{flying} in flight"
        );
        for tenant in (0..TENANTS).map(tenant_of) {
            let left = self.claimable(&tenant, now);
            if let (Some(last), Some(first)) = (
                last.get(&tenant),
                left.iter().map(|id| self.runs[*id].place).min(),
            ) {
                prop_assert!(*last < first, "one of {tenant} was passed over: {left:?}");
            }
            let may =
                !self.paused_tenants.contains(&tenant) && self.busy(&tenant) < self.cap(&tenant);
            if claim.stop == Stop::Empty && may {
                prop_assert!(left.is_empty(), "nothing goes, and {left:?} could");
            }
        }
        match claim.stop {
            Stop::Wanted => prop_assert_eq!(claim.runs.len(), want),
            Stop::Empty => {}
            Stop::Full => prop_assert!(
                flying >= FLEET_MAX || APPS.iter().all(|app| self.in_app(app) >= APP_MAX)
            ),
            Stop::Held => prop_assert!(false, "there is no rate"),
            Stop::Paused => prop_assert!(self.paused),
        }
        for run in self.runs.values_mut() {
            run.left_to_sweep |= run.phase.state() == State::Queued && run.queue_until <= now;
        }
        Ok(())
    }

    /// Takes a run out of an index by hand, as an operator or a lost write may, and mends it.
    async fn damage(&mut self, id: &str, part: Part, now: UnixMs) -> Result<(), TestCaseError> {
        if let Part::Hash = part {
            return self.lose(id, now).await;
        }
        let run = &self.runs[id];
        let waits = run.phase.state() == State::Queued;
        let (command, key) = match part {
            Part::Busy if run.flies() => ("SREM", format!("busy:{}", run.tenant)),
            Part::InFlight if run.flies() => ("HDEL", format!("inflight:{}", run.app().unwrap())),
            Part::Queue if waits => ("ZREM", format!("queue:{}", run.tenant)),
            // Nothing leads to a waiting run that is in no index.
            Part::Due if run.flies() => ("ZREM", "due".to_owned()),
            _ => return Ok(()),
        };
        let removed: u64 = self.raw.say(command, &key, &[id]).await;
        let (mended, _) = self.core.store.mend(0, 1000, now).await.unwrap();
        prop_assert!(
            mended >= removed,
            "{removed} taken out of {key}, {mended} mended"
        );
        if matches!(part, Part::Due) {
            self.runs.get_mut(id).unwrap().due = now;
        }
        self.runs
            .values_mut()
            .for_each(|run| run.left_to_sweep = false);
        Ok(())
    }

    /// A run that has not ended loses its hash, and ends.
    async fn lose(&mut self, id: &str, now: UnixMs) -> Result<(), TestCaseError> {
        if self.runs[id].is_over() {
            return Ok(());
        }
        self.raw.delete(&format!("run:{id}")).await;
        self.core.store.mend(0, 1000, now).await.unwrap();
        let act = settle_missing(&self.core, &id.parse().unwrap())
            .await
            .unwrap();
        prop_assert_eq!(act, Answer::Done(Entered::Closed));
        self.runs
            .values_mut()
            .for_each(|run| run.left_to_sweep = false);
        let run = self.runs.get_mut(id).unwrap();
        if !run.flies() {
            // Only what is in flight tells of its attempt and nonce.
            (run.attempt, run.nonce) = (Attempt(0), None);
        }
        // Its request is known by its id alone now.
        run.request = String::new();
        run.phase = Phase::Closed {
            outcome: Outcome::Failed,
        };
        Ok(())
    }

    /// What Redis holds is what the model says, in every place.
    async fn check(&self) -> Result<(), TestCaseError> {
        let dump = self.raw.dump().await;
        let ids: Vec<RunId> = self.runs.keys().map(|id| id.parse().unwrap()).collect();
        let views = self.core.store.records(&ids).await.unwrap();
        for ((id, run), view) in self.runs.iter().zip(views) {
            let Some(view) = view else {
                prop_assert!(false, "{id} has no hash");
                return Ok(());
            };
            prop_assert_eq!(view.phase(), &run.phase, "{}", id);
            prop_assert_eq!(view.attempt, run.attempt.0, "{}", id);
            if run.flies() {
                prop_assert_eq!(view.boot_until_ms, run.boot_until, "boot_until of {}", id);
                prop_assert_eq!(view.deadline_ms, Some(run.deadline), "deadline of {}", id);
            }
            let has_request = dump.contains_key(&format!("request:{id}"));
            let completed = match run.phase {
                Phase::Settled { outcome, .. } | Phase::Closed { outcome } => {
                    outcome == Outcome::Completed
                }
                _ => false,
            };
            // Of a run that ended otherwise it may be kept.
            if completed || !run.is_over() {
                prop_assert_eq!(has_request, !completed, "the request of {}", id);
            }
        }
        for (key, (_, left, _)) in &dump {
            if let Some(id) = key
                .strip_prefix("run:")
                .or_else(|| key.strip_prefix("request:"))
            {
                prop_assert!(self.runs.contains_key(id), "{key} is of no run");
                prop_assert!(*left > 0, "{key} has no time to live");
            }
        }
        self.check_flights(&dump)?;
        self.check_waiting(&dump)?;
        let open = self
            .runs
            .iter()
            .filter(|(_, run)| run.phase.state() != State::Closed);
        let due: BTreeMap<_, _> = open.map(|(id, run)| (id.clone(), run.due as f64)).collect();
        prop_assert_eq!(members(&dump, "due"), due, "due");
        self.check_results().await
    }

    fn check_flights(&self, dump: &Dump) -> Result<(), TestCaseError> {
        for app in APPS {
            let flies = self
                .runs
                .iter()
                .filter(|(_, run)| run.flies() && run.app() == Some(app));
            let expected: BTreeMap<_, _> = flies
                .map(|(id, run)| {
                    let nonce = run.nonce.as_ref().unwrap();
                    (
                        id.clone(),
                        format!("{} {} {nonce}", run.attempt.0, run.tenant),
                    )
                })
                .collect();
            let words = words(dump, &format!("inflight:{app}"));
            let seen: BTreeMap<_, _> = pairs(words).collect();
            prop_assert_eq!(seen, expected, "in flight in {}", app);
        }
        for tenant in (0..TENANTS).map(tenant_of) {
            let expected = self.ids(|run| run.flies() && run.tenant == tenant);
            prop_assert_eq!(
                set(dump, &format!("busy:{tenant}")),
                expected,
                "busy of {}",
                tenant
            );
        }
        let owed = self.ids(|run| run.phase.state() == State::Settled);
        prop_assert_eq!(set(dump, "owed"), owed, "owed");
        for call in words(dump, "wakeups") {
            let id = call.split(' ').next().unwrap();
            prop_assert!(
                id.is_empty() || self.runs[id].is_over(),
                "the bell for {call}"
            );
        }
        Ok(())
    }

    fn check_waiting(&self, dump: &Dump) -> Result<(), TestCaseError> {
        let (turns, parked, idle) = (
            members(dump, "tenants"),
            members(dump, "parked"),
            members(dump, "idle"),
        );
        let mut delayed_tenants = BTreeMap::new();
        for tenant in (0..TENANTS).map(tenant_of) {
            let queue = members(dump, &format!("queue:{tenant}"));
            let delayed = members(dump, &format!("delayed:{tenant}"));
            for (id, run) in self.runs.iter().filter(|(_, run)| run.tenant == tenant) {
                let (place, ready) = (queue.get(id), delayed.get(id));
                if run.phase.state() != State::Queued {
                    prop_assert!(place.is_none() && ready.is_none(), "{id} still waits");
                    continue;
                }
                match (place, ready) {
                    (Some(place), None) => prop_assert_eq!(*place, run.place as f64, "{}", id),
                    (None, Some(ready)) => prop_assert_eq!(*ready, run.ready_at as f64, "{}", id),
                    (None, None) => prop_assert!(run.left_to_sweep, "{id} waits nowhere"),
                    (Some(_), Some(_)) => prop_assert!(false, "{id} waits twice"),
                }
            }
            for id in queue.keys().chain(delayed.keys()) {
                prop_assert!(
                    self.runs.get(id).is_some_and(|run| run.tenant == tenant),
                    "{id}"
                );
            }
            if let Some(first) = delayed.values().copied().reduce(f64::min) {
                delayed_tenants.insert(tenant.clone(), first);
            }
            let takes_turns = turns.contains_key(&tenant);
            let is_parked = parked.contains_key(&tenant);
            prop_assert_eq!(
                u8::from(takes_turns) + u8::from(is_parked),
                u8::from(!queue.is_empty()),
                "{} waits with {} runs: turns {}, parked {}",
                tenant,
                queue.len(),
                takes_turns,
                is_parked
            );
            prop_assert!(
                !(takes_turns && idle.contains_key(&tenant)),
                "{tenant} is idle and not"
            );
            if is_parked {
                let may_not = self.paused_tenants.contains(&tenant)
                    || self.busy(&tenant) >= self.cap(&tenant);
                prop_assert!(may_not, "{tenant} is parked and nobody will call it back");
            }
        }
        prop_assert_eq!(
            members(dump, "delayed"),
            delayed_tenants,
            "tenants with delayed runs"
        );
        let configured: BTreeSet<String> = self
            .caps
            .keys()
            .chain(&self.paused_tenants)
            .cloned()
            .collect();
        prop_assert_eq!(set(dump, "configured"), configured, "configured");
        Ok(())
    }

    async fn check_results(&self) -> Result<(), TestCaseError> {
        let results = self.core.store.newest_results(1000).await.unwrap();
        let mut ended: BTreeMap<&String, &Run> =
            self.runs.iter().filter(|(_, run)| run.is_over()).collect();
        for published in &results {
            let result: serde_json::Value = serde_json::from_str(&published.result).unwrap();
            let id = result["run_id"].as_str().unwrap().to_owned();
            let Some(run) = ended.remove(&id) else {
                prop_assert!(false, "a result of {id}, which has one or has not ended");
                continue;
            };
            let (Phase::Settled { outcome, .. } | Phase::Closed { outcome }) = &run.phase else {
                unreachable!("it is over")
            };
            prop_assert_eq!(&result["outcome"], outcome.as_str(), "{}", id);
            let payload = run.body.map_or(serde_json::Value::Null, Into::into);
            prop_assert_eq!(&result["payload"], &payload, "{}", id);
        }
        prop_assert!(ended.is_empty(), "no result of {:?}", ended.keys());
        Ok(())
    }

    fn ids(&self, which: impl Fn(&Run) -> bool) -> BTreeSet<String> {
        let runs = self.runs.iter().filter(|(_, run)| which(run));
        runs.map(|(id, _)| id.clone()).collect()
    }
}

type Dump = HashMap<String, (String, i64, Vec<String>)>;

fn words(dump: &Dump, key: &str) -> Vec<String> {
    dump.get(key)
        .map(|(_, _, words)| words.clone())
        .unwrap_or_default()
}

fn pairs(words: Vec<String>) -> impl Iterator<Item = (String, String)> {
    let mut words = words.into_iter();
    std::iter::from_fn(move || Some((words.next()?, words.next()?)))
}

fn set(dump: &Dump, key: &str) -> BTreeSet<String> {
    words(dump, key).into_iter().collect()
}

fn members(dump: &Dump, key: &str) -> BTreeMap<String, f64> {
    let members = pairs(words(dump, key));
    members
        .map(|(member, score)| (member, score.parse().unwrap()))
        .collect()
}

/// Performs acts in a namespace of their own, and checks everything after each.
async fn play(acts: &[Act]) -> Result<(), TestCaseError> {
    let mut world = World::new().await;
    for (n, act) in acts.iter().enumerate() {
        let told = |error| match error {
            TestCaseError::Fail(why) => TestCaseError::fail(format!("act {n}, {act:?}: {why}")),
            other => other,
        };
        world.perform(act).await.map_err(told)?;
        world.check().await.map_err(told)?;
    }
    Ok(())
}

#[test]
fn whatever_acts_follow_each_other_every_index_agrees_with_the_hashes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        // One round of the loop below is one sequence.
        cases: 1,
        failure_persistence: None,
        ..Config::default()
    };
    let began = tokio::time::Instant::now();
    let mut sequences = 0;
    while began.elapsed() < BUDGET {
        let acts = proptest::collection::vec(act(), 1..ACTS_MAX);
        let mut runner = TestRunner::new(config.clone());
        if let Err(error) = runner.run(&acts, |acts| runtime.block_on(play(&acts))) {
            panic!("after {sequences} sequences: {error}");
        }
        sequences += 1;
    }
    assert!(sequences > 0);
}
