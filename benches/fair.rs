//! What choosing the next run costs Redis, with many tenants and many waiting runs, and what a
//! run costs in memory: all in one go and given as ratios, so that a busy computer weighs on both
//! sides alike.
//!
//! `scripts/bench-fair [RUNS]`, with the large backlog's runs, a million unless told. Each
//! backlog has a Redis of its own, without persistence. It ends with 1 when a ratio or a size is
//! above its bound.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for people to run, which ends at the first thing that goes wrong"
)]

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::config::{Redis, Secret};
use cofferdam::run::outcome::{Ending, ReasonCode};
use cofferdam::run::phase::MachineRef;
use cofferdam::run::request::Guest;
use cofferdam::store::Store;
use cofferdam::store::acts::{Admission, Claimed, Fate, FleetLimits, Settlement, Terms};

/// Claims in one measured block.
const BLOCK: usize = 500;
/// Blocks measured of each backlog, in turn with the others.
const ROUNDS: usize = 30;
/// Rounds before that, not counted.
const WARM: usize = 3;
/// Runs in flight whose memory is measured.
const FLYING: usize = 100_000;
/// Bytes of a run's request, without its id.
const REQUEST_BYTES: usize = 200;
/// The most that a ratio of costs may be.
const RATIO_MAX: f64 = 1.25;
/// The most bytes of Redis memory for a run that waits, and for one in flight.
const WAITING_MAX: f64 = 1024.0;
const FLYING_MAX: f64 = 1536.0;

const LEASE: Duration = Duration::from_secs(60);
const KEEP: Duration = Duration::from_secs(60);

/// A Redis of its own, with a backlog.
struct Backlog {
    name: String,
    store: Store,
    server: Child,
    _folder: tempfile::TempDir,
    tenants: usize,
    admitted: usize,
    /// Microseconds of processor time for one claim, of each block.
    costs: Vec<f64>,
}

impl Drop for Backlog {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn room(most: u32) -> FleetLimits {
    FleetLimits {
        apps: vec!["app".into()],
        max_in_flight: most,
        app_max_in_flight: None,
        tenant_max_in_flight: Some(1_000_000),
        boot_rate: 0.0,
        boot_burst: 1,
    }
}

impl Backlog {
    async fn new(tenants: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let redis = Redis {
            url: Secret::new(format!("unix://{}", socket.display()).parse().unwrap()),
            namespace: "cofferdam".into(),
            ..Redis::nearby()
        };
        let mut store = Store::connect(&redis).await;
        while store.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            store = Store::connect(&redis).await;
        }
        Self {
            name: String::new(),
            store: store.unwrap(),
            server,
            _folder: folder,
            tenants,
            admitted: 0,
            costs: Vec::new(),
        }
    }

    async fn of(tenants: usize, runs: usize) -> Self {
        let mut backlog = Self::new(tenants).await;
        let tenant = if tenants == 1 { "tenant" } else { "tenants" };
        backlog.name = format!("{runs} runs of {tenants} {tenant}");
        backlog.admit(runs).await;
        backlog
    }

    /// Admits more runs, the tenants in turn.
    async fn admit(&mut self, count: usize) {
        let terms = Terms {
            retention: KEEP,
            backlog_max: Some(100_000_000),
            tenant_backlog_max: None,
        };
        let now = Clock::system().now_ms();
        for first in (0..count).step_by(BLOCK) {
            let last = count.min(first + BLOCK);
            let padding = "x".repeat(REQUEST_BYTES - 14);
            let requests = vec![format!(r#"{{"image":"{padding}"}}"#); last - first];
            let entries = self.store.submit(&requests).await.unwrap();
            let batch: Vec<Admission> = (first..last)
                .zip(entries)
                .map(|(n, entry)| self.admission(self.admitted + n, entry, now))
                .collect();
            self.store.admit(&batch, &terms, now).await.unwrap();
        }
        self.admitted += count;
    }

    fn admission(&self, n: usize, entry: String, now: u64) -> Admission {
        Admission {
            // As long as an entry's id.
            id: format!("1732000{n:08}-0").parse().unwrap(),
            entry,
            digest: "d".repeat(64),
            tenant: format!("tenant-{}", n % self.tenants).parse().unwrap(),
            submitted_at_ms: now,
            fate: Fate::Queued {
                request_bytes: REQUEST_BYTES,
                input: 0..0,
                timeout: Duration::from_secs(300),
                timeout_asked: None,
                queue_ttl: None,
                priority: 5,
                not_before: None,
                image: "host".into(),
                size: Guest::default(),
                metadata: None,
                traceparent: None,
            },
        }
    }

    /// Claims a block of runs one by one, as an idle fleet does; then ends them and fills up.
    async fn round(&mut self, is_counted: bool) {
        let mut claimed: Vec<Claimed> = Vec::with_capacity(BLOCK);
        let room = room(u32::MAX);
        let before = self.processor_us().await;
        for _ in 0..BLOCK {
            let now = Clock::system().now_ms();
            let claim = self.store.claim(&room, 1, now, LEASE).await.unwrap();
            claimed.extend(claim.runs);
        }
        let spent = self.processor_us().await - before;
        assert_eq!(claimed.len(), BLOCK);
        if is_counted {
            self.costs.push(spent / BLOCK as f64);
        }
        for run in &claimed {
            self.end(run).await;
        }
        self.admit(BLOCK).await;
    }

    async fn end(&self, run: &Claimed) {
        let ending = Ending::without(ReasonCode::Deadline, "measured");
        let settlement = Settlement {
            ending: &ending,
            post: None,
            retention: KEEP,
            lease: LEASE,
        };
        let now = Clock::system().now_ms();
        let store = &self.store;
        store.settle(&run.id, None, &settlement, now).await.unwrap();
        let close = store.close(&run.id, run.boot(), now, KEEP).await;
        close.unwrap();
    }

    /// Processor time of the thread that runs commands.
    async fn processor_us(&self) -> f64 {
        let info = self.store.info("cpu").await.unwrap();
        let seconds = |name: &str| number(&info, name);
        (seconds("used_cpu_user_main_thread:") + seconds("used_cpu_sys_main_thread:")) * 1e6
    }

    async fn memory(&self) -> f64 {
        number(&self.store.info("memory").await.unwrap(), "used_memory:")
    }

    /// The middle one of the blocks' costs.
    fn cost(&self) -> f64 {
        let mut costs = self.costs.clone();
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    }
}

fn number(info: &str, name: &str) -> f64 {
    let text = info.lines().find_map(|line| line.strip_prefix(name));
    text.unwrap().trim().parse().unwrap()
}

/// Bytes of memory for a run that waits and for one that is in flight.
async fn sizes() -> (f64, f64) {
    let mut backlog = Backlog::new(1).await;
    let empty = backlog.memory().await;
    backlog.admit(FLYING).await;
    let waiting = (backlog.memory().await - empty) / FLYING as f64;
    let (room, mut flying) = (room(u32::MAX), 0);
    while flying < FLYING {
        let now = Clock::system().now_ms();
        let claim = backlog.store.claim(&room, BLOCK, now, LEASE).await.unwrap();
        for run in &claim.runs {
            let machine = MachineRef {
                app: run.app.clone(),
                id: "1857156b526dd8".into(),
                instance_id: Some("01HJ7V5Z6Q8W9X0Y1Z2A3B4C5D".into()),
                region: Some("ams".into()),
            };
            let act = backlog
                .store
                .advance(&run.id, run.boot(), &machine, now)
                .await;
            act.unwrap();
        }
        flying += claim.runs.len();
    }
    let in_flight = (backlog.memory().await - empty) / FLYING as f64;
    (waiting, in_flight)
}

/// Tells a figure beside its bound, and whether it is within.
fn told(what: &str, figure: f64, unit: &str, bound: f64) -> bool {
    let is_within = figure <= bound;
    let verdict = if is_within { "ok" } else { "TOO MUCH" };
    println!("{what:<58} {figure:>8.2} {unit:<2} (at most {bound}) {verdict}");
    is_within
}

#[tokio::main]
async fn main() -> ExitCode {
    let asked = std::env::args().filter_map(|word| word.parse().ok()).next();
    let large: usize = asked.unwrap_or(1_000_000);
    let many = large / 100;
    let mut backlogs = [
        Backlog::of(1, 1000).await,
        Backlog::of(1, large).await,
        Backlog::of(many, large).await,
    ];
    for round in 0..WARM + ROUNDS {
        for backlog in &mut backlogs {
            backlog.round(round >= WARM).await;
        }
    }
    for backlog in &backlogs {
        println!(
            "{:<58} {:>8.1} us of Redis for one claim",
            backlog.name,
            backlog.cost()
        );
    }
    let [small, one, spread] = backlogs.each_ref().map(Backlog::cost);
    let (waiting, in_flight) = sizes().await;
    let verdicts = [
        told(
            &format!("{large} waiting : 1000 waiting"),
            one / small,
            "",
            RATIO_MAX,
        ),
        told(
            &format!("{many} tenants : 1 tenant, {large} waiting"),
            spread / one,
            "",
            RATIO_MAX,
        ),
        told(
            "Redis memory for a waiting run of a 200-byte request",
            waiting,
            "B",
            WAITING_MAX,
        ),
        told(
            "Redis memory for a run in flight of such a request",
            in_flight,
            "B",
            FLYING_MAX,
        ),
    ];
    ExitCode::from(u8::from(verdicts.contains(&false)))
}
