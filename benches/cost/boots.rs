//! Local boots: from a create call to the guest's first instruction, beside what others take to a
//! program's first byte of output: bubblewrap alone, `crun run`, `docker run`.
//!
//! All in turns in one run. Crun has this computer's /usr as bubblewrap has, Docker an image with
//! nothing but a static busybox, and neither a network.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cofferdam::local::{LocalServer, ServerSettings};
use cofferdam::machines::wire::{CreateMachine, MachineState};
use cofferdam::machines::{Client, ClientSettings, Force, Token, Wait};
use cofferdam::shutdown::Shutdown;
use cofferdam_sandbox::{self as engine, Engine};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::report::{Part, Report};
use crate::runs::median;
use crate::stack::APP;

const WARM_UPS: usize = 3;
/// The guest tells the time itself, as its first act.
const GUEST: [&str; 3] = ["/bin/bash", "-c", "echo $EPOCHREALTIME"];
const ECHO: [&str; 3] = ["/bin/sh", "-c", "echo hi"];

/// Another way to run a program in isolation.
pub(crate) struct Other {
    name: &'static str,
    command: Vec<String>,
    /// Each container needs a name of its own.
    is_named: bool,
}

impl Other {
    /// To the first byte of output; else what was said instead.
    fn boot(&self, number: usize) -> Result<Duration, String> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        if self.is_named {
            command.arg(format!("cofferdam-bench-{}-{number}", std::process::id()));
        } else {
            command.args(ECHO);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let began = Instant::now();
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let read = child.stdout.take().unwrap().read_exact(&mut [0]);
        let took = began.elapsed();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.lines().next().unwrap_or("it said nothing").to_owned();
        read.map(|()| took).map_err(|_| said)
    }
}

pub(crate) async fn measure(report: &mut Report, rounds: usize) {
    let (alone, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = engine::Settings::new(alone.path().to_owned());
    let engine = match Engine::open(settings).await {
        Ok((engine, _)) => engine,
        Err(error) => {
            report.skipped.push(format!("local boots: {error}"));
            return;
        }
    };
    let (client, shutdown) = server(state.path()).await;
    let folder = tempfile::tempdir().unwrap();
    let image = format!("cofferdam-bench:{}", std::process::id());
    let mut others = Vec::new();
    for (name, other) in [
        ("crun run", crun(folder.path())),
        ("docker run", docker(folder.path(), &image)),
    ] {
        // One that does not work here says so at once.
        match other.and_then(|other| other.boot(usize::MAX).map(|_| other)) {
            Ok(other) => others.push(other),
            Err(why) => report.skipped.push(format!("{name}: {why}")),
        }
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); 2 + others.len()];
    for round in 0..WARM_UPS + rounds {
        let argv = GUEST.map(String::from).into();
        let mut took = vec![engine.bare(argv).await.unwrap(), machine(&client).await];
        for other in &others {
            took.push(other.boot(round).unwrap());
        }
        if round >= WARM_UPS {
            for (times, took) in times.iter_mut().zip(took) {
                times.push(took.as_secs_f64() * 1000.0);
            }
        }
    }
    engine.close().await;
    shutdown.finish(Duration::from_secs(30)).await;
    remove_image(&image);
    let names = ["bubblewrap alone", "cofferdam, from the create call"];
    let names = names
        .into_iter()
        .chain(others.iter().map(|other| other.name));
    let mut part = Part::new(
        format!("Local boots, ms, {rounds} rounds"),
        &["p50", "p90", "× bubblewrap"],
    );
    for (name, own) in names.zip(&times) {
        let ratios = own.iter().zip(&times[0]).map(|(own, bare)| own / bare);
        let mut sorted = own.clone();
        sorted.sort_by(f64::total_cmp);
        let values = vec![
            Some(median(own.clone())),
            Some(sorted[sorted.len() * 9 / 10]),
            Some(median(ratios.collect())),
        ];
        part.row(name, values);
    }
    report.parts.push(part);
}

/// Removes what [`docker`] made, if it did.
pub(crate) fn remove_image(image: &str) {
    let _ = run(Command::new("docker").args(["image", "rm", "--force", image]));
}

/// What a command says on its output, or why it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if out.status.success() {
        Ok(text(&out.stdout))
    } else {
        Err(text(&out.stderr)
            .lines()
            .next()
            .unwrap_or("it failed")
            .to_owned())
    }
}

/// A bundle whose root is this computer's /usr, read-only.
fn crun(folder: &Path) -> Result<Other, String> {
    let root = folder.join("rootfs");
    for name in ["usr", "proc", "dev", "sys"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    run(Command::new("crun").arg("spec").current_dir(folder))?;
    let file = folder.join("config.json");
    let json = std::fs::read(&file).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&json).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = ECHO.as_slice().into();
    let mount = serde_json::json!({
        "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]
    });
    config["mounts"].as_array_mut().unwrap().push(mount);
    std::fs::write(&file, config.to_string()).unwrap();
    let bundle = folder.to_str().unwrap();
    Ok(Other {
        name: "crun run",
        command: ["crun", "run", "--bundle", bundle].map(String::from).into(),
        is_named: true,
    })
}

/// An image with nothing but a static busybox.
pub(crate) fn docker(folder: &Path, image: &str) -> Result<Other, String> {
    run(Command::new("docker").arg("info"))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let found = busybox.iter().find(|path| Path::new(path).is_file());
    let found = found.ok_or("there is no busybox (Debian: apt-get install busybox-static)")?;
    let root = folder.join("image");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(found, root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    let archive = folder.join("image.tar");
    let (root, archive) = (root.to_str().unwrap(), archive.to_str().unwrap());
    run(Command::new("tar").args(["-C", root, "-cf", archive, "."]))?;
    run(Command::new("docker").args(["import", archive, image]))?;
    let command = ["docker", "run", "--rm", "--network", "none", image];
    Ok(Other {
        name: "docker run",
        command: command.map(String::from).into(),
        is_named: false,
    })
}

async fn server(state: &Path) -> (Client, Shutdown) {
    let mut settings = ServerSettings::new("bench".to_owned(), state.to_owned());
    settings.apps = vec![APP.to_owned()];
    let shutdown = Shutdown::new();
    let machines = LocalServer::open(settings, &shutdown).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    shutdown.spawn(machines.serve(listener));
    let settings = ClientSettings::new(base.parse().unwrap(), Token::new("bench"));
    (Client::new(settings).unwrap(), shutdown)
}

/// Creates a machine, reads from its log when it began, and removes it.
async fn machine(client: &Client) -> Duration {
    let request: CreateMachine = serde_json::from_value(serde_json::json!({"config": {
        "image": "host", "init": {"exec": GUEST}, "restart": {"policy": "no"}
    }}))
    .unwrap();
    let began_us = now_us();
    let made = client.create(APP, &request).await.unwrap();
    let wait = Wait {
        states: &[MachineState::Stopped],
        version: None,
        timeout: Duration::from_secs(60),
    };
    client.wait(APP, &made.id, &wait).await.unwrap();
    let page = client.logs(APP, Some(&made.id), None).await.unwrap();
    client.delete(APP, &made.id, Force::No).await.unwrap();
    let told: f64 = page.data[0].attributes.message.parse().unwrap();
    Duration::from_secs_f64((told * 1e6 - began_us).max(0.0) / 1e6)
}

/// The system's own time, as the guest tells it.
#[expect(
    clippy::disallowed_methods,
    reason = "a guest's time is compared with it"
)]
fn now_us() -> f64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs_f64() * 1e6
}
