//! Which command reads which setting: found by running its parser and noting what it looks up.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::config::table::{SETTINGS, Setting, Unset};
use crate::config::{
    ArtifactsTool, Cancel, Command, Console, Doctor, Fault, Faults, Images, Lookup, MachinesServer,
    RunTool, Serve, Tool, Up, Worker,
};

/// The settings that `command` reads, in the order of the table.
#[must_use]
pub fn settings_of(command: Command) -> Vec<&'static Setting> {
    let names = RefCell::new(BTreeSet::new());
    let _ = faults(command, &|name| {
        names.borrow_mut().insert(name.to_owned());
        None
    });
    let names = names.into_inner();
    let read = SETTINGS.iter();
    read.filter(|setting| names.contains(setting.name))
        .collect()
}

/// The commands that read `setting`.
#[must_use]
pub fn commands_of(setting: &Setting) -> Vec<Command> {
    let reads = |command: &Command| {
        let read = settings_of(*command);
        read.iter().any(|known| known.name == setting.name)
    };
    Command::ALL.into_iter().filter(reads).collect()
}

/// Whether `command` does not start without `setting`.
#[must_use]
pub fn is_required(command: Command, setting: &Setting) -> bool {
    let is_missing = |fault: &Fault| fault.name == setting.name;
    setting.default == Unset::Required && faults(command, &|_| None).iter().any(is_missing)
}

fn faults(command: Command, lookup: Lookup<'_>) -> Vec<Fault> {
    fn of<T>(parsed: Result<T, Faults>) -> Vec<Fault> {
        parsed.err().map_or_else(Vec::new, |faults| faults.0)
    }
    match command {
        Command::Up => of(Up::parse(lookup)),
        Command::Worker => of(Worker::parse(lookup)),
        Command::Serve => of(Serve::parse(lookup)),
        Command::Machines => of(MachinesServer::parse(lookup)),
        Command::Images => of(Images::parse(lookup)),
        Command::Artifacts => of(ArtifactsTool::parse(lookup)),
        Command::Cancel => of(Cancel::parse(lookup)),
        Command::Run => of(RunTool::parse(lookup)),
        Command::Console => of(Console::parse(lookup)),
        Command::Doctor => Doctor::examine(lookup).1,
        Command::Submit
        | Command::Show
        | Command::Logs
        | Command::Runs
        | Command::Results
        | Command::Tenants
        | Command::Usage
        | Command::Rerun
        | Command::Priority
        | Command::Workers
        | Command::Top
        | Command::Dead => of(Tool::parse(lookup)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table;

    #[test]
    fn every_setting_is_read_by_some_command() {
        for setting in SETTINGS {
            assert!(!commands_of(setting).is_empty(), "{}", setting.name);
        }
    }

    #[test]
    fn a_process_reads_what_it_uses_and_no_more() {
        let names = |command| -> Vec<&str> {
            settings_of(command)
                .iter()
                .map(|setting| setting.name)
                .collect()
        };
        assert_eq!(
            names(Command::Serve),
            [
                "REDIS_URL",
                "REDIS_URL_FILE",
                "COFFERDAM_REDIS_CA_FILE",
                "COFFERDAM_REDIS_CERT_FILE",
                "COFFERDAM_REDIS_KEY_FILE",
                "COFFERDAM_REDIS_TLS_NAME",
                "COFFERDAM_REDIS_WAIT",
                "COFFERDAM_NAMESPACE",
                "COFFERDAM_SIGNING_KEYS",
                "COFFERDAM_SIGNING_KEYS_FILE",
                "COFFERDAM_LISTEN",
                "COFFERDAM_ADMIN_LISTEN",
                "COFFERDAM_ALLOWED_HOSTS",
                "COFFERDAM_LEASE_S",
                "COFFERDAM_RETENTION_S",
                "COFFERDAM_RESULTS_RETENTION_S",
                "COFFERDAM_USAGE_RETENTION_S",
                "COFFERDAM_RESULT_MAX_BYTES",
                "COFFERDAM_RESULTS_BYTES",
                "COFFERDAM_TENANT_RESULTS_BYTES",
                "COFFERDAM_KEEP_REQUESTS",
                "COFFERDAM_LOG_BYTES",
                "COFFERDAM_LOGS_BYTES",
                "COFFERDAM_TENANT_LOGS_BYTES",
                "COFFERDAM_ARTIFACTS",
                "COFFERDAM_ARTIFACT_MAX_BYTES",
                "COFFERDAM_RUN_ARTIFACTS",
                "COFFERDAM_RUN_ARTIFACTS_BYTES",
                "COFFERDAM_ARTIFACTS_BYTES",
                "COFFERDAM_TENANT_ARTIFACTS_BYTES",
                "COFFERDAM_DRAIN_S",
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "OTEL_TRACES_EXPORTER",
                "OTEL_SDK_DISABLED",
                "COFFERDAM_LOG",
                "COFFERDAM_LOG_FORMAT",
            ]
        );
        assert_eq!(
            names(Command::Show),
            [
                "REDIS_URL",
                "REDIS_URL_FILE",
                "COFFERDAM_REDIS_CA_FILE",
                "COFFERDAM_REDIS_CERT_FILE",
                "COFFERDAM_REDIS_KEY_FILE",
                "COFFERDAM_REDIS_TLS_NAME",
                "COFFERDAM_NAMESPACE",
                "COFFERDAM_STATE_DIR"
            ]
        );
        assert!(!names(Command::Worker).contains(&"COFFERDAM_RESULT_MAX_BYTES"));
    }

    #[test]
    fn what_a_tool_can_do_without_is_required_of_a_service() {
        assert!(is_required(Command::Worker, &table::FLY_API_TOKEN));
        assert!(is_required(Command::Machines, &table::FLY_API_TOKEN));
        assert!(!is_required(Command::Machines, &table::APPS));
        assert!(!is_required(Command::Doctor, &table::FLY_API_TOKEN));
        assert!(!is_required(Command::Up, &table::SIGNING_KEYS));
        assert!(!is_required(Command::Worker, &table::LEASE_S));
    }
}
