//! Noisy neighbours: one hostile tenant attacks what it shares with another, whose short runs are
//! timed from XADD to result, before the attack and during it. The bound is the sixth promise: none
//! lost, and a p99 of at most three times the quiet one of the same scene.
//!
//! `scripts/neighbours` runs every attack in full, against a release build, and makes the table and
//! the picture in `docs`. The tests here are short, with a bound that holds on a busy host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "what was measured is told")]

mod args;
mod attacks;
#[path = "../chaos/link.rs"]
mod link;
mod picture;
#[path = "../chaos/process.rs"]
#[allow(dead_code, reason = "storms use all of it")]
mod process;
mod scene;
mod victim;

use std::time::Duration;

use crate::args::Args;
use crate::attacks::{ATTACKS, Attack};
use crate::scene::Scene;
use crate::victim::Times;

/// How much slower the victim may become.
const FACTOR: f64 = 3.0;
/// What the short tests add to the bound, since other tests run beside them.
const GRACE: Duration = Duration::from_secs(5);

/// What one attack did to the victim.
#[derive(Debug)]
struct Outcome {
    attack: &'static Attack,
    quiet: Times,
    attacked: Times,
}

impl Outcome {
    /// The p99 under attack over the quiet one.
    fn factor(&self) -> f64 {
        self.attacked.p99().as_secs_f64() / self.quiet.p99().as_secs_f64()
    }

    fn lost(&self) -> usize {
        self.quiet.lost + self.attacked.lost
    }

    /// Whether the bound holds.
    fn holds(&self) -> bool {
        self.lost() == 0 && self.attacked.p99() <= self.quiet.p99().mul_f64(FACTOR)
    }

    fn line(&self) -> String {
        let ms = |time: Duration| time.as_millis();
        format!(
            "{}: quiet p50 {} p99 {} ms, attacked p50 {} p99 {} ms, factor {:.1}, {} lost of {}",
            self.attack.name,
            ms(self.quiet.p50()),
            ms(self.quiet.p99()),
            ms(self.attacked.p50()),
            ms(self.attacked.p99()),
            self.factor(),
            self.lost(),
            self.quiet.times.len() + self.attacked.times.len(),
        )
    }
}

async fn run(attack: &'static Attack, args: &Args) -> Outcome {
    let mut scene = Scene::start(args).await;
    // The first run finds everything cold.
    victim::time(&mut scene, "warm", 3).await;
    let quiet = victim::time(&mut scene, "quiet", args.runs).await;
    attack.begin(&mut scene, args).await;
    let attacked = victim::time(&mut scene, "attacked", args.runs).await;
    let outcome = Outcome {
        attack,
        quiet,
        attacked,
    };
    println!("{}", outcome.line());
    scene.end();
    outcome
}

fn measure(attack: &'static Attack, args: &Args) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(run(attack, args))
}

#[test]
#[ignore = "scripts/neighbours starts it, with words in NEIGHBOURS"]
fn as_asked() {
    let words = std::env::var_os("NEIGHBOURS").unwrap_or_default();
    let args = Args::read(words.to_str().unwrap()).unwrap();
    let wanted = ATTACKS.iter().filter(|attack| args.wants(attack.name));
    let before = picture::load();
    let outcomes: Vec<Outcome> = wanted.map(|attack| measure(attack, &args)).collect();
    let table = picture::table(&outcomes, &args, [before, picture::load()]);
    println!("{table}");
    if let Some(folder) = &args.write {
        std::fs::write(folder.join("neighbours.md"), table).unwrap();
        std::fs::write(folder.join("neighbours.svg"), picture::svg(&outcomes)).unwrap();
    }
    let broken: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.holds())
        .map(Outcome::line)
        .collect();
    assert!(broken.is_empty(), "the bound does not hold: {broken:#?}");
}

/// In short: none lost, and no usual wait that is longer than the longest quiet ones. The p99 of few
/// runs beside other tests says nothing.
#[track_caller]
fn check(name: &str) {
    let attack = ATTACKS.iter().find(|attack| attack.name == name).unwrap();
    let outcome = measure(attack, &Args::short());
    let bound = outcome.quiet.p99().mul_f64(FACTOR) + GRACE;
    let is_felt = outcome.lost() > 0 || outcome.attacked.p50() > bound;
    assert!(!is_felt, "{}", outcome.line());
}

#[test]
fn unread_inputs_are_not_felt() {
    check("unread-inputs");
}

#[test]
fn slow_bodies_are_not_felt() {
    check("slow-bodies");
}

#[test]
fn many_connections_of_one_token_are_not_felt() {
    check("one-token");
}

#[test]
fn large_results_are_not_felt() {
    check("large-results");
}

#[test]
fn a_backlog_is_not_felt() {
    check("backlog");
}

#[test]
fn the_names_of_attacks_are_unique() {
    let names: std::collections::BTreeSet<_> = ATTACKS.iter().map(|attack| attack.name).collect();
    assert_eq!(names.len(), ATTACKS.len());
}
