//! What the README and the pages of `docs` tell is held to the code.

mod metrics;
mod named;
mod snippets;
mod speed;

use std::fs;
use std::path::PathBuf;

use cofferdam::config::table::{SETTINGS, Setting, Unset};
use cofferdam::config::{Command, usage};

const BEGIN: &str = "<!-- settings: made from src/config/table.rs, BLESS=1 writes it anew -->\n";
const END: &str = "<!-- end of settings -->";
const METRICS_BEGIN: &str = "<!-- metrics: made from src/telemetry, BLESS=1 writes it anew -->\n";
const METRICS_END: &str = "<!-- end of metrics -->";

/// The README.
const README: &str = "README.md";

/// A file of the repository.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Pages outside `docs`.
const OTHERS: [&str; 4] = [README, "CONTRIBUTING.md", "SECURITY.md", "tests/README.md"];

/// Every page for people, by its name.
fn pages() -> Vec<String> {
    let pages = fs::read_dir(path("docs")).unwrap().map(|page| {
        let page = page.unwrap().file_name().into_string().unwrap();
        format!("docs/{page}")
    });
    let pages = pages.filter(|page| page.ends_with(".md"));
    pages.chain(OTHERS.map(str::to_owned)).collect()
}

fn table() -> String {
    let head =
        "| Setting | Default | Read by | What, and *why so* |\n|---|---|---|---|\n".to_owned();
    SETTINGS
        .iter()
        .fold(head, |table, setting| table + &row(setting))
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        Unset::Text(text) => format!("`{text}`"),
        _ => setting.default_shown().to_owned(),
    };
    let (name, users) = (setting.name, users(&usage::commands_of(setting)));
    format!(
        "| `{name}` | {default} | {users} | {} *{}* |\n",
        setting.meaning, setting.why
    )
}

/// The commands as one word each; those that only ask and tell go together.
fn users(commands: &[Command]) -> String {
    let mut words: Vec<&str> = commands.iter().map(|command| word(*command)).collect();
    words.dedup();
    words.join(", ")
}

fn word(command: Command) -> &'static str {
    match command {
        Command::Up => "up",
        Command::Worker => "worker",
        Command::Serve => "serve",
        Command::Machines => "machines",
        Command::Images => "images",
        Command::Submit
        | Command::Show
        | Command::Logs
        | Command::Runs
        | Command::Results
        | Command::Artifacts
        | Command::Cancel
        | Command::Tenants
        | Command::Usage
        | Command::Dead
        | Command::Run
        | Command::Doctor
        | Command::Rerun
        | Command::Priority
        | Command::Workers
        | Command::Top => "tools",
        Command::Console => "console",
    }
}

/// Holds what stands between two marks of a page to `wanted`, or writes it there.
fn hold(page: &str, begin: &str, end: &str, wanted: &str) {
    let text = read(page);
    let (before, rest) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("{page} has no {begin}"));
    let (found, after) = rest
        .split_once(end)
        .unwrap_or_else(|| panic!("{page} has no {end}"));
    if std::env::var_os("BLESS").is_some() {
        fs::write(path(page), format!("{before}{begin}{wanted}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(found, wanted, "BLESS=1 writes it anew");
}

#[test]
fn the_table_of_settings_is_the_codes() {
    hold("docs/settings.md", BEGIN, END, &table());
}

#[test]
fn the_table_of_metrics_is_the_codes() {
    hold(
        "docs/operations.md",
        METRICS_BEGIN,
        METRICS_END,
        &metrics::table(),
    );
}

/// Whoever reads it for the first time reads all of it.
#[test]
fn the_readme_is_short() {
    let lines = read(README).lines().count();
    assert!(lines <= 250, "{lines} lines");
}

/// A link that leads nowhere is worse than none.
#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    for page in pages() {
        let text = read(&page);
        let folder = path(&page).parent().unwrap().to_owned();
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path(&page),
                file => folder.join(file),
            };
            assert!(target.exists(), "{page} links to {link}");
            if !heading.is_empty() {
                let target = fs::read_to_string(target).unwrap();
                let mut headings = target.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{page} links to {link}"
                );
            }
        }
    }
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
