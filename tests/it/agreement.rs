//! Every phase × every event, through `run::step` and through the scripts: both give the answer
//! that a table written by hand has.

use std::time::Duration;

use cofferdam::run::id::{Attempt, Nonce, RunId, Tenant};
use cofferdam::run::outcome::{Ending, Outcome, ReasonCode};
use cofferdam::run::phase::{MachineRef, Phase, State};
use cofferdam::run::request::Guest;
use cofferdam::run::step::{Event, Rejected, step};
use cofferdam::store::Store;
use cofferdam::store::acts::{
    Admission, BootId, Entered, Fate, FleetLimits, Requeue, Settlement, Terms, Transition,
};
use cofferdam::store::codec::RunRecord;

use crate::support::redis;

/// Far ahead, since the times to live that come of it are real.
const NOW: u64 = 4_000_000_000_000;
const LEASE: Duration = Duration::from_secs(15);
const KEEP: Duration = Duration::from_secs(3600);

fn id() -> RunId {
    "pr-17".parse().unwrap()
}

fn machine() -> MachineRef {
    MachineRef {
        app: "app".into(),
        id: "m1".into(),
        instance_id: Some("01J".into()),
        region: Some("ams".into()),
    }
}

fn terms() -> Terms {
    Terms {
        retention: KEEP,
        backlog_max: None,
        tenant_backlog_max: None,
    }
}

fn room() -> FleetLimits {
    FleetLimits {
        apps: vec!["app".into()],
        max_in_flight: 50,
        app_max_in_flight: None,
        tenant_max_in_flight: None,
        boot_rate: 0.0,
        boot_burst: 1,
    }
}

/// A fresh namespace with one run, brought to `state` by the acts themselves. Its attempt is 1,
/// and 1 also when it is queued again after a failed boot.
async fn run_in(state: State) -> Store {
    let store = Store::connect(&redis::settings()).await.unwrap();
    store.ensure_group().await.unwrap();
    let entries = store.submit(&["{}".to_owned()]).await.unwrap();
    let admission = Admission {
        id: id(),
        entry: entries[0].clone(),
        digest: String::new(),
        tenant: Tenant::default(),
        submitted_at_ms: NOW,
        fate: Fate::Queued {
            request_bytes: 2,
            input: 0..0,
            timeout: Duration::from_secs(60),
            timeout_asked: None,
            queue_ttl: None,
            priority: 5,
            not_before: None,
            image: "host".into(),
            size: Guest::default(),
            metadata: None,
            traceparent: None,
        },
    };
    store.admit(&[admission], &terms(), NOW).await.unwrap();
    boot(&store).await;
    let posted = Ending::Completed {
        payload: "1".into(),
    };
    match state {
        State::Queued => {
            let view = seen(&store).await;
            let act = store
                .requeue(&view, view.boot(), Requeue::Failed, None, NOW)
                .await
                .unwrap();
            assert_eq!(act, Transition::Done(Entered::Queued));
        }
        State::Booting => {}
        State::Running => advance(&store).await,
        State::Settled => {
            settle(&store, &posted).await;
        }
        State::Closed => {
            settle(&store, &posted).await;
            let view = seen(&store).await;
            let close = store.close(&id(), view.boot(), NOW, KEEP).await;
            assert_eq!(close.unwrap().0, Transition::Done(Entered::Closed));
        }
    }
    assert_eq!(seen(&store).await.phase().state(), state);
    store
}

async fn boot(store: &Store) {
    let claim = store.claim(&room(), 1, NOW, LEASE).await.unwrap();
    assert_eq!(claim.runs.len(), 1, "{claim:?}");
}

async fn advance(store: &Store) {
    let view = seen(store).await;
    let act = store.advance(&id(), view.boot(), &machine(), NOW).await;
    assert_eq!(act.unwrap(), Transition::Done(Entered::Running));
}

async fn settle(store: &Store, ending: &Ending) {
    let view = seen(store).await;
    let act = store
        .settle(&id(), Some(view.boot()), &settlement(ending), NOW)
        .await;
    assert_eq!(act.unwrap(), Transition::Done(Entered::Settled));
}

fn settlement(ending: &Ending) -> Settlement<'_> {
    Settlement {
        ending,
        post: None,
        retention: KEEP,
        lease: LEASE,
    }
}

async fn nonce(store: &Store) -> Option<Nonce> {
    seen(store).await.nonce
}

fn boot_of(nonce: Option<&Nonce>, attempt: Attempt) -> BootId<'_> {
    BootId { attempt, nonce }
}

async fn seen(store: &Store) -> RunRecord {
    store.record(&id()).await.unwrap().unwrap()
}

/// Applies an event by the act that stands for it.
async fn apply(store: &Store, event: &Event) -> Transition {
    let nonce = nonce(store).await;
    match event {
        Event::Claimed { .. } => {
            let claim = store.claim(&room(), 1, NOW, LEASE).await.unwrap();
            // A claim takes from the queue, so it can only find what is queued.
            if claim.runs.is_empty() {
                Transition::Refused
            } else {
                Transition::Done(Entered::Running)
            }
        }
        Event::Created { attempt, machine } => {
            let boot = boot_of(nonce.as_ref(), *attempt);
            store.advance(&id(), boot, machine, NOW).await.unwrap()
        }
        Event::Deferred { attempt } | Event::Failed { attempt } => {
            let why = match event {
                Event::Deferred { .. } => Requeue::Refused,
                _ => Requeue::Failed,
            };
            let view = seen(store).await;
            let boot = boot_of(nonce.as_ref(), *attempt);
            let requeued = store.requeue(&view, boot, why, None, NOW).await;
            requeued.unwrap()
        }
        Event::Posted { attempt } => {
            let ending = Ending::Completed {
                payload: "2".into(),
            };
            let end = settlement(&ending);
            let boot = Some(boot_of(nonce.as_ref(), *attempt));
            store.settle(&id(), boot, &end, NOW).await.unwrap()
        }
        Event::Ended { reason, attempt } => {
            let ending = Ending::without(*reason, "because");
            let end = settlement(&ending);
            let boot = attempt.map(|attempt| boot_of(nonce.as_ref(), attempt));
            store.settle(&id(), boot, &end, NOW).await.unwrap()
        }
        Event::Refused { attempt, reason } => {
            let ending = Ending::without(*reason, "because");
            let end = settlement(&ending);
            let boot = boot_of(nonce.as_ref(), *attempt);
            store.refuse(&id(), boot, &end, NOW).await.unwrap()
        }
        Event::Gone => {
            let boot = boot_of(nonce.as_ref(), Attempt(1));
            let close = store.close(&id(), boot, NOW, KEEP).await;
            close.unwrap().0
        }
    }
}

fn events() -> Vec<Event> {
    let mut events = vec![Event::Claimed { app: "app".into() }, Event::Gone];
    for attempt in [0, 1, 2].map(Attempt) {
        events.push(Event::Created {
            attempt,
            machine: machine(),
        });
        events.push(Event::Deferred { attempt });
        events.push(Event::Failed { attempt });
        events.push(Event::Posted { attempt });
    }
    for reason in ReasonCode::ALL {
        for attempt in [None, Some(Attempt(1)), Some(Attempt(2))] {
            events.push(Event::Ended { reason, attempt });
        }
        for attempt in [1, 2].map(Attempt) {
            events.push(Event::Refused { attempt, reason });
        }
    }
    events
}

/// What each event leads to from each state, for a run at attempt 1 and an event of attempt 1 (or
/// of none). Written by hand from the contract, not computed: a fault in `step` would otherwise
/// also be in the moves that the scripts are given. A cell is the state it leads to, or how the
/// script and `step` refuse it. Events of another attempt are in [`expected`].
const TABLE: &str = "
event                 | queued        | booting     | running     | settled      | closed
claimed               | booting       | refused/now | refused/now | refused/over | refused/over
created               | refused/other | running     | refused/now | settled      | refused/over
deferred              | refused/other | queued      | refused/now | refused/over | refused/over
failed                | refused/other | queued      | queued      | refused/over | refused/over
posted                | refused/other | settled     | settled     | over/over    | over/over
refused_for_good      | refused/other | closed      | refused/now | over/over    | over/over
refused_in_queue      | refused/other | refused/now | refused/now | over/over    | over/over
gone                  | refused/now   | refused/now | refused/now | closed       | refused/over
boot_failed           | closed        | settled     | settled     | over/over    | over/over
image_rejected        | refused/now   | settled     | settled     | over/over    | over/over
no_capacity           | closed        | settled     | settled     | over/over    | over/over
exited_without_result | refused/now   | settled     | settled     | over/over    | over/over
oom_killed            | refused/now   | settled     | settled     | over/over    | over/over
machine_lost          | refused/now   | settled     | settled     | over/over    | over/over
deadline              | refused/now   | settled     | settled     | over/over    | over/over
expired_in_queue      | closed        | refused/now | refused/now | over/over    | over/over
result_budget         | refused/now   | settled     | settled     | over/over    | over/over
cancelled             | closed        | settled     | settled     | over/over    | over/over
invalid_request       | closed        | settled     | settled     | over/over    | over/over
queue_full            | refused/now   | refused/now | refused/now | over/over    | over/over
";

/// How a run ends for each reason.
const OUTCOMES: [(&str, Outcome); 13] = [
    ("posted", Outcome::Completed),
    ("boot_failed", Outcome::Failed),
    ("image_rejected", Outcome::Failed),
    ("no_capacity", Outcome::Failed),
    ("exited_without_result", Outcome::Failed),
    ("oom_killed", Outcome::Failed),
    ("machine_lost", Outcome::Failed),
    ("result_budget", Outcome::Failed),
    ("deadline", Outcome::TimedOut),
    ("expired_in_queue", Outcome::TimedOut),
    ("cancelled", Outcome::Cancelled),
    ("invalid_request", Outcome::Rejected),
    ("queue_full", Outcome::Rejected),
];

fn word(reason: ReasonCode) -> String {
    let word = serde_json::to_value(reason).unwrap();
    word.as_str().unwrap().to_owned()
}

/// The event's row in the table, and the attempt that it speaks of.
fn row(event: &Event) -> (String, Option<Attempt>) {
    let (name, attempt) = match event {
        Event::Claimed { .. } => ("claimed", None),
        Event::Created { attempt, .. } => ("created", Some(*attempt)),
        Event::Deferred { attempt } => ("deferred", Some(*attempt)),
        Event::Failed { attempt } => ("failed", Some(*attempt)),
        Event::Posted { attempt } => ("posted", Some(*attempt)),
        Event::Gone => ("gone", None),
        // These two reasons are of a run that waits, and nobody waits while it boots.
        Event::Refused {
            attempt,
            reason: ReasonCode::ExpiredInQueue | ReasonCode::QueueFull,
        } => ("refused_in_queue", Some(*attempt)),
        Event::Refused { attempt, .. } => ("refused_for_good", Some(*attempt)),
        Event::Ended { reason, attempt } => return (word(*reason), *attempt),
    };
    (name.to_owned(), attempt)
}

/// The cell of a state and an event.
fn expected(state: State, event: &Event) -> &'static str {
    let (name, attempt) = row(event);
    if attempt.is_some_and(|attempt| attempt != Attempt(1)) {
        // The scripts look at the attempt first; `step` knows none in a closed run.
        return if state == State::Closed {
            "older/over"
        } else {
            "older/other"
        };
    }
    let column = State::ALL.iter().position(|one| *one == state).unwrap() + 1;
    let mut rows = TABLE.lines().map(|line| line.split('|').map(str::trim));
    let mut cells = rows.find(|row| row.clone().next() == Some(&*name)).unwrap();
    cells.nth(column).unwrap()
}

/// The phase that `cell` names, reached from `before`.
fn entered(before: &Phase, event: &Event, cell: &str) -> Phase {
    let name = match event {
        Event::Refused { reason, .. } => word(*reason),
        _ => row(event).0,
    };
    let app = || String::from("app");
    let outcome = || match before {
        Phase::Settled { outcome, .. } | Phase::Closed { outcome } => *outcome,
        _ => OUTCOMES.iter().find(|(word, _)| *word == name).unwrap().1,
    };
    let attempt = Attempt(1);
    match cell {
        "queued" => Phase::Queued { attempt },
        "booting" => Phase::Booting {
            attempt: Attempt(2),
            app: app(),
        },
        "running" => Phase::Running {
            attempt,
            machine: machine(),
        },
        "settled" => Phase::Settled {
            attempt,
            outcome: outcome(),
            app: app(),
            machine: match (before, event) {
                (_, Event::Created { machine, .. }) => Some(machine.clone()),
                (Phase::Running { .. }, _) => Some(machine()),
                _ => None,
            },
        },
        "closed" => Phase::Closed { outcome: outcome() },
        other => panic!("{other:?} is no state"),
    }
}

#[track_caller]
fn check(before: &Phase, event: &Event, act: Transition, after: &Phase) {
    let expected = expected(before.state(), event);
    let stepped = step(before, event);
    let cell = format!(
        "{before:?}\n × {event:?}\n expected: {expected}\n scripts: {act:?} {after:?}\n step: {stepped:?}"
    );
    let Some((script, policy)) = expected.split_once('/') else {
        let next = entered(before, event, expected);
        let done = match next.state() {
            State::Queued => Entered::Queued,
            // A claim answers with runs and not with a word; `apply` says this one for it.
            State::Booting | State::Running => Entered::Running,
            State::Settled => Entered::Settled,
            State::Closed => Entered::Closed,
        };
        assert_eq!(act, Transition::Done(done), "{cell}");
        assert_eq!(*after, next, "{cell}");
        assert_eq!(stepped, Ok(next), "{cell}");
        return;
    };
    let word = match act {
        Transition::Done(_) => "done",
        Transition::Repeated => "repeated",
        Transition::OverBudget => "over_budget",
        Transition::Over => "over",
        Transition::Older => "older",
        Transition::Refused => "refused",
        Transition::Unknown => "unknown",
    };
    assert_eq!(word, script, "{cell}");
    assert_eq!(after, before, "{cell}");
    let rejected = match policy {
        "now" => Rejected::NotNow,
        "other" => Rejected::OtherAttempt,
        "over" => Rejected::Over,
        other => panic!("{other:?} is no refusal"),
    };
    assert_eq!(stepped, Err(rejected), "{cell}");
}

#[tokio::test]
async fn the_scripts_and_step_agree_in_every_cell() {
    let mut cells = 0;
    for state in State::ALL {
        for event in events() {
            let store = run_in(state).await;
            let before = seen(&store).await.phase().clone();
            let act = apply(&store, &event).await;
            let after = seen(&store).await.phase().clone();
            check(&before, &event, act, &after);
            cells += 1;
        }
    }
    assert_eq!(cells, State::ALL.len() * events().len());
}

/// A name is free again when its machine is gone, so a late boot can find another machine than the
/// run knew before it settled.
#[tokio::test]
async fn the_scripts_and_step_agree_on_a_second_machine_of_a_settled_run() {
    let store = run_in(State::Running).await;
    let posted = Ending::Completed {
        payload: "1".into(),
    };
    settle(&store, &posted).await;
    let before = seen(&store).await.phase().clone();
    let event = Event::Created {
        attempt: Attempt(1),
        machine: MachineRef {
            id: "m2".into(),
            instance_id: Some("01K".into()),
            ..machine()
        },
    };
    let act = apply(&store, &event).await;
    check(&before, &event, act, seen(&store).await.phase());
}
