//! What must hold in every world, and from every world be reached.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash as _, Hasher as _};

use cofferdam::run::phase::State;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::steps::Setting;
use crate::world::{Id, Owner, World};

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// What holds in every world.
pub(crate) fn properties() -> Vec<Property<Setting>> {
    vec![
        Property::always("no run has two results", |_, world: &World| {
            let mut runs: Vec<_> = world.results.iter().map(|(run, ..)| *run).collect();
            runs.dedup();
            runs.len() == world.results.len()
        }),
        Property::always(
            "a run that has ended has its result, and no other",
            |_, world: &World| {
                world.runs.iter().enumerate().all(|(run, record)| {
                    let found = world.results.iter().find(|(of, ..)| *of == run);
                    let Some(record) = record else {
                        return found.is_none();
                    };
                    match record.state {
                        State::Queued | State::Booting | State::Running => found.is_none(),
                        State::Settled | State::Closed => {
                            found.is_some_and(|(_, outcome, attempt)| {
                                record.outcome == Some(*outcome) && record.attempt == *attempt
                            })
                        }
                    }
                })
            },
        ),
        Property::always(
            "what may have a machine is in flight",
            |_, world: &World| {
                world
                    .runs
                    .iter()
                    .flatten()
                    .all(|record| match record.state {
                        State::Booting | State::Running | State::Settled => {
                            record.in_flight == Some(record.attempt)
                        }
                        State::Queued | State::Closed => record.in_flight.is_none(),
                    })
            },
        ),
        Property::always(
            "every open run is in the queue or due",
            |_, world: &World| {
                world
                    .runs
                    .iter()
                    .flatten()
                    .all(|record| match record.state {
                        State::Queued => record.is_queued || record.is_delayed,
                        State::Closed => !record.is_queued && !record.is_delayed,
                        _ => record.due != crate::world::Due::Never,
                    })
            },
        ),
        Property::always("caps hold", |setting: &Setting, world: &World| {
            // What was given up and came all the same is above the cap until it is removed.
            let is_exact = !setting.stalls && setting.late_calls == 0;
            world.in_flight() <= setting.cap && (!is_exact || world.ours().count() <= setting.cap)
        }),
        Property::always("no name has two machines", |_, world: &World| {
            let named = world.ours().map(|one| (one.id.run, one.id.attempt));
            let mut names: Vec<_> = named.collect();
            names.dedup();
            names.len() == world.ours().count()
        }),
        Property::always(
            "no create for a run that has ended",
            |setting: &Setting, world: &World| {
                // What cannot be seen, is lost, or is made by a call that nobody waits for, can be
                // made again.
                let is_seen = !setting.hidden && setting.vanishings == 0;
                let is_exact = is_seen && !setting.stalls && setting.late_calls == 0;
                !is_exact || world.made.iter().all(|id| id.nth == 0)
            },
        ),
        Property::always("no adoption of what is not ours", |_, world: &World| {
            let theirs = |id: &Id| id.of == Owner::Them;
            let machines = world.machines.iter().map(|machine| machine.id);
            let is_there = machines.filter(theirs).count() == 1;
            let mut known = world.runs.iter().flatten();
            is_there == world.theirs && !known.any(|run| run.machine.as_ref().is_some_and(theirs))
        }),
    ]
}

/// Checks every property in every world that can be reached, that each of them can come to its
/// end, and that what is asked for was come upon.
#[track_caller]
pub(crate) fn check(setting: Setting, expected: &[&str]) {
    let checker = setting.clone().checker();
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.threads(2).spawn_bfs().join();
    checker.assert_properties();
    let worlds = every_world_can_end(&setting);
    assert_eq!(worlds, checker.unique_state_count());
    println!("{worlds} worlds");
    let seen = setting.seen.lock().unwrap();
    for what in expected {
        assert!(seen.contains(what), "never seen: {what}; seen: {seen:?}");
    }
}

/// Walks every world, then back from those in which all is over: a world that is not met on the
/// way back is one that nothing brings to its end. Says how many there are.
#[track_caller]
fn every_world_can_end(setting: &Setting) -> usize {
    let mut numbers = HashMap::new();
    let mut worlds = setting.init_states();
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    numbers.insert(fingerprint(&worlds[0]), 0_u32);
    let (mut at, mut actions, mut reached) = (0, Vec::new(), Vec::new());
    let mut open: HashMap<u32, World> = HashMap::from([(0, worlds.remove(0))]);
    while let Some(world) = open.remove(&u32::try_from(at).unwrap()) {
        let number = u32::try_from(at).unwrap();
        if world.is_over() {
            reached.push(number);
        }
        setting.actions(&world, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = setting.next_state(&world, action) else {
                continue;
            };
            let fresh = u32::try_from(before.len()).unwrap();
            let to = match numbers.entry(fingerprint(&next)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => {
                    place.insert(fresh);
                    before.push(Vec::new());
                    open.insert(fresh, next);
                    fresh
                }
            };
            before[to as usize].push(number);
        }
        at += 1;
    }
    let mut can_end = vec![false; before.len()];
    for number in &reached {
        can_end[*number as usize] = true;
    }
    while let Some(number) = reached.pop() {
        for &from in &before[number as usize] {
            if !std::mem::replace(&mut can_end[from as usize], true) {
                reached.push(from);
            }
        }
    }
    if let Some(stuck) = can_end.iter().position(|can| !can) {
        panic!("nothing brings this to its end: {}", story(setting, stuck));
    }
    before.len()
}

/// The way to a world, told again: the number is that of the walk above.
fn story(setting: &Setting, wanted: usize) -> String {
    let mut numbers = HashMap::new();
    let first = setting.init_states().remove(0);
    numbers.insert(fingerprint(&first), 0_usize);
    let mut walk = vec![(first, None)];
    let mut at = 0;
    while at < walk.len() && walk.len() <= wanted {
        let world = walk[at].0.clone();
        let mut actions = Vec::new();
        setting.actions(&world, &mut actions);
        for action in actions {
            let Some(next) = setting.next_state(&world, action) else {
                continue;
            };
            let fresh = walk.len();
            if let Entry::Vacant(place) = numbers.entry(fingerprint(&next)) {
                place.insert(fresh);
                walk.push((next, Some((at, action))));
            }
        }
        at += 1;
    }
    let mut told = vec![format!("{:#?}", walk[wanted].0)];
    let mut number = wanted;
    while let Some((from, action)) = walk[number].1 {
        told.push(format!("{action:?}"));
        number = from;
    }
    told.reverse();
    told.join("\n")
}
