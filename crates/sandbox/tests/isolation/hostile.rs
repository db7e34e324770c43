//! Programs that try to hurt the host, the server or their neighbours rather than to get out.

use std::time::Duration;

use cofferdam_sandbox::Limits;
use tokio::time::Instant;

use super::lab::{Lab, python, sh};

/// Anything here takes a second or two; a machine that cannot be ended would take for ever.
const END_MAX: Duration = Duration::from_secs(60);

/// Fills connections within the machine with what nobody reads, and tells how many MiB went in.
const FILL_CONNECTIONS: &str = "import socket\n\
    kept, total, piece = [], 0, b'x' * (1 << 16)\n\
    server = socket.create_server(('127.0.0.1', 9000), backlog=1000)\n\
    for n in range(150):\n\
    \x20   try:\n\
    \x20       one = socket.create_connection(('127.0.0.1', 9000), timeout=5)\n\
    \x20       two, _ = server.accept()\n\
    \x20       kept += [one, two]\n\
    \x20       for s in (one, two):\n\
    \x20           s.setblocking(False)\n\
    \x20           while True: total += s.send(piece)\n\
    \x20   except OSError: pass\n\
    print(total >> 20)";

#[tokio::test]
async fn what_waits_in_connections_is_bounded() {
    let lab = Lab::open().await;
    if lab.report.limits == Limits::Rlimit {
        eprintln!("skipped: no control groups here ({})", lab.report.advice);
    } else {
        let ran = lab.run(python(FILL_CONNECTIONS)).await;
        match ran.stdout.trim().parse::<u64>() {
            Ok(filled) => assert!((1..=128).contains(&filled), "{filled} MiB, {ran:?}"),
            // Where it is counted as memory like any other.
            Err(_) => assert!(ran.exit.oom_killed, "{ran:?}"),
        }
    }
    lab.close().await;
}

/// Makes what a naive removal would stumble over, as much as fits, and stays.
const CLUTTER: &str = "import os, sys\n\
    os.chdir('/tmp')\n\
    for name in (b'-rf', b'..\\n', b'\\xff\\xfe', b'x' * 255, b'`id`'):\n\
    \x20   open(name, 'w').close()\n\
    os.symlink('/', '/tmp/root'); os.symlink('loop', '/tmp/loop')\n\
    made = 0\n\
    try:\n\
    \x20   os.chdir('/workspace')\n\
    \x20   while made < 20000:\n\
    \x20       os.mkdir('d', 0o000 if made % 2 else 0o700); made += 1\n\
    \x20       os.chmod('d', 0o700); os.chdir('d'); os.chmod('.', 0o500)\n\
    \x20       os.chmod('.', 0o700)\n\
    except OSError as error: pass\n\
    files = 0\n\
    try:\n\
    \x20   while files < 20000: open(f'/dev/shm/{files}', 'w').close(); files += 1\n\
    except OSError: pass\n\
    print('made', made > 1000, files > 1000, flush=True)\n\
    import time; time.sleep(1000)";

#[tokio::test]
async fn a_machine_full_of_odd_and_deep_folders_is_gone_as_quickly() {
    let lab = Lab::open().await;
    let (running, output) = lab.start(python(CLUTTER)).await;
    output.says("made True True").await;
    let begun = Instant::now();
    running.handle().kill();
    tokio::time::timeout(END_MAX, running.wait()).await.unwrap();
    eprintln!("gone after {:?}", begun.elapsed());
    lab.close().await;
}

/// Children without end, each ignoring what can be ignored, some stopped, some holding outputs.
const WILD: &str = "import os, signal\n\
    for n in range(1, 65):\n\
    \x20   if n not in (9, 19, 32, 33):\n\
    \x20       try: signal.signal(n, signal.SIG_IGN)\n\
    \x20       except (OSError, ValueError): pass\n\
    print('wild', flush=True)\n\
    while True:\n\
    \x20   try:\n\
    \x20       if os.fork() and os.getpid() % 3 == 0: os.kill(os.getpid(), 19)\n\
    \x20   except OSError: pass\n\
    \x20   os.write(1, b'.')";

#[tokio::test]
async fn a_fork_bomb_that_ignores_every_signal_is_gone_when_it_is_ended() {
    let lab = Lab::open().await;
    let (running, output) = lab.start(python(WILD)).await;
    output.says("wild").await;
    let handle = running.handle();
    // A neighbour is served meanwhile.
    assert_eq!(lab.sh("echo on").await, "on");
    // Asked first, as a stop does it; the main process does not mind.
    let _ = handle.signal(2);
    handle.kill();
    tokio::time::timeout(END_MAX, running.wait()).await.unwrap();
    lab.close().await;
}

/// A crash is not handed to a program of the host that collects crashes.
#[tokio::test]
async fn a_crash_stays_in_the_machine() {
    let lab = Lab::open().await;
    // With the limit at 0 the kernel would still start a collector; at 1 it does not.
    let ours = rustix::process::getrlimit(rustix::process::Resource::Core);
    let most = ours.maximum.unwrap_or(u64::MAX).min(1);
    let script = "grep 'core file' /proc/self/limits | tr -s ' '";
    let limit = lab.sh(script).await;
    let expected = format!("Max core file size {most} {most} ");
    assert!(limit.starts_with(&expected), "{limit}");
    let ran = lab.run(sh("kill -SEGV $$")).await;
    assert_eq!(ran.exit.signal, Some(11), "{ran:?}");
    lab.close().await;
}

/// Namespaces, mounts and users of every kind, from a child that tries each call in turn.
const RISE: &str = "import ctypes, errno, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def name(bad): return errno.errorcode[ctypes.get_errno()] if bad else 'ok'\n\
    for bit in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):\n\
    \x20   print('unshare', hex(bit), name(libc.unshare(bit)))\n\
    print('setuid', name(libc.setuid(0)))\n\
    print('setgroups', name(libc.setgroups(0, None)))\n\
    print('mount', name(libc.mount(b'/tmp', b'/usr', None, 4096, None)))\n\
    print('remount', name(libc.mount(None, b'/', None, 32 | 4096, None)))\n\
    print('umount', name(libc.umount2(b'/proc/1/mem', 2)))\n\
    for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches',\n\
    \x20            '/proc/sysrq-trigger', '/proc/1/oom_score_adj', '/proc/2/oom_score_adj'):\n\
    \x20   try: os.write(os.open(path, os.O_WRONLY), b'-1'); print(path, 'ok')\n\
    \x20   except OSError as e: print(path, errno.errorcode[e.errno])";

#[tokio::test]
async fn no_call_raises_a_guest_above_what_it_is() {
    let lab = Lab::open().await;
    let said = lab.python(RISE).await;
    let got: Vec<_> = said.lines().filter(|line| line.ends_with(" ok")).collect();
    assert_eq!(got, Vec::<&str>::new(), "{said}");
    lab.close().await;
}
