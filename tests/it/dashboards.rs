//! The alerts and the dashboard that come with cofferdam name series that exist, and each alert has its
//! paragraph; `promtool` checks the rest where it is installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::parts::{self, skipped};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Every name that a series has, `_bucket` and all.
fn known() -> BTreeSet<String> {
    let text = parts::all_series();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

/// Words of a text that look like one of our series.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours =
        words.filter(|word| word.starts_with("cofferdam_") && word.len() > "cofferdam_".len());
    ours.map(str::to_owned).collect()
}

#[test]
fn every_series_that_alerts_and_dashboard_name_exists() {
    let known = known();
    for file in ["ops/alerts.yml", "ops/alerts_test.yml", "ops/grafana.json"] {
        let named = named(&fs::read_to_string(root().join(file)).unwrap());
        assert!(named.len() > 2, "{file}: {named:?}");
        let missing: Vec<_> = named.difference(&known).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    // Labels too: an outcome that does not exist would never fire.
    let alerts = fs::read_to_string(root().join("ops/alerts.yml")).unwrap();
    assert!(alerts.contains("failed|timed_out"));
}

#[test]
fn each_alert_has_a_paragraph_of_what_to_do() {
    let alerts = fs::read_to_string(root().join("ops/alerts.yml")).unwrap();
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let link = format!("runbook: docs/operations.md#{}", name.to_lowercase());
        assert!(alerts.contains(&link), "{name} names no paragraph");
        let paragraph = page.split(&format!("### {name}\n")).nth(1);
        let paragraph = paragraph.unwrap_or_else(|| panic!("{name} has no paragraph"));
        let paragraph = paragraph.split("\n##").next().unwrap();
        assert!(paragraph.len() > 100, "{name}: {paragraph}");
    }
    let headings = page
        .lines()
        .filter_map(|line| line.strip_prefix("### Cofferdam"));
    assert_eq!(
        headings.count(),
        names.len(),
        "a paragraph of an alert that is gone"
    );
}

#[test]
fn promtool_accepts_the_rules_and_the_series() {
    if Command::new("promtool").arg("--version").output().is_err() {
        skipped("promtool is not installed: apt install prometheus");
        return;
    }
    let ops = root().join("ops");
    for args in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let ran = Command::new("promtool")
            .args(args)
            .current_dir(&ops)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{args:?}: {said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics");
    fs::write(&file, parts::all_series()).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    promtool.stdin(fs::File::open(&file).unwrap());
    let ran = promtool.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.trim().is_empty(), "{said}");
}
