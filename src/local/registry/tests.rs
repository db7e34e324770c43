//! Random requests and observations, and what must hold whatever their order.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::local::action::{Ending, MachineAction};
use crate::local::registry::create::NewMachine;
use crate::local::registry::life::Order;
use crate::local::registry::machine::InjectedFaults;
use crate::machines::wire::{CreateApp, CreateMachine, MachineState, Restart, UpdateMachine};
use cofferdam_sandbox::Exit;

const APP: &str = "boxes";

/// One thing that happens. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Event {
    Create {
        name: u8,
        policy: u8,
        auto_destroy: bool,
        skip_launch: bool,
    },
    Start(usize),
    Stop(usize),
    Restart(usize),
    Update {
        which: usize,
        skip_launch: bool,
    },
    Delete {
        which: usize,
        force: bool,
    },
    /// The process of some machine takes its next step; with an exit code if it ends.
    Advance {
        which: usize,
        code: i32,
    },
    /// Some machine cannot be started.
    Fail(usize),
    /// A report that comes too late.
    Stale(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let which = 0..8_usize;
    prop_oneof![
        3 => (0..4_u8, 0..3_u8, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(name, policy, auto_destroy, skip_launch)| Event::Create {
                name, policy, auto_destroy, skip_launch,
            }
        ),
        1 => which.clone().prop_map(Event::Start),
        2 => which.clone().prop_map(Event::Stop),
        1 => which.clone().prop_map(Event::Restart),
        1 => (which.clone(), any::<bool>())
            .prop_map(|(which, skip_launch)| Event::Update { which, skip_launch }),
        2 => (which.clone(), any::<bool>())
            .prop_map(|(which, force)| Event::Delete { which, force }),
        8 => (which.clone(), 0..2_i32).prop_map(|(which, code)| Event::Advance { which, code }),
        1 => which.clone().prop_map(Event::Fail),
        1 => which.prop_map(Event::Stale),
    ]
}

/// What a keeper is about to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pull { prepare_only: bool },
    Start,
    Exit,
}

/// A registry with pretended processes.
struct World {
    registry: Registry,
    ids: Vec<String>,
    processes: BTreeMap<String, (u64, Step, bool)>,
    now: UnixMs,
}

impl World {
    fn new() -> Self {
        let rules = Rules {
            org: "personal".into(),
            max_machines: 6,
            max_apps: 10,
            max_config_bytes: 1000,
            retention: Duration::from_secs(60),
            max_destroyed: 3,
            labels: BTreeMap::new(),
        };
        let mut registry = Registry::new(rules, 1);
        let app = CreateApp {
            name: Some(APP.into()),
            ..CreateApp::default()
        };
        registry.create_app(app, 0).expect("the first app");
        Self {
            registry,
            ids: Vec::new(),
            processes: BTreeMap::new(),
            now: 1,
        }
    }

    fn id(&self, which: usize) -> Option<String> {
        let at = which.checked_rem(self.ids.len())?;
        self.ids.get(at).cloned()
    }

    fn carry_out(&mut self, id: &str, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Launch {
                generation,
                prepare_only,
                ..
            }) => {
                let begun = (generation, Step::Pull { prepare_only }, false);
                let before = self.processes.insert(id.to_owned(), begun);
                assert!(before.is_none(), "two processes of {id} at once");
            }
            Some(Effect::Order(generation, Order::Signal(_))) => {
                assert!(generation > 0);
            }
            Some(Effect::Order(generation, _)) => {
                let process = self
                    .processes
                    .get_mut(id)
                    .expect("an order is for a process");
                assert_eq!(process.0, generation, "an order is for the latest start");
                process.2 = true;
            }
            Some(Effect::Finish) => {
                assert!(
                    !self.processes.contains_key(id),
                    "{id} is finished while it runs"
                );
                self.registry.finish(id, self.now);
            }
        }
    }

    fn done(&mut self, done: Result<Done, Refusal>) {
        for (id, effect) in done.map(|done| done.touched).unwrap_or_default() {
            self.carry_out(&id, effect);
        }
    }

    fn act(&mut self, which: usize, action: MachineAction) {
        if let Some(id) = self.id(which) {
            let done = self.registry.apply(APP, &id, None, action, self.now);
            self.done(done);
        }
    }

    fn see(&mut self, id: &str, generation: u64, seen: Observation) {
        let effect = self.registry.observe(id, generation, seen, self.now);
        self.carry_out(id, effect.flatten());
    }

    /// A process takes its next step, as its keeper would see it.
    fn advance(&mut self, id: &str, code: i32) {
        let Some((generation, step, ordered)) = self.processes.remove(id) else {
            return;
        };
        let up = |world: &mut Self, step| {
            world
                .processes
                .insert(id.to_owned(), (generation, step, ordered));
        };
        let seen = match step {
            Step::Pull { .. } | Step::Start if ordered => Observation::Abandoned,
            Step::Pull { prepare_only: true } => Observation::Prepared,
            Step::Pull {
                prepare_only: false,
            } => {
                up(self, Step::Start);
                Observation::Pulled
            }
            Step::Start => {
                up(self, Step::Exit);
                Observation::Started
            }
            Step::Exit => Observation::Exited(Exit {
                code: Some(code),
                ..Exit::default()
            }),
        };
        self.see(id, generation, seen);
    }

    fn apply(&mut self, event: Event) {
        self.now += 7;
        match event {
            Event::Create {
                name,
                policy,
                auto_destroy,
                skip_launch,
            } => {
                let new = new(name, policy, auto_destroy, skip_launch);
                let done = self.registry.create(new, self.now);
                if let Ok(done) = &done {
                    self.ids.push(done.touched[0].0.clone());
                }
                self.done(done);
            }
            Event::Start(which) => self.act(which, MachineAction::Start),
            Event::Stop(which) => self.act(which, MachineAction::Stop(Ending::default())),
            Event::Restart(which) => {
                let ending = Ending::default();
                self.act(
                    which,
                    MachineAction::Restart {
                        ending,
                        force_stop: which % 2 == 0,
                    },
                );
            }
            Event::Update { which, skip_launch } => {
                let Some(id) = self.id(which) else { return };
                let request = UpdateMachine {
                    skip_launch: Some(skip_launch),
                    ..UpdateMachine::default()
                };
                let image = (Arc::default(), 5);
                let done = self
                    .registry
                    .update(APP, &id, None, request, image, self.now);
                self.done(done);
            }
            Event::Delete { which, force } => self.act(which, MachineAction::Delete { force }),
            Event::Advance { which, code } => {
                if let Some(id) = self.id(which) {
                    self.advance(&id, code);
                }
            }
            Event::Fail(which) => {
                let Some(id) = self.id(which) else { return };
                if let Some((generation, Step::Start, _)) = self.processes.get(&id).copied() {
                    self.processes.remove(&id);
                    self.see(&id, generation, Observation::Failed("no".into()));
                }
            }
            Event::Stale(which) => {
                let Some(id) = self.id(which) else { return };
                let seen = Observation::Exited(Exit::default());
                assert!(self.registry.observe(&id, 0, seen, self.now).is_none());
            }
        }
    }

    fn check(&self) {
        let registry = &self.registry;
        let app = registry.apps.get(APP).expect("the app stays");
        let mut live = 0;
        let mut bytes = 0;
        for machine in registry.machines.values() {
            let last = machine.changes.back().expect("it was in some state");
            assert_eq!(last.state, machine.state, "the last change is the state");
            let process = self.processes.get(&machine.id).map(|process| process.0);
            assert_eq!(
                machine.process.map(|p| p.generation),
                process,
                "{machine:?}"
            );
            let rests = matches!(
                machine.state,
                MachineState::Stopped | MachineState::Failed | MachineState::Destroyed
            );
            assert_eq!(rests, process.is_none(), "{} {process:?}", machine.state);
            if machine.state == MachineState::Started {
                assert!(machine.process.is_some_and(|process| process.up));
            }
            if machine.state.is_gone() {
                assert!(app.gone.contains_key(&machine.sequence));
                continue;
            }
            live += 1;
            bytes += machine.weight;
            assert_eq!(app.names.get(&machine.name), Some(&machine.id));
            assert!(app.live.contains_key(&machine.sequence));
        }
        assert_eq!((registry.live, registry.config_bytes), (live, bytes));
        assert_eq!((app.live.len(), app.names.len()), (live, live));
        assert_eq!(app.gone.len(), registry.destroyed.len());
    }
}

fn new(name: u8, policy: u8, auto_destroy: bool, skip_launch: bool) -> NewMachine {
    let policy = ["no", "always", "on-failure"][usize::from(policy)];
    let config = MachineConfig {
        auto_destroy: Some(auto_destroy),
        restart: Some(Restart {
            policy: Some(policy.into()),
            max_retries: Some(2),
            ..Restart::default()
        }),
        ..MachineConfig::default()
    };
    NewMachine {
        app: APP.to_owned(),
        request: CreateMachine {
            name: (name > 0).then(|| format!("m{name}")),
            config,
            skip_launch: Some(skip_launch),
            ..CreateMachine::default()
        },
        image: Arc::default(),
        region: "local".to_owned(),
        weight: 10,
        injected: InjectedFaults::default(),
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_registry_agrees_with_itself(acts in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for act in acts {
            world.apply(act);
            world.check();
        }
        // Everybody is sent away, and what still runs ends: nothing is left in between.
        for id in world.ids.clone() {
            let done = world.registry.apply(APP, &id, None, MachineAction::Delete { force: true }, world.now);
            world.done(done);
        }
        for id in world.ids.clone() {
            world.advance(&id, 0);
        }
        world.check();
        prop_assert!(world.processes.is_empty());
        prop_assert_eq!(world.registry.live, 0);
    }
}

#[test]
fn destroyed_machines_are_kept_for_a_time_and_in_a_number() {
    let mut world = World::new();
    for _ in 0..6 {
        world.apply(Event::Create {
            name: 0,
            policy: 0,
            auto_destroy: true,
            skip_launch: false,
        });
    }
    for id in world.ids.clone() {
        for _ in 0..3 {
            world.advance(&id, 0);
        }
    }
    world.apply(Event::Start(0));
    assert_eq!(
        world.registry.destroyed.len(),
        3,
        "no more than the rules say"
    );
    let newest = world.ids.last().cloned().expect("six were made");
    assert!(world.registry.read(APP, &newest, world.now).is_ok());
    world.now += 60_000;
    assert!(world.registry.read(APP, &newest, world.now).is_err());
    world.apply(Event::Start(0));
    assert!(world.registry.machines.is_empty());
    world.check();
}
