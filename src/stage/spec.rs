//! The create call's body: a pure function of the run and its request.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use crate::machines::{ListFilter, wire};
use crate::run::id::{Nonce, RunId, machine_name};
use crate::run::request::{Capture, File, RunRequest};
use crate::run::trace::TraceParent;
use crate::store::acts::Claimed;

/// What guests are told: where they find the endpoint, and the agent.
#[derive(Clone, Debug)]
pub struct GuestSetup {
    /// They post their result here.
    result_url: String,
    /// They get their input here.
    input_url: String,
    /// They post their output here.
    log_url: String,
    /// They put their artifacts below this; `None` where none are kept.
    artifact_url: Option<String>,
    /// Path of the agent in their machines; `None` to send it along.
    program: Option<String>,
}

impl GuestSetup {
    /// The addresses below `base`.
    #[must_use]
    pub fn new(base: &Url, program: Option<String>, keeps_artifacts: bool) -> Self {
        let base = base.as_str().trim_end_matches('/');
        Self {
            result_url: format!("{base}/results"),
            input_url: format!("{base}/input"),
            log_url: format!("{base}/log"),
            artifact_url: keeps_artifacts.then(|| format!("{base}/artifacts")),
            program,
        }
    }
}

/// Where the agent is in a machine to which it was sent along.
const SENT_AGENT: &str = "/.cofferdam/guest";
/// Permission bits of a program.
const PROGRAM_MODE: u32 = 0o755;
/// Where a command's standard input is in its machine.
const STDIN: &str = "/.cofferdam/stdin";
/// Environment variable: what the agent keeps, as JSON; its form is in `crates/guest/src/job.rs`.
pub const CAPTURE: &str = "SANDBOX_CAPTURE";

/// Metadata key: which namespace made the machine.
pub const OWNER: &str = "cofferdam_owner";
/// Metadata key: which installation.
pub const INSTALLATION: &str = "cofferdam_installation";
/// Metadata key: for which run.
pub const RUN: &str = "cofferdam_run";
/// Metadata key: for which attempt of it.
pub const ATTEMPT: &str = "cofferdam_attempt";
/// Metadata key: whose run it is. The local server gives each tenant's machines one share of the processor.
pub const TENANT: &str = "cofferdam_tenant";
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

/// Environment variable: where a guest posts its output.
pub const LOG_URL: &str = "SANDBOX_LOG_URL";

/// Environment variable: the span that a guest's own are part of.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// How long a machine has between being asked to stop and being killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The create call's body. Every part is derived from the run and its attempt, so a repeated call asks
/// for the same machine.
#[must_use]
pub fn machine(
    run: &Claimed,
    request: &RunRequest,
    token: &str,
    traceparent: Option<TraceParent>,
    guests: &GuestSetup,
    owner: &str,
) -> wire::CreateMachine {
    let deadline_s = (run.deadline_ms / 1000).to_string();
    let mut env: BTreeMap<String, String> = request.env.clone();
    let ours = [
        ("SANDBOX_RUN_ID", run.id.as_str()),
        (RUN_TOKEN, token),
        ("SANDBOX_RESULT_URL", &guests.result_url),
        ("SANDBOX_INPUT_URL", &guests.input_url),
        (LOG_URL, &guests.log_url),
        ("SANDBOX_DEADLINE", &deadline_s),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if let Some(parent) = traceparent {
        // One that the request itself sets is meant.
        let ours = || parent.to_string();
        env.entry(TRACEPARENT.to_owned()).or_insert_with(ours);
    }
    if let Some(url) = &guests.artifact_url {
        env.insert("SANDBOX_ARTIFACT_URL".to_owned(), url.clone());
    }
    let mut files: Vec<_> = request.files.iter().map(file).collect();
    if let Some(capture) = &request.capture {
        env.insert(CAPTURE.to_owned(), told(capture));
        let stdin = capture.stdin.as_ref();
        files.extend(stdin.map(|text| placed(STDIN, STANDARD.encode(text), None)));
        if guests.program.is_none() {
            files.push(placed(SENT_AGENT, AGENT.clone(), Some(PROGRAM_MODE)));
        }
    }
    let attempt = run.attempt.to_string();
    let installation = run.nonce.as_ref().map(Nonce::installation);
    let metadata = [
        (OWNER, owner),
        (RUN, run.id.as_str()),
        (ATTEMPT, &attempt),
        (DEADLINE, &deadline_s),
        (TENANT, &run.tenant),
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
            init: init(request, guests),
            files,
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

/// What the machine runs. The agent takes the place of the image's entry point, and gets the whole
/// command. With none, the local Machines server adds the image's own.
fn init(request: &RunRequest, guests: &GuestSetup) -> Option<wire::Init> {
    if request.capture.is_none() {
        let is_asked = request.cmd.is_some() || request.entrypoint.is_some();
        return is_asked.then(|| wire::Init {
            cmd: request.cmd.clone(),
            entrypoint: request.entrypoint.clone(),
            ..wire::Init::default()
        });
    }
    let agent = guests.program.as_deref().unwrap_or(SENT_AGENT);
    let mut exec = vec![agent.to_owned(), "--".to_owned()];
    exec.extend(
        request
            .entrypoint
            .iter()
            .chain(&request.cmd)
            .flatten()
            .cloned(),
    );
    Some(wire::Init {
        exec: Some(exec),
        ..wire::Init::default()
    })
}

/// What the agent is told, in its environment.
fn told(capture: &Capture) -> String {
    let told = serde_json::json!({
        "stdout_bytes": capture.stdout_bytes,
        "stderr_bytes": capture.stderr_bytes,
        "artifacts": capture.artifacts,
        "artifact_bytes": capture.artifact_bytes.unwrap_or(u64::MAX),
        "stdin": capture.stdin.as_ref().map(|_| STDIN),
        "unpack": capture.unpack,
    });
    told.to_string()
}

fn file(file: &File) -> wire::File {
    placed(&file.guest_path, file.raw_value.clone(), file.mode)
}

fn placed(path: &str, base64: String, mode: Option<u32>) -> wire::File {
    wire::File {
        guest_path: path.to_owned(),
        raw_value: Some(base64),
        mode,
        ..wire::File::default()
    }
}

/// The agent in base64.
static AGENT: LazyLock<String> = LazyLock::new(|| STANDARD.encode(cofferdam_guest::PROGRAM));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::id::Attempt;
    use crate::run::request::{CaptureLimits, Limits};

    fn limits() -> Limits {
        Limits {
            image: None,
            region: None,
            run_timeout: Duration::from_secs(300),
            max_cpus: 8,
            max_memory_mb: 16384,
            capture: CaptureLimits {
                output_bytes: 1000,
                output_max_bytes: 2000,
                has_image_commands: true,
                is_plain_http: true,
            },
        }
    }

    fn body(request: &str, program: Option<&str>) -> serde_json::Value {
        let parsed = RunRequest::parse(request, &limits()).unwrap();
        let run = Claimed {
            id: "pr-17".parse().unwrap(),
            tenant: "default".into(),
            attempt: Attempt(2),
            app: "sandboxes".into(),
            deadline_ms: 1_700_000_000_123,
            refusals: 0,
            refused_since_ms: None,
            nonce: Some("00112233445566778899aabbccdd0001".parse().unwrap()),
            request: crate::store::acts::Request::Here(request.into()),
        };
        let base = Url::parse("http://front.flycast/").unwrap();
        let guests = GuestSetup::new(&base, program.map(str::to_owned), true);
        let traced = parsed.traceparent;
        serde_json::to_value(machine(
            &run,
            &parsed,
            "cd2.t",
            traced,
            &guests,
            "cofferdam",
        ))
        .unwrap()
    }

    #[test]
    fn the_agent_is_sent_along_or_in_the_image_and_gets_the_whole_command() {
        let request = r#"{"image":"a","cmd":["b","c"],"entrypoint":["e"],"capture":
            {"stdin":"hi","artifacts":["out/**"],"stderr_bytes":5}}"#;
        let config = &body(request, None)["config"];
        assert_eq!(
            config["init"],
            serde_json::json!({"exec": ["/.cofferdam/guest", "--", "e", "b", "c"]})
        );
        let told: serde_json::Value =
            serde_json::from_str(config["env"]["SANDBOX_CAPTURE"].as_str().unwrap()).unwrap();
        let expected = serde_json::json!({"stdout_bytes": 1000, "stderr_bytes": 5,
            "artifacts": ["out/**"], "artifact_bytes": u64::MAX, "stdin": "/.cofferdam/stdin",
            "unpack": null});
        assert_eq!(told, expected);
        let files = config["files"].as_array().unwrap();
        assert_eq!(files[0]["guest_path"], "/.cofferdam/stdin");
        assert_eq!(files[1]["guest_path"], "/.cofferdam/guest");
        assert_eq!(files[1]["mode"], 0o755);
        let agent = STANDARD.decode(files[1]["raw_value"].as_str().unwrap());
        assert_eq!(agent.unwrap(), cofferdam_guest::PROGRAM);

        let config = &body(r#"{"image":"a","capture":true}"#, Some("/opt/agent"))["config"];
        assert_eq!(
            config["init"]["exec"],
            serde_json::json!(["/opt/agent", "--"])
        );
        assert_eq!(config["files"], serde_json::Value::Null);
    }

    #[test]
    fn a_guest_gets_the_span_that_it_is_part_of_unless_its_request_sets_one() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traced = format!(r#"{{"image":"a","traceparent":"{parent}"}}"#);
        assert_eq!(body(&traced, None)["config"]["env"]["TRACEPARENT"], parent);
        let own =
            format!(r#"{{"image":"a","traceparent":"{parent}","env":{{"TRACEPARENT":"x"}}}}"#);
        assert_eq!(body(&own, None)["config"]["env"]["TRACEPARENT"], "x");
    }

    #[test]
    fn the_body_is_what_the_contract_says() {
        let body = body(
            r#"{"image":"busybox","cmd":["sh","-c","true"],"env":{"A":"b"},
            "files":[{"guest_path":"/a","raw_value":"YQ==","mode":493}],"region":"ams,eu"}"#,
            None,
        );
        assert_eq!(
            body,
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
                        "SANDBOX_LOG_URL": "http://front.flycast/log",
                        "SANDBOX_DEADLINE": "1700000000",
                        "SANDBOX_ARTIFACT_URL": "http://front.flycast/artifacts",
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
                        "cofferdam_tenant": "default",
                    },
                    "dns": {"skip_registration": true},
                },
            })
        );
    }
}
