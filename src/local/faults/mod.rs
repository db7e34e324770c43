//! Fault injection: the server is told to misbehave, which is how failure handling is tested.
//!
//! `rule` is the grammar. Here the rules are held with their counts, and a call is compared
//! with them: `FaultInjector::consult` returns a verdict, which the server carries out.

pub(crate) mod bucket;
pub(crate) mod capacity;
pub(crate) mod rule;
pub(crate) mod subject;
mod words;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

use crate::clock::UnixMs;
use crate::local::faults::bucket::Buckets;
use crate::local::faults::capacity::Shortage;
use crate::local::faults::rule::{MachineFault, Match, Rule, RuleAction};
use crate::local::refusal::Refusal;

/// Rules held at once.
const MOST_RULES: usize = 256;

/// What a call is about, as far as it is known before it is carried out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subject<'a> {
    /// The call, as fault rules name it.
    pub(crate) call: &'static str,
    /// The app in its path.
    pub(crate) app: Option<&'a str>,
    /// The machine's name.
    pub(crate) name: Option<&'a str>,
    /// The machine's region, or the one asked for first.
    pub(crate) region: Option<&'a str>,
    /// What its rate is counted by: the machine's id, else the app's name.
    pub(crate) id: &'a str,
}

/// What is to be done to one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Wait for so long first.
    pub(crate) delay: Duration,
    /// Do not carry it out, but this.
    pub(crate) instead: Option<Instead>,
    /// Carry it out, then corrupt the answer.
    pub(crate) spoil: Option<Spoil>,
    /// Faults of the machine that it is about.
    pub(crate) machine_faults: Vec<MachineFault>,
}

/// What happens in place of a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Instead {
    /// This answer.
    Refuse(Refusal),
    /// The connection closes.
    Drop,
    /// Nothing, for as long as a connection may last.
    Hang,
}

/// What happens to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// The connection closes without it.
    Lose,
    /// A gateway in between answers with this status instead.
    Replace(u16),
    /// Half of its body is sent, then the connection closes.
    Cut,
}

/// The rules in force, and how often each was met.
#[derive(Debug)]
pub(crate) struct FaultInjector {
    state: Mutex<State>,
    /// Whether the documented limits of the real API hold besides.
    documented_limits: bool,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Armed>,
    limits: Buckets,
    limited: u64,
    /// What rules did that are in force no longer.
    fired_before: u64,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    rng: Rng,
    buckets: Buckets,
    seen: u64,
    fired: u64,
}

/// How often a rule was met, for the control route.
#[derive(Debug, Serialize)]
pub(crate) struct Count {
    rule: String,
    /// Calls that it is about.
    seen: u64,
    /// Calls that it did something to.
    fired: u64,
}

/// All counts.
#[derive(Debug, Serialize)]
pub(crate) struct Counts {
    rules: Vec<Count>,
    /// What they did, and rules before them: since the server opened.
    fired: u64,
    /// Calls that the documented limits refused.
    rate_limited: u64,
}

impl FaultInjector {
    /// Rules from the start, at most 256.
    pub(crate) fn new(rules: Vec<Rule>, documented_limits: bool) -> Self {
        let faults = Self {
            state: Mutex::default(),
            documented_limits,
        };
        faults.replace(rules);
        faults
    }

    /// Puts `rules` in place of all that are there; each begins to count at zero. Says whether it
    /// did: it does not when they are too many.
    pub(crate) fn replace(&self, rules: Vec<Rule>) -> bool {
        if rules.len() > MOST_RULES {
            return false;
        }
        let mut state = self.locked();
        state.fired_before += fired(&state.rules);
        state.rules = rules.into_iter().map(Armed::new).collect();
        true
    }

    /// The rules and how often each was met.
    pub(crate) fn counts(&self) -> Counts {
        let state = self.locked();
        let count = |armed: &Armed| Count {
            rule: armed.rule.to_string(),
            seen: armed.seen,
            fired: armed.fired,
        };
        Counts {
            rules: state.rules.iter().map(count).collect(),
            fired: state.fired_before + fired(&state.rules),
            rate_limited: state.limited,
        }
    }

    /// Compares a call with the limits and every rule but those of capacity, in their order, until
    /// one replaces it.
    pub(crate) fn consult(&self, subject: Subject<'_>, now: UnixMs) -> Verdict {
        let mut verdict = Verdict::default();
        let mut state = self.locked();
        let limit = bucket::documented(subject.call);
        if self.documented_limits && !state.limits.take(subject.call, subject.id, limit, now) {
            state.limited += 1;
            verdict.instead = Some(Instead::Refuse(Refusal::rate_limited()));
            return verdict;
        }
        for armed in &mut state.rules {
            if matches!(armed.rule.action, RuleAction::NoCapacity(_)) || !armed.meets(subject) {
                continue;
            }
            armed.apply(subject, now, &mut verdict);
            if verdict.instead.is_some() {
                break;
            }
        }
        verdict
    }

    /// Whether a rule says that there is no room for what `subject` asks, in its region.
    pub(crate) fn shortage(&self, subject: Subject<'_>) -> Option<Shortage> {
        let mut state = self.locked();
        for armed in &mut state.rules {
            let RuleAction::NoCapacity(shortage) = armed.rule.action else {
                continue;
            };
            if armed.meets(subject) {
                armed.fired += 1;
                return Some(shortage);
            }
        }
        None
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        // A poisoned lock is taken: at worst a count is off by one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Armed {
    fn new(rule: Rule) -> Self {
        Self {
            rng: Rng::with_seed(rule.on.seed),
            buckets: Buckets::default(),
            seen: 0,
            fired: 0,
            rule,
        }
    }

    /// Whether the rule is about this call and its turn has come.
    fn meets(&mut self, subject: Subject<'_>) -> bool {
        let on = &self.rule.on;
        if !about(on, subject) {
            return false;
        }
        self.seen += 1;
        let turn = on.nth.is_none_or(|nth| self.seen == nth)
            && on.every.is_none_or(|every| self.seen.is_multiple_of(every))
            && on.times.is_none_or(|times| self.fired < times);
        turn && on.probability.is_none_or(|p| self.rng.f64() < p)
    }

    fn apply(&mut self, subject: Subject<'_>, now: UnixMs, verdict: &mut Verdict) {
        match &self.rule.action {
            RuleAction::Refuse(refusal) => verdict.instead = Some(Instead::Refuse(refusal.clone())),
            RuleAction::Delay(delay) => verdict.delay += *delay,
            RuleAction::Drop => verdict.instead = Some(Instead::Drop),
            RuleAction::Hang => verdict.instead = Some(Instead::Hang),
            RuleAction::Lose(None) => verdict.spoil = Some(Spoil::Lose),
            RuleAction::Lose(Some(status)) => verdict.spoil = Some(Spoil::Replace(*status)),
            RuleAction::Cut => verdict.spoil = verdict.spoil.or(Some(Spoil::Cut)),
            RuleAction::Machine(fault) => verdict.machine_faults.push(fault.clone()),
            RuleAction::RateLimit(rate) => {
                if self.buckets.take(subject.call, subject.id, *rate, now) {
                    return;
                }
                verdict.instead = Some(Instead::Refuse(Refusal::rate_limited()));
            }
            RuleAction::NoCapacity(shortage) => {
                verdict.instead = Some(Instead::Refuse(shortage.refusal()));
            }
        }
        self.fired += 1;
    }
}

fn fired(rules: &[Armed]) -> u64 {
    rules.iter().map(|armed| armed.fired).sum()
}

fn about(on: &Match, subject: Subject<'_>) -> bool {
    let name = on.name.as_deref().is_none_or(|pattern| {
        subject
            .name
            .is_some_and(|name| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            })
    });
    on.call.is_none_or(|call| call == subject.call)
        && on.app.as_deref().is_none_or(|app| subject.app == Some(app))
        && on
            .region
            .as_deref()
            .is_none_or(|region| subject.region == Some(region))
        && name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rules: &[&str]) -> FaultInjector {
        let rules = rules.iter().map(|r| r.parse().expect("a sound rule"));
        FaultInjector::new(rules.collect(), false)
    }

    fn create(name: &str) -> Subject<'_> {
        Subject {
            call: "create",
            app: Some("boxes"),
            name: Some(name),
            region: Some("ams"),
            id: "boxes",
        }
    }

    fn refused(faults: &FaultInjector, subject: Subject<'_>) -> bool {
        faults.consult(subject, 0).instead.is_some()
    }

    #[test]
    fn a_rule_meets_only_what_it_is_about() {
        for (rule, expected) in [
            ("create: drop", true),
            ("*: drop", true),
            ("get: drop", false),
            ("create app=boxes: drop", true),
            ("create app=other: drop", false),
            ("create name=run-1: drop", true),
            ("create name=run-*: drop", true),
            ("create name=run: drop", false),
            ("create region=ams: drop", true),
            ("create region=fra: drop", false),
        ] {
            assert_eq!(
                refused(&faults(&[rule]), create("run-1")),
                expected,
                "{rule}"
            );
        }
    }

    #[test]
    fn turns_are_counted() {
        let pattern = |rule: &str| {
            let faults = faults(&[rule]);
            (0..6)
                .map(|_| {
                    if refused(&faults, create("a")) {
                        'x'
                    } else {
                        '.'
                    }
                })
                .collect::<String>()
        };
        assert_eq!(pattern("create nth=2: drop"), ".x....");
        assert_eq!(pattern("create every=2: drop"), ".x.x.x");
        assert_eq!(pattern("create times=2: drop"), "xx....");
        assert_eq!(pattern("create every=2 times=1: drop"), ".x....");
        assert_eq!(pattern("create p=0: drop"), "......");
        assert_eq!(pattern("create p=1: drop"), "xxxxxx");
        assert_eq!(
            pattern("create p=0.5 seed=3: drop"),
            pattern("create p=0.5 seed=3: drop")
        );
    }

    #[test]
    fn rules_add_up_until_one_takes_the_place_of_the_call() {
        let faults = faults(&[
            "create: delay ms=10",
            "create: lose",
            "create: hide ms=5",
            "create: delay ms=20",
            "create: refuse status=500",
            "create: hang",
        ]);
        let verdict = faults.consult(create("a"), 0);
        assert_eq!(verdict.delay, Duration::from_millis(30));
        assert_eq!(verdict.spoil, Some(Spoil::Lose));
        assert_eq!(verdict.machine_faults.len(), 1);
        assert!(matches!(verdict.instead, Some(Instead::Refuse(r)) if r.status == 500));
        let counts = serde_json::to_value(faults.counts()).expect("counts are JSON");
        assert_eq!(counts["rules"][4]["fired"], 1);
        assert_eq!(counts["rules"][5]["seen"], 0);
    }

    #[test]
    fn shortages_are_asked_for_by_region() {
        let faults = faults(&["create region=ams times=1: no-capacity"]);
        assert!(!refused(&faults, create("a")));
        let fra = Subject {
            region: Some("fra"),
            ..create("a")
        };
        assert_eq!(faults.shortage(fra), None);
        assert_eq!(faults.shortage(create("a")), Some(Shortage::Region));
        assert_eq!(faults.shortage(create("a")), None);
    }

    #[test]
    fn the_documented_limits_hold_when_asked_for() {
        let limited = FaultInjector::new(Vec::new(), true);
        let burst: Vec<bool> = (0..4).map(|_| refused(&limited, create("a"))).collect();
        assert_eq!(burst, [false, false, false, true]);
        assert_eq!(limited.counts().rate_limited, 1);
    }
}
