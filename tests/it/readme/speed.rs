//! The tables of `docs/performance.md` are what was measured last: no figure in it was written by hand.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

const BEGIN: &str = "<!-- speed: made from benches/results.json, BLESS=1 writes it anew -->\n";
const END: &str = "<!-- end of speed -->";

/// What stands in the way of a target, by the beginning of its name, for as long as it is missed.
const OBSTACLES: [(&str, &str); 10] = [
    (
        "worker + endpoint",
        "it makes the floor's calls and no more; the rest is tokens, checks of requests, limits, \
         leases, counts and a general HTTP client. A profile of the worker (`perf`, when it had two threads) is flat: 28 % \
         the kernel's network, 13 % the allocator, 11 % HTTP client, 7 % tokio, 6 % copying, 5 % \
         reading Redis's answers, 4 % addresses, 5 % our own code",
    ),
    (
        "the peer's",
        "the peer keeps next to no state; the rest is our distance from the floor",
    ),
    (
        "runs per second at 10 ms",
        "no profile says yet; runs are claimed 32 at a time, one claim after another",
    ),
    (
        "runs per second",
        "on two shared processors it follows from the processor time of all parts",
    ),
    (
        "Redis processor",
        "a run's scripts give some 35 commands, for turns, caps, deadlines, leases and counts, and \
         the floor's 11; in a profile (`callgrind`) 81 % is in scripts, the half of it in their \
         commands",
    ),
    (
        "XADD to create call",
        "four wake-ups of sleeping processes and three round trips, each on a processor at rest",
    ),
    (
        "a plain command",
        "it passes four processes beside those of its sandbox, on two processors that other work used \
         too; no profile says yet which of them takes it",
    ),
    ("plain commands per second", "the same; no profile says yet"),
    ("cost at", "no profile says yet"),
    (
        "worker memory",
        "the peak passes (what stands is in the table of scale); no profile says yet what takes it",
    ),
];

#[derive(Deserialize)]
struct Results {
    measured: Vec<(String, String)>,
    is_short: bool,
    parts: Vec<Part>,
    targets: Vec<Target>,
    skipped: Vec<String>,
}

#[derive(Deserialize)]
struct Part {
    title: String,
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    values: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    bound: f64,
    at_least: bool,
    unit: String,
    shown: String,
    is_met: bool,
}

fn results() -> Results {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn section(results: &Results) -> String {
    let told: Vec<String> = results
        .measured
        .iter()
        .map(|(name, what)| format!("{name} {what}"))
        .collect();
    let mut text = format!("Measured: {}.\n\n", told.join("; "));
    text += "| Figure | Target | Measured | |\n|---|---|---|---|\n";
    for target in &results.targets {
        text += &target_row(target);
    }
    for part in &results.parts {
        text += &format!("\n<details><summary>{}</summary>\n\n", part.title);
        text += &format!(
            "| | {} |\n|---|{}\n",
            part.columns.join(" | "),
            "---|".repeat(part.columns.len())
        );
        for row in &part.rows {
            let values = row
                .values
                .iter()
                .map(|value| value.map_or_else(|| "–".to_owned(), figures));
            let values: Vec<String> = values.collect();
            text += &format!("| {} | {} |\n", row.name, values.join(" | "));
        }
        text += "\n</details>\n";
    }
    for skipped in &results.skipped {
        text += &format!("\nLeft out: {skipped}.\n");
    }
    text
}

fn target_row(target: &Target) -> String {
    let bound = if target.at_least {
        "at least"
    } else {
        "at most"
    };
    let verdict = if target.is_met {
        "met".to_owned()
    } else {
        let why = OBSTACLES
            .iter()
            .find(|(name, _)| target.name.starts_with(name));
        let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
        format!("**missed**{why}")
    };
    let Target {
        name, unit, shown, ..
    } = target;
    format!(
        "| {name} | {bound} {} {unit} | {shown} {unit} | {verdict} |\n",
        target.bound
    )
}

/// As many figures as say something.
fn figures(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[test]
fn the_table_of_speed_is_what_was_measured() {
    let results = results();
    assert!(!results.is_short, "a short look is none for the page");
    super::hold("docs/performance.md", BEGIN, END, &section(&results));
}
