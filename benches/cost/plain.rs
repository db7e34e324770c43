//! Plain commands: `true` with `capture` on the local Machines server, from XADD to its result, beside
//! bubblewrap alone and `docker run` that run it to its end; and how many of them a second.
//!
//! All in turns in one run. Redis, worker, endpoint and Machines server are processes with the usual
//! settings; the machines have the agent already, as under `up`.

use std::process::{Command, Stdio};
use std::time::Duration;

use redis::streams::StreamReadReply;
use tokio::time::Instant;

use crate::boots;
use crate::procs::{Process, Redis, free_port};
use crate::report::{Part, Report};
use crate::runs::median;
use crate::stack::{APP, cofferdam};

const WARM_UPS: usize = 5;
/// One of Docker's for so many of the others: it takes many times as long.
const DOCKER_EVERY: usize = 10;
/// Runs that are submitted at once, and passes of the loop beside them.
const AT_ONCE: usize = 100;
const RESULTS: &str = "cofferdam:results";
/// What a person would write.
const BUBBLEWRAP: &str = "--unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin \
    --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp /bin/true";

/// How much is measured: single runs, and rounds of many at once.
pub(crate) struct Rounds {
    pub(crate) single: usize,
    pub(crate) many: usize,
}

pub(crate) async fn measure(report: &mut Report, rounds: &Rounds) {
    let state = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut ours = match Ours::start(state.path()).await {
        Ok(ours) => ours,
        Err(why) => {
            report.skipped.push(format!("plain commands: {why}"));
            return;
        }
    };
    if let Err(why) = bubblewrap() {
        report.skipped.push(format!("plain commands: {why}"));
        return;
    }
    let image = format!("cofferdam-bench-true:{}", std::process::id());
    let with_docker = match boots::docker(folder.path(), &image).and_then(|_| docker(&image)) {
        Ok(_) => true,
        Err(why) => {
            report.skipped.push(format!("docker run true: {why}"));
            false
        }
    };
    let (mut own, mut bare, mut docked) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UPS + rounds.single {
        let took = [ours.run().await, ms(bubblewrap().unwrap())];
        let is_dockers = with_docker && round % DOCKER_EVERY == 0;
        let dockers = is_dockers.then(|| ms(docker(&image).unwrap()));
        if round >= WARM_UPS {
            own.push(took[0]);
            bare.push(took[1]);
            docked.extend(dockers);
        }
    }
    boots::remove_image(&image);
    let ratio = median(own.clone()) / median(bare.clone());
    let mut part = Part::new(
        format!("A plain command, `true`, ms, {} rounds", rounds.single),
        &["p50", "p99", "× bubblewrap"],
    );
    let mut row = |name: &str, times: &[f64]| {
        let p50 = median(times.to_vec());
        let values = vec![
            Some(p50),
            Some(p99(times)),
            Some(p50 / median(bare.clone())),
        ];
        part.row(name, values);
        p50
    };
    row("bubblewrap alone, to its end", &bare);
    let p50 = row("cofferdam, from XADD to the result", &own);
    let dockers = (!docked.is_empty()).then(|| row("docker run, to its end", &docked));
    report.parts.push(part);
    let name = "a plain command, from XADD to its result, p50";
    report.target(name, ratio, "× bubblewrap alone", 3.0);
    if let Some(dockers) = dockers {
        let name = "docker run beside a plain command, p50";
        report.target_at_least(name, dockers / p50, "× cofferdam's", 5.0);
    }
    many(report, &mut ours, rounds.many).await;
}

async fn many(report: &mut Report, ours: &mut Ours, rounds: usize) {
    let (mut own, mut one, mut each) = (Vec::new(), Vec::new(), Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..rounds {
        own.push(ours.runs_per_s().await);
        one.push(loops(1));
        each.push(loops(threads));
    }
    let share = |of: &[f64]| median(own.iter().zip(of).map(|(own, of)| own / of).collect());
    let (of_one, of_each) = (share(&one), share(&each));
    let mut part = Part::new(
        format!("Plain commands per second, {rounds} rounds of {AT_ONCE} at once"),
        &["per second", "cofferdam's share"],
    );
    part.row("cofferdam", vec![Some(median(own)), None]);
    part.row(
        "a loop of bubblewrap",
        vec![Some(median(one)), Some(of_one)],
    );
    let name = format!("{threads} loops of bubblewrap");
    part.row(name, vec![Some(median(each)), Some(of_each)]);
    report.parts.push(part);
    let name = "plain commands per second";
    report.target_at_least(name, of_one, "× a loop of bubblewrap", 0.6);
}

/// Passes per second of so many loops beside each other.
fn loops(count: usize) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                (0..AT_ONCE / count).for_each(|_| {
                    bubblewrap().unwrap();
                })
            });
        }
    });
    (AT_ONCE / count * count) as f64 / began.elapsed().as_secs_f64()
}

fn bubblewrap() -> Result<Duration, String> {
    to_its_end(Command::new("bwrap").args(BUBBLEWRAP.split_whitespace()))
}

fn docker(image: &str) -> Result<Duration, String> {
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        image,
        "/bin/busybox",
        "true",
    ];
    to_its_end(Command::new("docker").args(words))
}

fn to_its_end(command: &mut Command) -> Result<Duration, String> {
    let began = Instant::now();
    let ended = command.stdin(Stdio::null()).output();
    let took = began.elapsed();
    let ended = ended.map_err(|error| format!("{command:?}: {error}"))?;
    if ended.status.success() {
        return Ok(took);
    }
    Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn p99(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * 99).div_ceil(100).max(1) - 1]
}

/// All of cofferdam on this host.
struct Ours {
    // These end before their Redis does.
    _processes: [Process; 3],
    redis: Redis,
    /// The last result that was read.
    last: String,
}

impl Ours {
    async fn start(state: &std::path::Path) -> Result<Self, String> {
        let redis = Redis::start().await;
        let (endpoint, machines) = (free_port(), free_port());
        let endpoint = format!("127.0.0.1:{endpoint}");
        let machines = format!("127.0.0.1:{machines}");
        let service = |name: &str| {
            let mut command = cofferdam(name, &redis);
            command
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("FLY_API_URL", format!("http://{machines}/v1"))
                .env("FLY_API_TOKEN", "bench")
                .env("COFFERDAM_APPS", APP)
                .env("COFFERDAM_IMAGE", "host")
                .env("COFFERDAM_LISTEN", &endpoint)
                .env("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080")
                .env("COFFERDAM_GUEST_PROGRAM", "/.cofferdam-guest")
                .env("COFFERDAM_MACHINES_LISTEN", &machines)
                .env("COFFERDAM_MACHINES_ENDPOINT", &endpoint)
                .env("COFFERDAM_STATE_DIR", state)
                .env("COFFERDAM_BOOT_RATE", "0");
            Process::start(&mut command)
        };
        let processes = [service("serve"), service("machines"), service("worker")];
        let mut ours = Self {
            _processes: processes,
            redis,
            last: "0".to_owned(),
        };
        ours.submit(1).await;
        match ours.read(1).await {
            true => Ok(ours),
            false => Err("no machine was booted here".to_owned()),
        }
    }

    async fn submit(&self, count: usize) {
        let request =
            r#"{"cmd": ["true"], "capture": true, "guest": {"cpus": 1, "memory_mb": 256}}"#;
        let mut pipe = redis::pipe();
        for _ in 0..count {
            let add = pipe.cmd("XADD").arg("cofferdam:runs").arg("*");
            add.arg("run").arg(request).ignore();
        }
        let mut connection = self.redis.connection.clone();
        pipe.query_async::<()>(&mut connection).await.unwrap();
    }

    /// Reads so many results, each of a command that ended well; `false` when none comes.
    async fn read(&mut self, count: usize) -> bool {
        let mut left = count;
        while left > 0 {
            let words = ["XREAD", "BLOCK", "30000", "STREAMS", RESULTS, &self.last];
            let reply: Option<StreamReadReply> = self.redis.command(&words).await;
            let Some(reply) = reply else { return false };
            for entry in reply.keys.into_iter().flat_map(|key| key.ids) {
                let result: String = entry.get("result").unwrap();
                if !result.contains(r#""exit_code":0"#) {
                    eprintln!("a plain command did not end well: {result}");
                    return false;
                }
                self.last = entry.id;
                left = left.saturating_sub(1);
            }
        }
        true
    }

    /// Milliseconds from XADD to the result, read.
    async fn run(&mut self) -> f64 {
        let began = Instant::now();
        self.submit(1).await;
        assert!(self.read(1).await, "a run has no result");
        ms(began.elapsed())
    }

    async fn runs_per_s(&mut self) -> f64 {
        let began = Instant::now();
        self.submit(AT_ONCE).await;
        assert!(self.read(AT_ONCE).await, "a run has no result");
        AT_ONCE as f64 / began.elapsed().as_secs_f64()
    }
}
