//! How a machine ends, how that is told, and what can be asked of it before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_sandbox::{Error, Exit};

use super::lab::{Lab, python, sh, spec, until};

#[tokio::test]
async fn code_and_signal_are_told_apart() {
    let lab = Lab::open().await;
    let check = async |script: &str, code: Option<i32>, signal: Option<i32>| {
        let Exit {
            cpu_ms, peak_bytes, ..
        } = Exit::default();
        let mut exit = lab.run(sh(script)).await.exit;
        (exit.cpu_ms, exit.peak_bytes) = (cpu_ms, peak_bytes);
        assert_eq!(
            exit,
            Exit {
                code,
                signal,
                ..Exit::default()
            },
            "{script}"
        );
    };
    check("exit 0", Some(0), None).await;
    check("exit 3", Some(3), None).await;
    check("exit 137", Some(137), None).await;
    check("kill -9 $$", None, Some(9)).await;
    check("kill -TERM $$", None, Some(15)).await;
    check("kill -SEGV $$", None, Some(11)).await;
    lab.close().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_told_by_its_kind() {
    let lab = Lab::open().await;
    let missing = lab.refused(spec(&["no-such-program"])).await;
    assert!(matches!(&missing, Error::NotFound(program) if program == "no-such-program"));
    let missing = lab.refused(spec(&["/no/such"])).await;
    assert!(matches!(&missing, Error::NotFound(_)), "{missing:?}");
    let plain = lab.refused(spec(&["/etc/passwd"])).await;
    assert!(matches!(&plain, Error::NotExecutable { .. }), "{plain:?}");
    let mut nowhere = sh("true");
    nowhere.workdir = Some("/no/where".into());
    let nowhere = lab.refused(nowhere).await;
    assert!(matches!(&nowhere, Error::Workdir(folder) if folder == "/no/where"));
    lab.close().await;
}

#[tokio::test]
async fn signals_go_to_the_main_process() {
    let lab = Lab::open().await;
    let trap = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let (running, output) = lab.start(sh(trap)).await;
    output.says("ready").await;
    let handle = running.handle();
    let wrong = handle.signal(1000).unwrap_err();
    assert_eq!(wrong.kind(), std::io::ErrorKind::InvalidInput);
    handle.signal(15).unwrap();
    assert_eq!(running.wait().await.code, Some(5));
    assert!(output.stdout().contains("caught"));
    handle.signal(15).unwrap_err();
    handle.kill();
    lab.close().await;
}

#[tokio::test]
async fn killed_by_the_server_is_a_signal() {
    let lab = Lab::open().await;
    let (running, output) = lab.start(sh("trap '' TERM; echo ready; sleep 1000")).await;
    output.says("ready").await;
    running.handle().kill();
    let exit = running.wait().await;
    assert_eq!(
        (exit.code, exit.signal, exit.oom_killed),
        (None, Some(9), false)
    );
    let (running, output) = lab.start(sh("echo ready; sleep 1000")).await;
    output.says("ready").await;
    running.handle().signal(9).unwrap();
    assert_eq!(running.wait().await.signal, Some(9));
    lab.close().await;
}

#[tokio::test]
async fn what_a_guest_leaves_behind_ends_with_its_main_process() {
    let lab = Lab::open().await;
    let daemon =
        "(setsid sh -c 'while :; do sleep 0.1; done' </dev/null >/dev/null 2>&1 &) ; exit 4";
    assert_eq!(lab.run(sh(daemon)).await.exit.code, Some(4));
    // One that holds the outputs open does not hold up the end.
    let holder = "sh -c 'while :; do sleep 0.1; done' & echo last words; exit 4";
    let ran = lab.run(sh(holder)).await;
    assert_eq!(
        (ran.exit.code, ran.stdout.as_str()),
        (Some(4), "last words\n")
    );
    lab.close().await;
}

#[tokio::test]
async fn a_guest_that_kills_all_it_can_only_ends_itself() {
    let lab = Lab::open().await;
    let (neighbour, output) = lab.start(sh("echo up; exec sleep 1000")).await;
    output.says("up").await;
    // To everything but process 1, init among it.
    let all = lab
        .run(python(
            "import os; os.kill(-1, 9); import time; time.sleep(1000)",
        ))
        .await;
    assert_eq!(
        (all.exit.signal, all.exit.oom_killed),
        (Some(9), false),
        "{all:?}"
    );
    let init = lab.run(sh("kill -9 2; sleep 1000")).await;
    assert_eq!(init.exit.signal, Some(9), "{init:?}");
    let first = lab.run(sh("kill -9 1; echo still here")).await;
    assert_eq!(first.stdout, "still here\n");
    assert_eq!(neighbour.handle().processes().unwrap().len(), 1);
    drop(neighbour);
    lab.close().await;
}

/// The guest runs as the same user as its init and bubblewrap's inner process. It tries to write to
/// their memory, to read what tells where that is, and to take the control socket out of them.
const TAKE_OVER: &str = "import ctypes, errno, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def attempt(name, what):\n\
    \x20   try: what(); print(name, 'ok')\n\
    \x20   except OSError as e: print(name, errno.errorcode[e.errno])\n\
    for pid in (1, 2):\n\
    \x20   for name in ('mem', f'task/{pid}/mem'):\n\
    \x20       path = f'/proc/{pid}/{name}'\n\
    \x20       attempt(f'{pid} write {name}', lambda: os.close(os.open(path, os.O_RDWR)))\n\
    attempt('2 maps', lambda: open('/proc/2/maps').read())\n\
    attempt('2 environ', lambda: open('/proc/2/environ').read())\n\
    attempt('2 fds', lambda: os.listdir('/proc/2/fd'))\n\
    attempt('2 root', lambda: os.listdir('/proc/2/root'))\n\
    attempt('2 program', lambda: open('/proc/2/exe').read())\n\
    attempt('init file', lambda: open('/.init').read())\n\
    attempt('init chmod', lambda: os.chmod('/.init', 0o755))";

#[tokio::test]
async fn the_memory_of_init_and_of_process_1_is_closed_to_the_guest() {
    let lab = Lab::open().await;
    let said = lab.python(TAKE_OVER).await;
    let expected = "1 write mem EACCES\n\
        1 write task/1/mem EACCES\n\
        2 write mem EACCES\n\
        2 write task/2/mem EACCES\n\
        2 maps EACCES\n\
        2 environ EACCES\n\
        2 fds EACCES\n\
        2 root EACCES\n\
        2 program EACCES\n\
        init file EACCES\n\
        init chmod EROFS";
    assert_eq!(said, expected);
    // Its own are its own.
    assert_eq!(
        lab.sh("head -c1 /proc/self/mem; wc -l < /proc/self/maps >/dev/null && echo on")
            .await,
        "on"
    );
    lab.close().await;
}

/// Stopped, init says nothing any more, not even that the main program has ended.
#[tokio::test]
async fn a_guest_that_stops_its_init_is_ended_like_any_other() {
    let lab = Lab::open().await;
    for then in ["echo stopped; sleep 1000", "echo stopped; exit 3"] {
        let (running, output) = lab.start(sh(&format!("kill -STOP 2; {then}"))).await;
        output.says("stopped").await;
        let handle = running.handle();
        let argv = vec!["true".to_owned()];
        let exec = handle.exec(argv, Vec::new(), None, Vec::new(), Duration::from_millis(1));
        let exec = exec.await.unwrap_err();
        assert!(matches!(exec, Error::Ended), "{exec:?}");
        handle.kill();
        assert_eq!(running.wait().await.signal, Some(9), "{then}");
    }
    lab.close().await;
}

#[tokio::test]
async fn a_machine_nobody_holds_is_ended() {
    let lab = Lab::open().await;
    let (running, output) = lab.start(sh("echo up; sleep 1000")).await;
    output.says("up").await;
    let handle = running.handle();
    drop(running);
    until(|| match handle.processes() {
        Err(_) => Ok(()),
        Ok(some) if some.is_empty() => Ok(()),
        Ok(some) => Err(some),
    })
    .await;
    lab.close().await;
}

#[tokio::test]
async fn execs_run_within_the_same_walls() {
    let lab = Lab::open().await;
    let (running, output) = lab
        .start(sh("echo up > /workspace/f; echo up; sleep 1000"))
        .await;
    output.says("up").await;
    let handle = running.handle();
    let exec = async |argv: &[&str], stdin: &str, timeout_ms: u64| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let timeout = Duration::from_millis(timeout_ms);
        handle
            .exec(argv, env, None, stdin.as_bytes().to_vec(), timeout)
            .await
    };
    let ran = exec(
        &["sh", "-c", "cat f -; echo oops >&2; exit 7"],
        "in\n",
        20_000,
    )
    .await
    .unwrap();
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("up\nin\n", "oops\n")
    );
    assert_eq!((ran.exit_code, ran.exit_signal), (Some(7), None));

    let walls =
        "grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status; readlink /proc/self/ns/net";
    let inside = exec(&["sh", "-c", walls], "", 20_000).await.unwrap().stdout;
    assert!(
        inside.contains("Seccomp:\t2") && inside.contains("NoNewPrivs:\t1"),
        "{inside}"
    );
    let main = exec(&["readlink", "/proc/3/ns/net"], "", 20_000)
        .await
        .unwrap()
        .stdout;
    assert!(inside.contains(main.trim()) && !main.is_empty());

    let late = exec(&["sleep", "1000"], "", 100).await.unwrap();
    assert_eq!((late.exit_code, late.exit_signal), (None, Some(9)));
    let much = exec(&["head", "-c", "3000000", "/dev/zero"], "", 20_000)
        .await
        .unwrap();
    assert_eq!((much.stdout.len(), much.exit_code), (256 << 10, Some(0)));
    let missing = exec(&["no-such"], "", 1000).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    // A background process that keeps the outputs does not keep the caller.
    let left = exec(&["sh", "-c", "sleep 1000 & echo left"], "", 20_000)
        .await
        .unwrap();
    assert_eq!((left.stdout.as_str(), left.exit_code), ("left\n", Some(0)));

    handle.kill();
    running.wait().await;
    let ended = exec(&["true"], "", 1000).await.unwrap_err();
    assert!(matches!(ended, Error::Ended), "{ended:?}");
    lab.close().await;
}

#[tokio::test]
async fn execs_at_once_are_bounded_and_end_with_the_machine() {
    let lab = Lab::open().await;
    let (running, _) = lab.start(sh("sleep 1000")).await;
    let handle = running.handle();
    let busy = AtomicUsize::new(0);
    let exec = async |n: u32| {
        let argv = ["sh", "-c", "sleep 1000"].map(String::from).to_vec();
        let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let answer = handle
            .exec(argv, env, None, Vec::new(), Duration::from_secs(60))
            .await;
        if matches!(answer, Err(Error::Busy(_))) {
            busy.fetch_add(1, Ordering::SeqCst);
        }
        (n, answer)
    };
    let all = futures_util::future::join_all((0..10).map(exec));
    let ending = async {
        until(|| match busy.load(Ordering::SeqCst) {
            2 => Ok(()),
            other => Err(other),
        })
        .await;
        handle.kill();
    };
    let (answers, ()) = tokio::join!(all, ending);
    let ended = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Err(Error::Ended)))
        .count();
    assert_eq!(ended, 8, "{answers:?}");
    running.wait().await;
    lab.close().await;
}

#[tokio::test]
async fn the_processes_of_a_machine_are_listed_as_it_sees_them() {
    let lab = Lab::open().await;
    let (running, output) = lab.start(sh("cd /tmp; sleep 1000 & echo up; wait")).await;
    output.says("up").await;
    let handle = running.handle();
    let listed = until(|| match handle.processes().unwrap() {
        some if some.iter().any(|process| process.command == "sleep 1000") => Ok(some),
        some => Err(some),
    })
    .await;
    let main = listed.iter().find(|process| process.pid == 3).unwrap();
    assert!(
        main.command.starts_with("sh -c cd /tmp") && main.rss_bytes > 0,
        "{main:?}"
    );
    assert_eq!((main.directory.as_str(), listed.len()), ("/tmp", 2));
    drop(running);
    lab.close().await;
}
