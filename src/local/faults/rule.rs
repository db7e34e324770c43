//! One fault: which calls it is about, and what it does to them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::local::faults::bucket::Rate;
use crate::local::faults::capacity::Shortage;
use crate::local::faults::words::{self, Words};
use crate::local::refusal::{Refusal, Shape};
use crate::local::routes::CALLS;

/// A fault rule.
///
/// One line of text, `CALL [key=value…]: ACTION [key=value…]`:
///
/// ```text
/// create times=3: refuse status=503 error="try again"
/// create app=sandboxes nth=2: lose
/// get name=sandbox-*: delay ms=250
/// * p=0.05 seed=7: drop
/// ```
///
/// | Before the colon | |
/// |---|---|
/// | a call, or `*` | `create`, `get`, `wait`, `delete`, … |
/// | `app=`, `region=` | only calls about that app or region |
/// | `name=` | only machines of that name; a `*` at its end stands for any ending |
/// | `nth=N` | only the Nth call that matches; `every=N` each Nth |
/// | `times=N` | at most N times in all |
/// | `p=0.1` | with that probability, drawn from `seed=` (1 by default) |
///
/// | Action | |
/// |---|---|
/// | `refuse status=S [error=] [code=] [body=] [retry_after_s=]` | answers that, and does nothing |
/// | `delay ms=N` | waits before the call is looked at |
/// | `drop` | closes the connection without doing anything |
/// | `lose [status=S]` | does it, then closes the connection without an answer, or answers that |
/// | `cut` | does it, then sends half of the answer's body |
/// | `hang` | does nothing and never answers |
/// | `rate-limit per_s=R burst=B` | 429 above that rate, for each machine or app |
/// | `no-capacity [kind=]` | a region or host is full: `region`, `memory`, `cpus`, `resources`, `ips`, `volume`, `quota`, `governor` |
/// | `forget` | the machine is gone, and never was |
/// | `hide ms=N` | create only: get, list and wait do not see the machine for that long |
/// | `slow-pull ms=N` | create only: the machine stays `created` for that long |
/// | `stick state=S [ms=N]` | the machine stays in `created`, `starting`, `stopping`, `restarting`, `replacing` or `destroying` |
/// | `unreachable` | the machine's host does not answer: `host_status` says so, changes get 408 |
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    text: String,
    pub(super) on: Match,
    pub(super) action: RuleAction,
}

/// Why a text is not a rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("fault rule \"{rule}\": {fault}")]
pub struct RuleError {
    rule: String,
    fault: String,
}

/// Which calls a rule is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Match {
    /// `None` for every call.
    pub(super) call: Option<&'static str>,
    pub(super) app: Option<String>,
    pub(super) name: Option<String>,
    pub(super) region: Option<String>,
    pub(super) nth: Option<u64>,
    pub(super) every: Option<u64>,
    pub(super) times: Option<u64>,
    pub(super) probability: Option<f64>,
    pub(super) seed: u64,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RuleAction {
    Refuse(Refusal),
    Delay(Duration),
    Drop,
    Lose(Option<u16>),
    Cut,
    Hang,
    RateLimit(Rate),
    NoCapacity(Shortage),
    Machine(MachineFault),
}

/// What a rule does to a machine rather than to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MachineFault {
    /// The registry loses it, and its processes end.
    Forget,
    /// It cannot be seen for so long.
    Hide(Duration),
    /// Its image takes so long to come.
    SlowPull(Duration),
    /// It stays in a state, for ever or for so long.
    Stick(StuckIn, Option<Duration>),
    /// Its host does not answer.
    Unreachable,
}

/// States in which a machine can be made to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StuckIn {
    /// Before its start.
    Created,
    /// During its start.
    Starting,
    /// Asked to stop, and not stopping.
    Stopping,
    /// Asked to restart, and not ending.
    Restarting,
    /// Being updated, and not ending.
    Replacing,
    /// Asked to be destroyed, and not gone.
    Destroying,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse(text).map_err(|fault| RuleError {
            rule: text.to_owned(),
            fault,
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(text: &str) -> Result<Rule, String> {
    let (on, action) = words::split(text)?;
    let on = parse_match(on)?;
    let action = parse_action(action, on.call)?;
    Ok(Rule {
        text: text.to_owned(),
        on,
        action,
    })
}

fn parse_match(mut words: Words) -> Result<Match, String> {
    let call =
        match words.head.as_str() {
            "*" => None,
            name => Some(*CALLS.iter().find(|call| **call == name).ok_or_else(|| {
                format!("there is no call '{name}'; calls are {}", CALLS.join(", "))
            })?),
        };
    let found = Match {
        call,
        app: words.text("app"),
        name: words.text("name"),
        region: words.text("region"),
        nth: words.number("nth")?,
        every: words.number("every")?,
        times: words.number("times")?,
        probability: words.number("p")?,
        seed: words.number("seed")?.unwrap_or(1),
    };
    words.finish()?;
    if found.nth == Some(0) || found.every == Some(0) {
        return Err("nth= and every= count from 1".to_owned());
    }
    if found.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
        return Err("p= is between 0 and 1".to_owned());
    }
    Ok(found)
}

fn parse_action(mut words: Words, call: Option<&str>) -> Result<RuleAction, String> {
    let create_only = |action: RuleAction| match call {
        Some("create") => Ok(action),
        _ => Err("it is about create only".to_owned()),
    };
    let action = match words.head.as_str() {
        "refuse" => RuleAction::Refuse(parse_refusal(&mut words)?),
        "delay" => RuleAction::Delay(parse_ms(&mut words)?),
        "drop" => RuleAction::Drop,
        "lose" => RuleAction::Lose(parse_status(&mut words)?),
        "cut" => RuleAction::Cut,
        "hang" => RuleAction::Hang,
        "rate-limit" => RuleAction::RateLimit(parse_rate(&mut words)?),
        "no-capacity" => RuleAction::NoCapacity(match words.text("kind") {
            None => Shortage::Region,
            Some(kind) => Shortage::parse(&kind)?,
        }),
        "forget" => RuleAction::Machine(MachineFault::Forget),
        "hide" => create_only(RuleAction::Machine(MachineFault::Hide(parse_ms(
            &mut words,
        )?)))?,
        "slow-pull" => create_only(RuleAction::Machine(MachineFault::SlowPull(parse_ms(
            &mut words,
        )?)))?,
        "stick" => RuleAction::Machine(parse_stick(&mut words)?),
        "unreachable" => RuleAction::Machine(MachineFault::Unreachable),
        other => return Err(format!("there is no action '{other}'")),
    };
    words.finish()?;
    Ok(action)
}

fn parse_status(words: &mut Words) -> Result<Option<u16>, String> {
    match words.number("status")? {
        Some(status) if !(200..=599).contains(&status) => {
            Err(format!("status={status} is not between 200 and 599"))
        }
        status => Ok(status),
    }
}

fn parse_refusal(words: &mut Words) -> Result<Refusal, String> {
    let status = parse_status(words)?.ok_or("'refuse' needs status=")?;
    let mut refusal = match (words.text("body"), words.text("error")) {
        (Some(_), Some(_)) => return Err("it has either body= or error=".to_owned()),
        (Some(body), None) => Refusal {
            shape: Shape::Verbatim,
            ..Refusal::new(status, body)
        },
        (None, error) => Refusal::new(status, error.unwrap_or_else(|| "fault rule".to_owned())),
    };
    refusal.code = words.text("code").map(Into::into);
    refusal.retry_after_s = words.number("retry_after_s")?;
    Ok(refusal)
}

fn parse_ms(words: &mut Words) -> Result<Duration, String> {
    let ms: u64 = words.required("ms")?;
    if ms > 3_600_000 {
        return Err(format!("ms={ms} is more than an hour"));
    }
    Ok(Duration::from_millis(ms))
}

fn parse_rate(words: &mut Words) -> Result<Rate, String> {
    let rate = Rate {
        per_s: words.required("per_s")?,
        burst: words.required("burst")?,
    };
    let sound = rate.per_s >= 0.0 && rate.burst >= 1.0 && rate.per_s <= 1e6 && rate.burst <= 1e6;
    if sound {
        Ok(rate)
    } else {
        Err("per_s= is 0 or more, burst= is 1 or more, both at most a million".to_owned())
    }
}

fn parse_stick(words: &mut Words) -> Result<MachineFault, String> {
    let state = match words.text("state").as_deref() {
        Some("created") => StuckIn::Created,
        Some("starting") => StuckIn::Starting,
        Some("stopping") => StuckIn::Stopping,
        Some("restarting") => StuckIn::Restarting,
        Some("replacing") => StuckIn::Replacing,
        Some("destroying") => StuckIn::Destroying,
        Some(other) => return Err(format!("a machine cannot be made to stay in '{other}'")),
        None => return Err("'stick' needs state=".to_owned()),
    };
    let for_ms: Option<u64> = words.number("ms")?;
    Ok(MachineFault::Stick(
        state,
        for_ms.map(Duration::from_millis),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn rule(text: &str) -> Rule {
        text.parse().expect("a sound rule")
    }

    #[test]
    fn rules_are_read_as_written() {
        let refuse =
            rule(r#"create app=a name=run-* times=3: refuse status=503 error="try \"again\"""#);
        assert_eq!(refuse.on.call, Some("create"));
        assert_eq!(refuse.on.app.as_deref(), Some("a"));
        assert_eq!(refuse.on.times, Some(3));
        let RuleAction::Refuse(refusal) = &refuse.action else {
            panic!("{refuse:?}");
        };
        assert_eq!(
            (refusal.status, refusal.error.as_ref()),
            (503, "try \"again\"")
        );
        assert_eq!(rule("* : drop").action, RuleAction::Drop);
        assert_eq!(rule("*: lose").on.call, None);
        assert_eq!(
            rule("create: hide ms=20").action,
            RuleAction::Machine(MachineFault::Hide(Duration::from_millis(20)))
        );
        assert_eq!(
            rule("delete: stick state=destroying").action,
            RuleAction::Machine(MachineFault::Stick(StuckIn::Destroying, None))
        );
        assert_eq!(
            rule("create region=ams: no-capacity kind=memory").action,
            RuleAction::NoCapacity(Shortage::Memory)
        );
        assert_eq!(refuse.to_string(), refuse.text);
    }

    #[test]
    fn a_body_may_hold_anything() {
        let body = rule(r#"get: refuse status=200 body="{\"id\": \"x: y\"}""#);
        let RuleAction::Refuse(refusal) = &body.action else {
            panic!("{body:?}");
        };
        assert_eq!(refusal.error, r#"{"id": "x: y"}"#);
        assert_eq!(refusal.shape, Shape::Verbatim);
    }

    #[test]
    fn unsound_rules_are_named() {
        for (text, expected) in [
            ("create refuse", "no ':'"),
            (": refuse status=500", "needs a call"),
            ("create:", "needs an action"),
            ("creat: drop", "no call 'creat'"),
            ("create: explode", "no action 'explode'"),
            ("create: refuse", "needs status="),
            ("create: refuse status=99", "not between 200 and 599"),
            ("create: refuse status=abc", "status=abc is not a number"),
            ("create: drop ms=3", "has no setting 'ms'"),
            ("create nme=x: drop", "has no setting 'nme'"),
            ("create nth=1 nth=2: drop", "'nth' is given twice"),
            ("create nth=0: drop", "count from 1"),
            ("create p=1.5: drop", "between 0 and 1"),
            ("get: hide ms=5", "about create only"),
            ("*: slow-pull ms=5", "about create only"),
            (
                "get: stick state=started",
                "cannot be made to stay in 'started'",
            ),
            ("get: delay ms=99999999", "more than an hour"),
            ("get: refuse status=500 error=\"x", "a quote is not closed"),
            ("get: no-capacity kind=moon", "no shortage 'moon'"),
            ("get: rate-limit per_s=1 burst=0", "burst= is 1 or more"),
        ] {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(error.contains(text), "{error}");
        }
    }
}
