//! `doctor`: checks everything around cofferdam and says what to do about it.

mod address;
mod foreign;
mod machines;
#[cfg(feature = "local")]
mod sandbox;
mod store;

use serde::Serialize;

use crate::cli::args::Doctor;
use crate::cli::human;
use crate::cli::output::{Output, Tone};
use crate::cli::settings as flags;
use crate::cli::status::Status;
use crate::cli::target;
use crate::config::{self, Fault, Unknown};
use crate::console;

/// The outcome of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked.
    pub(super) what: &'static str,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    pub(super) fn warn(
        what: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self {
            what,
            verdict: Verdict::Warn,
            found: found.into(),
            remedy,
        }
    }

    pub(super) fn fail(
        what: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self {
            what,
            verdict: Verdict::Fail,
            found: found.into(),
            remedy,
        }
    }
}

pub(super) async fn run(
    args: &Doctor,
    (settings, faults): (config::Doctor, Vec<Fault>),
    out: &mut Output,
) -> anyhow::Result<Status> {
    let mut findings: Vec<Finding> = faults.into_iter().map(fault).collect();
    findings.extend(flags::unknown_variables().into_iter().map(unknown_variable));
    findings.extend(around(&settings).await);
    #[cfg(feature = "local")]
    findings.extend(sandbox::check(&settings, args.sandbox).await);
    #[cfg(not(feature = "local"))]
    if args.sandbox {
        let remedy = "ask a build that has it";
        findings.push(Finding::fail("sandbox", super::NO_LOCAL_SERVER, remedy));
    }
    findings.extend(own(&settings).await);
    for finding in &findings {
        if args.format.json {
            out.json(finding)?;
        } else {
            print_finding(out, finding)?;
        }
    }
    let failed = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .count();
    if failed == 0 {
        return Ok(Status::Done);
    }
    let line = out.paint_note(
        Tone::Bad,
        &human::count(failed, "check failed", "checks failed"),
    );
    out.note(&line)?;
    Ok(Status::Failed)
}

/// What the console shows: everything but trial machines.
pub(super) async fn findings(settings: &config::Doctor) -> Vec<Finding> {
    let mut findings = around(settings).await;
    findings.extend(own(settings).await);
    findings
}

async fn around(settings: &config::Doctor) -> Vec<Finding> {
    let mut findings = store::check(settings).await;
    findings.extend(machines::check(settings).await);
    findings.extend(foreign::check(settings).await);
    findings
}

async fn own(settings: &config::Doctor) -> Vec<Finding> {
    vec![keys(settings), address::check(settings).await]
}

impl From<Finding> for console::Finding {
    fn from(finding: Finding) -> Self {
        Self {
            what: finding.what.to_owned(),
            verdict: match finding.verdict {
                Verdict::Ok => console::Verdict::Ok,
                Verdict::Warn => console::Verdict::Warn,
                Verdict::Fail => console::Verdict::Fail,
            },
            found: finding.found,
            remedy: finding.remedy,
        }
    }
}

fn print_finding(out: &mut Output, finding: &Finding) -> anyhow::Result<()> {
    let (tone, word) = match finding.verdict {
        Verdict::Ok => (Tone::Good, "ok  "),
        Verdict::Warn => (Tone::Notice, "warn"),
        Verdict::Fail => (Tone::Bad, "fail"),
    };
    let word = out.paint(tone, word);
    let found = human::one_line(&finding.found, 500);
    out.line(&format!("{word}  {:<18} {found}", finding.what))?;
    if let Some(remedy) = &finding.remedy {
        let remedy = out.paint(Tone::Faint, &format!("{:<24} → {remedy}", ""));
        out.line(&remedy)?;
    }
    Ok(())
}

fn fault(fault: Fault) -> Finding {
    let remedy = "no command that uses it starts like this";
    Finding::fail(fault.name, fault.problem, remedy)
}

fn unknown_variable(unknown: Unknown) -> Finding {
    let remedy = match unknown.nearest {
        Some(nearest) => format!("is {nearest} meant?"),
        None => "docs/settings.md has a table of the settings".to_owned(),
    };
    let found = format!("{} is set, and no setting has this name", unknown.name);
    Finding::warn("settings", found, remedy)
}

fn keys(settings: &config::Doctor) -> Finding {
    const WHAT: &str = "signing keys";
    match &settings.keys {
        Some(keys) => {
            let ids: Vec<_> = keys.iter().map(|key| key.kid.as_str()).collect();
            Finding::ok(WHAT, format!("{} signs, {} verify", ids[0], ids.join(", ")))
        }
        None if target::running(&settings.tool).is_some() => {
            Finding::ok(WHAT, "kept by the running `up`")
        }
        None => Finding::warn(
            WHAT,
            "COFFERDAM_SIGNING_KEYS is not set",
            "worker and serve need the same keys: k1:$(openssl rand -base64 32)",
        ),
    }
}
