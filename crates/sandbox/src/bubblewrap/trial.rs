//! Trial sandboxes: whether isolation works here, and which limits hold.
//!
//! A version number or a file that is there proves little. So the engine runs sandboxes like all
//! others whose program tries to have too much, and believes what it sees.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::bubblewrap::boot;
use crate::bubblewrap::core::Core;
use crate::bubblewrap::tree::INIT;
use crate::cgroup::{self, Groups};
use crate::error::Error;
use crate::limits::Quota;
use crate::outcome::Exit;
use crate::report::{Enforcement, Limits, Report};
use crate::spec::{OutputSink, Root, Spec, Stream};

/// The most time for one trial.
const TRIAL_MAX: Duration = Duration::from_secs(20);
/// A trial may have so much memory, and tries to fill so much.
const MEMORY_MB: u64 = 32;
const FILL_BYTES: u64 = 128 << 20;
/// It may have so many processes, and tries to start so many.
const PROCESSES: u64 = 40;
const START_PROCESSES: u64 = 100;

/// Runs a sandbox that does next to nothing.
pub(super) async fn isolation(core: &Arc<Core>) -> Result<(), Error> {
    let ran = run(core, None, ["memory", "1"]).await?;
    if ran.printed == "1" && ran.exit.code == Some(0) {
        return Ok(());
    }
    Err(Error::Boot(format!(
        "a trial sandbox ended with {:?}",
        ran.exit
    )))
}

/// Finds the best limits that hold. `note` is told of groups as soon as they are made.
pub(super) async fn limits(
    core: &Arc<Core>,
    best: Option<Limits>,
    name: &str,
    note: &dyn Fn(&[PathBuf]) -> io::Result<()>,
) -> (Option<Groups>, Report) {
    let best = best.unwrap_or(Limits::Cgroup2);
    let mut reasons = Vec::new();
    for kind in [Limits::Cgroup2, Limits::Cgroup1]
        .into_iter()
        .filter(|kind| *kind <= best)
    {
        match Groups::open(kind, name) {
            Err(reason) => reasons.push(format!("{kind}: {reason}")),
            Ok(groups) => {
                let held = match ready(&groups, note).await {
                    Ok(()) => with_groups(core, &groups).await,
                    Err(error) => Err(error.to_string()),
                };
                match held {
                    Ok(report) => return (Some(groups), report),
                    Err(reason) => reasons.push(format!("{kind}: {reason}")),
                }
                groups.close();
            }
        }
    }
    (None, without_groups(core, &reasons.join("; ")).await)
}

/// Writes down where the groups are, and removes what is in them: it is of an engine that had this
/// one's name, and there is no other now.
async fn ready(groups: &Groups, note: &dyn Fn(&[PathBuf]) -> io::Result<()>) -> io::Result<()> {
    note(&groups.folders())?;
    for folder in groups.folders() {
        cgroup::empty(&folder).await?;
    }
    Ok(())
}

/// Limits by control groups: the memory and the processes must hold, or the group is not used.
async fn with_groups(core: &Arc<Core>, groups: &Groups) -> Result<Report, String> {
    let said = |error: Error| error.to_string();
    let fill = FILL_BYTES.to_string();
    let memory = run(core, Some(groups), ["memory", &fill])
        .await
        .map_err(said)?;
    if !memory.exit.oom_killed {
        return Err(format!(
            "more memory than allowed was had: {:?}",
            memory.exit
        ));
    }
    if !processes_hold(core, Some(groups)).await.map_err(said)? {
        return Err("more processes than allowed were had".into());
    }
    let cpu = if groups.has_cpu() {
        Enforcement::Whole
    } else {
        Enforcement::Nothing
    };
    Ok(Report {
        isolation: "namespaces",
        files: core.files,
        limits: groups.kind(),
        memory: Enforcement::Whole,
        processes: Enforcement::Whole,
        cpu,
        disk: Enforcement::Whole,
        output: Enforcement::Whole,
        advice: match cpu {
            Enforcement::Nothing => {
                "the cpu controller is not delegated to the server's group".into()
            }
            _ => String::new(),
        },
    })
}

/// Limits per process, and what they are worth.
async fn without_groups(core: &Arc<Core>, reason: &str) -> Report {
    let fill = FILL_BYTES.to_string();
    let memory = match run(core, None, ["memory", &fill]).await {
        Ok(ran) if ran.printed != fill => Enforcement::Process,
        _ => Enforcement::Nothing,
    };
    let processes = match processes_hold(core, None).await {
        Ok(true) => Enforcement::Whole,
        _ => Enforcement::Nothing,
    };
    Report {
        isolation: "namespaces",
        files: core.files,
        limits: Limits::Rlimit,
        memory,
        processes,
        cpu: Enforcement::Nothing,
        disk: Enforcement::Whole,
        output: Enforcement::Whole,
        advice: format!(
            "no control group for sandboxes ({}). Run the server in a delegated one, for example by \
             `systemd-run --user --scope -p Delegate=yes`, or as a service with Delegate=yes",
            if reason.is_empty() {
                "not asked for"
            } else {
                reason
            },
        ),
    }
}

/// Whether a sandbox that starts too many processes gets fewer.
async fn processes_hold(core: &Arc<Core>, groups: Option<&Groups>) -> Result<bool, Error> {
    let most = START_PROCESSES.to_string();
    let ran = run(core, groups, ["processes", &most]).await?;
    let started = ran.printed.parse::<u64>();
    Ok(started.is_ok_and(|started| started > 0 && started < PROCESSES + 1))
}

/// What a trial did.
struct ExecResult {
    exit: Exit,
    printed: String,
}

async fn run(
    core: &Arc<Core>,
    groups: Option<&Groups>,
    words: [&str; 2],
) -> Result<ExecResult, Error> {
    let spec = Spec {
        id: "trial".into(),
        owner: String::new(),
        root: Root::Host,
        argv: [INIT, words[0], words[1]].map(String::from).into(),
        env: std::collections::BTreeMap::new(),
        workdir: None,
        files: Vec::new(),
        memory_mb: MEMORY_MB,
        cpus: 1,
        port: 8080,
    };
    let quota = Quota {
        processes: PROCESSES,
        ..Quota::of(&spec)
    };
    let printed = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&printed);
    let sink: OutputSink = Arc::new(move |stream, bytes| {
        if stream == Stream::Stdout {
            taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(bytes);
        }
    });
    let trial = async {
        let running = boot::start(core, spec, quota, groups.cloned(), sink).await?;
        Ok(running.wait().await)
    };
    let exit = tokio::time::timeout(TRIAL_MAX, trial).await;
    let exit = exit.unwrap_or(Err(Error::Late(TRIAL_MAX)))?;
    let printed = printed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Ok(ExecResult {
        exit,
        printed: String::from_utf8_lossy(&printed).trim().to_owned(),
    })
}

/// What this host says about sandboxes made by ordinary users.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// `kernel.apparmor_restrict_unprivileged_userns`
    apparmor: Option<u64>,
    /// `kernel.unprivileged_userns_clone`
    clone: Option<u64>,
    /// `user.max_user_namespaces`
    most: Option<u64>,
    /// `kernel.yama.ptrace_scope`
    yama: Option<u64>,
}

impl Facts {
    pub(super) fn read() -> Self {
        let number = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            text.trim().parse().ok()
        };
        Self {
            apparmor: number("kernel/apparmor_restrict_unprivileged_userns"),
            clone: number("kernel/unprivileged_userns_clone"),
            most: number("user/max_user_namespaces"),
            yama: number("kernel/yama/ptrace_scope"),
        }
    }
}

/// What to do when the first trial failed with this message.
pub(super) fn remedy(reason: &str, facts: &Facts) -> String {
    if facts.most == Some(0) {
        return "user namespaces are switched off: `sysctl user.max_user_namespaces=15000`".into();
    }
    if facts.clone == Some(0) {
        return "ordinary users may not make user namespaces: \
                `sysctl kernel.unprivileged_userns_clone=1`"
            .into();
    }
    if reason.contains("Unknown option") {
        return "this bubblewrap is too old: 0.8 or newer is needed".into();
    }
    if reason.contains("take the listener") {
        return match facts.yama {
            Some(3) => "kernel.yama.ptrace_scope is 3, which forbids the server to take its \
                        listener out of a sandbox: set it to 2 or lower and restart"
                .into(),
            _ => "the server may not take its listener out of a sandbox: Linux 5.6 or newer is \
                  needed, and in a container the system call pidfd_getfd must be allowed"
                .into(),
        };
    }
    if facts.apparmor == Some(1) {
        return "AppArmor keeps ordinary users from making sandboxes (Ubuntu 23.10 and newer). \
                Allow it to bubblewrap: write\n\
                abi <abi/4.0>,\n\
                include <tunables/global>\n\
                profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }\n\
                to /etc/apparmor.d/bwrap and load it with `apparmor_parser -r \
                /etc/apparmor.d/bwrap`"
            .into();
    }
    if reason.contains("source path") {
        return "the sandbox's own user cannot enter the state folder: choose one below /var/lib \
                that all can enter"
            .into();
    }
    if reason.contains("namespace") || reason.contains("uid map") || reason.contains("RTM_NEWADDR")
    {
        return "this user may not make sandboxes. In a container, start it with \
                `--security-opt seccomp=unconfined --security-opt apparmor=unconfined \
                --security-opt systempaths=unconfined`"
            .into();
    }
    "run `bwrap --unshare-all --unshare-user --disable-userns --ro-bind / / true` as the same \
     user to see what bubblewrap lacks"
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reason: &str, facts: &Facts, expected: &str) {
        let remedy = remedy(reason, facts);
        assert!(
            remedy.contains(expected),
            "{remedy:?} does not say {expected:?}"
        );
    }

    #[test]
    fn each_known_obstacle_has_its_remedy() {
        let none = Facts::default();
        let ubuntu = Facts {
            apparmor: Some(1),
            ..Facts::default()
        };
        let old_debian = Facts {
            clone: Some(0),
            ..Facts::default()
        };
        let off = Facts {
            most: Some(0),
            ..Facts::default()
        };
        let yama = Facts {
            yama: Some(3),
            ..Facts::default()
        };
        let uid_map = "bwrap: setting up uid map: Permission denied";
        let address = "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted";
        let clone = "bwrap: No permissions to create new namespace, likely because …";
        let option = "bwrap: Unknown option --disable-userns";
        let path = "bwrap: Can't find source path /root/x: Permission denied";
        check(uid_map, &ubuntu, "/etc/apparmor.d/bwrap");
        check(address, &ubuntu, "/etc/apparmor.d/bwrap");
        check(clone, &old_debian, "unprivileged_userns_clone=1");
        check(clone, &off, "max_user_namespaces");
        check(clone, &none, "--security-opt");
        check(address, &none, "--security-opt");
        check(option, &none, "0.8 or newer");
        check(option, &ubuntu, "0.8 or newer");
        check(path, &none, "/var/lib");
        check(
            "take the listener out of the sandbox: EPERM",
            &yama,
            "ptrace_scope",
        );
        check(
            "take the listener out of the sandbox: ENOSYS",
            &none,
            "Linux 5.6",
        );
        check(
            "bwrap: something new",
            &none,
            "to see what bubblewrap lacks",
        );
    }
}
