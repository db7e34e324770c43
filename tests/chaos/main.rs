//! Storms: real processes of every kind, a real Redis, a provider that misbehaves, and from a seed
//! a plan of what befalls them. Afterwards it is counted from the outside what was lost, doubled,
//! leaked, left stuck or let over a cap; each must be nothing.
//!
//! `scripts/chaos` runs one as long as it is told to. The tests here are short ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "what a storm came to is told")]

mod args;
mod captured;
mod consume;
mod count;
mod deployment;
mod fleet;
mod limit;
mod link;
mod neighbour;
mod plan;
mod process;
mod produce;
mod provider;
mod storm;

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::args::{Args, Guests, Kind, Servers};
use crate::captured::Captured;
use crate::count::Count;
use crate::fleet::Fleet;
use crate::link::Link;
use crate::plan::{Plan, Shape};
use crate::produce::{Progress, Sent};
use crate::storm::{Storm, left_processes, settle};

/// How long what is left may take, once nothing more is done to it.
const QUIET_BOUND: Duration = Duration::from_secs(240);
/// How long processes of guests may take to be gone, once their server has ended.
const GONE_BOUND: Duration = Duration::from_secs(20);

/// One storm, from its plan to its count. Answers the line that tells it, and whether all was well.
async fn storm(args: &Args) -> (String, bool) {
    let plan = Rc::new(Plan::new(args));
    println!(
        "plan {} of seed {}: {} requests, {} acts",
        plan.digest(),
        args.seed,
        plan.requests.len(),
        plan.acts.len()
    );
    if args.only_plan {
        println!("{plan:#?}");
        return (String::new(), true);
    }
    let folder = tempfile::Builder::new()
        .prefix("cofferdam-chaos-")
        .tempdir()
        .unwrap();
    // What is dropped half-way kills its processes, and its folder goes with it.
    let (line, evidence) = tokio::select! {
        told = watched(args, plan, folder.path()) => told,
        () = interrupted() => {
            println!("interrupted");
            return ("interrupted".to_owned(), false);
        }
    };
    println!("{line}");
    let is_clean = evidence.is_empty();
    if args.keeps || !is_clean {
        let folder = folder.keep();
        fs::write(folder.join("evidence"), &evidence).unwrap();
        println!("{evidence}evidence and logs: {}", folder.display());
    }
    (line, is_clean)
}

async fn watched(args: &Args, plan: Rc<Plan>, folder: &Path) -> (String, String) {
    let began = Instant::now();
    let fleet = Fleet::start(args, folder).await;
    let progress = Rc::new(Progress::default());
    let mut link = fleet.link();
    let mut counting = fleet.link();
    let producing = produce::produce(plan.clone(), fleet.link(), progress.clone());
    let producing = spawn_local(producing);
    let consuming = spawn_local(consume::consume(fleet.link(), progress.clone()));

    let neighbour = Link::new(&fleet.neighbour_url, 0);
    let neighbour = spawn_local(neighbour::live(neighbour, progress.clone()));
    let limiting = limit::limit(fleet.link(), progress.clone());
    let limiting = spawn_local(limiting);

    let mut storm = Storm::new(fleet, progress.clone());
    let sound = plan
        .requests
        .iter()
        .filter(|request| !matches!(request.shape, Shape::Garbage(_)));
    let expected = sound.count();
    storm.rage(&plan, expected).await;
    storm.calm().await;
    let quiet_by = Instant::now() + QUIET_BOUND;
    loop {
        storm.fleet.look_after();
        storm.look().await;
        let is_quiet = progress.all_sent.get()
            && progress.neighbour_is_quiet.get()
            && storm.provider.names.is_empty()
            && count::is_quiet(&mut link).await;
        if is_quiet || Instant::now() > quiet_by {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;

    let mut count = Count::default();
    let results: usize = counting.ask(&["XLEN", "{cofferdam}:results"]).await;
    settle(Duration::from_secs(20), async || {
        progress.ended.get() >= results
    })
    .await;
    progress.is_over.set(true);
    let sent = producing.await.unwrap();
    consuming.await.unwrap();
    limiting.await.unwrap();
    let harmed = neighbour.await.unwrap();
    let mut captured = Captured::default();
    count.results(&mut link, &sent, &mut captured).await;
    let read = progress.read.take();
    let unread = count.ended.difference(&read);
    count
        .stuck
        .extend(unread.map(|run| format!("{run}: its result was not read")));
    count.open(&mut link).await;
    let mut troubles = Vec::new();
    if args.captured > 0 && args.kind != Kind::Forgetful {
        troubles.extend(captured.accounts(&mut link, folder).await);
    }
    count.leaked.extend(storm.provider.names.iter().cloned());
    count.caps(
        args,
        storm.provider.most,
        storm.provider.most_of_tenant,
        storm.done.forgot,
    );

    let Storm {
        fleet,
        provider,
        done,
        ..
    } = storm;
    troubles.extend(fleet.end().await);
    troubles.extend(harmed);
    let mark = format!("of-{}", std::process::id());
    settle(GONE_BOUND, async || left_processes(&mark).is_empty()).await;
    count.leaked.extend(left_processes(&mark));
    let not_completed = count.ended.len() - count.outcomes.get("completed").copied().unwrap_or(0);
    if args.kind == Kind::Rolling && not_completed > 0 {
        troubles.push(format!(
            "{not_completed} runs did not complete: {:?}",
            count.outcomes
        ));
    }
    let faults = provider.total();
    println!("faults: {:?}", provider.faults());
    println!("outcomes: {:?}", count.outcomes);
    println!("deadlines passed: {:?}", count.deadlines);
    println!(
        "at most {} machines (cap {}), {} of one tenant (cap {}), in {} looks",
        provider.most, args.cap, provider.most_of_tenant, args.tenant_cap, provider.looks
    );
    let isolation = match args.guests {
        Guests::Simulated(_) => "simulated",
        Guests::Host => "sandboxes",
    };
    let Sent {
        cancels, repeats, ..
    } = sent;
    let captured = match args.captured {
        0 => String::new(),
        _ => format!(" {captured}"),
    };
    let line = format!(
        "chaos redis={:?} seed={} plan={} runs={} kills={} (machines server {}) stops={} replaced={} \
         redis_restarts={} redis_forgot={} redis_full={} faults={faults} cancels={cancels} repeats={repeats} pauses={} \
         isolation={isolation}{captured} minutes={minutes:.1}: {}",
        args.servers,
        args.seed,
        plan.digest(),
        count.ended.len(),
        done.kills,
        done.machines_kills,
        done.stops,
        done.replaced,
        done.redis_restarts,
        done.forgot,
        done.full,
        done.pauses,
        count.line()
    );
    let mut evidence = count.evidence();
    for trouble in troubles {
        evidence += &format!("trouble: {trouble}\n");
    }
    debug_assert!(
        count.is_clean() || !evidence.is_empty(),
        "what is wrong is told"
    );
    (line, evidence)
}

/// Waits until somebody wants this to end.
async fn interrupted() {
    let mut told = signal(SignalKind::terminate()).unwrap();
    let mut asked = signal(SignalKind::interrupt()).unwrap();
    tokio::select! {
        _ = told.recv() => {}
        _ = asked.recv() => {}
    }
}

/// Runs a storm to its end on this thread, so that its processes die with it.
fn blow(args: &Args) -> (String, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    LocalSet::new().block_on(&runtime.unwrap(), storm(args))
}

#[test]
#[ignore = "scripts/chaos starts it, with words in CHAOS"]
fn as_asked() {
    let words = std::env::var_os("CHAOS").unwrap_or_default();
    let args = Args::read(words.to_str().unwrap()).unwrap();
    let (_, is_clean) = blow(&args);
    assert!(is_clean, "see above");
}

/// A short one, which must leave nothing.
#[track_caller]
fn check(args: &Args) {
    let (line, is_clean) = blow(args);
    assert!(is_clean, "{line}");
}

#[test]
fn a_small_storm_loses_doubles_and_leaves_nothing() {
    check(&Args {
        runs: 300,
        seed: 7,
        ..Args::default()
    });
}

#[test]
fn a_storm_in_which_redis_forgets_ends_what_redis_then_has() {
    check(&Args {
        kind: Kind::Forgetful,
        runs: 400,
        seed: 5,
        ..Args::default()
    });
}

#[test]
fn a_storm_in_which_sentinel_replaces_the_primary_loses_nothing() {
    check(&Args {
        runs: 400,
        seed: 11,
        servers: Servers::Sentinel,
        ..Args::default()
    });
}

#[test]
fn a_storm_in_which_a_cluster_replaces_our_node_loses_nothing() {
    check(&Args {
        runs: 400,
        seed: 12,
        servers: Servers::Cluster,
        ..Args::default()
    });
}

#[test]
fn a_storm_over_real_sandboxes_leaves_nothing() {
    check(&Args {
        runs: 60,
        seed: 3,
        guests: Guests::Host,
        captured: 40,
        cap: 8,
        tenant_cap: 4,
        ..Args::default()
    });
}

#[test]
fn a_rolling_restart_loses_nothing() {
    check(&Args {
        kind: Kind::Rolling,
        runs: 300,
        guests: Guests::Simulated(500),
        cap: 20,
        ..Args::default()
    });
}

#[test]
fn the_same_seed_is_the_same_plan() {
    let plan = |seed| {
        let args = Args {
            seed,
            ..Args::default()
        };
        Plan::new(&args).digest()
    };
    assert_eq!(plan(1), plan(1));
    assert_ne!(plan(1), plan(2));
}
