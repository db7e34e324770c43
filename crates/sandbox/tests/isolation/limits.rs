//! What a machine cannot use up.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_sandbox::{Enforcement, Engine, Error, Limits, OutputSink, Settings, Spec};
use tokio::time::Instant;

use super::lab::{Lab, groups, python, sh};

/// Touches so many MiB, page by page, in pieces that are all kept.
fn eat(mb: u64) -> String {
    format!("kept = [b'x' * (1 << 20) for _ in range({mb})]; print('ate', len(kept))")
}

/// Whether this host can limit machines as a whole; says so where it cannot.
fn has_groups(lab: &Lab) -> bool {
    let has = lab.report.limits > Limits::Rlimit;
    if !has {
        eprintln!("skipped: no control groups here ({})", lab.report.advice);
    }
    has
}

#[tokio::test]
async fn a_machine_that_wants_too_much_memory_is_killed_and_it_is_said_why() {
    let lab = Lab::open().await;
    if has_groups(&lab) {
        let ran = lab.run(python(&eat(64))).await;
        assert!(
            ran.exit.code == Some(0) && ran.stdout.contains("ate 64"),
            "the control: {ran:?}"
        );
        let ran = lab.run(python(&eat(512))).await;
        assert!(ran.exit.oom_killed && !ran.exit.oom_elsewhere, "{ran:?}");
        assert_eq!((ran.exit.code, ran.exit.signal), (None, Some(9)));
        if let Some(peak) = ran.exit.peak_bytes {
            assert!((100 << 20..=129 << 20).contains(&peak), "{peak}");
        }
    }
    lab.close().await;
}

#[tokio::test]
async fn a_child_killed_for_want_of_memory_is_told_apart_from_the_main_process() {
    let lab = Lab::open().await;
    if has_groups(&lab) {
        let script = format!("/usr/bin/python3 -ISc \"{}\"; echo child $?", eat(512));
        let ran = lab.run(sh(&script)).await;
        assert_eq!(ran.exit.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains("child 137"), "{ran:?}");
        assert!(ran.exit.oom_elsewhere && !ran.exit.oom_killed, "{ran:?}");
    }
    lab.close().await;
}

/// A limit on all machines together stands for the host's memory.
#[tokio::test]
async fn a_machine_that_the_host_has_no_memory_for_is_told_apart_from_one_at_its_own_limit() {
    let lab = Lab::open().await;
    if has_groups(&lab) {
        let limits = ["memory.limit_in_bytes", "memory.max"];
        let all = groups(lab.dir.path()).into_iter();
        let file = all
            .flat_map(|group| limits.map(|limit| group.join(limit)))
            .find(|file| file.exists());
        fs::write(file.unwrap(), (80 << 20).to_string()).unwrap();
        let ran = lab.run(python(&eat(512))).await;
        assert!(ran.exit.oom_killed_by_host, "{ran:?}");
        assert!(!ran.exit.oom_killed && !ran.exit.oom_elsewhere, "{ran:?}");
        // At a limit of its own that is smaller it is the guest.
        let mut spec = python(&eat(512));
        spec.memory_mb = 40;
        let ran = lab.run(spec).await;
        assert!(
            ran.exit.oom_killed && !ran.exit.oom_killed_by_host,
            "{ran:?}"
        );
    }
    lab.close().await;
}

#[tokio::test]
async fn files_in_memory_count_as_memory() {
    let lab = Lab::open().await;
    if has_groups(&lab) {
        // Each by itself fits into its file system; together they are more than the machine has.
        let ran = lab
            .run(sh(
                "head -c 120M /dev/zero > a; head -c 60M /dev/zero > /tmp/b",
            ))
            .await;
        assert!(ran.exit.oom_killed || ran.exit.oom_elsewhere, "{ran:?}");
    }
    lab.close().await;
}

#[tokio::test]
async fn every_file_system_has_an_end() {
    let lab = Lab::open().await;
    let fill = "import os, sys\n\
        for path in sys.argv[1:]:\n\
        \x20   size, block = 0, b'x' * (1 << 20)\n\
        \x20   try:\n\
        \x20       with open(path + '/fill', 'wb', 0) as f:\n\
        \x20           while size < 4096: f.write(block); size += 1\n\
        \x20   except OSError as e: print(path, size, e.strerror)\n\
        \x20   try: os.unlink(path + '/fill')\n\
        \x20   except OSError: pass";
    let mut spec = python(fill);
    spec.argv
        .extend(["/dev/shm", "/tmp", "/", "/dev", "/etc", "/proc"].map(String::from));
    let filled = lab.run(spec).await.good();
    let expected = "/dev/shm 32 No space left on device\n/tmp 64 No space left on device\n\
        / 0 Read-only file system\n/dev 0 Read-only file system\n\
        /etc 0 Read-only file system\n/proc 0 No such file or directory";
    // In /proc nothing can be made, whatever the error.
    let same = filled
        .lines()
        .zip(expected.lines())
        .filter(|(a, b)| a != b)
        .collect::<Vec<_>>();
    assert!(
        same.iter().all(|(a, _)| a.starts_with("/proc 0 ")),
        "{filled}"
    );
    lab.close().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_in_its_machine() {
    let lab = Lab::open().await;
    let (neighbour, output) = lab.start(sh("echo up; sleep 1000")).await;
    output.says("up").await;
    let bomb = "import os, errno, time\n\
        n = 0\n\
        try:\n\
        \x20   while n < 2000:\n\
        \x20       if os.fork() == 0: time.sleep(1000)\n\
        \x20       n += 1\n\
        except OSError as e: print(n, errno.errorcode[e.errno])";
    let mut bomb = python(bomb);
    bomb.memory_mb = 1024;
    let bombed = lab.run(bomb).await.good();
    let (count, error) = bombed.split_once(' ').unwrap();
    assert_eq!(error, "EAGAIN");
    assert!(
        (400..=528).contains(&count.parse::<u32>().unwrap()),
        "{bombed}"
    );
    neighbour.handle().kill();
    neighbour.wait().await;
    lab.close().await;
}

#[tokio::test]
async fn a_machine_gets_no_more_processor_than_its_share() {
    let lab = Lab::open().await;
    if has_groups(&lab) && lab.report.cpu == Enforcement::Whole {
        let began = Instant::now();
        let burn = "for i in 1 2 3 4; do (timeout 2 sh -c 'while :; do :; done') & done; wait";
        let ran = lab.run(sh(burn)).await;
        let wall = u64::try_from(began.elapsed().as_millis()).unwrap();
        let cpu = ran.exit.cpu_ms.unwrap();
        // Not a race against the clock: a busier host only makes it less.
        assert!(cpu <= wall + 200, "{cpu} ms of processor in {wall} ms");
        assert!(cpu >= 200, "the four did not burn anything: {cpu} ms");
    }
    lab.close().await;
}

#[tokio::test]
async fn an_owner_of_many_machines_has_no_more_of_the_processor_than_one_of_few() {
    let lab = Lab::open().await;
    if has_groups(&lab) && lab.report.cpu == Enforcement::Whole {
        let processors = std::thread::available_parallelism().unwrap().get();
        let mut burning = Vec::new();
        for (owner, count) in [("a.many", 4 * processors), ("few", processors)] {
            for _ in 0..count {
                let mut spec = sh("while :; do :; done");
                owner.clone_into(&mut spec.owner);
                burning.push((owner, lab.start(spec).await.0));
            }
        }
        // What they burn while all are there is what counts; it grows with this time.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for (_, running) in &burning {
            running.handle().kill();
        }
        let (mut few, mut many) = (0, 0);
        for (owner, running) in burning {
            let cpu = running.wait().await.cpu_ms.unwrap();
            *(if owner == "few" { &mut few } else { &mut many }) += cpu;
        }
        assert!(many > 200, "nothing was burnt: {few} and {many} ms");
        // A fifth of it would be theirs by the number of machines.
        assert!(
            few * 2 > many,
            "{few} ms for few machines, {many} ms for many"
        );
    }
    lab.close().await;
}

#[tokio::test]
async fn endless_output_waits_in_the_guest() {
    let lab = Lab::open().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let sink: OutputSink = Arc::new(move |_, bytes| {
        counted.fetch_add(bytes.len(), Ordering::SeqCst);
    });
    let began = Instant::now();
    let running = lab
        .engine
        .start(sh("yes & yes >&2 & yes; wait"), sink)
        .await
        .unwrap();
    super::lab::until(|| match taken.load(Ordering::SeqCst) {
        bytes if bytes > 6 << 20 => Ok(()),
        bytes => Err(bytes),
    })
    .await;
    running.handle().kill();
    running.wait().await;
    // 4 MiB at once, then 8 MiB a second; what was in the pipes comes on top.
    let most = (4 << 20) + (256 << 10) + began.elapsed().as_millis() * (8 << 20) / 1000;
    let got = u128::try_from(taken.load(Ordering::SeqCst)).unwrap();
    assert!(got <= most, "{got} bytes in {:?}", began.elapsed());
    lab.close().await;
}

#[tokio::test]
async fn each_process_has_limits_of_its_own() {
    let lab = Lab::open().await;
    let limits = lab
        .sh("ulimit -Hc; ulimit -Hn; ulimit -Sn; ulimit -Hl; ulimit -Hf")
        .await;
    let limits: Vec<_> = limits
        .lines()
        .map(|line| line.parse::<u64>().unwrap())
        .collect();
    let [core, files, soft_files, locked, file_blocks] = limits[..] else {
        panic!("{limits:?}")
    };
    // In blocks: the one byte that it is allowed is none.
    assert_eq!((core, locked), (0, 64));
    assert!(files <= 4096 && soft_files <= 4096);
    assert_eq!(file_blocks * 512, 128 << 20);
    lab.close().await;
}

#[tokio::test]
async fn without_groups_the_limits_per_process_hold_and_the_report_says_no_more() {
    let lab = Lab::limited(Limits::Rlimit).await;
    assert_eq!(lab.report.to_string(), "isolation=namespaces limits=rlimit");
    assert_eq!(
        (lab.report.memory, lab.report.cpu),
        (Enforcement::Process, Enforcement::Nothing)
    );
    assert!(!lab.report.advice.is_empty());
    let ran = lab.run(python(&eat(512))).await;
    assert_eq!(ran.exit.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("MemoryError"), "{ran:?}");
    assert!(!ran.exit.oom_killed && ran.exit.cpu_ms.is_none() && ran.exit.peak_bytes.is_none());
    // Memory that is only reserved does not count: some languages reserve much more than they use.
    let reserve = "import mmap; m = mmap.mmap(-1, 1 << 36, prot=0, flags=34); print('reserved')";
    assert_eq!(lab.python(reserve).await, "reserved");
    lab.close().await;
}

/// Processes are counted for each machine even where many have one user.
#[tokio::test]
async fn without_groups_a_fork_bomb_does_not_take_the_neighbours_processes() {
    let lab = Lab::limited(Limits::Rlimit).await;
    if lab.report.processes != Enforcement::Whole {
        eprintln!("skipped: this kernel counts processes per user only");
        return lab.close().await;
    }
    let bomb = "import os, time\n\
        n = 0\n\
        try:\n\
        \x20   while n < 2000:\n\
        \x20       if os.fork() == 0: time.sleep(1000)\n\
        \x20       n += 1\n\
        except OSError: print(n, flush=True); time.sleep(1000)";
    let (one, first) = lab.start(python(bomb)).await;
    super::lab::until(|| first.stdout().trim().parse::<u32>()).await;
    let (two, second) = lab.start(python(bomb)).await;
    super::lab::until(|| second.stdout().trim().parse::<u32>()).await;
    for output in [first, second] {
        let forked = output.stdout().trim().parse::<u32>().unwrap();
        assert!((480..=512).contains(&forked), "{forked}");
    }
    drop((one, two));
    lab.close().await;
}

#[tokio::test]
async fn required_limits_that_do_not_hold_keep_the_engine_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(dir.path().to_owned());
    settings.limits = Some(Limits::Rlimit);
    let refused = Engine::open(settings).await.unwrap_err();
    assert!(matches!(&refused, Error::Limits { report } if report.memory == Enforcement::Process));
    assert!(refused.to_string().contains("memory=process"), "{refused}");
}

#[tokio::test]
async fn a_spec_that_cannot_be_carried_out_is_refused_by_name() {
    let lab = Lab::open().await;
    let check = async |change: &dyn Fn(&mut Spec), expected: &str| {
        let mut spec = sh("true");
        change(&mut spec);
        let refused = lab.refused(spec).await;
        assert!(matches!(refused, Error::Spec(_)), "{refused:?}");
        assert!(
            refused.to_string().contains(expected),
            "{refused} does not say {expected}"
        );
    };
    check(&|spec| spec.id = "../x".into(), "id").await;
    check(&|spec| spec.argv.clear(), "argv").await;
    check(&|spec| spec.argv.push("a\0b".into()), "argv").await;
    check(
        &|spec| drop(spec.env.insert("A=B".into(), "c".into())),
        "env",
    )
    .await;
    check(&|spec| spec.workdir = Some("relative".into()), "workdir").await;
    check(&|spec| spec.memory_mb = 0, "memory_mb").await;
    check(&|spec| spec.argv.push("x".repeat(9 << 20)), "too large").await;
    lab.close().await;
}

#[tokio::test]
async fn a_machine_that_cannot_come_up_leaves_nothing_and_says_why() {
    let lab = Lab::open().await;
    let long = sh(&"x".repeat(1 << 20));
    // Longer than the system lets one argument be.
    let refused = lab.refused(long).await;
    assert!(matches!(&refused, Error::NotExecutable { program, .. } if program == "sh"));
    let ran = tokio::time::timeout(Duration::from_secs(30), lab.run(sh("echo on")))
        .await
        .unwrap();
    assert_eq!(ran.good(), "on");
    lab.close().await;
}
