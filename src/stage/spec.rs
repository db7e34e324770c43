//! The create call's body: a pure function of the run and its request.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use crate::machines::{ListFilter, wire};
use crate::run::id::{Nonce, RunId, machine_name};
use crate::run::request::RunRequest;
use crate::store::acts::Claimed;

/// Where guests find the endpoint.
#[derive(Clone, Debug)]
pub struct GuestUrls {
    /// They post their result here.
    pub result: String,
    /// They get their input here.
    pub input: String,
}

impl GuestUrls {
    /// The addresses below `base`.
    #[must_use]
    pub fn below(base: &Url) -> Self {
        let base = base.as_str().trim_end_matches('/');
        Self {
            result: format!("{base}/results"),
            input: format!("{base}/input"),
        }
    }
}

/// Metadata key: which namespace made the machine.
pub const OWNER: &str = "cofferdam_owner";
/// Metadata key: which installation.
pub const INSTALLATION: &str = "cofferdam_installation";
/// Metadata key: for which run.
pub const RUN: &str = "cofferdam_run";
/// Metadata key: for which attempt of it.
pub const ATTEMPT: &str = "cofferdam_attempt";
/// Metadata key: the run's deadline, Unix seconds.
pub const DEADLINE: &str = "cofferdam_deadline";

/// Filters a list for the machines of a run, of all its attempts. A guest can rewrite the metadata of
/// its own machine, and no other's.
#[must_use]
pub fn machines_of(run: &RunId) -> ListFilter {
    ListFilter {
        metadata: vec![(RUN.to_owned(), run.to_string())],
        ..ListFilter::default()
    }
}

/// Environment variable: the guest's token, which also proves to whom the machine belongs.
pub const RUN_TOKEN: &str = "SANDBOX_RUN_TOKEN";

/// How long a machine has between being asked to stop and being killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The create call's body. Every part is derived from the run and its attempt, so a repeated call asks
/// for the same machine.
#[must_use]
pub fn machine(
    run: &Claimed,
    request: &RunRequest,
    token: &str,
    urls: &GuestUrls,
    owner: &str,
) -> wire::CreateMachine {
    let deadline_s = (run.deadline_ms / 1000).to_string();
    let mut env: BTreeMap<String, String> = request.env.clone();
    let ours = [
        ("SANDBOX_RUN_ID", run.id.as_str()),
        (RUN_TOKEN, token),
        ("SANDBOX_RESULT_URL", &urls.result),
        ("SANDBOX_INPUT_URL", &urls.input),
        ("SANDBOX_DEADLINE", &deadline_s),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let attempt = run.attempt.to_string();
    let installation = run.nonce.as_ref().map(Nonce::installation);
    let metadata = [
        (OWNER, owner),
        (RUN, run.id.as_str()),
        (ATTEMPT, &attempt),
        (DEADLINE, &deadline_s),
    ];
    let metadata = metadata
        .into_iter()
        .chain(installation.map(|id| (INSTALLATION, id)));
    wire::CreateMachine {
        name: Some(machine_name(&run.id, run.attempt, run.nonce.as_ref())),
        region: request.region.clone(),
        config: wire::MachineConfig {
            image: Some(request.image.clone()),
            guest: Some(wire::Guest {
                cpu_kind: Some(request.guest.cpu_kind.clone()),
                cpus: Some(request.guest.cpus),
                memory_mb: Some(u64::from(request.guest.memory_mb)),
                ..wire::Guest::default()
            }),
            env: wire::Env(env),
            init: request.cmd.clone().map(|cmd| wire::Init {
                cmd: Some(cmd),
                ..wire::Init::default()
            }),
            files: request.files.iter().map(file).collect(),
            auto_destroy: Some(true),
            restart: Some(wire::Restart {
                policy: Some(wire::RestartPolicy::No),
                ..wire::Restart::default()
            }),
            stop_config: Some(wire::StopConfig {
                signal: Some(wire::Signal::Name("SIGTERM".to_owned())),
                timeout: Some(wire::GoDuration(STOP_TIMEOUT)),
                ..wire::StopConfig::default()
            }),
            metadata: metadata
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            dns: Some(wire::Dns {
                skip_registration: Some(true),
                ..wire::Dns::default()
            }),
            ..wire::MachineConfig::default()
        },
        ..wire::CreateMachine::default()
    }
}

fn file(file: &crate::run::request::File) -> wire::File {
    wire::File {
        guest_path: file.guest_path.clone(),
        raw_value: Some(file.raw_value.clone()),
        mode: file.mode,
        ..wire::File::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::id::Attempt;
    use crate::run::request::Limits;

    #[test]
    fn the_body_is_what_the_contract_says() {
        let limits = Limits {
            image: None,
            region: None,
            run_timeout: Duration::from_secs(300),
            max_cpus: 8,
            max_memory_mb: 16384,
        };
        let json = r#"{"image":"busybox","cmd":["sh","-c","true"],"env":{"A":"b"},
            "files":[{"guest_path":"/a","raw_value":"YQ==","mode":493}],"region":"ams,eu"}"#;
        let request = RunRequest::parse(json, &limits).unwrap();
        let run = Claimed {
            id: "pr-17".parse().unwrap(),
            tenant: "default".into(),
            attempt: Attempt(2),
            app: "sandboxes".into(),
            deadline_ms: 1_700_000_000_123,
            refusals: 0,
            refused_since_ms: None,
            nonce: Some("00112233445566778899aabbccdd0001".parse().unwrap()),
            request: crate::store::acts::Request::Here(json.into()),
        };
        let urls = GuestUrls::below(&Url::parse("http://front.flycast/").unwrap());
        let body = serde_json::to_value(machine(&run, &request, "cd2.t", &urls, "cofferdam"));
        assert_eq!(
            body.unwrap(),
            serde_json::json!({
                "name": "sandbox-pr-17-2-5d7c57e23aee",
                "region": "ams,eu",
                "config": {
                    "image": "busybox",
                    "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
                    "env": {
                        "A": "b",
                        "SANDBOX_RUN_ID": "pr-17",
                        "SANDBOX_RUN_TOKEN": "cd2.t",
                        "SANDBOX_RESULT_URL": "http://front.flycast/results",
                        "SANDBOX_INPUT_URL": "http://front.flycast/input",
                        "SANDBOX_DEADLINE": "1700000000",
                    },
                    "init": {"cmd": ["sh", "-c", "true"]},
                    "files": [{"guest_path": "/a", "raw_value": "YQ==", "mode": 493}],
                    "auto_destroy": true,
                    "restart": {"policy": "no"},
                    "stop_config": {"signal": "SIGTERM", "timeout": "5s"},
                    "metadata": {
                        "cofferdam_owner": "cofferdam",
                        "cofferdam_installation": "0011223344556677",
                        "cofferdam_run": "pr-17",
                        "cofferdam_attempt": "2",
                        "cofferdam_deadline": "1700000000",
                    },
                    "dns": {"skip_registration": true},
                },
            })
        );
    }
}
