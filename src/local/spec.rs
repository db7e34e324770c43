//! From a machine's configuration and its image to what the engine is told.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use url::Url;

use crate::local::check;
use crate::local::image::Image;
use crate::local::refusal::Refusal;
use crate::local::registry::machine::MachineRecord;
use crate::machines::wire::{File, MachineConfig};
use crate::run::request::LOCAL_AGENT;
use crate::stage::spec::TENANT;
use cofferdam_sandbox::{GuestFile, Spec};

/// Where programs are looked for when neither image nor request says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a guest's own files go, unless image or request says otherwise.
const HOME: &str = "/workspace";

/// The variable that tells guests where the endpoint is.
const RESULT_URL: &str = "SANDBOX_RESULT_URL";
/// Where a machine finds the endpoint whose environment names no port of its own for it.
const USUAL_PORT: u16 = 8080;
/// The first port that a program without rights may listen at.
const PORT_MIN: u16 = 1024;

/// Permission bits of a file when the request has none.
const FILE_MODE: u32 = 0o644;

/// An image of which nothing can be run.
const NO_COMMAND: &str =
    "the image has no command: config.init.cmd or config.init.exec is required";

/// The program of a machine and its arguments: `init.exec` alone if it is there; otherwise entry
/// point and command, each the request's own or else the image's.
///
/// # Errors
/// 400 when nothing is left to run.
pub(crate) fn argv(config: &MachineConfig, image: &Image) -> Result<Vec<String>, Refusal> {
    let init = config.init.as_ref();
    let given = |list: Option<&Vec<String>>| list.filter(|list| !list.is_empty()).cloned();
    if let Some(mut exec) = given(init.and_then(|init| init.exec.as_ref())) {
        // The guest agent without a command: it gets the image's own.
        if exec == [LOCAL_AGENT, "--"] {
            exec.extend(image.entrypoint.iter().chain(&image.cmd).cloned());
            if exec.len() == 2 {
                return Err(Refusal::invalid(NO_COMMAND));
            }
        }
        return Ok(exec);
    }
    let entrypoint = given(init.and_then(|init| init.entrypoint.as_ref()));
    let cmd = given(init.and_then(|init| init.cmd.as_ref()));
    let mut argv = entrypoint.unwrap_or_else(|| image.entrypoint.clone());
    argv.extend(cmd.unwrap_or_else(|| image.cmd.clone()));
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(argv),
        _ => Err(Refusal::invalid(NO_COMMAND)),
    }
}

/// What the engine is told about a machine that was checked before.
///
/// # Errors
/// What does not fit after all, in words.
pub(crate) fn build(machine: &MachineRecord) -> Result<Spec, Refusal> {
    let config = &*machine.config;
    let size = check::size(config)?;
    let env = env(machine, size.memory_mb);
    Ok(Spec {
        id: machine.id.clone(),
        owner: owner(machine),
        root: machine.image.root.clone(),
        argv: argv(config, &machine.image)?,
        port: port(&env),
        env,
        workdir: machine.image.workdir.clone(),
        files: config.files.iter().map(file).collect::<Result<_, _>>()?,
        memory_mb: size.memory_mb,
        cpus: size.cpus,
    })
}

/// Whose machines share the processor as one: a tenant's where the machine was made for one, else an
/// app's. What a guest writes into its metadata later comes too late.
fn owner(machine: &MachineRecord) -> String {
    let tenant = machine.config.metadata.get(TENANT);
    tenant.unwrap_or(&machine.app).clone()
}

/// The image's environment, the request's over it, and over both what the service sets itself.
/// `FLY_PUBLIC_IP` is left out, since there is none.
fn env(machine: &MachineRecord, memory_mb: u64) -> BTreeMap<String, String> {
    let usual = [("PATH", PATH), ("HOME", HOME)];
    let mut env = BTreeMap::from(usual.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(machine.image.env.iter().cloned());
    env.extend(machine.config.env.0.clone());
    let image = machine.config.image.clone().unwrap_or_default();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("FLY_APP_NAME", &machine.app);
    set("FLY_MACHINE_ID", &machine.id);
    set("FLY_ALLOC_ID", &machine.id);
    set("FLY_MACHINE_VERSION", &machine.version);
    set("FLY_REGION", &machine.region);
    set("PRIMARY_REGION", &machine.region);
    set("FLY_IMAGE_REF", &image);
    set("FLY_PRIVATE_IP", &machine.private_ip());
    set("FLY_VM_MEMORY_MB", &memory_mb.to_string());
    if let Some(group) = machine.metadata.get("fly_process_group") {
        set("FLY_PROCESS_GROUP", group);
    }
    env
}

/// The port inside the machine that leads to the endpoint: the one that its guest is told of, so that
/// every other is the guest's own.
fn port(env: &BTreeMap<String, String>) -> u16 {
    let told = env.get(RESULT_URL).and_then(|url| Url::parse(url).ok());
    let here = told.filter(|url| matches!(url.host_str(), Some("127.0.0.1" | "localhost")));
    let port = here.and_then(|url| url.port_or_known_default());
    port.filter(|port| *port >= PORT_MIN).unwrap_or(USUAL_PORT)
}

fn file(file: &File) -> Result<GuestFile, Refusal> {
    let raw = file.raw_value.as_deref().unwrap_or_default();
    let bytes = STANDARD
        .decode(raw)
        .map_err(|_| Refusal::invalid(format!("{} is not base64", file.guest_path)))?;
    Ok(GuestFile {
        path: file.guest_path.clone(),
        bytes: Bytes::from(bytes),
        mode: file.mode.unwrap_or(FILE_MODE),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::local::registry::machine::tests::machine_that_was;

    fn config(fields: Value) -> MachineConfig {
        serde_json::from_value(fields).expect("a configuration")
    }

    fn image() -> Image {
        Image {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            env: vec![
                ("PATH".into(), "/opt/bin".into()),
                ("A".into(), "image".into()),
            ],
            workdir: Some("/srv".into()),
            ..Image::default()
        }
    }

    #[test]
    fn what_is_run_follows_the_order_of_the_service() {
        for (init, expected) in [
            (json!({}), "/entry default"),
            (json!({"cmd": ["x", "y"]}), "/entry x y"),
            (json!({"entrypoint": ["/other"]}), "/other default"),
            (json!({"entrypoint": ["/other"], "cmd": ["x"]}), "/other x"),
            (
                json!({"exec": ["/bin/sh", "-c", "1"], "cmd": ["x"]}),
                "/bin/sh -c 1",
            ),
            (json!({"cmd": []}), "/entry default"),
            (
                json!({"exec": [LOCAL_AGENT, "--"]}),
                "/.cofferdam-guest -- /entry default",
            ),
            (
                json!({"exec": [LOCAL_AGENT, "--", "x"]}),
                "/.cofferdam-guest -- x",
            ),
        ] {
            let config = config(json!({ "init": init }));
            let found = argv(&config, &image()).expect("something is run");
            assert_eq!(found.join(" "), expected, "{init}");
        }
        let refusal = argv(&config(json!({})), &Image::default()).expect_err("nothing is run");
        assert_eq!(refusal.status, 400);
    }

    #[test]
    fn the_endpoint_is_at_the_port_that_the_guest_is_told_of() {
        for (url, expected) in [
            ("http://127.0.0.1:4281/results", 4281),
            ("http://localhost:4281/results", 4281),
            ("http://127.0.0.1:8080/results", 8080),
            // Not at a place in the machine, not at one that a guest may have, and not at any.
            ("http://front.flycast:9000/results", 8080),
            ("http://127.0.0.1/results", 8080),
            ("", 8080),
        ] {
            let env = BTreeMap::from([(RESULT_URL.to_owned(), url.to_owned())]);
            assert_eq!(port(&env), expected, "{url}");
        }
        assert_eq!(port(&BTreeMap::new()), 8080);
    }

    #[test]
    fn the_environment_is_layered_and_has_no_token() {
        let mut machine = machine_that_was(&["created"]);
        machine.image = Arc::new(image());
        machine.config = Arc::new(config(json!({
            "image": "tools:v1", "env": {"A": "request", "FLY_REGION": "mars"},
            "files": [{"guest_path": "/a", "raw_value": "aGk="},
                      {"guest_path": "/b", "raw_value": "", "mode": 493}]
        })));
        let spec = build(&machine).expect("sound");
        let get = |name: &str| spec.env.get(name).map(String::as_str);
        assert_eq!(get("A"), Some("request"));
        assert_eq!(get("PATH"), Some("/opt/bin"));
        assert_eq!(get("FLY_REGION"), Some("local"));
        assert_eq!(get("FLY_APP_NAME"), Some("boxes"));
        assert_eq!(get("FLY_IMAGE_REF"), Some("tools:v1"));
        assert_eq!(get("FLY_VM_MEMORY_MB"), Some("256"));
        assert_eq!(get("FLY_API_TOKEN"), None);
        assert_eq!(get("HOME"), Some("/workspace"));
        assert_eq!(spec.workdir.as_deref(), Some("/srv"));
        assert_eq!(spec.files[0].bytes, "hi");
        assert_eq!((spec.files[0].mode, spec.files[1].mode), (0o644, 0o755));
    }
}
