//! The rule of each field.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::run::id::{RunId, Tenant};
use crate::run::json;
use crate::run::request::fields::refuse;
use crate::run::request::{
    CMD_MAX, ENV_MAX, FILE_MODE_MAX, FILES_MAX, File, Guest, Limits, METADATA_MAX_BYTES,
    PRIORITY_LAST, Refusal,
};
use crate::run::size::CpuKind;
use crate::run::trace::TraceParent;

pub(super) fn run_id(text: String) -> Result<RunId, String> {
    text.parse()
        .map_err(|error: crate::run::id::InvalidId| error.to_string())
}

pub(super) fn traceparent(text: String) -> Result<TraceParent, String> {
    text.parse()
        .map_err(|error: crate::run::trace::InvalidTraceParent| error.to_string())
}

pub(super) fn tenant(text: String) -> Result<Tenant, String> {
    text.parse()
        .map_err(|error: crate::run::id::InvalidId| error.to_string())
}

pub(super) fn priority(value: u8) -> Result<u8, String> {
    if value > PRIORITY_LAST {
        return Err(format!("must be 0 (first) to {PRIORITY_LAST} (last)"));
    }
    Ok(value)
}

pub(super) fn image(text: String) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(text)
    } else {
        Err("must be 1 to 512 printable characters without spaces".into())
    }
}

pub(super) fn region(text: String) -> Result<String, String> {
    let codes: Vec<&str> = text.split(',').map(str::trim).collect();
    let fits = codes.len() <= 16
        && codes.iter().all(|code| {
            (2..=16).contains(&code.len())
                && code
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
    if fits {
        Ok(codes.join(","))
    } else {
        Err("must be a region code, or up to 16 with commas between".into())
    }
}

pub(super) fn env(map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if map.len() > ENV_MAX {
        return Err(format!("has more than {ENV_MAX} entries"));
    }
    for (name, value) in &map {
        let starts = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !starts || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("{name:?} is not a name of letters, digits and _"));
        }
        if name.starts_with("SANDBOX_") || name.starts_with("FLY_") {
            return Err(format!(
                "{name} is refused: SANDBOX_* and FLY_* are set by the platform"
            ));
        }
        if value.contains('\0') {
            return Err(format!("the value of {name} has a NUL character"));
        }
    }
    Ok(map)
}

pub(super) fn files(list: Vec<File>) -> Result<Vec<File>, String> {
    if list.len() > FILES_MAX {
        return Err(format!("has more than {FILES_MAX} entries"));
    }
    for (index, file) in list.iter().enumerate() {
        let path = &file.guest_path;
        let inside = path
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."));
        if !path.starts_with('/') || !inside || path.len() > 1024 || path.contains('\0') {
            return Err(format!(
                "[{index}].guest_path must be an absolute path of 1024 bytes at most, without . or .."
            ));
        }
        for earlier in list.iter().take(index).map(|file| &file.guest_path) {
            if earlier == path {
                return Err(format!("[{index}].guest_path {path} is given twice"));
            }
            if is_within(path, earlier) || is_within(earlier, path) {
                return Err(format!(
                    "[{index}].guest_path {path} and {earlier} cannot both be files"
                ));
            }
        }
        if file.mode.is_some_and(|mode| mode > FILE_MODE_MAX) {
            return Err(format!(
                "[{index}].mode must be 0 to {FILE_MODE_MAX}, a decimal number as in the Machines API (0755 is 493)"
            ));
        }
        if let Err(error) = STANDARD.decode(&file.raw_value) {
            return Err(format!("[{index}].raw_value is not base64: {error}"));
        }
    }
    Ok(list)
}

/// Whether a path lies below another, which then is a folder.
fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

pub(super) fn cmd(words: Vec<String>) -> Result<Vec<String>, String> {
    if words.is_empty() || words.len() > CMD_MAX {
        return Err(format!("must have 1 to {CMD_MAX} words"));
    }
    if words.first().is_some_and(String::is_empty) {
        return Err("has an empty program name".into());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("has a NUL character".into());
    }
    Ok(words)
}

/// Sizes that the Machines API takes (`fly-go`, `machine_types.go`; `flyctl`,
/// `internal/machine/update.go`), within the operator's maxima.
pub(super) fn size(guest: Guest, limits: &Limits) -> Result<Guest, String> {
    let Some(kind) = CpuKind::named(&guest.cpu_kind) else {
        return Err(format!(
            "cpu_kind {:?} is neither shared nor performance",
            guest.cpu_kind
        ));
    };
    let (counts, step) = (kind.cpus, kind.step_mb);
    if !counts.contains(&guest.cpus) {
        return Err(format!(
            "cpus must be one of {counts:?} for {}",
            guest.cpu_kind
        ));
    }
    let (least, most) = (kind.least_mb * guest.cpus, kind.most_mb * guest.cpus);
    if !(least..=most).contains(&guest.memory_mb) || !guest.memory_mb.is_multiple_of(step) {
        return Err(format!(
            "memory_mb must be {least} to {most} in steps of {step} for {} {}",
            guest.cpus, guest.cpu_kind
        ));
    }
    if guest.cpus > limits.max_cpus {
        return Err(format!(
            "cpus is above the configured maximum of {}",
            limits.max_cpus
        ));
    }
    if guest.memory_mb > limits.max_memory_mb {
        return Err(format!(
            "memory_mb is above the configured maximum of {}",
            limits.max_memory_mb
        ));
    }
    Ok(guest)
}

pub(super) fn seconds(value: u64, most: Duration) -> Result<Duration, String> {
    if value == 0 || value > most.as_secs() {
        return Err(format!("must be 1 to {} seconds", most.as_secs()));
    }
    Ok(Duration::from_secs(value))
}

pub(super) fn metadata(raw: Box<RawValue>) -> Result<Option<Box<RawValue>>, Refusal> {
    if raw.get().len() > METADATA_MAX_BYTES {
        return Err(refuse(
            "metadata",
            format!("is longer than {METADATA_MAX_BYTES} bytes"),
        ));
    }
    if !raw.get().starts_with('{') {
        return Err(refuse("metadata", "must be an object"));
    }
    // It is part of the result, and consumers must be able to read that.
    json::check(raw.get().as_bytes()).map_err(|fault| refuse("metadata", fault.to_string()))?;
    Ok(Some(raw))
}
