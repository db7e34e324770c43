//! The files around the program: they name settings that exist, wait for it to end, hold no secrets.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cofferdam::config::table::{self, SETTINGS};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words of a text that look like settings.
fn settings_in(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| {
            ["COFFERDAM_", "FLY_API_", "REDIS_URL"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        })
        .collect()
}

/// `scripts/mutants` takes long and is seldom run: what it would change may have changed by then.
#[test]
fn every_mutation_of_the_list_can_still_be_made() {
    let list = read("tests/mutants/list");
    let lines: Vec<_> = list.lines().filter(|line| !line.starts_with('#')).collect();
    for mutation in lines.chunks(5) {
        let [name, file, old, new, ..] = mutation else {
            panic!("a mutation has four lines: {mutation:?}");
        };
        let is_there = read(file).contains(&old.replace("\\n", "\n"));
        assert!(is_there, "{name}: {file} no longer has: {old}");
        assert_ne!(old, new, "{name}");
    }
}

#[test]
fn only_settings_that_exist_are_named() {
    let files = [
        "docker-compose.yml",
        "fly.toml",
        "Dockerfile",
        "scripts/compose-env",
    ];
    for file in files {
        let text = read(file);
        let named = settings_in(&text);
        assert!(!named.is_empty(), "{file} names no setting");
        for name in named {
            let known = SETTINGS.iter().any(|setting| setting.name == name);
            assert!(known, "{file} names {name}, which is no setting");
        }
    }
}

/// The whole seconds in the first `KEY…NUMBERs` of a text.
fn seconds_after(text: &str, key: &str) -> u64 {
    let (_, after) = text.split_once(key).unwrap_or_else(|| panic!("no {key}"));
    let digits = after.trim_start_matches([':', ' ', '=', '"']);
    let (number, _) = digits.split_once('s').unwrap();
    number.parse().unwrap()
}

#[test]
fn whoever_ends_a_process_waits_longer_than_it_drains() {
    let drain_s: u64 = table::DRAIN_S.default_shown().parse().unwrap();
    assert!(seconds_after(&read("docker-compose.yml"), "\n  stop_grace_period") > drain_s);
    assert!(seconds_after(&read("fly.toml"), "\nkill_timeout") > drain_s);
    assert!(read("fly.toml").contains("\nkill_signal = \"SIGTERM\"\n"));
}

#[test]
fn compose_has_no_secrets_and_no_defaults_for_them() {
    let text = read("docker-compose.yml");
    let secrets = SETTINGS.iter().filter(|setting| setting.secret);
    let names = secrets
        .map(|setting| setting.name)
        .chain(["REDIS_PASSWORD"]);
    // Neither the console nor a collector of traces is part of it.
    let others = [
        &table::REDIS_URL,
        &table::CONSOLE_KEYS,
        &table::OTEL_HEADERS,
    ];
    let others = others.map(|setting| setting.name);
    for name in names.filter(|name| !others.contains(name)) {
        let asked = format!("${{{name}:?");
        assert!(text.contains(&asked), "{name} is not asked for");
        let mut given = text.lines().filter(|line| line.contains(name));
        assert!(given.all(|line| line.contains(&asked)), "{name} is given");
    }
}

/// Runs the script in a folder of its own and returns what it wrote.
fn compose_env(folder: &Path) -> String {
    let scripts = folder.join("scripts");
    fs::create_dir_all(&scripts).unwrap();
    let script = scripts.join("compose-env");
    fs::write(&script, read("scripts/compose-env")).unwrap();
    let ran = Command::new("sh").arg(&script).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    fs::read_to_string(folder.join(".env")).unwrap()
}

#[test]
fn compose_env_makes_secrets_once_and_only_for_their_owner() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = compose_env(one.path());
    assert_eq!(
        compose_env(one.path()),
        first,
        "a second run keeps what is there"
    );
    assert_ne!(compose_env(other.path()), first);
    let mode = fs::metadata(one.path().join(".env"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let value = |name: &str| {
        let line = first.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.strip_prefix('='))
            .unwrap()
            .to_owned()
    };
    let keys = value(table::SIGNING_KEYS.name);
    let (_, key) = keys.split_once(':').unwrap();
    assert_eq!(STANDARD.decode(key).unwrap().len(), 32);
    for name in [table::FLY_API_TOKEN.name, "REDIS_PASSWORD"] {
        let word = value(name);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        assert!(word.len() >= 43 && word.chars().all(plain), "{name}");
    }
}

#[test]
fn every_mutation_can_be_made() {
    let list = read("tests/mutants/list");
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let mut made = 0;
    for mutation in lines.chunks(5) {
        let [name, file, old, new, ..] = mutation else {
            panic!("a mutation is four lines: {mutation:?}");
        };
        let old = old.replace("\\n", "\n");
        assert!(read(file).contains(&old), "{name}: {file} has no\n{old}");
        assert_ne!(old, new.replace("\\n", "\n"), "{name}");
        made += 1;
    }
    assert!(made >= 10, "{made} mutations");
}

/// Each command has its page, and no page shows a secret of the environment.
#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_cofferdam"))
        .arg("man")
        .arg(folder.path())
        .env("FLY_API_TOKEN", "hush-hush")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    for help in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/help")).unwrap()
    {
        let page = help.unwrap().path().with_extension("1");
        let page = folder.path().join(page.file_name().unwrap());
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        assert!(!text.contains("hush-hush"), "{page:?}");
    }
}

/// The package asks for every file by name; one that is gone would only be missed at a release.
#[test]
fn what_the_package_takes_is_there() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("[package.metadata.deb]").unwrap();
    let rest = rest.split("\n[").next().unwrap();
    let mut count = 0;
    for line in rest.lines().filter(|line| line.starts_with("    [\"")) {
        let source = line.split('"').nth(1).unwrap();
        let folder = source.split('*').next().unwrap();
        // What a build makes is not there before it.
        if !source.starts_with("target/") {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            assert!(path.exists(), "{source}");
            count += 1;
        }
    }
    assert!(count >= 4, "{count} files");
}

/// Units give a process the time to drain, and start it again when it ends.
#[test]
fn units_wait_for_the_drain_and_start_again() {
    let drain_s: u64 = table::DRAIN_S.default_shown().parse().unwrap();
    for unit in ["machines", "serve", "worker@"] {
        let text = read(&format!("packaging/systemd/cofferdam-{unit}.service"));
        let (_, rest) = text.split_once("\nTimeoutStopSec=").unwrap();
        let stop_s: u64 = rest.lines().next().unwrap().parse().unwrap();
        assert!(stop_s > drain_s, "{unit}");
        assert!(text.contains("\nRestart=always\n"), "{unit}");
        assert!(text.contains("\nNoNewPrivileges=yes\n"), "{unit}");
    }
}
