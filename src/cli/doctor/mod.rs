//! `doctor`: looks at everything around cofferdam and says what to do about it.

mod address;
mod foreign;
mod machines;
mod sandbox;
mod store;

use serde::Serialize;

use crate::cli::args::Doctor;
use crate::cli::human;
use crate::cli::place;
use crate::cli::say::{Say, Tone};
use crate::cli::settings;
use crate::cli::status::Status;
use crate::config::{Fault, Tool, Unknown};

/// What one look came to.
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
    /// What was looked at.
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
    (tool, faults): (Tool, Vec<Fault>),
    say: &mut Say,
) -> anyhow::Result<Status> {
    let mut findings: Vec<Finding> = faults.into_iter().map(fault).collect();
    findings.extend(settings::misspelt().into_iter().map(misspelt));
    findings.extend(store::look(&tool).await);
    findings.extend(machines::look(&tool).await);
    findings.extend(foreign::look(&tool).await);
    findings.extend(sandbox::look(&tool, args.sandbox).await);
    findings.push(keys(&tool));
    findings.push(address::look(&tool).await);
    for finding in &findings {
        if args.format.json {
            say.json(finding)?;
        } else {
            tell(say, finding)?;
        }
    }
    let failed = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .count();
    if failed == 0 {
        return Ok(Status::Done);
    }
    let line = say.paint_note(
        Tone::Bad,
        &human::count(failed, "look failed", "looks failed"),
    );
    say.note(&line)?;
    Ok(Status::Failed)
}

fn tell(say: &mut Say, finding: &Finding) -> anyhow::Result<()> {
    let (tone, word) = match finding.verdict {
        Verdict::Ok => (Tone::Good, "ok  "),
        Verdict::Warn => (Tone::Notice, "warn"),
        Verdict::Fail => (Tone::Bad, "fail"),
    };
    let word = say.paint(tone, word);
    let found = human::one_line(&finding.found, 500);
    say.line(&format!("{word}  {:<18} {found}", finding.what))?;
    if let Some(remedy) = &finding.remedy {
        let remedy = say.paint(Tone::Faint, &format!("{:<24} → {remedy}", ""));
        say.line(&remedy)?;
    }
    Ok(())
}

fn fault(fault: Fault) -> Finding {
    let remedy = "no command that uses it starts like this";
    Finding::fail(fault.name, fault.problem, remedy)
}

fn misspelt(unknown: Unknown) -> Finding {
    let remedy = match unknown.nearest {
        Some(nearest) => format!("is {nearest} meant?"),
        None => "docs/settings.md has a table of the settings".to_owned(),
    };
    let found = format!("{} is set, and no setting has this name", unknown.name);
    Finding::warn("settings", found, remedy)
}

fn keys(tool: &Tool) -> Finding {
    const WHAT: &str = "signing keys";
    match &tool.keys {
        Some(keys) => {
            let ids: Vec<_> = keys.iter().map(|key| key.kid.as_str()).collect();
            Finding::ok(WHAT, format!("{} signs, {} verify", ids[0], ids.join(", ")))
        }
        None if place::running(tool).is_some() => Finding::ok(WHAT, "kept by the running `up`"),
        None => Finding::warn(
            WHAT,
            "COFFERDAM_SIGNING_KEYS is not set",
            "worker and serve need the same keys: k1:$(openssl rand -base64 32)",
        ),
    }
}
