//! What a machine cannot see, reach or ask of the kernel.
//!
//! One probe makes all attacks, in a machine and, as a control, outside of it as the same user.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command};

use super::lab::{Lab, as_user, env, is_root, python, spec};

const PROBE: &str = include_str!("probe.py");

/// An attack, what it may bring outside, what it may bring inside; the usual comes first.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const ROWS: &[Row] = &[
    ("shadow", &["EACCES"], &["ENOENT"]),
    ("file-of-same-user", &["ok"], &["ENOENT"]),
    ("public-file", &["ok"], &["ENOENT"]),
    ("victim-visible", &["ok"], &["ENOENT"]),
    ("victim-environ", &["ok"], &["ENOENT"]),
    ("victim-signal", &["ok"], &["ESRCH"]),
    ("victim-ptrace", &["ok", "EPERM"], &["EPERM"]),
    ("victim-memory", &["ok", "EPERM"], &["EPERM"]),
    ("victim-descriptor", &["ok", "EPERM"], &["ESRCH"]),
    ("ptrace-self", &["ok"], &["EPERM"]),
    ("mount", &["EPERM"], &["EPERM"]),
    ("umount", &["EPERM"], &["EPERM"]),
    ("fsopen", &["EPERM"], &["EPERM"]),
    ("open-tree", &["EPERM"], &["EPERM"]),
    ("chroot", &["EPERM"], &["EPERM"]),
    ("user-namespace", &["ok"], &["EPERM"]),
    ("net-namespace", &["ok"], &["EPERM"]),
    ("clone3", &["EINVAL"], &["ENOSYS"]),
    ("unknown-call", &["ENOSYS"], &["ENOSYS"]),
    ("raw-socket", &["EPERM"], &["EPROTONOSUPPORT"]),
    ("packet-socket", &["EPERM"], &["EAFNOSUPPORT"]),
    ("netlink", &["ok"], &["EAFNOSUPPORT"]),
    ("vsock", &["ok", "EAFNOSUPPORT"], &["EAFNOSUPPORT"]),
    ("crypto-socket", &["ok", "EAFNOSUPPORT"], &["EAFNOSUPPORT"]),
    ("host-loopback", &["ok"], &["ECONNREFUSED"]),
    ("abstract-socket", &["ok"], &["ECONNREFUSED"]),
    ("path-socket", &["ok"], &["ENOENT"]),
    ("way-out", &["ok", "ENETUNREACH"], &["ENETUNREACH"]),
    (
        "way-out-6",
        &["ok", "ENETUNREACH", "EAFNOSUPPORT", "EADDRNOTAVAIL"],
        &["ENETUNREACH"],
    ),
    ("terminal", &["ok"], &["EACCES", "ENOENT"]),
    ("type-into-pipe", &["ENOTTY"], &["EPERM"]),
    // None can be had; that the call itself is refused is seen above.
    ("type-into-terminal", &["ok", "EIO"], &["EACCES", "ENOENT"]),
    (
        "type-into-terminal-masked",
        &["ok", "EIO"],
        &["EACCES", "ENOENT"],
    ),
    ("mptcp", &["ok", "EPROTONOSUPPORT"], &["EPROTONOSUPPORT"]),
    ("udp-lite", &["ok", "EPROTONOSUPPORT"], &["EPROTONOSUPPORT"]),
    ("icmp-socket", &["ok", "EACCES"], &["EPROTONOSUPPORT"]),
    ("tipc-pair", &["ok", "EAFNOSUPPORT"], &["EAFNOSUPPORT"]),
    ("asynchronous-io", &["ok", "ENOSYS"], &["ENOSYS"]),
    ("decide-for-others", &["ok"], &["EPERM"]),
    ("page-cache", &["EFAULT", "ENOSYS"], &["ENOSYS"]),
    ("keyring", &["ok"], &["EPERM"]),
    (
        "io-uring",
        &["EFAULT", "EINVAL", "EPERM", "ENOSYS"],
        &["EPERM"],
    ),
    ("userfaultfd", &["ok", "EPERM", "ENOSYS"], &["EPERM"]),
    ("bpf", &["EINVAL", "EPERM"], &["EPERM"]),
    (
        "perf",
        &["EFAULT", "EACCES", "ENOENT", "ENOSYS"],
        &["EPERM"],
    ),
    ("syslog", &["EINVAL", "EPERM", "ENOSYS"], &["EPERM"]),
    ("file-handle", &["EPERM", "EFAULT"], &["EPERM"]),
    ("hostname", &["EPERM"], &["EPERM"]),
    ("module", &["EPERM", "ENOSYS"], &["EPERM"]),
    ("kexec", &["EPERM", "ENOSYS"], &["EPERM"]),
    ("swap", &["EPERM", "ENOSYS"], &["EPERM"]),
    ("reboot", &["EPERM"], &["EPERM"]),
    ("clock", &["ok", "EPERM"], &["EPERM"]),
    ("kvm", &["ok", "ENOENT"], &["ENOENT"]),
    ("memory-device", &["ok", "ENOENT"], &["ENOENT"]),
    ("device-node", &["EPERM"], &["EPERM"]),
    ("write-usr", &["EACCES"], &["EROFS"]),
    ("write-root", &["EACCES"], &["EROFS"]),
    ("write-dev", &["EACCES"], &["EROFS"]),
    ("write-etc", &["EACCES"], &["EROFS"]),
    ("write-sysctl", &["EACCES"], &["EROFS", "EACCES"]),
    (
        "write-sysrq",
        &["EACCES", "ENOENT"],
        &["EROFS", "EACCES", "ENOENT"],
    ),
    (
        "kernel-symbols",
        &["ok", "EACCES", "EPERM", "ENOENT"],
        &["EACCES"],
    ),
    ("kernel-command-line", &["ok"], &["EACCES"]),
    (
        "kernel-configuration",
        &["ok", "ENOENT"],
        &["EACCES", "ENOENT"],
    ),
    ("disks", &["ok"], &["EACCES"]),
    (
        "kernel-memory",
        &["EACCES", "EPERM", "ENOENT"],
        &["EACCES", "ENOENT"],
    ),
    ("engine-control", &["EACCES"], &["ENXIO"]),
    #[cfg(target_arch = "x86_64")]
    ("x32-call", &["ENOSYS", "ok"], &["1031"]),
    #[cfg(target_arch = "x86_64")]
    ("i386-call", &["ok", "1011"], &["1031"]),
];

/// Things outside that an attacker would like to get at, all owned by the attacker's own user.
struct Targets {
    arguments: Vec<String>,
    victim: Child,
    _dir: tempfile::TempDir,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Targets {
    fn new(uid: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (secret, public) = (dir.path().join("secret"), dir.path().join("public"));
        fs::write(&secret, "mine").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&public, "all's").unwrap();
        let path = dir.path().join("socket");
        let on_path = UnixListener::bind(&path).unwrap();
        if is_root() {
            for owned in [&secret, &path] {
                std::os::unix::fs::chown(owned, Some(uid), Some(uid)).unwrap();
            }
        }
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("cofferdam-test-{}", tcp.local_addr().unwrap().port());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let on_abstract = UnixListener::bind_addr(&address).unwrap();
        let victim = as_user(Command::new("/bin/sleep").arg("1000"), uid)
            .spawn()
            .unwrap();
        let arguments = vec![
            format!("victim={}", victim.id()),
            format!("address={}", mapped(victim.id())),
            format!("secret={}", secret.display()),
            format!("public={}", public.display()),
            format!("path={}", path.display()),
            format!("abstract={name}"),
            format!("port={}", tcp.local_addr().unwrap().port()),
        ];
        Self {
            arguments,
            victim,
            _dir: dir,
            _listeners: (tcp, on_path, on_abstract),
        }
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.victim.kill().unwrap();
        self.victim.wait().unwrap();
    }
}

/// An address at which a process has memory.
fn mapped(pid: u32) -> String {
    super::lab::until_now(|| {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let stack = maps
            .lines()
            .find(|line| line.ends_with("[stack]"))
            .ok_or("no stack")?;
        Ok::<_, &str>(format!("0x{}", stack.split('-').next().unwrap()))
    })
}

fn outcomes(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(name, what)| (name.into(), what.into()))
    };
    text.lines().filter_map(pair).collect()
}

#[tokio::test]
async fn no_attack_gets_through_the_walls() {
    let lab = Lab::open().await;
    let targets = Targets::new(lab.uid());
    let mut outside = Command::new("/usr/bin/python3");
    outside
        .args(["-I", "-S", "-c", PROBE])
        .args(&targets.arguments);
    let outside = as_user(&mut outside, lab.uid()).output().unwrap();
    let control = outcomes(&String::from_utf8_lossy(&outside.stdout));
    let mut probe = python(PROBE);
    probe.argv.extend(targets.arguments.iter().cloned());
    let inside = lab.run(probe).await.good();
    let inside = outcomes(&inside);

    let mut wrong = Vec::new();
    for (name, without, within) in ROWS {
        let got = |from: &BTreeMap<String, String>| from.get(*name).cloned().unwrap_or_default();
        let (control, inside) = (got(&control), got(&inside));
        if !without.contains(&control.as_str()) {
            wrong.push(format!("{name}: outside {control:?}, not {without:?}"));
        }
        if !within.contains(&inside.as_str()) {
            wrong.push(format!("{name}: inside {inside:?}, not {within:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong:#?}\n{}",
        String::from_utf8_lossy(&outside.stderr)
    );
    assert_eq!(inside.len(), ROWS.len(), "an attack has no row");
    lab.close().await;
}

#[tokio::test]
async fn a_guest_has_no_rights_and_every_process_the_filter() {
    let lab = Lab::open().await;
    let script = "for p in 1 2 $$; do grep -E \
        '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|CapInh|CapPrm|CapEff|CapBnd|CapAmb):' \
        /proc/$p/status | tr '\\n\\t' '; '; echo; done";
    let status = lab.sh(script).await;
    assert_eq!(status.lines().count(), 3, "{status}");
    for line in status.lines() {
        let rights: Vec<_> = line.split("; ").map(|part| part.replace(' ', "")).collect();
        let line = line.replace(' ', "");
        for expected in [
            "Uid:1000100010001000",
            "Gid:1000100010001000",
            "Groups:;",
            "NoNewPrivs:1",
            "Seccomp:2",
            "CapInh:0000000000000000",
            "CapPrm:0000000000000000",
            "CapEff:0000000000000000",
            "CapBnd:0000000000000000",
            "CapAmb:0000000000000000",
        ] {
            assert!(line.contains(expected), "{expected} is not in {rights:?}");
        }
    }
    lab.close().await;
}

#[tokio::test]
async fn a_guest_sees_its_own_processes_and_nothing_inherited() {
    let lab = Lab::open().await;
    let processes = lab.sh("echo $(cat /proc/[0-9]*/comm)").await;
    assert_eq!(processes, "bwrap .init sh cat");
    let mut bare = spec(&["/usr/bin/env"]);
    bare.env = env(&[("A", "b")]);
    assert_eq!(lab.run(bare).await.good(), "A=b");
    lab.close().await;
}

#[tokio::test]
async fn each_machine_has_namespaces_of_its_own() {
    let lab = Lab::open().await;
    let script = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done";
    let (one, two) = tokio::join!(lab.sh(script), lab.sh(script));
    let host = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"].map(|name| {
        fs::read_link(format!("/proc/self/ns/{name}"))
            .unwrap()
            .display()
            .to_string()
    });
    for (host, (one, two)) in host.iter().zip(one.lines().zip(two.lines())) {
        // The same number can come again only when its namespace is gone; these live together.
        assert!(host != one && host != two, "{host} {one} {two}");
    }
    assert_eq!(one.lines().count(), 7);
    lab.close().await;
}

#[tokio::test]
async fn machines_started_at_once_get_no_descriptor_of_each_other() {
    let lab = Lab::open().await;
    let list = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))";
    let starts = (0..24).map(|_| lab.python(list));
    let lists = futures_util::future::join_all(starts).await;
    // The fourth is the folder that is being listed.
    assert!(
        lists.iter().all(|list| list == "['0', '1', '2', '3']"),
        "{lists:?}"
    );
    lab.close().await;
}
