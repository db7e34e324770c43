//! Checks what the local Machines server needs of this host: runs its trial machines here.

use url::{Host, Url};

use crate::cli::doctor::Finding;
use crate::cli::target;
use crate::config::Doctor;
use cofferdam_sandbox::{Enforcement, Engine, Error, Report, Settings};

const SANDBOX: &str = "sandbox";
const LIMITS: &str = "sandbox limits";

/// Runs trial machines when the local server is in use here, or when `asked` to.
pub(super) async fn check(doctor: &Doctor, asked: bool) -> Vec<Finding> {
    if !asked && !is_in_use(doctor) {
        return Vec::new();
    }
    let Some(state_dir) = &doctor.tool.state_dir else {
        let remedy = "set COFFERDAM_STATE_DIR";
        return vec![Finding::warn(SANDBOX, "there is no state folder", remedy)];
    };
    // A folder of its own, since a server may be working in the other; the same each time, so that
    // what is left by a check that was killed is removed by the next one.
    let mut settings = Settings::new(state_dir.join("doctor"));
    settings.require_limits = false;
    match Engine::open(settings).await {
        Ok((engine, report)) => {
            engine.close().await;
            vec![walls(&report), limits(&report)]
        }
        Err(error) => vec![refused(error)],
    }
}

/// Whether the Machines API in use is a server on this host.
fn is_in_use(doctor: &Doctor) -> bool {
    if let Some(url) = &doctor.api.url {
        return is_here(url);
    }
    target::running(&doctor.tool).is_some_and(|ready| {
        let url = Url::parse(&ready.fly_api_url);
        url.is_ok_and(|url| is_here(&url))
    })
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn walls(report: &Report) -> Finding {
    let found = format!(
        "a trial machine ran here, isolation={} files={}",
        report.isolation, report.files
    );
    Finding::ok(SANDBOX, found)
}

fn limits(report: &Report) -> Finding {
    let all = [
        ("memory", report.memory),
        ("processes", report.processes),
        ("cpu", report.cpu),
        ("disk", report.disk),
        ("output", report.output),
    ];
    let said = |(name, hold): &(&str, Enforcement)| format!("{name}={hold}");
    let held: Vec<_> = all.iter().map(said).collect();
    let found = format!("limits={}: {}", report.limits, held.join(" "));
    if report.holds() {
        Finding::ok(LIMITS, found)
    } else {
        Finding::warn(LIMITS, found, report.advice.clone())
    }
}

fn refused(error: Error) -> Finding {
    match error {
        Error::Unavailable { reason, remedy } => Finding::fail(SANDBOX, reason, remedy),
        Error::Locked { .. } => {
            let remedy = "wait until that has ended";
            Finding::warn(SANDBOX, "another `doctor` is checking", remedy)
        }
        other => {
            let why = std::error::Error::source(&other).map(|cause| format!(": {cause}"));
            let found = format!("{other}{}", why.unwrap_or_default());
            Finding::fail(SANDBOX, found, "the local Machines server needs it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_sandbox::{Files, Limits};

    fn report(cpu: Enforcement, advice: &str) -> Report {
        Report {
            isolation: "namespaces",
            files: Files::Own,
            limits: Limits::Cgroup2,
            memory: Enforcement::Whole,
            processes: Enforcement::Whole,
            cpu,
            disk: Enforcement::Whole,
            output: Enforcement::Whole,
            advice: advice.to_owned(),
        }
    }

    #[test]
    fn a_limit_that_does_not_hold_is_named_with_what_would_help() {
        let good = limits(&report(Enforcement::Whole, ""));
        assert_eq!(good.remedy, None);
        let bad = limits(&report(Enforcement::Nothing, "delegate cpu"));
        assert!(bad.found.contains("memory=machine") && bad.found.contains("cpu=none"));
        assert_eq!(bad.remedy.as_deref(), Some("delegate cpu"));
    }

    #[test]
    fn only_a_server_on_this_host_is_checked_unasked() {
        for (url, expected) in [
            ("http://127.0.0.1:4280/v1", true),
            ("http://localhost:4280/v1", true),
            ("http://[::1]:4280/v1", true),
            ("http://_api.internal:4280/v1", false),
            ("http://machines:4280/v1", false),
            ("https://api.machines.dev/v1", false),
        ] {
            assert_eq!(is_here(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
