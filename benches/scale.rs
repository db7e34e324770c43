//! What spreading runs over several slots by tenant would cost: the figures of `docs/scale.md`.
//!
//! A simulation and no measurement of a server. Tenants are of unlike size (Zipf) and each belongs to
//! one shard, by its hash. Each shard has an allotment of the fleet's cap and starts a run only within
//! it. A ledger deals the cap out again at an interval, by what the shards have in flight and waiting;
//! a shard gives back only what it does not use, so that the cap is never exceeded.
//!
//! `cargo bench --bench scale`

#![expect(clippy::print_stdout, reason = "its figures are what it is for")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a simulation, far below where it would matter"
)]

use std::collections::VecDeque;

/// Runs a second that one slot bears: what `docs/performance.md` says of one Redis on one core with
/// `appendfsync everysec`, of which two thirds are used.
const SHARD_RATE: f64 = 5_500.0 * 2.0 / 3.0;
const TENANTS: usize = 20_000;
/// How unlike tenants are.
const ZIPF: f64 = 1.0;
/// Seconds that a run takes.
const RUN_S: f64 = 2.0;
/// Seconds that are simulated, and the step.
const SPAN_S: f64 = 40.0;
const STEP_S: f64 = 0.02;

/// A small generator, so that every run of this program says the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of arrivals where `mean` are expected.
    fn arrivals(&mut self, mean: f64) -> u64 {
        // Close enough to Poisson's for sums over thousands of steps.
        let spread = mean.sqrt() * 1.732 * (2.0 * self.next() - 1.0);
        let value = mean + spread;
        let whole = value.max(0.0).floor();
        whole as u64 + u64::from(self.next() < value.max(0.0) - whole)
    }
}

fn hash(tenant: usize) -> u64 {
    let mut x = (tenant as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The share of all runs that each shard has.
fn shares(shards: usize) -> Vec<f64> {
    let weights: Vec<f64> = (1..=TENANTS)
        .map(|rank| (rank as f64).powf(-ZIPF))
        .collect();
    let sum: f64 = weights.iter().sum();
    let mut shares = vec![0.0; shards];
    for (tenant, weight) in weights.iter().enumerate() {
        shares[(hash(tenant) % shards as u64) as usize] += weight / sum;
    }
    shares
}

#[derive(Default)]
struct Shard {
    allotted: u64,
    in_flight: u64,
    waiting: u64,
    /// How many runs end in each of the steps to come.
    ends: VecDeque<u64>,
}

/// Percent of the cap that is used on average while more waits than may go, and the most in flight ever.
fn capped(rate: f64, shards: usize, deal_s: f64) -> (f64, f64) {
    // Half of what is asked for may be in flight.
    let cap = (rate * RUN_S / 2.0) as u64;
    let shares = shares(shards);
    let mut random = Random(88_172_645_463_325_252);
    let mut all: Vec<Shard> = (0..shards).map(|_| Shard::default()).collect();
    for shard in &mut all {
        shard.allotted = cap / shards as u64;
        shard.ends = VecDeque::from(vec![0; (2.0 * RUN_S / STEP_S) as usize + 1]);
    }
    let (steps, deal) = ((SPAN_S / STEP_S) as usize, (deal_s / STEP_S) as usize);
    let (mut used, mut looks, mut most) = (0.0, 0.0, 0u64);
    for step in 0..steps {
        // Tenants change: each ten seconds another shard is asked for what its neighbour was.
        let turn = step / (10.0 / STEP_S) as usize;
        for (index, shard) in all.iter_mut().enumerate() {
            let ended = shard.ends.pop_front().unwrap_or(0);
            shard.ends.push_back(0);
            shard.in_flight -= ended;
            let share = shares[(index + turn) % shards];
            shard.waiting += random.arrivals(rate * share * STEP_S);
            let go = shard
                .waiting
                .min(shard.allotted.saturating_sub(shard.in_flight));
            shard.waiting -= go;
            shard.in_flight += go;
            for _ in 0..go {
                let lasts = (2.0 * RUN_S * random.next() / STEP_S) as usize;
                let slots = shard.ends.len();
                shard.ends[lasts.min(slots - 1)] += 1;
            }
        }
        if step % deal == 0 {
            deal_out(&mut all, cap);
        }
        let now: u64 = all.iter().map(|shard| shard.in_flight).sum();
        most = most.max(now);
        if step as f64 * STEP_S > 10.0 {
            used += now as f64 / cap as f64;
            looks += 1.0;
        }
    }
    (100.0 * used / looks, 100.0 * most as f64 / cap as f64)
}

/// Deals the cap out by what each shard has in flight and waiting. What a shard has in flight stays its.
fn deal_out(all: &mut [Shard], cap: u64) {
    let held: u64 = all.iter().map(|shard| shard.in_flight).sum();
    let free = cap.saturating_sub(held) as f64;
    let waiting: u64 = all.iter().map(|shard| shard.waiting).sum();
    let shards = all.len() as f64;
    for shard in all.iter_mut() {
        let part = if waiting == 0 {
            free / shards
        } else {
            free * shard.waiting as f64 / waiting as f64
        };
        shard.allotted = shard.in_flight + part as u64;
    }
}

fn main() {
    println!(
        "runs/s   shards   hottest shard   largest tenant   cap used, dealt every 1 s / 0.2 s   most ever"
    );
    for rate in [1_000.0, 10_000.0, 100_000.0] {
        let mut shards = (rate / SHARD_RATE).ceil() as usize;
        let hottest = |shards: usize| shares(shards).into_iter().fold(0.0, f64::max) * rate;
        let weights: f64 = (1..=TENANTS).map(|rank| (rank as f64).powf(-ZIPF)).sum();
        let largest = rate / weights;
        // More shards until the hottest is within what one bears, or its largest tenant alone is not.
        while hottest(shards) > SHARD_RATE.max(largest * 1.1) && shards < 4096 {
            shards += shards.div_ceil(8);
        }
        let (slow, quick) = (capped(rate, shards, 1.0), capped(rate, shards, 0.2));
        println!(
            "{rate:>7}  {shards:>6}   {:>6.0} runs/s   {largest:>7.0} runs/s   {:>5.1} % / {:.1} %   {:>28.1} %",
            hottest(shards),
            slow.0,
            quick.0,
            slow.1.max(quick.1)
        );
    }
}
