//! How long the console's pages take with a million finished runs in Redis:
//! `cargo bench --bench console [RUNS]`. Ends with 1 when the overview's p99 is 50 ms or more.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program for people to run, which ends at the first thing that goes wrong"
)]

use std::net::TcpListener as StdListener;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::config::{ConsoleKey, ConsoleRole, Redis, Secret};
use cofferdam::console::{self, Console, Deps};
use cofferdam::http::host::AllowedHosts;
use cofferdam::shutdown::Shutdown;
use cofferdam::stage::operate::CancelTerms;
use cofferdam::store::Store;
use tokio::net::TcpListener;
use tokio::time::Instant;

const KEY: &str = "a-key-of-the-benchmark-0123456789";
const LOOKS: usize = 300;
const BOUND: Duration = Duration::from_millis(50);
/// Runs that one script writes.
const STEP: usize = 1000;

/// Hash, indexes and counts of runs that have ended, as `settle` leaves them.
const SEED: &str = "
    local now = tonumber(ARGV[1])
    for i = tonumber(ARGV[2]), tonumber(ARGV[2]) + tonumber(ARGV[3]) - 1 do
      local id, failed = string.format('run-%010d', i), i % 10 == 0
      local at = string.format('%d', now - 3600000 + math.floor(3600000 * i / tonumber(ARGV[4])))
      local outcome, tenant = failed and 'failed' or 'completed', 't' .. i % 500
      local key = 'bench:run:' .. id
      redis.call('HSET', key, 'state', 'closed', 'attempt', '1', 'tenant', tenant, 'outcome', outcome, 'image', 'host',
        'submitted_at_ms', at, 'booting_at_ms', at, 'running_at_ms', at, 'settled_at_ms', at, 'closed_at_ms', at,
        'app', 'sandboxes', 'machine_id', '1857156b526dd8', 'region', 'ams', 'nonce', '0123456789abcdef0123456789abcdef')
      if failed then redis.call('HSET', key, 'reason', '{\"code\":\"oom_killed\",\"message\":\"killed\"}') end
      redis.call('PEXPIRE', key, 86400000)
      redis.call('XADD', 'bench:ended', '*', 'id', id, 'outcome', outcome)
      redis.call('XADD', 'bench:ended:tenant:' .. tenant, 'MAXLEN', '~', 10000, '*', 'id', id, 'outcome', outcome)
      if failed then
        redis.call('XADD', 'bench:ended:outcome:failed', 'MAXLEN', '~', 10000, '*', 'id', id, 'outcome', outcome)
        redis.call('XADD', 'bench:ended:reason:oom_killed', 'MAXLEN', '~', 10000, '*', 'id', id, 'outcome', outcome)
      end
      local minute = 'bench:minute:' .. string.format('%d', at - at % 60000)
      redis.call('HINCRBY', minute, outcome, 1)
      for _, kind in ipairs({ 'w', 'b', 'r' }) do redis.call('HINCRBY', minute, kind .. i % 40, 1) end
    end";

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> ExitCode {
    let runs = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let runs: usize = runs.unwrap_or(1_000_000);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().build().unwrap().block_on(run(runs))
}

async fn run(runs: usize) -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let port = StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut server = Command::new("redis-server");
    server.args([
        "--port",
        &port.to_string(),
        "--save",
        "",
        "--bind",
        "127.0.0.1",
    ]);
    let _server = Server(server.stdout(Stdio::null()).spawn().unwrap());
    let url = format!("redis://127.0.0.1:{port}");
    let redis = Redis {
        url: Secret::new(url.parse().unwrap()),
        namespace: "bench".to_owned(),
        ..Redis::nearby()
    };
    let store = Store::new(&redis).unwrap();
    while store.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seed(&url, runs).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let console = Console::new(Deps {
        store,
        clock: Clock::system(),
        keys: vec![ConsoleKey {
            role: ConsoleRole::Operator,
            key: Secret::new(KEY.to_owned()),
        }],
        hosts: AllowedHosts::default(),
        terms: CancelTerms {
            retention: Duration::from_secs(86_400),
            lease: Duration::from_secs(15),
        },
        machines: None,
        artifacts: None,
        examine: None,
    });
    let shutdown = Shutdown::new();
    shutdown.spawn_loop(
        "console",
        console::serve(listener, console, shutdown.clone()),
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    println!("{runs} finished runs, {LOOKS} looks at each page, one after the other:");
    let mut is_fine = true;
    for path in [
        "/",
        "/runs",
        "/runs?outcome=failed",
        "/runs?tenant=t7",
        "/runs?by=reason",
        "/tenants",
    ] {
        let mut took = Vec::with_capacity(LOOKS);
        for _ in 0..LOOKS {
            let begun = Instant::now();
            let call = http.get(format!("http://{address}{path}")).bearer_auth(KEY);
            let answer = call.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            answer.bytes().await.unwrap();
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
        let [p50, p99] = [at(0.5), at(0.99)].map(|time| time.as_secs_f64() * 1000.0);
        println!("  {path:<24} p50 {p50:6.1} ms   p99 {p99:6.1} ms");
        is_fine &= path != "/" || at(0.99) < BOUND;
    }
    shutdown.finish(Duration::from_secs(5)).await;
    match is_fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn seed(url: &str, runs: usize) {
    let client = redis::Client::open(url).unwrap();
    let patient =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap();
    let script = redis::Script::new(SEED);
    let now = Clock::system().now_ms();
    for from in (0..runs).step_by(STEP) {
        let mut call = script.prepare_invoke();
        call.arg(now).arg(from).arg(STEP.min(runs - from)).arg(runs);
        call.invoke_async::<()>(&mut connection).await.unwrap();
    }
}
