//! Calls to the kernel that a guest on a shared kernel must be refused.

use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use rustix::system::sethostname;

use crate::report::Report;

const GROUP: &str = "kernel";

/// The kernel's cryptography by socket.
const AF_ALG: u16 = 38;

/// What is tried in a process of its own, since it changes the process that succeeds. Where one
/// succeeds it changes nothing else: the probe may be run as root outside of a machine by mistake.
const ATTEMPTS: [&str; 9] = [
    "user-namespace",
    "network-namespace",
    "mount",
    "host-name",
    "raw-socket",
    "packet-socket",
    "netlink-socket",
    "crypto-socket",
    "vsock-socket",
];

pub(crate) fn probe(report: &mut Report) {
    for name in ATTEMPTS {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--attempt", name]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let reached = match command.output() {
            Ok(output) if output.status.success() => Ok("it succeeded".to_owned()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            Err(error) => Err(format!("not tried: {error}")),
        };
        report.note(GROUP, name, reached);
    }
}

/// Tries one of them and says by the exit status whether it succeeded.
pub(crate) fn attempt(name: &str) -> ExitCode {
    let tried = match name {
        "user-namespace" => unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| error.to_string()),
        "network-namespace" => unshare(CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string()),
        "mount" => mount_and_unmount(),
        "host-name" => keep_host_name(),
        "raw-socket" => open(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)),
        "packet-socket" => open(AddressFamily::PACKET, SocketType::RAW, None),
        "netlink-socket" => open(AddressFamily::NETLINK, SocketType::RAW, None),
        "crypto-socket" => open(AddressFamily::from_raw(AF_ALG), SocketType::SEQPACKET, None),
        "vsock-socket" => open(AddressFamily::VSOCK, SocketType::STREAM, None),
        _ => Err("there is no such attempt".to_owned()),
    };
    match tried {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Mounts over a new folder of its own, so that nothing that somebody uses is covered, and takes it
/// back at once.
fn mount_and_unmount() -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("probe-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|error| format!("not tried: {error}"))?;
    let mounted = mount("none", &folder, "tmpfs", MountFlags::empty(), None);
    if mounted.is_ok() {
        // What stays mounted covers an empty folder.
        let _ = unmount(&folder, UnmountFlags::DETACH);
    }
    let _ = std::fs::remove_dir(&folder);
    mounted.map_err(|error| error.to_string())
}

/// Sets the name that the host has already.
fn keep_host_name() -> Result<(), String> {
    let name = rustix::system::uname().nodename().to_bytes().to_vec();
    sethostname(&name).map_err(|error| error.to_string())
}

fn open(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> Result<(), String> {
    let opened = socket(family, kind, protocol);
    opened.map(drop).map_err(|error| error.to_string())
}
