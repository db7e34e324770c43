//! A provider that refuses everything for a while, and a Redis that stands still in the middle of
//! it: real processes, which must not spin meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::command::Daemon;
use crate::support::fleet::Fleet;
use crate::support::redis::Server;
use crate::support::until::until_within;

/// How much is refused, and for how long.
struct Outage {
    runs: usize,
    refused: Duration,
    stopped: Duration,
}

/// Share of one processor that a process may use meanwhile. One whose loop spins uses twice that
/// at the least.
const SHARE_MAX: f64 = 0.05;

/// A mix of what a provider in trouble says.
const REFUSE: [&str; 3] = [
    "* every=3: refuse status=429 error=\"rate limit exceeded\"",
    "* every=2: refuse status=503 error=\"try again\"",
    "*: refuse status=500",
];

impl Outage {
    async fn check(self) {
        let redis = Server::start();
        // At a pace, so that most still wait when it begins, and room, so that boots are tried in it.
        let pace = (self.runs / 10).to_string();
        let settings = [
            ("COFFERDAM_BOOT_RATE", pace.as_str()),
            ("COFFERDAM_MAX_IN_FLIGHT", "1000"),
            ("COFFERDAM_SWEEP_S", "2"),
            ("COFFERDAM_LEASE_S", "5"),
            ("COFFERDAM_RUN_TIMEOUT_S", "600"),
        ];
        let args = ["--simulate", "300", "--fault-control"];
        let fleet = Fleet::start_on(redis.settings(), &args, &settings).await;
        let (first, _) = fleet.worker().await;
        let (second, _) = fleet.worker().await;
        let raw = fleet.raw().await;
        for n in 0..self.runs {
            let request = json!({"id": format!("n{n}"), "cmd": ["true"]}).to_string();
            raw.add("runs", &[("run", &request)]).await;
        }
        let results_reach = async |count: usize, bound: Duration| {
            until_within(bound, &format!("{count} results"), async || {
                let results = raw.length("results").await;
                if results >= count {
                    Ok(())
                } else {
                    Err(format!("{results}: {}", first.said()))
                }
            })
            .await;
        };
        results_reach(self.runs / 10, Duration::from_secs(60)).await;
        fleet.put_faults(&REFUSE).await;
        let names = ["worker", "another worker", "serve", "machines"];
        let processes = [&first, &second, &fleet.serve, &fleet.machines];
        let before = processes.map(Daemon::processor_s);
        let began = Instant::now();
        sleep((self.refused - self.stopped) / 2).await;
        assert!(raw.length("results").await < self.runs, "it came too late");
        redis.freeze();
        sleep(self.stopped).await;
        redis.thaw();
        sleep(self.refused.saturating_sub(began.elapsed())).await;
        let took = began.elapsed().as_secs_f64();
        let after = processes.map(Daemon::processor_s);
        let shares = std::array::from_fn::<_, 4, _>(|n| (after[n] - before[n]) / took);
        let shares: HashMap<_, _> = names.into_iter().zip(shares).collect();
        println!("share of a processor over {took:.1} s of refusals: {shares:.4?}");
        let refusals = fleet.faults().await;
        fleet.put_faults(&[]).await;
        for (name, share) in &shares {
            assert!(*share < SHARE_MAX, "{name}: {share} {refusals}");
        }

        results_reach(self.runs, Duration::from_secs(120)).await;
        until_within(
            Duration::from_secs(120),
            "every run to be closed",
            async || {
                let due: usize = raw.say("ZCARD", "due", &[]).await;
                match due {
                    0 => Ok(()),
                    due => Err(format!("{due} due: {}", first.said())),
                }
            },
        )
        .await;
        assert_eq!(raw.length("results").await, self.runs);
        let results = fleet
            .tool(&["results", "--limit", "10000", "--json"])
            .json();
        let mut told: Vec<_> = results
            .iter()
            .map(|result| result["run_id"].as_str().unwrap())
            .collect();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), self.runs, "a run has two results");
        let mut outcomes: HashMap<&str, usize> = HashMap::new();
        for result in &results {
            *outcomes
                .entry(result["outcome"].as_str().unwrap())
                .or_default() += 1;
        }
        println!("outcomes: {outcomes:?}");
        assert_eq!(
            (raw.length("runs").await, raw.pending("runs").await),
            (0, 0)
        );
        assert_eq!(fleet.machines_left().await, Vec::<String>::new());
        raw.check_times_to_live("after the outage").await;
        first.finish().await;
        second.finish().await;
        fleet.finish().await;
    }
}

#[tokio::test]
async fn a_provider_that_refuses_everything_and_a_redis_that_stands_still_are_waited_out() {
    let outage = Outage {
        runs: 60,
        refused: Duration::from_secs(6),
        stopped: Duration::from_secs(3),
    };
    outage.check().await;
}

#[tokio::test]
#[ignore = "takes some minutes"]
async fn a_provider_that_refuses_everything_for_a_minute_costs_next_to_nothing() {
    let outage = Outage {
        runs: 500,
        refused: Duration::from_secs(60),
        stopped: Duration::from_secs(10),
    };
    outage.check().await;
}
