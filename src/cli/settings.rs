//! Settings as flags: each command has one for every setting that it reads, made from the table.

use clap::{Arg, ArgMatches, Command as Clap};

use crate::config::table::{SETTINGS, Setting, Unset};
use crate::config::{self, Command, Unknown, usage};

/// The heading of the flags in a help text.
const HEADING: &str = "Settings";

/// The commands that have settings, by name.
const COMMANDS: &[(&str, Command)] = &[
    ("up", Command::Up),
    ("worker", Command::Worker),
    ("serve", Command::Serve),
    ("machines", Command::Machines),
    ("images", Command::Images),
    ("run", Command::Run),
    ("submit", Command::Submit),
    ("show", Command::Show),
    ("logs", Command::Logs),
    ("runs", Command::Runs),
    ("results", Command::Results),
    ("artifacts", Command::Artifacts),
    ("cancel", Command::Cancel),
    ("tenants", Command::Tenants),
    ("usage", Command::Usage),
    ("dead", Command::Dead),
    ("doctor", Command::Doctor),
    ("rerun", Command::Rerun),
    ("priority", Command::Priority),
    ("workers", Command::Workers),
    ("top", Command::Top),
    ("console", Command::Console),
];

/// Adds the flags to every command, and to its subcommands: `dead list --…`.
pub(crate) fn with_flags(mut cli: Clap) -> Clap {
    for (name, command) in COMMANDS {
        cli = cli.mut_subcommand(name, |sub| {
            let has_subcommands = sub.has_subcommands();
            let read = usage::settings_of(*command).into_iter();
            sub.args(read.map(|setting| flag(setting, *command).global(has_subcommands)))
        });
    }
    cli
}

fn flag(setting: &'static Setting, command: Command) -> Arg {
    let arg = Arg::new(setting.name)
        .long(setting.flag())
        .env(setting.name)
        .hide_env_values(true)
        .value_name(value_name(setting.name))
        .help_heading(HEADING)
        .help(help(setting, command));
    if setting.name.ends_with("_BYTES") || setting.name.ends_with("_S") {
        return arg.allow_negative_numbers(true);
    }
    arg
}

fn help(setting: &Setting, command: Command) -> String {
    let meaning = setting.meaning.replace('`', "");
    let meaning = meaning.trim_end_matches('.');
    let warning = if setting.secret {
        " (a flag can be seen by other users)"
    } else {
        ""
    };
    let default = match setting.default {
        // A tool does without it, and `up` makes it.
        Unset::Required if !usage::is_required(command, setting) => "none".to_owned(),
        _ => setting.default_shown().replace('`', ""),
    };
    format!("{meaning}{warning} [default: {default}]")
}

fn value_name(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("S") => "SECONDS",
        Some("BYTES") => "BYTES",
        Some("URL") => "URL",
        Some("LISTEN") => "ADDRESS",
        Some("DIR") => "FOLDER",
        Some("FILE") => "FILE",
        Some("TOKEN") => "TOKEN",
        Some("KEYS") => "KEYS",
        Some("MB") => "MIB",
        _ => "VALUE",
    }
}

/// Environment variables that look like settings but are not.
pub(crate) fn unknown_variables() -> Vec<Unknown> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    config::unknown(names)
}

/// What was given for a setting, by flag or in the environment, or a variable of the system.
pub(crate) fn lookup(matches: &ArgMatches, name: &str) -> Option<String> {
    if SETTINGS.iter().any(|setting| setting.name == name) {
        // `None` for a setting that this command does not read.
        return matches.try_get_one::<String>(name).ok().flatten().cloned();
    }
    system(name)
}

/// A variable of the system.
pub(crate) fn system(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::args::Cli;

    fn matches(line: &[&str]) -> ArgMatches {
        with_flags(Cli::command())
            .try_get_matches_from(line)
            .unwrap()
    }

    #[test]
    fn clap_accepts_the_command_line() {
        with_flags(Cli::command()).debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_of_each_command_that_uses_it() {
        let cli = with_flags(Cli::command());
        for (name, command) in COMMANDS {
            let sub = cli.find_subcommand(name).unwrap();
            let read = usage::settings_of(*command);
            for setting in SETTINGS {
                let found = sub.get_arguments().any(|arg| arg.get_id() == setting.name);
                let is_read = read.iter().any(|known| known.name == setting.name);
                assert_eq!(found, is_read, "{name} and {}", setting.name);
            }
        }
    }

    #[test]
    fn a_flag_is_found_by_the_name_of_its_variable() {
        let found = matches(&["cofferdam", "worker", "--lease-s", "7"]);
        let (_, found) = found.subcommand().unwrap();
        assert_eq!(lookup(found, "COFFERDAM_LEASE_S").as_deref(), Some("7"));
        assert_eq!(lookup(found, "COFFERDAM_MACHINES_LISTEN"), None);
    }

    #[test]
    fn a_flag_may_follow_a_subcommand() {
        let found = matches(&["cofferdam", "dead", "list", "--namespace", "other"]);
        let (_, dead) = found.subcommand().unwrap();
        assert_eq!(
            lookup(dead, "COFFERDAM_NAMESPACE").as_deref(),
            Some("other")
        );
    }

    #[test]
    fn negative_numbers_reach_the_reader_which_names_the_fault() {
        let found = matches(&["cofferdam", "worker", "--lease-s", "-1"]);
        let (_, found) = found.subcommand().unwrap();
        assert_eq!(lookup(found, "COFFERDAM_LEASE_S").as_deref(), Some("-1"));
    }
}
