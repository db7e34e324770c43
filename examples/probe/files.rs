//! Files of the host, of other machines and of the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;

use crate::report::{Report, any};

/// What belongs to somebody else, on whatever engine.
const HOST: &str = "host";
/// What matters where machines share a kernel.
const KERNEL: &str = "kernel";

/// Sockets of engines and services.
const SOCKETS: [&str; 8] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
    "/run/dbus/system_bus_socket",
    "/run/redis/redis-server.sock",
];

/// Places where credentials and the state of cofferdam are.
const SECRETS: [&str; 12] = [
    "/root/.ssh",
    "/root/.aws",
    "/root/.docker",
    "/root/.fly",
    "/root/.local/state/cofferdam",
    "/var/lib/cofferdam",
    "/var/lib/redis",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "/run/secrets",
    "/var/run/secrets",
    "/host",
];

/// Files and devices of the kernel that only its owner may read.
const KERNEL_FILES: [&str; 22] = [
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/cmdline",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/firmware",
    "/dev/mem",
    "/dev/kmem",
    "/dev/port",
    "/dev/kmsg",
    "/dev/kvm",
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/vda",
    "/dev/sda",
    "/dev/nvme0n1",
    "/dev/loop-control",
];

/// Switches of the kernel.
const SWITCHES: [&str; 6] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
];

/// Terminals that are opened at the most, and as many as one guest may have.
const TERMINALS: usize = 64;

pub(crate) fn probe(report: &mut Report) {
    let connected = SOCKETS
        .iter()
        .filter(|path| UnixStream::connect(path).is_ok());
    let connected = connected.map(|path| (*path).to_owned()).collect();
    report.note(HOST, "sockets", any(connected, "none connects"));

    let readable = SECRETS.iter().filter(|path| has_content(path));
    let readable = readable.map(|path| (*path).to_owned()).collect();
    report.note(HOST, "secrets", any(readable, "none to be read"));

    let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
    let hashes = shadow.lines().filter(|line| line.contains(":$"));
    let users = hashes
        .filter_map(|line| line.split(':').next())
        .map(str::to_owned);
    report.note(
        HOST,
        "password-hashes",
        any(users.collect(), "none to be read"),
    );

    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let telling = mounts.lines().filter(|line| {
        [
            "/cofferdam",
            "/containers/",
            "/overlay2/",
            "/home/",
            "/var/lib/",
        ]
        .iter()
        .any(|word| line.contains(word))
    });
    report.note(
        HOST,
        "host-paths-in-mounts",
        any(telling.map(str::to_owned).collect(), "none"),
    );

    let links = ["/proc/1/root", "/proc/1/cwd", "/proc/self/root"];
    let outside = links.iter().filter(|link| leads_outside(link));
    let outside = outside.map(|link| (*link).to_owned()).collect();
    report.note(
        HOST,
        "other-roots",
        any(outside, "all links lead to this root"),
    );

    for path in KERNEL_FILES {
        report.note(KERNEL, format!("read {path}"), read(path));
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let known = symbols
        .lines()
        .take(1000)
        .filter(|line| !line.starts_with("0000000000000000"));
    let known: Vec<String> = known.take(1).map(str::to_owned).collect();
    report.note(KERNEL, "kernel-addresses", any(known, "none to be read"));
    for path in SWITCHES {
        let opened = OpenOptions::new().write(true).open(path);
        report.note(
            KERNEL,
            format!("write {path}"),
            opened
                .map(|_| "opened".to_owned())
                .map_err(|error| error.to_string()),
        );
    }
    report.note(
        KERNEL,
        "control-groups",
        any(writable_groups(), "none to be written"),
    );
    report.note(KERNEL, "block-devices", any(block_devices(), "none"));
    report.note(KERNEL, "terminals", terminals());
}

fn has_content(path: &str) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether a link to a folder leads to another file system tree than this process's root.
fn leads_outside(link: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(there), Ok(here)) = (fs::metadata(link), fs::metadata("/")) else {
        return false;
    };
    link.ends_with("root") && (there.dev(), there.ino()) != (here.dev(), here.ino())
}

fn read(path: &str) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Ok("listed".to_owned()),
            Ok(false) => Err("is empty".to_owned()),
            Err(error) => Err(error.to_string()),
        };
    }
    let mut options = OpenOptions::new();
    // A read of the kernel's log waits for its next line.
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, NONBLOCK);
    let file: File = options
        .read(true)
        .open(path)
        .map_err(|error| error.to_string())?;
    if metadata.file_type().is_char_device() || metadata.file_type().is_block_device() {
        return Ok("opened".to_owned());
    }
    let mut piece = [0; 64];
    match (&file).read(&mut piece) {
        Ok(0) => Err("is empty".to_owned()),
        Ok(bytes) => Ok(format!("{bytes} bytes")),
        Err(error) => Err(error.to_string()),
    }
}

/// `O_NONBLOCK`, the same on the architectures that Fly and Debian have.
const NONBLOCK: i32 = 0o4000;

fn writable_groups() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if folders.len() < 1000 {
                    folders.push(path);
                }
            } else if path.ends_with("cgroup.procs")
                && OpenOptions::new().write(true).open(&path).is_ok()
            {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn block_devices() -> Vec<String> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let blocks = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()));
    blocks
        .map(|entry| entry.path())
        .filter(|path| File::open(path).is_ok())
        .map(|path| path.display().to_string())
        .collect()
}

/// Terminals are few on a host: one guest must not be able to take them all.
fn terminals() -> Result<String, String> {
    let mut open = Vec::new();
    while open.len() <= TERMINALS {
        match OpenOptions::new().read(true).write(true).open("/dev/ptmx") {
            Ok(terminal) => open.push(terminal),
            Err(error) => return Err(format!("{} opened, then {error}", open.len())),
        }
    }
    Ok(format!("more than {TERMINALS} opened"))
}
