//! One death, two deaths, and a stop that outlasts the lease.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::json;

use super::points::{POINTS, Point, Role};
use super::stories::{Story, grant};
use super::world::{ARTIFACT, Fate, World};
use crate::support::until::until_within;

/// Worlds at once. Most of their time they wait for leases.
const AT_ONCE: u64 = 16;
/// Pairs of deaths that every test run tries.
const SAMPLE: usize = 50;
/// Far longer than anything takes.
const BOUND: Duration = Duration::from_secs(120);

/// At which run the second of two processes died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    /// While it made good what the first had left.
    InRepair,
    /// Afterwards, at work of its own.
    Later,
}

async fn die(point: &Point) {
    let world = World::new().await;
    let other = world.before(point, "a").await;
    let mut doomed = world.doomed(point).await;
    tokio::join!(world.tell(point, "a"), doomed.dies(&world));
    drop((doomed, other));
    world.ends_well().await;
}

async fn die_twice(first: &Point, second: &Point) -> Second {
    let world = World::new().await;
    let other = world.before(first, "a").await;
    let mut doomed = world.doomed(first).await;
    tokio::join!(world.tell(first, "a"), doomed.dies(&world));
    drop((doomed, other));

    world.endpoint_here();
    let mut doomed = world.doomed(second).await;
    let mut when = Second::InRepair;
    if doomed.dies_or_idles(&world).await == Fate::Idle {
        when = Second::Later;
        let mut other = None;
        if second.story.begins_without() {
            drop(doomed);
            world.endpoint_here();
            other = world.before(second, "b").await;
            doomed = world.doomed(second).await;
        }
        tokio::join!(world.tell(second, "b"), doomed.dies(&world));
        drop(other);
    }
    drop(doomed);
    world.ends_well().await;
    when
}

/// The process stops for so long that another does all there is to do, and then goes on.
async fn stop(point: &Point) {
    let world = World::new().await;
    let company = world.before(point, "a").await;
    let mut stopped = world.stopping(point);
    let stops = until_within(BOUND, "the stop", || {
        let (is_stopped, said) = (stopped.is_stopped(), stopped.said());
        std::future::ready(if is_stopped { Ok(()) } else { Err(said) })
    });
    tokio::join!(world.tell(point, "a"), stops);
    drop(company);
    let other = world.worker();
    world.idle(&[&other, &stopped]).await;
    stopped.signal(Signal::CONT);
    // It finds out what has become of the run, in whatever it was about to do.
    stopped.signal(Signal::TERM);
    let status = stopped.ended(BOUND).await;
    assert!(status.success(), "{status}: {}", stopped.said());
    drop(other);
    world.ends_well().await;
}

/// Tells all stories, and then which went wrong.
async fn all<'a, T>(stories: impl IntoIterator<Item = (String, LocalBoxFuture<'a, T>)>) -> Vec<T> {
    let stories = stories.into_iter().map(|(name, story)| async move {
        let told = AssertUnwindSafe(story).catch_unwind().await;
        told.map_err(|_| name)
    });
    let at_once = usize::try_from(number("MILESTONES_AT_ONCE", AT_ONCE)).unwrap();
    let told: Vec<Result<T, String>> = stream::iter(stories)
        .buffer_unordered(at_once)
        .collect()
        .await;
    let wrong: Vec<_> = told.iter().filter_map(|told| told.as_ref().err()).collect();
    assert!(wrong.is_empty(), "of {} went wrong: {wrong:#?}", told.len());
    told.into_iter().flatten().collect()
}

fn name(first: &Point, second: &Point) -> String {
    format!("{} then {}", first.name, second.name)
}

async fn all_pairs(pairs: Vec<(&'static Point, &'static Point)>) {
    let stories = pairs
        .into_iter()
        .map(|(first, second)| (name(first, second), die_twice(first, second).boxed_local()));
    let told = all(stories).await;
    let in_repair = told.iter().filter(|when| **when == Second::InRepair);
    println!(
        "{} pairs of deaths, {} of them the second in repair of the first",
        told.len(),
        in_repair.count()
    );
}

fn pairs() -> Vec<(&'static Point, &'static Point)> {
    let pairs = POINTS
        .iter()
        .flat_map(|first| POINTS.iter().map(move |second| (first, second)));
    let only = variable("MILESTONES").unwrap_or_default();
    pairs
        .filter(|(first, second)| name(first, second).contains(&only))
        .collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "what to tell is for whoever runs this"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str, default: u64) -> u64 {
    variable(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_every_milestone_ends_in_one_result_and_no_machine() {
    let only = variable("MILESTONES").unwrap_or_default();
    let points = POINTS.iter().filter(|point| point.name.contains(&only));
    all(points.map(|point| (point.name.to_owned(), die(point).boxed_local()))).await;
}

/// Wherever the endpoint died over it: the guest's repeat keeps the artifact once, and no byte that is
/// kept goes uncounted.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_a_death_cut_off_is_repeated_and_is_there_once() {
    let puts = POINTS.iter().filter(|point| point.story == Story::Puts);
    let puts = puts.filter(|point| point.name != "log::appended");
    all(puts.map(|point| (point.name.to_owned(), put_again(point).boxed_local()))).await;
}

async fn put_again(point: &Point) {
    let world = World::new().await;
    let mut doomed = world.doomed(point).await;
    let request = json!({"id": "puts-a", "env": {"SIMULATED_GUEST": "hangs"}, "cmd": ["true"],
        "capture": {"artifacts": ["out/**"]}});
    world.submit(request, Some("cancelled")).await;
    world.comes_to("puts-a", "running").await;
    let token = grant(&world, "puts-a").await;
    tokio::join!(world.put(&token), doomed.dies(&world));
    let serve = world.serve().await;
    assert_eq!(world.put(&token).await, Some(StatusCode::CREATED));
    let listed = world.artifacts("puts-a").await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].bytes, ARTIFACT.len() as u64);
    let kept = world.kept_artifacts();
    let counted = world.counted_artifacts().await;
    assert!(kept <= counted, "{kept} are kept, {counted} counted");
    drop((doomed, serve));
    world
        .stack
        .raw
        .add("control", &[("cancel", "puts-a")])
        .await;
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deaths_in_a_row_end_in_one_result_and_no_machine() {
    let mut pairs = pairs();
    let seed = number("MILESTONES_SEED", 1);
    fastrand::Rng::with_seed(seed).shuffle(&mut pairs);
    pairs.truncate(SAMPLE);
    println!("seed {seed}");
    all_pairs(pairs).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes; scripts/milestones runs it"]
async fn any_two_deaths_in_a_row_end_in_one_result_and_no_machine() {
    let (part, of) = (number("MILESTONES_PART", 0), number("MILESTONES_PARTS", 1));
    let pairs = pairs().into_iter().zip(0u64..);
    let pairs = pairs.filter_map(|(pair, n)| (n % of == part).then_some(pair));
    all_pairs(pairs.collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_past_its_lease_and_goes_on_doubles_nothing() {
    let points = POINTS
        .iter()
        // Of the story of one that was overtaken, this is the other half.
        .filter(|point| point.role() == Role::Worker && point.story != Story::Overtaken);
    all(points.map(|point| (point.name.to_owned(), stop(point).boxed_local()))).await;
}
