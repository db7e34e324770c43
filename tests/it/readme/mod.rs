//! What the README tells is held to the code.

mod metrics;
mod snippets;
mod speed;

use std::fs;
use std::path::PathBuf;

use cofferdam::config::Command;
use cofferdam::config::table::{SETTINGS, Setting, Unset};

const BEGIN: &str = "<!-- settings: made from src/config/table.rs, BLESS=1 writes it anew -->\n";
const END: &str = "<!-- end of settings -->";
const METRICS_BEGIN: &str = "<!-- metrics: made from src/telemetry, BLESS=1 writes it anew -->\n";
const METRICS_END: &str = "<!-- end of metrics -->";

fn readme() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")
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
    let (name, users) = (setting.name, users(setting.commands));
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
        | Command::Cancel
        | Command::Tenants
        | Command::Usage
        | Command::Dead
        | Command::Doctor => "tools",
    }
}

/// Holds what stands between two marks to `wanted`, or writes it there.
fn hold(begin: &str, end: &str, wanted: &str) {
    let text = fs::read_to_string(readme()).unwrap();
    let (before, rest) = text
        .split_once(begin)
        .expect("the README has the beginning");
    let (found, after) = rest.split_once(end).expect("the README has the end");
    if std::env::var_os("BLESS").is_some() {
        fs::write(readme(), format!("{before}{begin}{wanted}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(found, wanted, "BLESS=1 writes it anew");
}

/// One file holds both tables, and they may be written anew at the same time.
#[test]
fn the_tables_of_settings_and_metrics_are_the_codes() {
    hold(BEGIN, END, &table());
    hold(METRICS_BEGIN, METRICS_END, &metrics::table());
}
