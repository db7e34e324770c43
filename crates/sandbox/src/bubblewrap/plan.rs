//! What a boot works on.

use crate::cgroup::Groups;
use crate::init::wire::Program;
use crate::limits::Quota;
use crate::report::Limits;
use crate::spec::{OutputSink, Spec};

/// Where a program starts that does not say where.
pub(super) const DEFAULT_WORKDIR: &str = "/workspace";
/// The most files placed in one sandbox.
const FILES_MAX: usize = 256;
/// The first port that needs no rights.
const PORT_MIN: u16 = 1024;

/// What a boot works on.
pub(super) struct Plan {
    pub(super) spec: Spec,
    /// Unlike the spec's id, of one sandbox only.
    pub(super) name: String,
    pub(super) quota: Quota,
    pub(super) groups: Option<Groups>,
    pub(super) sink: OutputSink,
}

impl Plan {
    pub(super) fn kind(&self) -> Limits {
        self.groups.as_ref().map_or(Limits::Rlimit, Groups::kind)
    }

    pub(super) fn program(&self) -> Program {
        Program {
            argv: self.spec.argv.clone(),
            env: self
                .spec
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            workdir: self.workdir().to_owned(),
        }
    }

    pub(super) fn workdir(&self) -> &str {
        self.spec.workdir.as_deref().unwrap_or(DEFAULT_WORKDIR)
    }
}

/// Says what in a spec cannot be carried out, as far as the spec alone tells.
pub(super) fn check(spec: &Spec) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if spec.id.is_empty() || spec.id.len() > 64 || !spec.id.chars().all(plain) {
        return Err(format!(
            "id {:?} is not up to 64 letters, digits, - and _",
            spec.id
        ));
    }
    if spec.argv.first().is_none_or(String::is_empty) {
        return Err("argv names no program".into());
    }
    if spec.argv.iter().any(|argument| argument.contains('\0')) {
        return Err("argv contains a zero byte".into());
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("env {name:?} cannot be set"));
        }
    }
    if spec
        .workdir
        .as_ref()
        .is_some_and(|dir| !dir.starts_with('/') || dir.contains('\0'))
    {
        return Err("workdir is not an absolute path".into());
    }
    if spec.files.len() > FILES_MAX {
        return Err(format!("files has more than {FILES_MAX} entries"));
    }
    if spec.memory_mb == 0 || spec.cpus == 0 {
        return Err("memory_mb and cpus must not be 0".into());
    }
    if spec.port < PORT_MIN {
        return Err(format!(
            "port is below {PORT_MIN}, where nothing in a sandbox may listen"
        ));
    }
    Ok(())
}
