//! What one sandbox does with the files of its root is not noticed by another.

use cofferdam_sandbox::{Files, Spec};

use super::lab::{Lab, is_root, python};

/// Files that every sandbox on the host's root has: a program, and one that the engine wrote.
const FILES: [&str; 2] = ["/usr/bin/env", "/etc/passwd"];

/// Locks the files for itself alone, in both ways there are, and stays.
const LOCK: &str = "import fcntl, os, sys, time\n\
    kept = [open(name, 'rb') for name in sys.argv[1:]]\n\
    for file in kept: fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_SH)\n\
    print('locked', flush=True); time.sleep(1000)";

/// Tells whether the files can be locked.
const TRY_LOCK: &str = "import fcntl, sys\n\
    for name in sys.argv[1:]:\n\
    \x20   try: fcntl.flock(open(name, 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n\
    \x20   except OSError: print('locked')";

/// Watches the files and tells how many things were done to them until it is told to stop.
const WATCH: &str = "import ctypes, os, signal, sys\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n\
    watch = libc.inotify_init1(os.O_NONBLOCK)\n\
    if watch < 0: print('watching: refused', ctypes.get_errno(), flush=True)\n\
    else:\n\
    \x20   for name in sys.argv[1:]: libc.inotify_add_watch(watch, name.encode(), 0xfff)\n\
    \x20   print('watching: yes', flush=True)\n\
    \x20   signal.sigwait({signal.SIGUSR1})\n\
    \x20   try: print('seen', len(os.read(watch, 65536)) // 16)\n\
    \x20   except BlockingIOError: print('seen 0')";

const USE: &str = "import os, sys\n\
    for name in sys.argv[1:]: open(name, 'rb').read()\n\
    os.spawnl(os.P_WAIT, '/usr/bin/env', 'env', 'true')";

const SIGUSR1: i32 = 10;
const ENOSYS: &str = "38";

fn on_files(program: &str) -> Spec {
    let mut spec = python(program);
    spec.argv.extend(FILES.map(String::from));
    spec
}

/// A root server that may mount has them; so the test cannot pass by there being none.
fn has_own_files(lab: &Lab) -> bool {
    let own = lab.report.files == Files::Own;
    if !own {
        assert!(!is_root() || !can_mount(), "root got shared files");
        eprintln!("skipped: sandboxes share files here");
    }
    own
}

fn can_mount() -> bool {
    let mut command = std::process::Command::new("unshare");
    let script = "mount -t overlay -o lowerdir=/usr:/etc none /mnt";
    let ran = command.args(["-m", "sh", "-c", script]).status();
    ran.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_lock_on_a_shared_file_is_not_noticed_by_another_sandbox() {
    let lab = Lab::open().await;
    if has_own_files(&lab) {
        let (locker, output) = lab.start(on_files(LOCK)).await;
        output.says("locked").await;
        let tried = lab.run(on_files(TRY_LOCK)).await.good();
        assert_eq!(tried, "free\nfree");
        // Nor by the host.
        let program = std::fs::File::open(FILES[0]).unwrap();
        let how = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&program, how).unwrap();
        drop(locker);
    }
    lab.close().await;
}

#[tokio::test]
async fn what_another_sandbox_opens_and_runs_cannot_be_watched() {
    let lab = Lab::open().await;
    let (watcher, output) = lab.start(on_files(WATCH)).await;
    output.says("watching").await;
    if lab.report.files == Files::Shared {
        assert!(output.stdout().contains(ENOSYS), "{}", output.stdout());
        drop(watcher);
    } else {
        lab.run(on_files(USE)).await.good();
        watcher.handle().signal(SIGUSR1).unwrap();
        watcher.wait().await;
        assert!(output.stdout().ends_with("seen 0\n"), "{}", output.stdout());
        // The control: what it does itself is seen.
        let own = WATCH.replace(
            "signal.sigwait({signal.SIGUSR1})",
            "open(sys.argv[1], 'rb').read()",
        );
        let seen = lab.run(on_files(&own)).await.good();
        assert!(!seen.ends_with("seen 0"), "{seen}");
    }
    lab.close().await;
}

#[tokio::test]
async fn the_list_of_mounts_does_not_tell_where_the_host_has_its_files() {
    let lab = Lab::open().await;
    if has_own_files(&lab) {
        let mounts = lab.sh("cat /proc/self/mountinfo /proc/mounts").await;
        let folder = lab.dir.path().to_str().unwrap();
        assert!(!mounts.contains(folder), "{mounts}");
        assert!(!mounts.contains("/run/"), "{mounts}");
    }
    lab.close().await;
}
