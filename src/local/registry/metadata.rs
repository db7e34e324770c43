//! A machine's metadata: changed without a restart and without a new version.

use std::collections::BTreeMap;

use crate::clock::UnixMs;
use crate::local::refusal::Refusal;
use crate::local::registry::machine::MachineRecord;
use crate::local::registry::view::Reply;
use crate::machines::wire::{MetadataPatch, MetadataValue};

/// Keys a machine's metadata may have.
const MOST_KEYS: usize = 256;
/// Bytes of one key and its value together.
const MOST_BYTES: usize = 8 * 1024;

/// One key.
///
/// # Errors
/// 404 when it is not there.
pub(super) fn key(machine: &MachineRecord, key: &str) -> Result<Reply, Refusal> {
    match machine.metadata.get(key) {
        Some(value) => Ok(Reply::MetadataValue(MetadataValue {
            value: value.clone(),
        })),
        None => Err(Refusal::new(404, "not_found: metadata key not found")),
    }
}

/// Sets or removes one key.
///
/// # Errors
/// 400 for a key that is the server's own, or a value that is too long.
pub(super) fn set(
    machine: &mut MachineRecord,
    key: String,
    value: Option<String>,
    labels: &BTreeMap<String, String>,
    now: UnixMs,
) -> Result<Reply, Refusal> {
    let patch = MetadataPatch {
        metadata: BTreeMap::from([(key, value)]),
        machine_version: None,
    };
    self::patch(machine, patch, labels, now)
}

/// Changes several keys at once, or none of them. Null and the empty text remove a key.
///
/// # Errors
/// 412 for a version that is not current, 400 as [`set`].
pub(super) fn patch(
    machine: &mut MachineRecord,
    patch: MetadataPatch,
    labels: &BTreeMap<String, String>,
    now: UnixMs,
) -> Result<Reply, Refusal> {
    let stale = |version: &String| !version.is_empty() && *version != machine.version;
    if patch.machine_version.as_ref().is_some_and(stale) {
        return Err(Refusal::precondition("machine version does not match"));
    }
    let mut changed = machine.metadata.clone();
    for (key, value) in patch.metadata {
        if labels.contains_key(&key) {
            return Err(Refusal::invalid(format!(
                "metadata key '{key}' is set by the server"
            )));
        }
        let value = value.filter(|value| !value.is_empty());
        let length = key.len() + value.as_ref().map_or(0, String::len);
        if key.is_empty() || length > MOST_BYTES {
            return Err(Refusal::invalid(
                "a metadata key must not be empty, nor it and its value be longer than 8 KiB",
            ));
        }
        match value {
            Some(value) => changed.insert(key, value),
            None => changed.remove(&key),
        };
    }
    if changed.len() > MOST_KEYS {
        return Err(Refusal::invalid(format!(
            "metadata must not have more than {MOST_KEYS} keys"
        )));
    }
    machine.metadata = changed;
    machine.updated_ms = now;
    Ok(Reply::NoContent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::registry::machine::tests::machine_that_was;

    fn change(machine: &mut MachineRecord, patch: serde_json::Value) -> Result<Reply, Refusal> {
        let patch = serde_json::from_value(patch).expect("a patch");
        let labels = BTreeMap::from([("cofferdam_limits".to_owned(), "none".to_owned())]);
        super::patch(machine, patch, &labels, 1)
    }

    #[test]
    fn keys_that_are_not_named_stay_and_null_removes() {
        let mut machine = machine_that_was(&["started"]);
        let set = serde_json::json!({"metadata": {"a": "1", "b": "2"}});
        change(&mut machine, set).expect("sound");
        let remove = serde_json::json!({"metadata": {"a": null}, "machine_version": "v1"});
        change(&mut machine, remove).expect("sound");
        assert_eq!(machine.metadata, BTreeMap::from([("b".into(), "2".into())]));
        let empty = serde_json::json!({"metadata": {"b": ""}});
        change(&mut machine, empty).expect("sound");
        assert!(machine.metadata.is_empty());
    }

    #[test]
    fn what_breaks_a_rule_changes_nothing() {
        let mut machine = machine_that_was(&["started"]);
        for (patch, status) in [
            (
                serde_json::json!({"metadata": {"a": "1"}, "machine_version": "v0"}),
                412,
            ),
            (
                serde_json::json!({"metadata": {"a": "1", "cofferdam_limits": "x"}}),
                400,
            ),
            (serde_json::json!({"metadata": {"a": "1", "": "x"}}), 400),
            (
                serde_json::json!({"metadata": {"a": "1", "b": "x".repeat(9000)}}),
                400,
            ),
        ] {
            let refusal = change(&mut machine, patch.clone()).expect_err("it breaks a rule");
            assert_eq!(refusal.status, status, "{patch}");
            assert!(machine.metadata.is_empty());
        }
        assert_eq!(key(&machine, "a").expect_err("it is not there").status, 404);
    }
}
