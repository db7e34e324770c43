//! The table of metrics, read out of what a process answers at its start.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::parts;

/// Values of a label that are listed.
const LISTED_MAX: usize = 30;

/// One family of series.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    /// Each label and its values, in the order of the alphabet.
    labels: BTreeMap<String, BTreeSet<String>>,
}

pub(super) fn table() -> String {
    let head = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
    families(&parts::all_series())
        .iter()
        .fold(head, |table, (name, family)| table + &row(name, family))
}

fn row(name: &str, family: &Family) -> String {
    let label = |(label, values): (&String, &BTreeSet<String>)| {
        if label == "group" || values.len() > LISTED_MAX {
            return format!("`{label}`");
        }
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        format!("`{label}`: {}", values.join(", "))
    };
    let labels: Vec<_> = family.labels.iter().map(label).collect();
    let (kind, labels, help) = (&family.kind, labels.join("; "), &family.help);
    format!("| `{name}` | {kind} | {labels} | {help} |\n")
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                families.entry(name.into()).or_default().help = help.into()
            }
            ["#", "TYPE", name, kind] => {
                families.entry(name.into()).or_default().kind = kind.into()
            }
            [series, ..] => {
                // A histogram's bounds (`le`) are of its kind and no label of ours.
                let Some((name, labels)) = series.split_once('{') else {
                    continue;
                };
                let name = name.strip_suffix("_bucket").unwrap_or(name);
                let Some(family) = families.get_mut(name) else {
                    continue;
                };
                let labels = labels.split_once('}').unwrap().0;
                for pair in labels.split(',') {
                    let (label, value) = pair.split_once('=').unwrap();
                    if label == "le" {
                        continue;
                    }
                    let values = family.labels.entry(label.into()).or_default();
                    values.insert(value.trim_matches('"').into());
                }
            }
            [] => {}
        }
    }
    families
}

#[test]
fn every_family_has_a_kind_a_meaning_and_its_labels() {
    let families = families(&parts::all_series());
    for (name, family) in &families {
        assert!(!family.kind.is_empty() && !family.help.is_empty(), "{name}");
    }
    let calls = &families["cofferdam_machines_api_responses_total"].labels["call"];
    assert!(
        calls.contains("create") && calls.contains("delete"),
        "{calls:?}"
    );
    assert_eq!(families["cofferdam_boot_duration_seconds"].labels.len(), 0);
}
