//! What the README tells is held to the code.

mod snippets;
mod speed;

use std::fs;
use std::path::PathBuf;

use cofferdam::config::Command;
use cofferdam::config::table::{SETTINGS, Setting, Unset};

const BEGIN: &str = "<!-- settings: made from src/config/table.rs, BLESS=1 writes it anew -->\n";
const END: &str = "<!-- end of settings -->";

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

#[test]
fn the_table_of_settings_is_the_codes() {
    let text = fs::read_to_string(readme()).unwrap();
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the README has the beginning of the table");
    let (found, after) = rest
        .split_once(END)
        .expect("the README has the end of the table");
    if std::env::var_os("BLESS").is_some() {
        fs::write(readme(), format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(found, table(), "BLESS=1 writes it anew");
}
