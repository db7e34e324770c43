//! What a machine may be asked to be.
//!
//! The wire types read leniently; here is what this server refuses, each fault by the name of its
//! field. What the real service does with a field and this server cannot do is refused, where a
//! machine without it would be another one: volumes, several processes, schedules, graphics
//! processors. Services, health checks, metrics, statics and DNS settings are kept and shown, and
//! have no effect: there is no proxy here.

mod guest;
mod region;
pub(crate) mod stop;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::local::check::stop::{signal, stop_timeout};
use crate::local::refusal::Refusal;
use crate::machines::wire::{File, Init, MachineConfig, RestartPolicy};

pub(crate) use self::guest::size;
pub(crate) use self::region::Regions;

/// Fields that must be absent or empty, since a machine without them would be another one.
const REFUSED_FIELDS: [&str; 7] = [
    "mounts",
    "processes",
    "containers",
    "schedule",
    "standbys",
    "cache_drive",
    "volumes",
];

/// The longest path of a file.
const LONGEST_PATH: usize = 4096;
/// Files in one machine.
const MOST_FILES: usize = 256;

/// Checks a machine's name: lower-case letters, digits and dashes, a letter first, 63 at most.
///
/// # Errors
/// 400, saying so.
pub(crate) fn machine_name(name: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let sound = name.len() <= 63
        && name.bytes().all(plain)
        && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if sound {
        return Ok(());
    }
    Err(Refusal::invalid(
        "invalid name: must begin with a letter and consist of at most 63 lower-case letters, \
         digits and dashes",
    ))
}

/// Checks an app's name.
///
/// # Errors
/// 422, saying what is wrong with it.
pub(crate) fn app_name(name: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 62 {
        return Err(Refusal::new(
            422,
            "Validation failed: Name must be between 1 and 62 characters long",
        ));
    }
    if !name.bytes().all(plain) {
        return Err(Refusal::new(
            422,
            "Validation failed: Name may only contain lowercase letters, numbers, and dashes",
        ));
    }
    Ok(())
}

/// Checks a configuration, all but its image, which has to be looked up.
///
/// # Errors
/// 400, naming the field and the rule.
pub(crate) fn config(config: &MachineConfig) -> Result<(), Refusal> {
    if config.image.as_deref().is_none_or(str::is_empty) {
        return Err(Refusal::invalid("config.image is required"));
    }
    guest::size(config)?;
    for name in REFUSED_FIELDS {
        let asked = config.other.get(name);
        let empty = |value: &serde_json::Value| match value {
            serde_json::Value::Array(items) => items.is_empty(),
            serde_json::Value::String(text) => text.is_empty(),
            _ => false,
        };
        if asked.is_some_and(|value| !empty(value)) {
            return Err(unsupported(&format!("config.{name}")));
        }
    }
    check_env(config)?;
    check_metadata(config)?;
    check_files(&config.files)?;
    config.init.as_ref().map_or(Ok(()), check_init)?;
    check_restart(config)?;
    let Some(stop) = &config.stop_config else {
        return Ok(());
    };
    if let Some(asked) = &stop.signal {
        signal(asked)?;
    }
    if let Some(timeout) = stop.timeout {
        stop_timeout(timeout.0)?;
    }
    Ok(())
}

fn unsupported(field: &str) -> Refusal {
    Refusal::invalid(format!(
        "{field} is not supported by the local Machines server"
    ))
}

fn check_env(config: &MachineConfig) -> Result<(), Refusal> {
    for (name, value) in &config.env.0 {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let name: String = name.chars().take(64).collect();
            return Err(Refusal::invalid(format!(
                "config.env has an unusable name or value at '{name}'"
            )));
        }
    }
    Ok(())
}

fn check_metadata(config: &MachineConfig) -> Result<(), Refusal> {
    let long = |(key, value): (&String, &String)| key.len() + value.len() > 8 * 1024;
    if config.metadata.contains_key("") || config.metadata.iter().any(long) {
        return Err(Refusal::invalid(
            "config.metadata has an empty key, or one that is longer than 8 KiB with its value",
        ));
    }
    match config.metadata.len() > 250 {
        true => Err(Refusal::invalid("config.metadata has more than 250 keys")),
        false => Ok(()),
    }
}

fn check_files(files: &[File]) -> Result<(), Refusal> {
    if files.len() > MOST_FILES {
        return Err(Refusal::invalid(format!(
            "config.files has more than {MOST_FILES} files"
        )));
    }
    let mut seen = BTreeSet::new();
    for (at, file) in files.iter().enumerate() {
        let field = |name: &str| format!("config.files[{at}].{name}");
        check_path(&file.guest_path)
            .map_err(|fault| Refusal::invalid(format!("{} {fault}", field("guest_path"))))?;
        if !seen.insert(file.guest_path.as_str()) {
            return Err(Refusal::invalid(format!(
                "{} is there twice",
                field("guest_path")
            )));
        }
        if file.secret_name.is_some() {
            return Err(unsupported(&field("secret_name")));
        }
        if file.image_config.is_some() {
            return Err(unsupported(&field("image_config")));
        }
        let Some(raw) = &file.raw_value else {
            return Err(Refusal::invalid(format!(
                "{} is required",
                field("raw_value")
            )));
        };
        if STANDARD.decode(raw).is_err() {
            return Err(Refusal::invalid(format!(
                "{} is not base64",
                field("raw_value")
            )));
        }
        if file.mode.is_some_and(|mode| mode > 0o7777) {
            return Err(Refusal::invalid(format!(
                "{} is not a file mode",
                field("mode")
            )));
        }
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("must be absolute");
    }
    if path.len() > LONGEST_PATH || path.contains('\0') {
        return Err("is too long or has a zero byte in it");
    }
    let parts = path.split('/').skip(1);
    if parts
        .clone()
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err("must name a file plainly: no '//', '.', '..' or '/' at its end");
    }
    Ok(())
}

fn check_init(init: &Init) -> Result<(), Refusal> {
    if init.tty == Some(true) {
        return Err(unsupported("config.init.tty"));
    }
    if init.swap_size_mb.is_some_and(|size| size > 0) {
        return Err(unsupported("config.init.swap_size_mb"));
    }
    let lists = [
        ("exec", &init.exec),
        ("entrypoint", &init.entrypoint),
        ("cmd", &init.cmd),
    ];
    for (name, list) in lists {
        let words = list.as_deref().unwrap_or_default();
        if words.iter().any(|word| word.contains('\0')) {
            return Err(Refusal::invalid(format!(
                "config.init.{name} has a zero byte in it"
            )));
        }
        let program = name != "cmd" && words.first().is_some_and(String::is_empty);
        if program {
            return Err(Refusal::invalid(format!(
                "config.init.{name} names no program"
            )));
        }
    }
    Ok(())
}

fn check_restart(config: &MachineConfig) -> Result<(), Refusal> {
    let policy = config
        .restart
        .as_ref()
        .and_then(|restart| restart.policy.as_ref());
    match policy {
        Some(RestartPolicy::SpotPrice) => Err(unsupported("config.restart.policy spot-price")),
        Some(RestartPolicy::Unknown(word)) if !word.is_empty() => {
            let word: String = word.chars().take(32).collect();
            Err(Refusal::invalid(format!(
                "config.restart.policy '{word}' is none of no, always, on-failure"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(fields: Value, expected: Result<(), &str>) {
        let mut all = json!({"image": "host"});
        for (name, value) in fields.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let read: MachineConfig = serde_json::from_value(all).expect("it is read");
        match (config(&read), expected) {
            (Ok(()), Ok(())) => {}
            (Err(refusal), Err(part)) => {
                assert_eq!(refusal.status, 400);
                assert!(refusal.error.contains(part), "{fields}: {}", refusal.error);
            }
            (found, _) => panic!("{fields}: {found:?}"),
        }
    }

    #[test]
    fn configurations_of_the_real_service_pass() {
        check(json!({}), Ok(()));
        check(
            json!({
                "env": {"A": "b"}, "auto_destroy": true, "restart": {"policy": "no"},
                "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024},
                "init": {"exec": ["/bin/sleep", "inf"], "tty": false},
                "files": [{"guest_path": "/a/b", "raw_value": "YQ==", "mode": 420}],
                "stop_config": {"signal": "SIGTERM", "timeout": "5s"},
                "metadata": {"owner": "x"}, "dns": {"skip_registration": true},
                "services": [{"internal_port": 80}], "checks": {}, "mounts": [], "processes": [],
                "schedule": ""
            }),
            Ok(()),
        );
    }

    #[test]
    fn faults_are_named_by_field() {
        let file = |fields: Value| {
            let mut file = json!({"guest_path": "/a", "raw_value": "YQ=="});
            for (name, value) in fields.as_object().expect("an object") {
                file[name] = value.clone();
            }
            json!({"files": [file]})
        };
        check(json!({"image": ""}), Err("config.image is required"));
        check(json!({"image": null}), Err("config.image is required"));
        check(json!({"env": {"A=B": "x"}}), Err("config.env"));
        check(json!({"env": {"A": "x\u{0}"}}), Err("config.env"));
        check(json!({"metadata": {"": "x"}}), Err("config.metadata"));
        check(
            file(json!({"guest_path": "a"})),
            Err("files[0].guest_path must be absolute"),
        );
        check(
            file(json!({"guest_path": "/a/../b"})),
            Err("files[0].guest_path must name"),
        );
        check(
            file(json!({"guest_path": "/a/"})),
            Err("files[0].guest_path must name"),
        );
        check(
            file(json!({"raw_value": "%"})),
            Err("files[0].raw_value is not base64"),
        );
        check(
            file(json!({"raw_value": null})),
            Err("files[0].raw_value is required"),
        );
        check(
            file(json!({"secret_name": "s"})),
            Err("files[0].secret_name is not supported"),
        );
        check(
            file(json!({"image_config": "s"})),
            Err("files[0].image_config is not supported"),
        );
        check(
            file(json!({"mode": 99999})),
            Err("files[0].mode is not a file mode"),
        );
        check(
            json!({"init": {"tty": true}}),
            Err("config.init.tty is not supported"),
        );
        check(
            json!({"init": {"swap_size_mb": 64}}),
            Err("config.init.swap_size_mb"),
        );
        check(
            json!({"init": {"exec": [""]}}),
            Err("config.init.exec names no program"),
        );
        check(
            json!({"restart": {"policy": "sometimes"}}),
            Err("config.restart.policy 'sometimes'"),
        );
        check(
            json!({"restart": {"policy": "spot-price"}}),
            Err("spot-price is not supported"),
        );
        check(
            json!({"stop_config": {"signal": "SIGSTOP"}}),
            Err("invalid signal 'SIGSTOP'"),
        );
        check(
            json!({"stop_config": {"timeout": "6m"}}),
            Err("at most 5m0s"),
        );
        check(
            json!({"mounts": [{"volume": "v"}]}),
            Err("config.mounts is not supported"),
        );
        check(
            json!({"schedule": "daily"}),
            Err("config.schedule is not supported"),
        );
        check(
            json!({"containers": [{}]}),
            Err("config.containers is not supported"),
        );
    }

    #[test]
    fn names_follow_the_rules() {
        for name in ["a", "sandbox-pr-17-1", &"a".repeat(63)] {
            assert!(machine_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "1a", "A", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(machine_name(name).is_err(), "{name}");
        }
        assert!(app_name("my-app-2").is_ok());
        for name in ["", "My", "a_b", &"a".repeat(63)] {
            assert_eq!(app_name(name).expect_err(name).status, 422);
        }
    }
}
