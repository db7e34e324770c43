//! The size that a configuration asks for, among those that the real service sells.

use crate::local::refusal::Refusal;
use crate::machines::wire::MachineConfig;
use crate::run::size::{CpuKind, PERFORMANCE, SHARED};

/// A machine's size, with nothing left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mb: u64,
}

/// The size that a configuration asks for: by `guest`, by the name of a preset, or the smallest.
///
/// # Errors
/// 400 for a size that is not sold, naming the field.
pub(crate) fn size(config: &MachineConfig) -> Result<Size, Refusal> {
    let preset = config.other.get("size").and_then(|size| size.as_str());
    let preset = preset.filter(|name| !name.is_empty());
    let Some(guest) = &config.guest else {
        return preset.map_or_else(|| Ok(smallest(&SHARED, 1)), from_preset);
    };
    if preset.is_some() {
        return Err(Refusal::invalid(
            "config.size and config.guest exclude each other",
        ));
    }
    let gpus = guest.other.get("gpus").and_then(serde_json::Value::as_u64);
    let gpu_kind = guest.other.get("gpu_kind").and_then(|kind| kind.as_str());
    if gpus.is_some_and(|count| count > 0) || gpu_kind.is_some_and(|kind| !kind.is_empty()) {
        return Err(Refusal::invalid(
            "config.guest.gpus is not supported by the local Machines server",
        ));
    }
    let kind = match guest.cpu_kind.as_deref() {
        None | Some("") => &SHARED,
        Some(name) => CpuKind::named(name).ok_or_else(|| unsold("cpu_kind", ""))?,
    };
    let cpus = guest.cpus.filter(|&cpus| cpus > 0).unwrap_or(1);
    if !kind.cpus.contains(&cpus) {
        let sold: Vec<String> = kind.cpus.iter().map(u32::to_string).collect();
        let rule = format!(", must be one of [{}]", sold.join(" "));
        return Err(unsold("cpus", &rule));
    }
    let memory_mb = guest.memory_mb.filter(|&mb| mb > 0);
    let size = Size {
        cpus,
        memory_mb: memory_mb.unwrap_or_else(|| smallest(kind, cpus).memory_mb),
    };
    check_memory(kind, size)?;
    Ok(size)
}

fn check_memory(kind: &CpuKind, size: Size) -> Result<(), Refusal> {
    let (least, most) = (
        u64::from(kind.least_mb) * u64::from(size.cpus),
        u64::from(kind.most_mb) * u64::from(size.cpus),
    );
    let rule = match size.memory_mb {
        mb if mb < least => format!(", minimum required {least} MiB"),
        mb if mb > most => format!(", maximum allowed {most} MiB"),
        mb if !mb.is_multiple_of(kind.step_mb.into()) => {
            format!(", must be a multiple of {} MiB", kind.step_mb)
        }
        _ => return Ok(()),
    };
    Err(unsold("memory_mb", &rule))
}

/// 400 as the real service words it; what it says of too much or uneven memory was not seen.
fn unsold(field: &str, rule: &str) -> Refusal {
    Refusal::new(400, format!("invalid config.guest.{field}{rule}"))
}

fn smallest(kind: &CpuKind, cpus: u32) -> Size {
    Size {
        cpus,
        memory_mb: u64::from(kind.least_mb) * u64::from(cpus),
    }
}

/// `shared-cpu-2x`, `performance-4x`.
fn from_preset(name: &str) -> Result<Size, Refusal> {
    let found = [("shared-cpu-", &SHARED), ("performance-", &PERFORMANCE)]
        .into_iter()
        .find_map(|(prefix, kind)| {
            let cpus = name.strip_prefix(prefix)?.strip_suffix('x')?.parse().ok()?;
            kind.cpus.contains(&cpus).then(|| smallest(kind, cpus))
        });
    found.ok_or_else(|| Refusal::invalid("config.size is no preset that is sold"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(config: Value, expected: Result<(u32, u64), &str>) {
        let read: MachineConfig = serde_json::from_value(config.clone()).expect("it is read");
        match (size(&read), expected) {
            (Ok(size), Ok(wanted)) => assert_eq!((size.cpus, size.memory_mb), wanted, "{config}"),
            (Err(refusal), Err(part)) => {
                assert!(refusal.error.contains(part), "{config}: {}", refusal.error);
            }
            (found, _) => panic!("{config}: {found:?}"),
        }
    }

    #[test]
    fn sizes_that_are_sold_pass_and_others_are_named() {
        check(json!({}), Ok((1, 256)));
        check(json!({"guest": {}}), Ok((1, 256)));
        check(json!({"guest": {"cpus": 2}}), Ok((2, 512)));
        check(
            json!({"guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 2048}}),
            Ok((1, 2048)),
        );
        check(json!({"guest": {"cpu_kind": "performance"}}), Ok((1, 2048)));
        check(
            json!({"guest": {"cpu_kind": "performance", "cpus": 16, "memory_mb": 32768}}),
            Ok((16, 32768)),
        );
        check(json!({"size": "shared-cpu-4x"}), Ok((4, 1024)));
        check(json!({"size": "performance-2x"}), Ok((2, 4096)));
        check(
            json!({"guest": {"cpus": 3}}),
            Err("invalid config.guest.cpus, must be one of [1 2 4 6 8]"),
        );
        check(
            json!({"guest": {"memory_mb": 300}}),
            Err("invalid config.guest.memory_mb, must be a multiple of 256 MiB"),
        );
        check(
            json!({"guest": {"memory_mb": 4096}}),
            Err("invalid config.guest.memory_mb, maximum allowed 2048 MiB"),
        );
        check(
            json!({"guest": {"cpus": 4, "memory_mb": 512}}),
            Err("invalid config.guest.memory_mb, minimum required 1024 MiB"),
        );
        check(
            json!({"guest": {"cpu_kind": "quantum"}}),
            Err("invalid config.guest.cpu_kind"),
        );
        check(
            json!({"guest": {"gpu_kind": "a100"}}),
            Err("config.guest.gpus"),
        );
        check(json!({"size": "huge"}), Err("config.size"));
        check(
            json!({"size": "shared-cpu-1x", "guest": {}}),
            Err("exclude each other"),
        );
    }
}
